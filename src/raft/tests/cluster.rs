//! Groups of three and five over a network: elections, replication, failover, reads on whatever replica, levels of
//! acknowledgement, transfer of leadership.

use super::network::{Cluster, Faults};
use super::*;
use crate::types::Ack;
use futures_util::future::join_all;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[test]
fn what_the_leader_commits_all_apply_in_its_order() {
    for nodes in [3, 5] {
        run(async move {
            let cluster = Cluster::start(nodes, 1, options(), Faults::default()).await;
            let leader = cluster.leader().await;
            let group = &cluster.groups[&leader];
            let proposals = (0..200).map(|i| group.propose(Bytes::from(format!("write {i:03}"))));
            for (i, answer) in join_all(proposals).await.into_iter().enumerate() {
                let (index, outcome) = answer.unwrap();
                assert_eq!(index, outcome, "write {i}");
            }
            let expected: Vec<String> = (0..200).map(|i| format!("write {i:03}")).collect();
            assert_eq!(cluster.agree().await, expected);
            let status = group.status().await.unwrap();
            assert_eq!(status.peers.len() as u64, nodes - 1);
            assert!(status.peers.iter().all(|peer| peer.active && peer.state == PeerState::Replicating), "{status:?}");
        });
    }
}

#[test]
fn whoever_does_not_lead_says_who_does() {
    run(async {
        let cluster = Cluster::start(3, 2, options(), Faults::default()).await;
        let leader = cluster.leader().await;
        for (node, group) in cluster.groups.iter().filter(|(node, _)| **node != leader) {
            eventually("a follower knows its leader", async || group.leader() == Some(leader)).await;
            let refused = group.propose(Bytes::from_static(b"no")).await;
            assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(leader) }), "node {node}");
            assert_eq!(group.status().await.unwrap().role, Role::Follower);
            let moved = group.transfer_leader(*node).await;
            assert_eq!(moved, Err(ProposeError::NotLeader { leader: Some(leader) }));
        }
        assert_eq!(cluster.agree().await, Vec::<String>::new());
    });
}

#[test]
fn a_new_group_has_a_leader_without_waiting_for_an_election_timeout() {
    run(async {
        // A clock so slow that no machine is too busy.
        let options = RaftOptions { tick: Duration::from_secs(1), ..options() };
        let timeout = options.tick * options.election_ticks as u32;
        let started = rt::time::now();
        let cluster = Cluster::start(3, 3, options, Faults::default()).await;
        cluster.leader().await;
        assert!(started.elapsed() < timeout, "{:?}", started.elapsed());
    });
}

#[test]
fn nothing_acknowledged_is_lost_with_the_leader() {
    run(async {
        let mut cluster = Cluster::start(3, 4, options(), Faults::default()).await;
        let mut expected = Vec::new();
        for round in 0..4 {
            for i in 0..20 {
                let text = format!("round {round} write {i}");
                cluster.write(&text).await;
                expected.push(text);
            }
            let leader = cluster.leader().await;
            cluster.kill(leader, round % 2 == 0);
            cluster.write(&format!("without {leader}")).await;
            expected.push(format!("without {leader}"));
            cluster.start_node(leader).await;
        }
        let mut got = cluster.agree().await;
        got.dedup();
        assert_eq!(got, expected);
    });
}

#[test]
fn a_leader_whose_process_ends_is_succeeded_within_a_second() {
    run(async {
        let mut cluster =
            Cluster::start(3, 5, RaftOptions { tick: Duration::from_millis(100), ..options() }, Faults::default())
                .await;
        cluster.write("before").await;
        let leader = cluster.leader().await;
        cluster.kill(leader, true);
        let killed = rt::time::now();
        cluster.write("after").await;
        // An election timeout is .8 to 1.2 s here.
        assert!(killed.elapsed() < Duration::from_millis(800), "{:?}", killed.elapsed());
        assert_eq!(cluster.agree().await, ["before", "after"]);
    });
}

#[test]
fn a_leader_cut_off_answers_no_reads_and_does_not_know_what_becomes_of_its_proposals() {
    run(async {
        let options = RaftOptions { read_timeout: Duration::from_millis(500), ..options() };
        let cluster = Cluster::start(3, 6, options, Faults::default()).await;
        cluster.write("before").await;
        let old = cluster.leader().await;
        cluster.network.isolate(old);
        let group = &cluster.groups[&old];
        let (proposed, read) =
            futures_util::future::join(group.propose(Bytes::from_static(b"lost")), group.read_index()).await;
        assert_eq!(proposed, Err(ProposeError::Indeterminate));
        assert_eq!(read, Err(ProposeError::Unavailable));
        let (logged, all) = (group.propose_logged(Bytes::new()).await, group.propose_to_all(Bytes::new()).await);
        assert!(matches!((logged, all), (Err(ProposeError::NotLeader { .. }), Err(ProposeError::NotLeader { .. }))));
        cluster.write("after").await;
        cluster.network.heal();
        assert_eq!(cluster.agree().await, ["before", "after"]);
        assert_ne!(cluster.leader().await, old);
    });
}

