//! What every implementation of the coordinator takes, so that what works with one works with the others. The bounds are etcd's own
//! or below them. Called by both implementations before anything is sent.

use super::{Change, Compare, CoordinationError, Transaction};
use std::{collections::BTreeSet, time::Duration};

/// Bytes of a key's value, at most (etcd takes 1.5 MiB a request).
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Conditions, and changes, of one transaction, at most.
pub const OPERATIONS_MAX: usize = 128;
/// Longest key, in bytes, prefix and all.
const KEY_BYTES_MAX: usize = 4096;
/// How long a change that has happened may take to be known here before its maker is told that it has happened.
pub(super) const SHOW_LIMIT: Duration = Duration::from_secs(1);
/// Shortest and longest time to live of a lease.
const TTL_MIN: Duration = Duration::from_millis(100);
const TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A time to live in milliseconds.
///
/// # Errors
/// `Rejected` if it is out of bounds.
pub(super) fn ttl_ms(ttl: Duration) -> Result<u64, CoordinationError> {
    if !(TTL_MIN..=TTL_MAX).contains(&ttl) {
        let problem = format!("a lease of {ttl:?}, expected {TTL_MIN:?} to {TTL_MAX:?}");
        return Err(CoordinationError::Rejected(problem));
    }
    Ok(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
}

/// Refuses what no coordinator takes.
///
/// # Errors
/// `Rejected`.
pub(super) fn check(transaction: &Transaction) -> Result<(), CoordinationError> {
    problem(transaction).map_or(Ok(()), |problem| Err(CoordinationError::Rejected(problem)))
}

/// What is wrong with a transaction, if something is.
fn problem(transaction: &Transaction) -> Option<String> {
    let Transaction { compares, changes } = transaction;
    let most = compares.len().max(changes.len());
    if most > OPERATIONS_MAX {
        return Some(format!("{most} conditions or changes, expected at most {OPERATIONS_MAX}"));
    }
    let mut changed = BTreeSet::new();
    for change in changes {
        let (key, value) = match change {
            Change::Put(key, value) | Change::PutLeased(key, value, _) => (key, value.len()),
            Change::Delete(key) => (key, 0),
        };
        if value > VALUE_BYTES_MAX {
            return Some(format!("a value of {value} bytes for {key:?}, expected at most {VALUE_BYTES_MAX}"));
        }
        if !changed.insert(key) {
            return Some(format!("{key:?} is changed twice"));
        }
    }
    let compared = compares.iter().map(|compare| match compare {
        Compare::Absent(key) | Compare::WrittenAt(key, _) | Compare::CreatedAt(key, _) => key,
    });
    let longest = compared.chain(changed).map(String::len).max().unwrap_or(0);
    (longest > KEY_BYTES_MAX).then(|| format!("a key of {longest} bytes, expected at most {KEY_BYTES_MAX}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_coordinator_takes_is_told() {
        let put = |key: &str, bytes: usize| Change::Put(key.to_owned(), vec![0; bytes]);
        let of = |changes: Vec<Change>| problem(&Transaction { compares: vec![], changes });
        assert_eq!(of(vec![put("a", VALUE_BYTES_MAX), put("b", 1)]), None);
        assert!(of(vec![put("a", VALUE_BYTES_MAX + 1)]).unwrap().contains("1048577 bytes"));
        assert_eq!(of(vec![put("a", 1), Change::Delete("a".into())]).unwrap(), "\"a\" is changed twice");
        assert!(of((0..129).map(|i| put(&i.to_string(), 0)).collect()).unwrap().contains("at most 128"));
        assert!(of(vec![put(&"k".repeat(4097), 0)]).unwrap().contains("key of 4097 bytes"));
    }

    #[test]
    fn a_lease_lives_neither_a_moment_nor_for_ever() {
        assert_eq!(ttl_ms(Duration::from_millis(1500)), Ok(1500));
        assert!(ttl_ms(Duration::from_millis(99)).is_err() && ttl_ms(Duration::MAX).is_err());
    }
}
