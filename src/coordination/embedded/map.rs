//! The map of the embedded coordinator: keys, values and revisions in a space of the node's own store, changed by one transaction
//! at a time. Called by `machine` (changing, in the order of the log) and `embedded` (reading).

use super::super::{
    Change, Committed, Compare, CoordinationError, Event, KeyValue, LeaseId, Listed, Revision, Transaction,
};
use super::entry::Outcome;
use crate::store::{
    Batch, Direction, Space, Store, StoreError, View,
    keys::{
        CONTROL_SPACE,
        control::{self, ControlRecord, Counter},
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// Leases there may be.
const LEASES_MAX: usize = 10_000;

/// What a log entry does.
pub(super) struct Effect {
    pub(super) outcome: Outcome,
    /// The revision it makes, if it changes a key, and what happens at it.
    pub(super) change: Option<(Revision, Vec<Event>)>,
}

impl Effect {
    /// No key is changed.
    pub(super) fn nothing(outcome: Outcome) -> Effect {
        Effect { outcome, change: None }
    }
}

/// See the module. Clones share the map.
#[derive(Clone)]
pub(super) struct Map {
    store: Store,
    space: Space,
}

impl Map {
    /// Opens the map in `store`, making it if it is not there.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) fn open(store: Store) -> Result<Map, StoreError> {
        let space = store.space(CONTROL_SPACE)?;
        Ok(Map { store, space })
    }

    /// What is there now, all of one moment.
    pub(super) fn view(&self) -> MapView {
        MapView { view: self.store.view(), space: self.space.clone() }
    }

    /// No changes yet.
    pub(super) fn batch(&self) -> Batch {
        self.store.batch()
    }

    /// Makes everything committed so far survive power loss.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.store.sync()
    }

    /// Adds to `batch` that everything up to log index `applied` has been applied.
    pub(super) fn put_applied(&self, batch: &mut Batch, applied: u64) {
        batch.put(&self.space, &Counter::Applied.key(), &Counter::encode(applied));
    }

    /// Adds the changes of `transaction` to `batch`, if its conditions hold in `view`.
    pub(super) fn run(
        &self,
        view: &MapView,
        transaction: &Transaction,
        batch: &mut Batch,
    ) -> Result<Effect, CoordinationError> {
        for compare in &transaction.compares {
            let holds = match compare {
                Compare::Absent(key) => view.get(key)?.is_none(),
                Compare::WrittenAt(key, revision) => view.get(key)?.is_some_and(|kv| kv.revision == *revision),
                Compare::CreatedAt(key, revision) => view.get(key)?.is_some_and(|kv| kv.created == *revision),
            };
            if !holds {
                return Ok(Effect::nothing(Outcome::Transaction(Committed::Refused)));
            }
        }
        for change in &transaction.changes {
            if let Change::PutLeased(_, _, lease) = change
                && view.lease_ttl_ms(*lease)?.is_none()
            {
                return Ok(Effect::nothing(Outcome::LeaseGone(*lease)));
            }
        }
        let revision = self.next_revision(view, batch)?;
        let mut events = Vec::with_capacity(transaction.changes.len());
        for change in &transaction.changes {
            match change {
                Change::Put(key, value) => events.push(self.put(view, key, revision, value, 0, batch)?),
                Change::PutLeased(key, value, lease) => {
                    events.push(self.put(view, key, revision, value, *lease, batch)?);
                }
                Change::Delete(key) => events.extend(self.delete(view, key, revision, batch)?),
            }
        }
        Ok(Effect { outcome: Outcome::Transaction(Committed::At(revision)), change: Some((revision, events)) })
    }

    /// Adds a new lease to `batch`.
    pub(super) fn grant(&self, view: &MapView, ttl_ms: u64, batch: &mut Batch) -> Result<Effect, CoordinationError> {
        if view.leases()?.len() >= LEASES_MAX {
            return Ok(Effect::nothing(Outcome::LeasesFull));
        }
        let lease = view.counter(Counter::Lease)? + 1;
        batch.put(&self.space, &Counter::Lease.key(), &Counter::encode(lease));
        batch.put(&self.space, &control::lease_key(lease), &Counter::encode(ttl_ms));
        Ok(Effect::nothing(Outcome::Granted(lease)))
    }

    /// Adds the end of leases, and of the keys bound to them, to `batch`: one revision, if there was such a key. Leases that are not
    /// there are passed over. Cost: a pass over the map.
    pub(super) fn end(
        &self,
        view: &MapView,
        leases: &BTreeSet<LeaseId>,
        batch: &mut Batch,
    ) -> Result<Effect, CoordinationError> {
        for lease in leases {
            batch.delete(&self.space, &control::lease_key(*lease));
        }
        let mut bound = view.list("")?;
        bound.retain(|kv| kv.lease.is_some_and(|lease| leases.contains(&lease)));
        if bound.is_empty() {
            return Ok(Effect::nothing(Outcome::Ended));
        }
        let revision = self.next_revision(view, batch)?;
        let delete = |kv: KeyValue| {
            batch.delete(&self.space, &stored_key(&kv.key));
            Event::Delete(kv.key, revision)
        };
        Ok(Effect { outcome: Outcome::Ended, change: Some((revision, bound.into_iter().map(delete).collect())) })
    }

    fn next_revision(&self, view: &MapView, batch: &mut Batch) -> Result<Revision, CoordinationError> {
        let revision = view.counter(Counter::Revision)? + 1;
        batch.put(&self.space, &Counter::Revision.key(), &Counter::encode(revision));
        Ok(revision)
    }

    fn put(
        &self,
        view: &MapView,
        key: &str,
        revision: Revision,
        value: &[u8],
        lease: LeaseId,
        batch: &mut Batch,
    ) -> Result<Event, CoordinationError> {
        let stored = view.view.get(&self.space, &stored_key(key)).map_err(unreadable)?;
        let old = stored.as_ref().map(|stored| ControlRecord::decode(stored)).transpose().map_err(unreadable)?;
        let record = ControlRecord {
            create_revision: old.map_or(revision, |old| old.create_revision),
            mod_revision: revision,
            version: old.map_or(0, |old| old.version) + 1,
            lease,
            value,
        };
        let stored = record.encode();
        batch.put(&self.space, &stored_key(key), &stored);
        key_value(key.to_owned(), &stored).map(Event::Put)
    }

    fn delete(
        &self,
        view: &MapView,
        key: &str,
        revision: Revision,
        batch: &mut Batch,
    ) -> Result<Option<Event>, CoordinationError> {
        if view.get(key)?.is_none() {
            return Ok(None);
        }
        batch.delete(&self.space, &stored_key(key));
        Ok(Some(Event::Delete(key.to_owned(), revision)))
    }

    /// Adds the removal of everything to `batch`.
    pub(super) fn clear(&self, batch: &mut Batch) -> Result<(), StoreError> {
        for entry in self.view().all() {
            batch.delete(&self.space, &entry?.0);
        }
        Ok(())
    }

    /// Adds a stored record, as [`MapView::all`] gives it, to `batch`.
    pub(super) fn put_raw(&self, batch: &mut Batch, key: &[u8], value: &[u8]) {
        batch.put(&self.space, key, value);
    }
}