#[test]
fn reads_on_any_replica_see_what_was_acknowledged_before() {
    for seed in [7, 8] {
        run(async move {
            let faults = Faults { loss: 0.02, repeat: 0.05, delay_ms_max: 3 };
            let cluster = Arc::new(Cluster::start(3, seed, options(), faults).await);
            cluster.leader().await;
            let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
            let readers: Vec<_> = (1..=3u64)
                .map(|node| {
                    let (cluster, acknowledged, stop) = (cluster.clone(), acknowledged.clone(), stop.clone());
                    rt::spawn("reader", async move {
                        let mut reads = 0;
                        while !stop.load(Ordering::SeqCst) {
                            let before = acknowledged.load(Ordering::SeqCst);
                            if cluster.groups[&node].read_index().await.is_ok() {
                                let seen = cluster.memos[&node].memory().entries.len() as u64;
                                assert!(seen >= before, "node {node} shows {seen} of {before}");
                                reads += 1;
                            }
                        }
                        reads
                    })
                })
                .collect();
            for i in 0..150 {
                let leader = cluster.leader().await;
                let proposed = cluster.groups[&leader].propose(Bytes::from(format!("{i}"))).await;
                if proposed.is_ok() {
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
                if i % 50 == 25 {
                    // Whether it comes to a transfer does not matter here.
                    let _ = cluster.groups[&leader].transfer_leader(leader % 3 + 1).await;
                }
            }
            stop.store(true, Ordering::SeqCst);
            for reader in readers {
                let reads = reader.await.unwrap();
                assert!(reads > 20, "only {reads} reads");
            }
            cluster.network.set_faults(Faults::default());
            assert!(cluster.agree().await.len() as u64 >= acknowledged.load(Ordering::SeqCst));
        });
    }
}

#[test]
fn acknowledged_by_all_means_all_and_by_the_log_means_one() {
    run(async {
        let options = RaftOptions { all_timeout: Duration::from_millis(300), ..options() };
        let cluster = Cluster::start(3, 9, options, Faults::default()).await;
        let leader = cluster.leader().await;
        let group = &cluster.groups[&leader];
        let (index, _) = group.propose_to_all(Bytes::from_static(b"all")).await.unwrap();
        for node in 1..=3 {
            assert!(cluster.raft(node).log().last_index(GROUP) >= index, "node {node}");
        }
        let away = cluster.follower().await;
        cluster.network.isolate(away);
        let to_all = rt::time::timeout(Duration::from_secs(5), group.propose_to_all(Bytes::from_static(b"two")));
        assert_eq!(to_all.await, Ok(Err(ProposeError::Indeterminate)), "one is away");
        let index = group.propose_logged(Bytes::from_static(b"log")).await.unwrap();
        assert!(cluster.raft(leader).log().last_index(GROUP) >= index);
        cluster.network.heal();
        group.propose_to_all(Bytes::from_static(b"again")).await.unwrap();
        assert_eq!(cluster.agree().await, ["all", "two", "log", "again"]);
    });
}

#[test]
fn who_has_withdrawn_leads_no_more_and_follows_on() {
    run(async {
        let cluster = Cluster::start(3, 11, options(), Faults::default()).await;
        let leader = cluster.leader().await;
        let to = leader % 3 + 1;
        cluster.raft(leader).withdraw();
        assert!(cluster.write("led on").await);
        cluster.groups[&leader].transfer_leader(to).await.unwrap();
        eventually("it leads", async || cluster.groups[&to].is_leader()).await;
        let back = cluster.groups[&to].transfer_leader(leader).await;
        assert!(matches!(back, Err(ProposeError::Unavailable)), "{back:?}");
        cluster.write("with it").await;
        assert_eq!(cluster.agree().await, ["led on", "with it"]);
        assert!(!cluster.groups[&leader].is_leader());
    });
}

#[test]
fn leadership_is_handed_over() {
    run(async {
        let cluster = Cluster::start(3, 10, options(), Faults::default()).await;
        for round in 0..6 {
            let leader = cluster.leader().await;
            let to = leader % 3 + 1;
            cluster.groups[&leader].transfer_leader(to).await.unwrap();
            eventually("it leads", async || cluster.groups[&to].is_leader()).await;
            cluster.write(&format!("{round}")).await;
        }
        let leader = cluster.leader().await;
        cluster.network.isolate(leader % 3 + 1);
        let away = cluster.groups[&leader].transfer_leader(leader % 3 + 1).await;
        assert!(matches!(away, Err(ProposeError::Unavailable)), "{away:?}");
        cluster.network.heal();
        cluster.write("still").await;
        assert_eq!(cluster.agree().await.len(), 7);
    });
}

#[test]
fn a_minority_cannot_lead_and_does_not_disturb_when_it_is_back() {
    run(async {
        let cluster = Cluster::start(5, 11, options(), Faults::default()).await;
        let leader = cluster.leader().await;
        let away = cluster.follower().await;
        cluster.network.isolate(away);
        let term = cluster.groups[&leader].status().await.unwrap().term;
        for i in 0..30 {
            cluster.write(&format!("{i}")).await;
            rt::time::sleep(Duration::from_millis(10)).await;
        }
        cluster.network.heal();
        assert_eq!(cluster.agree().await.len(), 30);
        let status = cluster.groups[&leader].status().await.unwrap();
        assert_eq!((status.role, status.term), (Role::Leader, term), "pre-vote keeps the term");
    });
}

/// A leader elsewhere that has waited for the outcome though nobody asked it to.
struct Waited;

impl Forward for Waited {
    fn forward(
        &self,
        _: NodeId,
        _: GroupId,
        _: Bytes,
        _: Ack,
    ) -> futures_util::future::BoxFuture<'static, Result<(LogIndex, Bytes), ProposeError>> {
        Box::pin(async { Ok((9, Bytes::from_static(&[7]))) })
    }
}

#[test]
fn an_outcome_that_a_leader_has_waited_for_is_told_though_nobody_asked_it_to() {
    run(async {
        let cluster = Cluster::start(3, 9, options(), Faults::default()).await;
        let follower = cluster.groups[&cluster.follower().await].clone();
        eventually("it knows who leads", async || follower.leader().is_some()).await;
        let route = Route::new(follower, Arc::new(Waited), |bytes| Ok(LogIndex::from(bytes[0])));
        assert_eq!(route.propose(Bytes::from_static(b"x"), Ack::Async).await, Ok((9, Some(7))));
    });
}
