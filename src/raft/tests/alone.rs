//! A group whose only voter is here: what a standalone node runs. Start, replay, stop, bounds, compaction, failure.

use super::ledger::{Fault, Ledger};
use super::*;
use crate::raft::shared::Shared;
use futures_util::future::join_all;
use std::sync::Arc;

/// Bootstrap and the first leader's own entry come before the first proposal.
const FIRST: LogIndex = 3;

fn start(path: &Path, options: RaftOptions) -> MultiRaft {
    let checkpoints = path.join("checkpoint");
    crate::store::directory::make_directory(&checkpoints).unwrap();
    MultiRaft::start(NODE, open_log(path), None, Arc::new(Nobody), Arc::from(checkpoints), options)
}

async fn open(path: &Path, options: RaftOptions) -> (MultiRaft, Group<usize>) {
    open_with(path, options, Ledger::open(path)).await
}

async fn open_with(path: &Path, options: RaftOptions, ledger: Ledger) -> (MultiRaft, Group<usize>) {
    let raft = start(path, options);
    let group = raft.open(GROUP, &[NODE], ledger).await.unwrap();
    (raft, group)
}

/// Lets the tasks that still hold the databases end.
async fn settle() {
    rt::time::sleep(Duration::from_millis(50)).await;
}

#[test]
fn proposals_are_applied_in_order_and_answered() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let (raft, group) = open(directory.path(), options()).await;
        assert!(group.is_leader());
        assert_eq!(group.leader(), Some(NODE));
        assert_eq!(group.read_index().await, Ok(FIRST - 1));
        let all = (0..300).map(|i| group.propose(Bytes::from(vec![b'x'; i])));
        let answers = join_all(all).await;
        for (i, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer, Ok((i as u64 + FIRST, i)));
        }
        assert_eq!(group.read_index().await, Ok(299 + FIRST));
        assert_eq!((group.applied(), group.committed()), (299 + FIRST, 299 + FIRST));
        assert!(raft.log_stats().totals().syncs < 50, "{:?}", raft.log_stats().totals());
        assert_eq!(group.propose_to_all(Bytes::from_static(b"all")).await, Ok((300 + FIRST, 3)));
        assert_eq!(group.propose_logged(Bytes::from_static(b"log")).await, Ok(301 + FIRST));
        let status = group.status().await.unwrap();
        assert_eq!((status.role, status.last_index, status.first_index), (Role::Leader, 301 + FIRST, 2));
        assert_eq!((status.members.voters, status.peers), (vec![NODE], Vec::new()));
        group.stop().await;
        assert_eq!(group.propose(Bytes::new()).await, Err(ProposeError::Stopped));
        assert_eq!(group.read_index().await, Err(ProposeError::Stopped));
        group.stop().await;
    });
}

#[test]
fn what_was_logged_and_not_applied_is_applied_once_at_start() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let expected: Vec<String> =
            entries(2, 19, 1).iter().map(|e| String::from_utf8(e.data.to_vec()).unwrap()).collect();
        {
            let log = open_log(directory.path());
            begin(&log, GROUP, &[NODE]);
            append(&log, GROUP, 2, 19, 1).unwrap();
            // The state went as far as 8 before the crash.
            let applied = (1..=8).map(|index| Entry {
                index,
                term: 1,
                data: if index == 1 { Bytes::new() } else { text(index, 1) },
            });
            Ledger::open(directory.path()).apply(&applied.collect::<Vec<_>>()).unwrap();
        }
        for starts in 1..=2 {
            let (raft, group) = open(directory.path(), RaftOptions { apply_bytes_max: 50, ..options() }).await;
            assert_eq!(group.applied(), 20 + starts, "each leader begins with an entry of its own");
            raft.stop().await;
            drop((raft, group));
            settle().await;
            assert_eq!(Ledger::read(directory.path()), expected);
        }
        let (_raft, group) = open(directory.path(), options()).await;
        assert_eq!(group.propose(Bytes::from_static(b"next")).await, Ok((24, 4)));
    });
}

