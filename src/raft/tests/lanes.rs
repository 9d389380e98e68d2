//! Machines of many groups on few threads: one that takes long holds up nobody else, and one that panics ends only its own group.

use super::ledger::Memo;
use super::*;
use futures_util::future::join;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

type Hinder = Box<dyn FnMut(&[Entry]) + Send>;

/// A machine that something hinders before it applies entries.
struct Hindered {
    memo: Memo,
    hinder: Hinder,
}

impl StateMachine for Hindered {
    type Outcome = LogIndex;

    fn applied(&self) -> LogIndex {
        self.memo.applied()
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<LogIndex>, ApplyError> {
        (self.hinder)(entries);
        self.memo.apply(entries)
    }

    fn sync(&mut self) -> Result<LogIndex, ApplyError> {
        self.memo.sync()
    }

    fn checkpoint(&mut self) -> Result<Box<dyn Checkpoint>, ApplyError> {
        self.memo.checkpoint()
    }

    fn install(&mut self, at: LogIndex, chunks: &mut dyn CheckpointReader) -> Result<(), ApplyError> {
        self.memo.install(at, chunks)
    }
}

#[derive(Clone, Copy)]
enum Go {
    On,
    Panic,
}

/// A machine that waits with every write until it is let go; told to panic, it does.
fn waiting_machine() -> (Hindered, Sender<Go>) {
    let (go, told) = channel();
    let hinder = move |entries: &[Entry]| {
        // A leader's first entry, and the log's beginning, have no data.
        let is_write = entries.iter().any(|entry| !entry.data.is_empty());
        if is_write && matches!(told.recv(), Ok(Go::Panic)) {
            panic!("told to");
        }
    };
    (Hindered { memo: Memo::default(), hinder: Box::new(hinder) }, go)
}

/// A machine that takes its time, now none, now a lot; the seed is its own.
fn odd_machine(memo: Memo, mut seed: u64) -> Hindered {
    #[allow(clippy::disallowed_methods)] // A machine really has its lane's thread to itself.
    let hinder = move |_: &[Entry]| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        match seed >> 60 {
            0 => std::thread::sleep(Duration::from_millis(5)),
            1..4 => std::thread::sleep(Duration::from_micros(seed >> 54)),
            _ => {}
        }
    };
    Hindered { memo, hinder: Box::new(hinder) }
}

fn start(directory: &tempfile::TempDir) -> MultiRaft {
    let (log, path) = (open_log(directory.path()), Arc::from(directory.path()));
    MultiRaft::start(NODE, log, None, Arc::new(Nobody), path, options())
}

#[test]
fn a_machine_that_takes_long_holds_up_no_other_group() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let raft = start(&directory);
        // More of them than lanes begin by themselves.
        let mut slow = Vec::new();
        for group in 1..=5 {
            let (machine, go) = waiting_machine();
            let group = raft.open(group, &[NODE], machine).await.unwrap();
            let waits = rt::spawn("slow", {
                let group = group.clone();
                async move { group.propose(Bytes::from_static(b"slow")).await }
            });
            slow.push((group, go, waits));
        }
        let quick = raft.open(6, &[NODE], Memo::default()).await.unwrap();
        for _ in 0..10 {
            let written = rt::time::timeout(Duration::from_secs(10), quick.propose(Bytes::from_static(b"quick"))).await;
            written.expect("nobody has to wait for the slow ones").unwrap();
        }
        assert!(slow.iter().all(|(.., waits)| !waits.is_finished()));
        for (group, go, waits) in slow {
            go.send(Go::On).unwrap();
            let (index, outcome) = waits.await.unwrap().unwrap();
            assert_eq!((index, group.applied()), (outcome, index));
        }
        raft.stop().await;
    });
}

#[test]
fn a_machine_that_panics_ends_its_own_group_only() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let raft = start(&directory);
        let (machine, go) = waiting_machine();
        let memo = machine.memo.clone();
        let ill = raft.open(1, &[NODE], machine).await.unwrap();
        let well = raft.open(2, &[NODE], Memo::default()).await.unwrap();
        go.send(Go::Panic).unwrap();
        let (one, other) =
            join(ill.propose(Bytes::from_static(b"ill")), well.propose(Bytes::from_static(b"well"))).await;
        assert_eq!(one.unwrap_err(), ProposeError::Indeterminate);
        other.unwrap();
        eventually("the group has failed", async || ill.failure().is_some()).await;
        for _ in 0..10 {
            well.propose(Bytes::from_static(b"goes on")).await.unwrap();
        }
        raft.stop().await;
        // What the machine held is free when its group has ended.
        assert_eq!(Arc::strong_count(&memo.memory), 1);
    });
}

