//! State machines for tests: [`Ledger`] in a store of its own, which keeps what it applied over restarts and can be told to fail;
//! [`Memo`] in memory that outlives a node, for many nodes at once.

use super::store_options;
use crate::raft::*;
use crate::store::keys::meta::{self, MetaKey};
use crate::store::{Direction, Durability, Space, Store};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

/// Applies entries by putting each into a space under its index, together with the applied index.
pub struct Ledger {
    store: Store,
    space: Space,
    pub applied: LogIndex,
    /// What to do instead of applying this index.
    pub fault: Option<(LogIndex, Fault)>,
    pub synced: Arc<Mutex<LogIndex>>,
}

#[derive(Clone, Copy)]
pub enum Fault {
    Error,
    Panic,
    /// Forget to answer.
    Silence,
}

impl Ledger {
    pub fn open(path: &Path) -> Ledger {
        let store = Store::open(path.join("data"), store_options()).unwrap();
        let space = store.space("ledger").unwrap();
        let applied = store.view().get(&space, &MetaKey::AppliedIndex.key()).unwrap();
        let applied = applied.map_or(0, |value| meta::decode(&value).unwrap());
        Ledger { store, space, applied, fault: None, synced: Arc::default() }
    }

    /// The data of every applied command in order; one applied twice would be there twice over.
    pub fn read(path: &Path) -> Vec<String> {
        let ledger = Ledger::open(path);
        let texts = ledger.store.view().prefix(&ledger.space, b"entry", Direction::Forward);
        texts.map(|record| String::from_utf8(record.unwrap().1.to_vec()).unwrap()).collect()
    }
}

impl StateMachine for Ledger {
    type Outcome = usize;

    fn applied(&self) -> LogIndex {
        self.applied
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<usize>, ApplyError> {
        let mut batch = self.store.batch();
        let mut outcomes = Vec::new();
        for entry in entries {
            match self.fault.filter(|(index, _)| *index == entry.index) {
                None => outcomes.push(entry.data.len()),
                Some((index, Fault::Error)) => return Err(ApplyError::Entry { index, problem: "told to".into() }),
                Some((_, Fault::Panic)) => panic!("told to"),
                Some((_, Fault::Silence)) => {}
            }
            if !entry.data.is_empty() {
                let key = [&b"entry"[..], &entry.index.to_be_bytes()].concat();
                let before = self.store.view().get(&self.space, &key)?;
                let value = [before.as_deref().unwrap_or_default(), &entry.data].concat();
                batch.put(&self.space, &key, &value);
            }
            self.applied = entry.index;
        }
        batch.put(&self.space, &MetaKey::AppliedIndex.key(), &meta::encode(self.applied));
        batch.commit(Durability::Buffered)?;
        Ok(outcomes)
    }

    fn sync(&mut self) -> Result<LogIndex, ApplyError> {
        self.store.sync()?;
        *self.synced.lock().unwrap() = self.applied;
        Ok(self.applied)
    }

    fn checkpoint(&mut self) -> Result<Box<dyn Checkpoint>, ApplyError> {
        Err(ApplyError::Checkpoint { at: self.applied, problem: "a group of one gives none".into() })
    }

    fn install(&mut self, at: LogIndex, _chunks: &mut dyn CheckpointReader) -> Result<(), ApplyError> {
        Err(ApplyError::Checkpoint { at, problem: "a group of one takes none".into() })
    }
}

/// What a [`Memo`] has applied: outlives the machine, as a disk would.
#[derive(Default)]
pub struct Memory {
    pub applied: LogIndex,
    pub entries: BTreeMap<LogIndex, Bytes>,
    /// Checkpoints taken in.
    pub installed: u64,
}

/// A machine whose state is the list of its commands.
#[derive(Clone, Default)]
pub struct Memo {
    pub memory: Arc<Mutex<Memory>>,
}

impl Memo {
    pub fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap()
    }

    /// Its commands, in order.
    pub fn commands(&self) -> Vec<String> {
        self.memory().entries.values().map(|data| String::from_utf8(data.to_vec()).unwrap()).collect()
    }
}

impl StateMachine for Memo {
    type Outcome = LogIndex;

    fn applied(&self) -> LogIndex {
        self.memory().applied
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<LogIndex>, ApplyError> {
        let mut memory = self.memory();
        for entry in entries {
            assert_eq!(entry.index, memory.applied + 1, "the machine sees every index once");
            memory.applied = entry.index;
            if !entry.data.is_empty() {
                memory.entries.insert(entry.index, entry.data.clone());
            }
        }
        Ok(entries.iter().map(|entry| entry.index).collect())
    }

    fn sync(&mut self) -> Result<LogIndex, ApplyError> {
        Ok(self.applied())
    }

    fn checkpoint(&mut self) -> Result<Box<dyn Checkpoint>, ApplyError> {
        let memory = self.memory();
        let chunk = |(index, data): (&LogIndex, &Bytes)| Bytes::from([&index.to_be_bytes()[..], data].concat());
        let mut chunks: Vec<Bytes> = memory.entries.iter().map(chunk).collect();
        chunks.reverse();
        Ok(Box::new(MemoCheckpoint { index: memory.applied, chunks }))
    }

    fn install(&mut self, at: LogIndex, chunks: &mut dyn CheckpointReader) -> Result<(), ApplyError> {
        let mut entries = BTreeMap::new();
        while let Some(chunk) = chunks.next_chunk()? {
            let index = LogIndex::from_be_bytes(chunk[..8].try_into().unwrap());
            entries.insert(index, chunk.slice(8..));
        }
        let mut memory = self.memory();
        (memory.applied, memory.entries) = (at, entries);
        memory.installed += 1;
        Ok(())
    }
}

struct MemoCheckpoint {
    index: LogIndex,
    chunks: Vec<Bytes>,
}

impl Checkpoint for MemoCheckpoint {
    fn index(&self) -> LogIndex {
        self.index
    }

    fn next_chunk(&mut self) -> Result<Option<Bytes>, ApplyError> {
        Ok(self.chunks.pop())
    }
}