#[test]
fn without_a_stop_nothing_is_lost_either() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        for start in 0..3u64 {
            let (raft, group) = open(directory.path(), options()).await;
            let (at, _) = group.propose(Bytes::from(format!("in run {start}"))).await.unwrap();
            assert_eq!(at, FIRST + 2 * start);
            drop((raft, group));
            settle().await;
        }
        assert_eq!(Ledger::read(directory.path()), ["in run 0", "in run 1", "in run 2"]);
    });
}

#[test]
fn a_state_that_does_not_join_the_log_is_refused() {
    run(async {
        for (first, applied) in [(1, 25), (11, 9)] {
            let directory = tempfile::tempdir().unwrap();
            let raft = start(directory.path(), options());
            begin(raft.log(), GROUP, &[NODE]);
            append(raft.log(), GROUP, 2, 19, 1).unwrap();
            raft.log().compact(GROUP, first - 1).unwrap();
            let mut ledger = Ledger::open(directory.path());
            ledger.applied = applied;
            let refused = raft.open(GROUP, &[NODE], ledger).await.map(|_| ()).unwrap_err();
            assert!(matches!(refused, StartError::Log(LogError::Corrupt { .. })), "{refused}");
        }
    });
}

#[test]
fn the_log_is_compacted_up_to_what_the_state_has_synced() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path());
        let synced = ledger.synced.clone();
        let (raft, group) =
            open_with(directory.path(), RaftOptions { compact_after_bytes: 10_000, ..options() }, ledger).await;
        for _ in 0..25 {
            group.propose(Bytes::from(vec![b'x'; 1000])).await.unwrap();
        }
        raft.close(GROUP).await;
        let synced = *synced.lock().unwrap();
        let bounds = raft.log().bounds(GROUP);
        assert_eq!((bounds.compacted_index, bounds.last_index), (synced, 24 + FIRST));
        assert!(synced >= 9 + FIRST, "{synced}");
        // And it opens again, behind what is gone.
        drop(group);
        settle().await;
        let group = raft.open(GROUP, &[], Ledger::open(directory.path())).await.unwrap();
        assert_eq!(group.propose(Bytes::from_static(b"more")).await, Ok((26 + FIRST, 4)));
    });
}

#[test]
fn a_state_machine_that_fails_ends_the_group() {
    for fault in [Fault::Error, Fault::Panic, Fault::Silence] {
        run(async {
            let directory = tempfile::tempdir().unwrap();
            let mut ledger = Ledger::open(directory.path());
            ledger.fault = Some((FIRST + 1, fault));
            let (raft, group) = open_with(directory.path(), options(), ledger).await;
            assert_eq!(group.propose(Bytes::from_static(b"a")).await, Ok((FIRST, 1)));
            assert_eq!(group.failure(), None);
            // Committed, and perhaps applied: not known.
            assert_eq!(group.propose(Bytes::from_static(b"b")).await, Err(ProposeError::Indeterminate));
            settle().await;
            assert!(matches!(group.propose(Bytes::new()).await, Err(ProposeError::Failed(_))));
            assert!(matches!(group.read_index().await, Err(ProposeError::Failed(_))));
            assert!(group.failure().is_some());
            assert_eq!(raft.log().last_index(GROUP), FIRST + 1, "nothing is logged behind the failure");
            group.stop().await;
        });
    }
}

#[test]
fn a_failed_log_ends_every_group() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let (raft, group) = open(directory.path(), options()).await;
        let other = raft.open(GROUP + 1, &[NODE], super::ledger::Memo::default()).await.unwrap();
        group.propose(Bytes::from_static(b"a")).await.unwrap();
        // A log that is gone stands for a failed disk: the next write does not join it, and both are final.
        raft.log().remove_group(GROUP).unwrap();
        assert_eq!(group.propose(Bytes::from_static(b"b")).await, Err(ProposeError::Indeterminate));
        assert!(matches!(group.propose(Bytes::from_static(b"c")).await, Err(ProposeError::Failed(_))));
        assert!(matches!(other.propose(Bytes::from_static(b"c")).await, Err(ProposeError::Failed(_))));
        assert!(raft.open(GROUP + 2, &[NODE], super::ledger::Memo::default()).await.is_err());
        raft.stop().await;
    });
}

