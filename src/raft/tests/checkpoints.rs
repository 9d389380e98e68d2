//! Members that lack more than the log still has, and the crashes in between.

use super::network::{Cluster, Faults};
use super::*;
use std::num::NonZeroU64;

/// A clock so slow that no leader loses its office on a busy machine while writes come one by one.
fn slow() -> RaftOptions {
    RaftOptions { tick: Duration::from_millis(100), ..options() }
}

/// Logs so short that whoever is away for a moment needs a checkpoint.
fn short_logs() -> RaftOptions {
    RaftOptions { compact_after_bytes: 4 << 10, keep_bytes_max: 8 << 10, ..slow() }
}

async fn write_much(cluster: &Cluster, count: usize) {
    let leader = cluster.leader().await;
    for i in 0..count {
        cluster.groups[&leader].propose(Bytes::from(format!("{i:0>500}"))).await.unwrap();
    }
}

/// The leader's log no longer has what the node needs next.
async fn left_behind(cluster: &Cluster, leader: NodeId, node: NodeId) {
    eventually("the log is compacted", async || {
        let applied = cluster.memos[&node].memory().applied;
        if cluster.raft(leader).log().bounds(GROUP).compacted_index > applied + 1 {
            return true;
        }
        write_much(cluster, 5).await;
        false
    })
    .await;
}

#[test]
fn who_is_a_little_behind_catches_up_by_the_log() {
    run(async {
        let cluster = Cluster::start(3, 20, slow(), Faults::default()).await;
        let away = cluster.follower().await;
        cluster.network.isolate(away);
        write_much(&cluster, 300).await;
        cluster.network.heal();
        assert_eq!(cluster.agree().await.len(), 300);
        assert_eq!(cluster.memos[&away].memory().installed, 0);
    });
}

#[test]
fn who_is_given_a_checkpoint_needs_no_other_though_writes_go_on() {
    run(async {
        // A state of 200 kB takes two seconds.
        let options = RaftOptions { checkpoint_bytes_per_second: NonZeroU64::new(100_000), ..short_logs() };
        let cluster = Cluster::start(3, 22, options, Faults::default()).await;
        let (leader, away) = (cluster.leader().await, cluster.follower().await);
        cluster.network.isolate(away);
        write_much(&cluster, 400).await;
        left_behind(&cluster, leader, away).await;
        cluster.network.heal();
        let mut meanwhile = 0;
        while cluster.memos[&away].memory().installed == 0 {
            write_much(&cluster, 1).await;
            rt::time::sleep(Duration::from_millis(20)).await;
            meanwhile += 500;
        }
        assert!(meanwhile > 2 * options.keep_bytes_max, "only {meanwhile} bytes were written meanwhile");
        cluster.agree().await;
        assert_eq!(cluster.memos[&away].memory().installed, 1);
    });
}

#[test]
fn who_is_far_behind_reads_the_old_part_of_the_log_from_the_leaders_disk() {
    run(async {
        let options = RaftOptions { cache_bytes_max: 0, ..slow() };
        let cluster = Cluster::start(3, 21, options, Faults::default()).await;
        let away = cluster.follower().await;
        cluster.network.isolate(away);
        write_much(&cluster, 3000).await;
        cluster.network.heal();
        assert_eq!(cluster.agree().await.len(), 3000);
        assert_eq!(cluster.memos[&away].memory().installed, 0);
    });
}

#[test]
fn who_is_too_far_behind_gets_a_checkpoint() {
    for noisy in [false, true] {
        run(async move {
            let faults = if noisy { Faults { loss: 0.05, repeat: 0.1, delay_ms_max: 2 } } else { Faults::default() };
            let cluster = Cluster::start(3, 22, short_logs(), faults).await;
            let (leader, away) = (cluster.leader().await, cluster.follower().await);
            cluster.network.isolate(away);
            write_much(&cluster, 60).await;
            left_behind(&cluster, leader, away).await;
            cluster.network.heal();
            cluster.write("behind the checkpoint").await;
            let all = cluster.agree().await;
            assert!(all.len() >= 61);
            assert!(cluster.memos[&away].memory().installed >= 1);
            let bounds = cluster.raft(away).log().bounds(GROUP);
            assert!(bounds.compacted_index > 1, "{bounds:?}");
            let left = crate::store::files::list(&cluster.directory(away).join("checkpoint")).unwrap();
            assert!(left.is_empty(), "{left:?}");
        });
    }
}

