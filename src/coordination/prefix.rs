//! The prefix under which a cluster's keys lie in a store that others may use too. Called by both implementations of the
//! coordinator, so that everybody above them names keys alike.

use super::{Change, Compare, CoordinationError, Event, KeyValue, Transaction};

/// See the module. Ends with `/`.
#[derive(Clone, Debug)]
pub(super) struct Prefix(String);

impl Prefix {
    /// The prefix of a cluster.
    pub(super) fn of(cluster: &str) -> Prefix {
        Prefix(format!("/vectorsphere/{cluster}/"))
    }

    /// A key, or the beginning of one, as it is stored.
    pub(super) fn stored(&self, key: &str) -> String {
        format!("{}{key}", self.0)
    }

    /// A stored key as callers know it.
    ///
    /// # Errors
    /// `Corrupt` for a key that is not below the prefix.
    pub(super) fn relative(&self, stored: &str) -> Result<String, CoordinationError> {
        let key = stored.strip_prefix(&self.0).map(str::to_owned);
        key.ok_or_else(|| CoordinationError::Corrupt(format!("the key {stored:?} is not below {:?}", self.0)))
    }

    pub(super) fn relative_kv(&self, stored: KeyValue) -> Result<KeyValue, CoordinationError> {
        Ok(KeyValue { key: self.relative(&stored.key)?, ..stored })
    }

    pub(super) fn relative_event(&self, stored: Event) -> Result<Event, CoordinationError> {
        Ok(match stored {
            Event::Put(kv) => Event::Put(self.relative_kv(kv)?),
            Event::Delete(key, revision) => Event::Delete(self.relative(&key)?, revision),
        })
    }

    /// A transaction over stored keys.
    pub(super) fn stored_transaction(&self, transaction: Transaction) -> Transaction {
        let compare = |compare| match compare {
            Compare::Absent(key) => Compare::Absent(self.stored(&key)),
            Compare::WrittenAt(key, revision) => Compare::WrittenAt(self.stored(&key), revision),
            Compare::CreatedAt(key, revision) => Compare::CreatedAt(self.stored(&key), revision),
        };
        let change = |change| match change {
            Change::Put(key, value) => Change::Put(self.stored(&key), value),
            Change::Delete(key) => Change::Delete(self.stored(&key)),
            Change::PutLeased(key, value, lease) => Change::PutLeased(self.stored(&key), value, lease),
        };
        Transaction {
            compares: transaction.compares.into_iter().map(compare).collect(),
            changes: transaction.changes.into_iter().map(change).collect(),
        }
    }
}
