//! The coordinator of a standalone node: a revisioned key-value map in the node's own store. A commit is synced before
//! it is answered. Called through [`Coordinator`].

use super::{BoxFuture, Change, Committed, Compare, CoordinationError, Coordinator, KeyValue, Transaction};
use crate::{
    rt,
    store::{
        Direction, Durability, Space, Store, StoreError, View,
        keys::{
            CONTROL_SPACE,
            control::{self, ControlRecord, Counter},
        },
    },
};
use std::sync::{Arc, Mutex};

/// See the module. Clones share the map.
#[derive(Clone)]
pub struct Embedded(Arc<Inner>);

struct Inner {
    store: Store,
    space: Space,
    /// Held over compare, write and sync of a transaction: they happen one after the other.
    committing: Mutex<()>,
}

impl Embedded {
    /// Opens the map in `store`, making it if it is not there.
    ///
    /// # Errors
    /// Those of the store.
    pub fn open(store: Store) -> Result<Embedded, StoreError> {
        let space = store.space(CONTROL_SPACE)?;
        Ok(Embedded(Arc::new(Inner { store, space, committing: Mutex::new(()) })))
    }
}

impl Inner {
    fn get(&self, view: &View, key: &str) -> Result<Option<KeyValue>, CoordinationError> {
        let Some(stored) = view.get(&self.space, &control::key(key.as_bytes())).map_err(unreadable)? else {
            return Ok(None);
        };
        key_value(key.to_owned(), &stored).map(Some)
    }

    fn list(&self, prefix: &str) -> Result<Vec<KeyValue>, CoordinationError> {
        let view = self.store.view();
        view.prefix(&self.space, &control::key(prefix.as_bytes()), Direction::Forward)
            .map(|entry| {
                let (key, stored) = entry.map_err(unreadable)?;
                let name = control::name(&key).ok_or_else(|| unreadable("a key of another record"))?;
                let name = std::str::from_utf8(name).map_err(unreadable)?;
                key_value(name.to_owned(), &stored)
            })
            .collect()
    }

    fn commit(&self, transaction: &Transaction) -> Result<Committed, CoordinationError> {
        let _one_at_a_time = self.committing.lock().expect("no panic while committing");
        let view = self.store.view();
        for compare in &transaction.compares {
            let holds = match compare {
                Compare::Absent(key) => self.get(&view, key)?.is_none(),
                Compare::WrittenAt(key, revision) => self.get(&view, key)?.is_some_and(|kv| kv.revision == *revision),
            };
            if !holds {
                return Ok(Committed::Refused);
            }
        }
        let revision = self.revision(&view)? + 1;
        let mut batch = self.store.batch();
        batch.put(&self.space, &Counter::Revision.key(), &Counter::encode(revision));
        for change in &transaction.changes {
            match change {
                Change::Put(key, value) => {
                    let record = self.next_record(&view, key, revision, value)?;
                    batch.put(&self.space, &control::key(key.as_bytes()), &record);
                }
                Change::Delete(key) => batch.delete(&self.space, &control::key(key.as_bytes())),
            }
        }
        batch.commit(Durability::Synced).map_err(|error| CoordinationError::Indeterminate(error.to_string()))?;
        Ok(Committed::At(revision))
    }

    fn revision(&self, view: &View) -> Result<u64, CoordinationError> {
        match view.get(&self.space, &Counter::Revision.key()).map_err(unreadable)? {
            None => Ok(0),
            Some(stored) => Counter::decode(&stored).map_err(unreadable),
        }
    }

    /// The record of `key` once it is written at `revision`.
    fn next_record(&self, view: &View, key: &str, revision: u64, value: &[u8]) -> Result<Vec<u8>, CoordinationError> {
        let stored = view.get(&self.space, &control::key(key.as_bytes())).map_err(unreadable)?;
        let old = stored.as_ref().map(|stored| ControlRecord::decode(stored)).transpose().map_err(unreadable)?;
        let record = ControlRecord {
            create_revision: old.map_or(revision, |old| old.create_revision),
            mod_revision: revision,
            version: old.map_or(0, |old| old.version) + 1,
            lease: 0,
            value,
        };
        Ok(record.encode())
    }
}

fn key_value(key: String, stored: &[u8]) -> Result<KeyValue, CoordinationError> {
    let record = ControlRecord::decode(stored).map_err(unreadable)?;
    Ok(KeyValue { key, value: record.value.to_vec(), revision: record.mod_revision })
}

fn unreadable(error: impl std::fmt::Display) -> CoordinationError {
    CoordinationError::Corrupt(error.to_string())
}

impl Coordinator for Embedded {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<KeyValue>, CoordinationError>> {
        Box::pin(async move { self.0.get(&self.0.store.view(), key) })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<KeyValue>, CoordinationError>> {
        Box::pin(async move { self.0.list(prefix) })
    }

    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<Committed, CoordinationError>> {
        let inner = self.0.clone();
        Box::pin(rt::compute::io(move || inner.commit(&transaction)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreOptions;

    fn put(key: &str, value: &str) -> Change {
        Change::Put(key.to_owned(), value.as_bytes().to_vec())
    }

    #[test]
    fn transactions_compare_then_change_and_survive_reopening() {
        let dir = tempfile::tempdir().unwrap();
        {
            let kv = Embedded::open(Store::open(dir.path(), StoreOptions::default()).unwrap()).unwrap().0;
            let create =
                |value| Transaction { compares: vec![Compare::Absent("a/1".into())], changes: vec![put("a/1", value)] };
            assert_eq!(kv.commit(&create("x")).unwrap(), Committed::At(1));
            assert_eq!(kv.commit(&create("y")).unwrap(), Committed::Refused);
            let swap = Transaction {
                compares: vec![Compare::WrittenAt("a/1".into(), 1)],
                changes: vec![put("a/1", "z"), put("a/2", "w"), put("b", "v")],
            };
            assert_eq!(kv.commit(&swap).unwrap(), Committed::At(2));
            assert_eq!(kv.commit(&swap).unwrap(), Committed::Refused, "the revision moved on");
        }
        let kv = Embedded::open(Store::open(dir.path(), StoreOptions::default()).unwrap()).unwrap().0;
        let listed: Vec<(String, Vec<u8>, u64)> =
            kv.list("a/").unwrap().into_iter().map(|kv| (kv.key, kv.value, kv.revision)).collect();
        assert_eq!(listed, [("a/1".into(), b"z".to_vec(), 2), ("a/2".into(), b"w".to_vec(), 2)]);
        let delete = Transaction { compares: vec![], changes: vec![Change::Delete("a/1".into())] };
        assert_eq!(kv.commit(&delete).unwrap(), Committed::At(3));
        assert_eq!(kv.get(&kv.store.view(), "a/1").unwrap(), None);
    }
}
