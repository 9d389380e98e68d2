//! The state machine behind the embedded coordinator: log entries are transactions, applied one by one to the map; the applied
//! index moves in the same batch as the effects. Called by the coordinator's Raft group.

use super::super::{Committed, Transaction};
use super::map::{Map, unreadable};
use crate::{
    raft::{ApplyError, CHUNK_BYTES, Checkpoint, CheckpointReader, Entry, LogIndex, StateMachine},
    store::{Durability, StoreError, keys::control::Counter},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::Notify;

/// Format of entries, outcomes and chunks; the first byte of each.
const FORMAT: u8 = 1;

/// The bytes of a transaction in the log.
pub(super) fn encode(transaction: &Transaction) -> Bytes {
    encoded(transaction)
}

/// Whether bytes are a transaction: an entry that cannot be applied would stop every node.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    decoded::<Transaction>(bytes).map(drop)
}

/// The bytes of an outcome between nodes.
pub fn encode_outcome(outcome: &Outcome) -> Bytes {
    encoded(outcome)
}

/// The inverse of [`encode_outcome`]; the problem if the bytes are no outcome.
pub fn decode_outcome(bytes: &[u8]) -> Result<Outcome, String> {
    decoded(bytes)
}

fn encoded(value: &impl Serialize) -> Bytes {
    let bytes = postcard::to_extend(value, vec![FORMAT]);
    Bytes::from(bytes.expect("transactions and outcomes always encode"))
}

fn decoded<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => postcard::from_bytes(rest).map_err(|error| error.to_string()),
        Some((format, _)) => Err(format!("the format {format} is not known")),
        None => Err("no bytes".to_owned()),
    }
}

/// What applying an entry did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was no transaction: Raft's own entries.
    Nothing,
    /// How the transaction ended.
    Transaction(Committed),
}

/// See the module.
pub struct Machine {
    map: Map,
    applied: LogIndex,
    /// Rung after every change.
    changed: Arc<Notify>,
}

impl Machine {
    pub(super) fn new(map: Map, changed: Arc<Notify>) -> Result<Machine, StoreError> {
        let applied = map.view().counter(Counter::Applied);
        let applied =
            applied.map_err(|error| StoreError::corrupt(std::path::Path::new("control"), error.to_string()))?;
        Ok(Machine { map, applied, changed })
    }

    fn apply_one(&mut self, entry: &Entry) -> Result<Outcome, ApplyError> {
        let failed = |problem: String| ApplyError::Entry { index: entry.index, problem };
        let mut batch = self.map.batch();
        let outcome = if entry.data.is_empty() {
            Outcome::Nothing
        } else {
            let transaction: Transaction = decoded(&entry.data).map_err(failed)?;
            let ran = self.map.run(&self.map.view(), &transaction, &mut batch);
            Outcome::Transaction(ran.map_err(|error| failed(error.to_string()))?)
        };
        self.map.put_applied(&mut batch, entry.index);
        // Synced, though the log has it too: shards are opened by what is read here, and after a power loss nothing of a shard may
        // be found that the map does not know.
        let effects = !entry.data.is_empty();
        batch.commit(if effects { Durability::Synced } else { Durability::Buffered })?;
        self.applied = entry.index;
        Ok(outcome)
    }
}

impl StateMachine for Machine {
    type Outcome = Outcome;

    fn applied(&self) -> LogIndex {
        self.applied
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Outcome>, ApplyError> {
        let outcomes = entries.iter().map(|entry| self.apply_one(entry)).collect();
        self.changed.notify_one();
        outcomes
    }

    fn sync(&mut self) -> Result<LogIndex, ApplyError> {
        let applied = self.applied();
        self.map.sync()?;
        Ok(applied)
    }

    fn checkpoint(&mut self) -> Result<Box<dyn Checkpoint>, ApplyError> {
        let view = self.map.view();
        let index = view.counter(Counter::Applied).map_err(unusable)?;
        Ok(Box::new(MapCheckpoint { index, records: Box::new(view.all()) }))
    }

    /// In one batch: a crash leaves the old map or the new one.
    fn install(&mut self, at: LogIndex, chunks: &mut dyn CheckpointReader) -> Result<(), ApplyError> {
        let mut batch = self.map.batch();
        self.map.clear(&mut batch)?;
        while let Some(chunk) = chunks.next_chunk()? {
            let records: Vec<(Vec<u8>, Vec<u8>)> = decoded(&chunk).map_err(unusable)?;
            records.iter().for_each(|(key, value)| self.map.put_raw(&mut batch, key, value));
        }
        self.map.put_applied(&mut batch, at);
        batch.commit(Durability::Synced)?;
        self.applied = at;
        self.changed.notify_one();
        Ok(())
    }
}

fn unusable(problem: impl std::fmt::Display) -> ApplyError {
    ApplyError::Entry { index: 0, problem: unreadable(problem).to_string() }
}

type Records = dyn Iterator<Item = Result<(Vec<u8>, Vec<u8>), StoreError>> + Send;

/// Every record of the map at one moment, in chunks.
struct MapCheckpoint {
    index: LogIndex,
    records: Box<Records>,
}

impl Checkpoint for MapCheckpoint {
    fn index(&self) -> LogIndex {
        self.index
    }

    fn next_chunk(&mut self) -> Result<Option<Bytes>, ApplyError> {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        for record in self.records.by_ref() {
            let (key, value) = record?;
            bytes += key.len() + value.len();
            chunk.push((key, value));
            if bytes >= CHUNK_BYTES {
                break;
            }
        }
        Ok((!chunk.is_empty()).then(|| encoded(&chunk)))
    }
}
