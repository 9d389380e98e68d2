//! The map of the embedded coordinator: keys, values and revisions in a space of the node's own store, changed by one transaction
//! at a time. Called by `machine` (changing, in the order of the log) and `embedded` (reading).

use super::super::{Change, Committed, Compare, CoordinationError, KeyValue, LeaseId, Listed, Revision, Transaction};
use crate::store::{
    Batch, Direction, Space, Store, StoreError, View,
    keys::{
        CONTROL_SPACE,
        control::{self, ControlRecord, Counter},
    },
};

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
    ) -> Result<Committed, CoordinationError> {
        for compare in &transaction.compares {
            let holds = match compare {
                Compare::Absent(key) => view.get(key)?.is_none(),
                Compare::WrittenAt(key, revision) => view.get(key)?.is_some_and(|kv| kv.revision == *revision),
                Compare::CreatedAt(key, revision) => view.get(key)?.is_some_and(|kv| kv.created == *revision),
            };
            if !holds {
                return Ok(Committed::Refused);
            }
        }
        let revision = view.counter(Counter::Revision)? + 1;
        batch.put(&self.space, &Counter::Revision.key(), &Counter::encode(revision));
        for change in &transaction.changes {
            match change {
                Change::Put(key, value) => self.put(view, key, revision, value, 0, batch)?,
                Change::PutLeased(key, value, lease) => self.put(view, key, revision, value, *lease, batch)?,
                Change::Delete(key) => batch.delete(&self.space, &stored_key(key)),
            }
        }
        Ok(Committed::At(revision))
    }

    fn put(
        &self,
        view: &MapView,
        key: &str,
        revision: Revision,
        value: &[u8],
        lease: LeaseId,
        batch: &mut Batch,
    ) -> Result<(), CoordinationError> {
        let stored = view.view.get(&self.space, &stored_key(key)).map_err(unreadable)?;
        let old = stored.as_ref().map(|stored| ControlRecord::decode(stored)).transpose().map_err(unreadable)?;
        let record = ControlRecord {
            create_revision: old.map_or(revision, |old| old.create_revision),
            mod_revision: revision,
            version: old.map_or(0, |old| old.version) + 1,
            lease,
            value,
        };
        batch.put(&self.space, &stored_key(key), &record.encode());
        Ok(())
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

    /// Every stored record, counters too.
    pub(super) fn all(&self) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), StoreError>> + use<> {
        let scan = self.view.range(&self.space, &[control::TAG]..&[control::COUNTER_TAG + 1], Direction::Forward);
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