/// The map at one moment.
pub(super) struct MapView {
    view: View,
    space: Space,
}

impl MapView {
    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Result<Option<KeyValue>, CoordinationError> {
        let Some(stored) = self.view.get(&self.space, &stored_key(key)).map_err(unreadable)? else {
            return Ok(None);
        };
        key_value(key.to_owned(), &stored).map(Some)
    }

    /// All keys that begin with `prefix`, in order.
    pub(super) fn list(&self, prefix: &str) -> Result<Vec<KeyValue>, CoordinationError> {
        self.view
            .prefix(&self.space, &stored_key(prefix), Direction::Forward)
            .map(|entry| {
                let (key, stored) = entry.map_err(unreadable)?;
                let name = control::name(&key).ok_or_else(|| unreadable("a key of another record"))?;
                let name = std::str::from_utf8(name).map_err(unreadable)?;
                key_value(name.to_owned(), &stored)
            })
            .collect()
    }

    /// All keys that begin with `prefix`, and the revision of the map.
    pub(super) fn listed(&self, prefix: &str) -> Result<Listed, CoordinationError> {
        Ok(Listed { revision: self.counter(Counter::Revision)?, entries: self.list(prefix)? })
    }

    /// A counter; 0 if it was never written.
    pub(super) fn counter(&self, counter: Counter) -> Result<u64, CoordinationError> {
        match self.view.get(&self.space, &counter.key()).map_err(unreadable)? {
            None => Ok(0),
            Some(stored) => Counter::decode(&stored).map_err(unreadable),
        }
    }

    /// How long a lease lives without being kept alive, in milliseconds; none if there is no such lease.
    pub(super) fn lease_ttl_ms(&self, lease: LeaseId) -> Result<Option<u64>, CoordinationError> {
        let stored = self.view.get(&self.space, &control::lease_key(lease)).map_err(unreadable)?;
        stored.map(|stored| Counter::decode(&stored).map_err(unreadable)).transpose()
    }

    /// Every lease with its time to live, in milliseconds.
    pub(super) fn leases(&self) -> Result<BTreeMap<LeaseId, u64>, CoordinationError> {
        let leases = self.view.prefix(&self.space, &[control::LEASE_TAG], Direction::Forward);
        leases
            .map(|entry| {
                let (key, stored) = entry.map_err(unreadable)?;
                let lease = control::lease(&key).ok_or_else(|| unreadable("a key of another record"))?;
                Ok((lease, Counter::decode(&stored).map_err(unreadable)?))
            })
            .collect()
    }

    /// Every stored record: keys, counters, leases.
    pub(super) fn all(&self) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), StoreError>> + use<> {
        let scan = self.view.range(&self.space, &[control::TAG]..&[control::LEASE_TAG + 1], Direction::Forward);
        scan.map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())))
    }
}

fn stored_key(key: &str) -> Vec<u8> {
    control::key(key.as_bytes())
}

fn key_value(key: String, stored: &[u8]) -> Result<KeyValue, CoordinationError> {
    let record = ControlRecord::decode(stored).map_err(unreadable)?;
    Ok(KeyValue {
        key,
        value: record.value.to_vec(),
        revision: record.mod_revision,
        created: record.create_revision,
        lease: Some(record.lease).filter(|lease| *lease != 0),
    })
}

pub(super) fn unreadable(error: impl std::fmt::Display) -> CoordinationError {
    CoordinationError::Corrupt(error.to_string())
}