#[test]
fn a_checkpoint_that_is_refused_is_offered_again() {
    run(async {
        let cluster = Cluster::start(3, 23, short_logs(), Faults::default()).await;
        let (leader, away) = (cluster.leader().await, cluster.follower().await);
        cluster.network.isolate(away);
        write_much(&cluster, 60).await;
        left_behind(&cluster, leader, away).await;
        cluster.network.give_no_checkpoints(1..=3);
        cluster.network.heal();
        rt::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(cluster.memos[&away].memory().installed, 0);
        cluster.network.give_no_checkpoints([]);
        assert!(cluster.agree().await.len() >= 60);
        assert!(cluster.memos[&away].memory().installed >= 1);
    });
}

/// A stream breaks behind 30 chunks; whoever takes it is then started again, or not. How many chunks came, and how many there are.
async fn broken_in_the_middle(cluster: &mut Cluster, starts_again: bool) -> (usize, usize) {
    let (leader, away) = (cluster.leader().await, cluster.follower().await);
    cluster.network.isolate(away);
    write_much(cluster, 60).await;
    left_behind(cluster, leader, away).await;
    // The ones after it bring nothing.
    cluster.network.break_checkpoints([31].into_iter().chain([0; 100]));
    cluster.network.heal();
    eventually("it broke", async || cluster.network.chunks() == 30).await;
    let directory = cluster.directory(away).join("checkpoint");
    let left = || crate::store::files::list(&directory).unwrap();
    assert!(left()[0].to_string_lossy().ends_with(".part.tmp"), "{:?}", left());
    if starts_again {
        eventually("it was tried again, and given up", async || cluster.network.breaks() <= 97).await;
        cluster.kill(away, true);
        rt::time::sleep(Duration::from_millis(50)).await;
        cluster.start_node(away).await;
    }
    cluster.network.break_checkpoints([]);
    cluster.write("behind the checkpoint").await;
    let all = cluster.agree().await;
    assert_eq!(cluster.memos[&away].memory().installed, 1);
    assert_eq!(left(), Vec::<std::path::PathBuf>::new());
    (cluster.network.chunks(), all.len())
}

#[test]
fn a_checkpoint_that_broke_goes_on_where_it_was() {
    for starts_again in [false, true] {
        run(async move {
            let mut cluster = Cluster::start(3, 25, short_logs(), Faults::default()).await;
            let (came, all) = broken_in_the_middle(&mut cluster, starts_again).await;
            assert!(
                (60..=all).contains(&came),
                "{came} chunks came of a state of {all} at most: 30 would be sent twice"
            );
        });
    }
}

#[test]
fn a_state_that_was_torn_while_it_was_installed_is_fetched_or_installed_again() {
    run(async {
        let mut cluster = Cluster::start(3, 24, short_logs(), Faults::default()).await;
        let (leader, away) = (cluster.leader().await, cluster.follower().await);
        cluster.network.isolate(away);
        write_much(&cluster, 60).await;
        left_behind(&cluster, leader, away).await;
        cluster.network.heal();
        cluster.agree().await;
        // As a crash would leave it: the log begins behind a checkpoint, the state is empty, the file is gone.
        cluster.kill(away, true);
        {
            let mut memory = cluster.memos[&away].memory();
            (memory.applied, memory.installed) = (0, 0);
            memory.entries.clear();
        }
        cluster.start_node(away).await;
        cluster.write("after the loss").await;
        assert_eq!(cluster.agree().await.last().map(String::as_str), Some("after the loss"));
        assert!(cluster.memos[&away].memory().installed >= 1);
        assert!(!cluster.groups[&away].status().await.unwrap().awaits_state);
    });
}