#[test]
fn proposals_are_bounded_by_count_bytes_and_size() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let bounds = RaftOptions { proposals_max: 8, bytes_max: 1000, entry_bytes_max: 100, ..options() };
        let (_raft, group) = open(directory.path(), bounds).await;
        let too_large = group.propose(Bytes::from(vec![0; 101])).await;
        assert_eq!(too_large, Err(ProposeError::TooLarge { got: 101, limit: 100 }));
        for bytes in [0, 100] {
            let answers = join_all((0..50).map(|_| group.propose(Bytes::from(vec![b'x'; bytes])))).await;
            let taken = answers.iter().filter(|answer| answer.is_ok()).count();
            let refused = answers.iter().filter(|answer| **answer == Err(ProposeError::Exhausted)).count();
            assert!(taken >= 1 && refused >= 1 && taken + refused == 50, "{taken} taken, {refused} refused");
        }
        group.propose(Bytes::from(vec![b'x'; 100])).await.unwrap();
    });
}

#[test]
fn a_group_is_open_once_and_can_be_opened_again() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let raft = start(directory.path(), options());
        let memo = super::ledger::Memo::default();
        let group = raft.open(GROUP, &[NODE], memo.clone()).await.unwrap();
        group.propose(Bytes::from_static(b"a")).await.unwrap();
        let second = raft.open(GROUP, &[NODE], super::ledger::Memo::default()).await.map(|_| ());
        assert!(matches!(second, Err(StartError::Refused { .. })));
        raft.close(GROUP).await;
        let again = raft.open(GROUP, &[NODE], memo.clone()).await.unwrap();
        again.propose(Bytes::from_static(b"b")).await.unwrap();
        assert_eq!(group.propose(Bytes::from_static(b"c")).await, Err(ProposeError::Stopped));
        assert_eq!(memo.commands(), ["a", "b"]);
        raft.stop().await;
        assert_eq!(again.propose(Bytes::from_static(b"d")).await, Err(ProposeError::Stopped));
        assert!(raft.open(GROUP, &[NODE], memo).await.is_err());
    });
}

#[test]
fn a_reader_waits_until_what_was_committed_is_applied() {
    run(async {
        let shared = Shared::new(GROUP, 3);
        assert!(shared.wait_for(3).is_none());
        shared.advance_committed(5);
        let mut reader = shared.wait_for(shared.committed()).unwrap();
        shared.advance_applied(4);
        assert!(reader.try_recv().is_err());
        shared.advance_applied(5);
        assert_eq!(reader.await, Ok(()));
        let cut_off = shared.wait_for(6).unwrap();
        shared.fail("told to".into());
        assert!(cut_off.await.is_err());
        assert!(shared.wait_for(6).unwrap().await.is_err());
    });
}

#[test]
fn a_group_that_is_opened_after_its_node_withdrew_tries_to_lead_only_if_nobody_else_can() {
    run(async {
        for withdraws in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let raft = start(directory.path(), options());
            if withdraws {
                raft.withdraw();
            }
            // The first to lead this one is another, whom nothing is heard of.
            let voters = [NODE, NODE + 1];
            let group = raft.open(voters.len() as u64 + 1, &voters, Ledger::open(directory.path())).await.unwrap();
            // Several election timeouts.
            rt::time::sleep(Duration::from_secs(1)).await;
            let role = group.status().await.unwrap().role;
            assert_eq!(role, if withdraws { Role::Follower } else { Role::Candidate });
        }
        let directory = tempfile::tempdir().unwrap();
        let raft = start(directory.path(), options());
        raft.withdraw();
        assert!(raft.open(GROUP, &[NODE], Ledger::open(directory.path())).await.unwrap().is_leader());
    });
}
