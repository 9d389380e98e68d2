//! Who belongs to a group, and how that changes: one learns first, then old and new decide together.

use super::network::{Cluster, Faults};
use super::*;

const LIMIT: Duration = Duration::from_secs(15);

async fn change(cluster: &Cluster, voters: &[NodeId]) {
    eventually("the members change", async || {
        let leader = cluster.leader().await;
        match cluster.groups[&leader].change_members(voters, &[], LIMIT).await {
            Ok(()) => true,
            Err(error) => {
                assert!(
                    matches!(
                        error,
                        ProposeError::NotLeader { .. } | ProposeError::Indeterminate | ProposeError::Unavailable
                    ),
                    "{error}"
                );
                false
            }
        }
    })
    .await;
}

#[test]
fn nodes_join_and_leave_without_losing_a_write() {
    run(async {
        let mut cluster = Cluster::start(3, 30, options(), Faults::default()).await;
        cluster.write("three").await;
        cluster.start_node(4).await;
        cluster.start_node(5).await;
        change(&cluster, &[1, 2, 3, 4, 5]).await;
        cluster.write("five").await;
        assert_eq!(cluster.agree().await, ["three", "five"]);
        assert!(cluster.memos[&5].memory().installed >= 1, "a new member begins with a checkpoint");
        // Replace two at once, perhaps the leader among them.
        change(&cluster, &[3, 4, 5]).await;
        for node in [1, 2] {
            cluster.kill(node, true);
        }
        cluster.write("the others").await;
        assert_eq!(cluster.agree().await, ["three", "five", "the others"]);
        let leader = cluster.leader().await;
        let members = cluster.groups[&leader].status().await.unwrap().members;
        assert_eq!((members.voters, members.learners, members.voters_outgoing), (vec![3, 4, 5], vec![], vec![]));
        // They remember it.
        for node in [3, 4, 5] {
            cluster.kill(node, false);
            cluster.start_node(node).await;
        }
        cluster.write("remembered").await;
        assert_eq!(cluster.agree().await.len(), 4);
        let leader = cluster.leader().await;
        assert_eq!(cluster.groups[&leader].status().await.unwrap().members.voters, [3, 4, 5]);
    });
}

#[test]
fn a_group_of_one_grows_to_three() {
    run(async {
        let mut cluster = Cluster::start(1, 31, options(), Faults::default()).await;
        for i in 0..50 {
            cluster.write(&format!("{i}")).await;
        }
        cluster.start_node(2).await;
        cluster.start_node(3).await;
        change(&cluster, &[1, 2, 3]).await;
        cluster.kill(1, true);
        cluster.write("without the first").await;
        assert_eq!(cluster.agree().await.len(), 51);
    });
}

#[test]
fn a_learner_does_not_count_and_one_that_is_away_gets_no_vote() {
    run(async {
        let mut cluster = Cluster::start(3, 32, options(), Faults::default()).await;
        cluster.write("a").await;
        let leader = cluster.leader().await;
        // Node 4 does not exist yet: the change waits for it, and the three go on.
        let waited = cluster.groups[&leader].change_members(&[1, 2, 3, 4], &[], Duration::from_millis(300)).await;
        assert_eq!(waited, Err(ProposeError::Unavailable));
        cluster.write("b").await;
        let members = cluster.groups[&leader].status().await.unwrap().members;
        assert_eq!((members.voters, members.learners), (vec![1, 2, 3], vec![4]));
        cluster.start_node(4).await;
        change(&cluster, &[1, 2, 3, 4]).await;
        assert_eq!(cluster.agree().await, ["a", "b"]);
    });
}

#[test]
fn a_leader_that_leaves_hands_over_and_a_whole_group_can_move() {
    run(async {
        let mut cluster = Cluster::start(3, 33, options(), Faults::default()).await;
        cluster.write("a").await;
        let leader = cluster.leader().await;
        let others: Vec<NodeId> = (1..=3).filter(|node| *node != leader).collect();
        let handed = cluster.groups[&leader].change_members(&others, &[], LIMIT).await;
        assert!(
            matches!(handed, Err(ProposeError::NotLeader { leader: Some(to) }) if others.contains(&to)),
            "{handed:?}"
        );
        change(&cluster, &others).await;
        cluster.kill(leader, true);
        cluster.write("b").await;
        for node in [4, 5] {
            cluster.start_node(node).await;
        }
        // Nobody stays: the old leader steps down when it has no vote any more.
        change(&cluster, &[4, 5]).await;
        for node in others {
            cluster.kill(node, false);
        }
        cluster.write("c").await;
        assert_eq!(cluster.agree().await, ["a", "b", "c"]);
    });
}

#[test]
fn learners_that_are_wanted_stay_follow_and_get_a_vote_or_lose_it() {
    run(async {
        let mut cluster = Cluster::start(3, 34, options(), Faults::default()).await;
        cluster.write("a").await;
        cluster.start_node(4).await;
        let set = async |cluster: &Cluster, voters: &[NodeId], learners: &[NodeId]| {
            eventually("the members change", async || {
                let leader = cluster.leader().await;
                cluster.groups[&leader].change_members(voters, learners, LIMIT).await.is_ok()
            })
            .await;
            let leader = cluster.leader().await;
            let status = cluster.groups[&leader].status().await.unwrap();
            assert!(status.is_settled, "who changes members leads and knows what was committed: {status:?}");
            assert_eq!((&status.members.voters[..], &status.members.learners[..]), (voters, learners));
        };
        set(&cluster, &[1, 2, 3], &[4]).await;
        cluster.write("b").await;
        assert_eq!(cluster.agree().await, ["a", "b"], "the learner follows");
        assert_eq!(cluster.groups[&4].status().await.unwrap().role, Role::Learner);
        assert!(!cluster.groups[&4].status().await.unwrap().is_settled);
        // The learner gets the vote of another, which learns from then on.
        set(&cluster, &[2, 3, 4], &[1]).await;
        cluster.write("c").await;
        assert_eq!(cluster.agree().await, ["a", "b", "c"]);
        set(&cluster, &[2, 3, 4], &[]).await;
    });
}

/// Whoever is told that the members are right may take away the machines of those that left.
#[test]
fn a_leader_that_is_cut_off_does_not_say_that_the_members_are_right() {
    run(async {
        let mut cluster = Cluster::start(3, 35, options(), Faults::default()).await;
        cluster.write("a").await;
        let deposed = cluster.leader().await;
        assert_eq!(cluster.groups[&deposed].change_members(&[1, 2, 3], &[], LIMIT).await, Ok(()));
        cluster.start_node(4).await;
        cluster.network.isolate(deposed);
        // The others may have changed them by now, for all it knows.
        let said = cluster.groups[&deposed].change_members(&[1, 2, 3], &[], Duration::from_millis(50)).await;
        assert!(said.is_err(), "nobody has confirmed it: {said:?}");
        let cut_off = cluster.groups.remove(&deposed).unwrap();
        let others: Vec<NodeId> = (1..=4).filter(|node| *node != deposed).collect();
        change(&cluster, &others).await;
        let said = cut_off.change_members(&[1, 2, 3], &[], Duration::from_millis(50)).await;
        assert!(said.is_err(), "they have been changed: {said:?}");
        eventually("it hears of it", async || cut_off.leads_in().is_none()).await;
    });
}
