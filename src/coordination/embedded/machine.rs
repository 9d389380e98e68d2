//! The state machine behind the embedded coordinator: log entries are applied one by one to the map, the applied index moves in the
//! same batch as the effects, and what happened is told to the history. Called by the coordinator's Raft group.

use super::entry::{Command, LeaseChange, Outcome, decode_records, encode_records};
use super::history::History;
use super::map::{Effect, Map, MapView, unreadable};
use crate::{
    raft::{ApplyError, CHUNK_BYTES, Checkpoint, CheckpointReader, Entry, LogIndex, StateMachine},
    store::{Batch, Durability, StoreError, keys::control::Counter},
};
use bytes::Bytes;
use std::{collections::BTreeSet, path::Path, sync::Arc};
use tokio::sync::Notify;

/// See the module.
pub struct Machine {
    map: Map,
    applied: LogIndex,
    history: Arc<History>,
    /// Rung after every change.
    changed: Arc<Notify>,
}

impl Machine {
    pub(super) fn new(map: Map, history: Arc<History>, changed: Arc<Notify>) -> Result<Machine, StoreError> {
        let view = map.view();
        let counter = |counter| {
            view.counter(counter).map_err(|error| StoreError::corrupt(Path::new("control"), error.to_string()))
        };
        let applied = counter(Counter::Applied)?;
        history.restart(counter(Counter::Revision)?);
        Ok(Machine { map, applied, history, changed })
    }

    fn apply_one(&mut self, entry: &Entry) -> Result<Outcome, ApplyError> {
        let mut batch = self.map.batch();
        let effect = if entry.data.is_empty() {
            Effect::nothing(Outcome::Nothing)
        } else {
            let command = Command::decode(&entry.data);
            let ran = command.and_then(|command| self.run(entry.term, command, &mut batch));
            ran.map_err(|problem| ApplyError::Entry { index: entry.index, problem })?
        };
        self.map.put_applied(&mut batch, entry.index);
        // Synced, though the log has it too: shards are opened by what is read here, and after a power loss nothing of a shard may
        // be found that the map does not know.
        let effects = !entry.data.is_empty();
        batch.commit(if effects { Durability::Synced } else { Durability::Buffered })?;
        self.applied = entry.index;
        if let Some((revision, events)) = effect.change {
            self.history.push(revision, events);
        }
        Ok(effect.outcome)
    }

    fn run(&self, term: u64, command: Command, batch: &mut Batch) -> Result<Effect, String> {
        let view = self.map.view();
        let ran = match command {
            Command::Transaction(transaction) => self.map.run(&view, &transaction, batch),
            Command::Leases(LeaseChange::Grant { ttl_ms }) => self.map.grant(&view, ttl_ms, batch),
            Command::Leases(LeaseChange::Revoke { lease }) => self.map.end(&view, &BTreeSet::from([lease]), batch),
            Command::Leases(LeaseChange::Expire { term: looked_in, leases }) if looked_in == term => {
                self.map.end(&view, &leases.into_iter().collect(), batch)
            }
            Command::Leases(LeaseChange::Expire { .. }) => Ok(Effect::nothing(Outcome::Nothing)),
        };
        ran.map_err(|error| error.to_string())
    }

    fn last_revision(&self, view: &MapView) -> Result<u64, ApplyError> {
        view.counter(Counter::Revision).map_err(unusable)
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
            let records = decode_records(&chunk).map_err(unusable)?;
            records.iter().for_each(|(key, value)| self.map.put_raw(&mut batch, key, value));
        }
        self.map.put_applied(&mut batch, at);
        batch.commit(Durability::Synced)?;
        self.applied = at;
        self.history.restart(self.last_revision(&self.map.view())?);
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
        Ok((!chunk.is_empty()).then(|| encode_records(&chunk)))
    }
}
