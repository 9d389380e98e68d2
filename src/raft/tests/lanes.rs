//! Machines of many groups on few threads: one that takes long holds up nobody else, and one that panics ends only its own group.

use super::ledger::Memo;
use super::*;
use futures_util::future::join;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

/// A machine that waits with every write until it is let go; told to panic, it does.
struct Slow {
    memo: Memo,
    go: Mutex<Receiver<Go>>,
}

#[derive(Clone, Copy)]
enum Go {
    On,
    Panic,
}

impl Slow {
    fn new() -> (Slow, Sender<Go>) {
        let (go, receiver) = channel();
        (Slow { memo: Memo::default(), go: Mutex::new(receiver) }, go)
    }
}

impl StateMachine for Slow {
    type Outcome = LogIndex;

    fn applied(&self) -> LogIndex {
        self.memo.applied()
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<LogIndex>, ApplyError> {
        // A leader's first entry, and the log's beginning, have no data.
        let is_write = entries.iter().any(|entry| !entry.data.is_empty());
        if is_write && matches!(self.go.lock().unwrap().recv(), Ok(Go::Panic)) {
            panic!("told to");
        }
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
            let (machine, go) = Slow::new();
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
        let (machine, go) = Slow::new();
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