/// A quick group and a slow one that are written to at once, so that one lane comes to both; the slow one waits to be let go.
async fn one_behind_the_other(raft: &MultiRaft, number: u64) -> (Group<LogIndex>, Group<LogIndex>, Sender<Go>) {
    let (machine, go) = waiting_machine();
    let quick = raft.open(2 * number, &[NODE], Memo::default()).await.unwrap();
    let slow = raft.open(2 * number + 1, &[NODE], machine).await.unwrap();
    let (one, other) = (quick.clone(), slow.clone());
    let waits = rt::spawn("slow", async move { other.propose(Bytes::from_static(b"slow")).await });
    drop(waits);
    one.propose(Bytes::from_static(b"quick")).await.unwrap();
    (quick, slow, go)
}

/// Another lane takes the quick group on while the first still has the slow one in hand: what the first has to tell of the quick one
/// must not come after what the second tells. The library ends a group whose applied index goes backwards.
#[test]
fn reports_of_a_group_come_in_order_whichever_lane_it_was_in() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let raft = start(&directory);
        for number in 1..=20 {
            let (quick, slow, go) = one_behind_the_other(&raft, number).await;
            for _ in 0..3 {
                quick.propose(Bytes::from_static(b"in another lane")).await.unwrap();
            }
            go.send(Go::On).unwrap();
            eventually("the slow one has applied", async || slow.applied() >= 2).await;
            quick.propose(Bytes::from_static(b"still alive")).await.unwrap();
            assert_eq!((quick.failure(), slow.failure()), (None, None));
        }
        raft.stop().await;
    });
}

/// Closing waits until the driver knows what was applied.
#[test]
fn what_a_lane_has_done_is_told_though_its_next_machine_takes_long() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let raft = start(&directory);
        for number in 1..=10 {
            let (quick, slow, go) = one_behind_the_other(&raft, number).await;
            let began = rt::time::now();
            raft.close(quick.id()).await;
            let took = began.elapsed();
            assert!(took < Duration::from_secs(1), "a group that had nothing to do closed after {took:?}");
            go.send(Go::On).unwrap();
            raft.close(slow.id()).await;
        }
        raft.stop().await;
    });
}

#[test]
fn many_groups_in_few_lanes_apply_everything_in_order_though_each_finishes_at_odd_moments() {
    const GROUPS: u64 = 40;
    const WRITES: u64 = 100;
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let raft = start(&directory);
        let mut clients = Vec::new();
        for number in 1..=GROUPS {
            let memo = Memo::default();
            let group = raft.open(number, &[NODE], odd_machine(memo.clone(), number)).await.unwrap();
            clients.push(rt::spawn("client", async move {
                for write in 0..WRITES {
                    group.propose(Bytes::from(format!("{write}"))).await.expect("no group fails");
                }
                (group, memo)
            }));
        }
        for client in clients {
            let (group, memo) = client.await.unwrap();
            assert_eq!(group.failure(), None);
            assert_eq!(memo.commands(), (0..WRITES).map(|write| write.to_string()).collect::<Vec<_>>());
        }
        raft.stop().await;
    });
}

/// A process that ends in the middle of things drops its tasks, and lanes that have not begun among them: with groups still queued,
/// none of them may begin another one.
#[test]
fn lanes_end_with_the_runtime_though_groups_are_queued() {
    for _ in 0..20 {
        run(async {
            let directory = tempfile::tempdir().unwrap();
            let raft = start(&directory);
            for number in 1..=40 {
                let machine = odd_machine(Memo::default(), number);
                let group = raft.open(number, &[NODE], machine).await.unwrap();
                let client = rt::spawn("client", async move {
                    // Until the runtime ends.
                    while group.propose(Bytes::from_static(b"on and on")).await.is_ok() {}
                });
                drop(client);
            }
            rt::time::sleep(Duration::from_millis(20)).await;
        });
    }
}
