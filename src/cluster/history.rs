//! What was changed in the cluster, when, why and by whom: the last few hundred changes, kept in the coordinator in the same
//! transaction as the change itself, so that none is told that did not happen and none happens untold. Called by `controller` and `admin`.

use super::table::NodeId;
use crate::{
    coordination::{Change, Compare, KeyValue},
    types::{Error, ErrorKind, Result},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where entries are kept: a ring of keys.
pub const PREFIX: &str = "history/";
/// Entries kept.
pub const ENTRIES_MAX: u64 = 256;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Counted from 1, without a gap.
    pub number: u64,
    /// Milliseconds since 1970, by the clock of the node that made it.
    pub at_ms: u64,
    /// That node.
    pub by: NodeId,
    pub what: String,
    pub why: String,
    /// What went over the network for it.
    #[serde(default)]
    pub bytes: u64,
}

/// The ring, as it was read.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// By number.
    entries: BTreeMap<u64, Entry>,
    /// Which keys are there, as written when.
    written: BTreeMap<String, u64>,
}

impl History {
    /// Reads the ring from all its keys.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn read<'a>(stored: impl IntoIterator<Item = &'a KeyValue>) -> Result<History> {
        let mut history = History::default();
        for kv in stored {
            let entry: Entry = serde_json::from_slice(&kv.value).map_err(|error| {
                Error::new(ErrorKind::Corrupt, "history_corrupt", format!("the coordinator's {}: {error}", kv.key))
            })?;
            history.entries.insert(entry.number, entry);
            history.written.insert(kv.key.clone(), kv.revision);
        }
        Ok(history)
    }

    /// The entries, newest first.
    pub fn newest_first(self) -> Vec<Entry> {
        self.entries.into_values().rev().collect()
    }

    /// What to add to a transaction so that it tells of `changes` (what, why, bytes), at most [`ENTRIES_MAX`]: a condition that
    /// nobody else has told of anything since, and the writes. Nothing for no changes.
    pub fn tell(&self, at_ms: u64, by: NodeId, changes: &[(String, String, u64)]) -> (Option<Compare>, Vec<Change>) {
        assert!(changes.len() as u64 <= ENTRIES_MAX, "a ring does not overwrite itself");
        let first = self.entries.last_key_value().map_or(1, |(number, _)| number + 1);
        let entries = (first..).zip(changes).map(|(number, (what, why, bytes))| {
            let entry = Entry { number, at_ms, by, what: what.clone(), why: why.clone(), bytes: *bytes };
            Change::Put(key(number), serde_json::to_vec(&entry).expect("an entry always encodes"))
        });
        let writes: Vec<Change> = entries.collect();
        // Whoever tells of something writes the first of these keys.
        let compare = match self.written.get(&key(first)) {
            None => Compare::Absent(key(first)),
            Some(revision) => Compare::WrittenAt(key(first), *revision),
        };
        ((!writes.is_empty()).then_some(compare), writes)
    }
}

fn key(number: u64) -> String {
    format!("{PREFIX}{:03}", number % ENTRIES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Does what a coordinator does with the writes.
    fn write(stored: &mut BTreeMap<String, KeyValue>, revision: u64, writes: Vec<Change>) {
        for change in writes {
            let Change::Put(key, value) = change else { panic!("{change:?}") };
            stored.insert(key.clone(), KeyValue { key, value, revision, created: revision, lease: None });
        }
    }

    #[test]
    fn the_last_entries_are_kept_in_order() {
        let mut stored = BTreeMap::new();
        let mut compares = Vec::new();
        for revision in 1..=100 {
            let history = History::read(stored.values()).unwrap();
            let changes: Vec<_> = (0..3).map(|i| (format!("{revision}.{i}"), String::new(), 0)).collect();
            let (compare, writes) = history.tell(revision, 7, &changes);
            compares.push(compare.unwrap());
            write(&mut stored, revision, writes);
        }
        let entries = History::read(stored.values()).unwrap().newest_first();
        assert_eq!((entries.len() as u64, entries[0].what.as_str()), (ENTRIES_MAX, "100.2"));
        assert!(entries.windows(2).all(|pair| pair[0].number == pair[1].number + 1));
        assert_eq!(compares[0], Compare::Absent("history/001".to_owned()));
        assert_eq!(compares[86], Compare::WrittenAt("history/003".to_owned(), 1), "the ring is full and goes round");
    }

    #[test]
    fn telling_of_nothing_asks_for_nothing() {
        let (compare, writes) = History::default().tell(1, 7, &[]);
        assert!(compare.is_none() && writes.is_empty());
        let broken = KeyValue { key: "history/001".into(), value: vec![], revision: 1, created: 1, lease: None };
        assert_eq!(History::read([&broken]).unwrap_err().code(), "history_corrupt");
    }
}
