//! The log of all groups of a node, in a database of its own so that flushing data never delays a sync.
//! Promises: an append is on the disk when it returns, all of it or none; a group's log has no gap; a read never returns an
//! entry other than the one written at that index, it refuses instead. Written by `writer` and `solo` (compaction), read by
//! `solo` at start. Blocking: call it on `rt::compute::io`.

use super::writer::Append;
use super::{Entry, GroupId, LogError, LogIndex};
use crate::mutants::mutant;
use crate::store::keys::log::{self as keys, GroupState};
use crate::store::keys::{LOG_SPACE, RecordError};
use crate::store::{Batch, Direction, Discipline, Durability, Space, Store, StoreOptions, View};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Entries removed with one commit, so that a long compaction lets appends through.
const COMPACT_ENTRIES_MAX: u64 = 4096;

/// Options for the log of a node. The memtable is twice what a group appends between compactions, so that most entries are
/// gone before they would be written a second time, to a table.
pub fn log_options() -> StoreOptions {
    StoreOptions { cache_bytes: 4 << 20, memtable_bytes_max: 32 << 20, ..StoreOptions::default() }
}

/// The log of all groups. Cheap to clone.
#[derive(Clone)]
pub struct LogStore {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    space: Space,
    /// Held from deciding a write to its end on the disk.
    writing: Mutex<()>,
    groups: Mutex<BTreeMap<GroupId, LogBounds>>,
}

/// Where the log of a group begins and ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogBounds {
    /// Last index compacted away; 0 for none.
    pub compacted_index: LogIndex,
    /// Its term.
    pub compacted_term: u64,
    /// Last index; the compacted one if nothing follows it.
    pub last_index: LogIndex,
    /// Its term.
    pub last_term: u64,
}

impl LogBounds {
    /// The first index that can be read (or will be, in an empty log).
    pub fn first_index(&self) -> LogIndex {
        self.compacted_index + 1
    }

    fn state(&self) -> GroupState {
        GroupState { compacted_index: self.compacted_index, compacted_term: self.compacted_term }
    }
}

impl LogStore {
    /// Opens the log at `path`, creating it if there is none; finds the bounds of every group. What makes a database a log
    /// (`discipline`, no separated values) is set here. Costs the store's open and three lookups a group.
    pub fn open(path: impl AsRef<Path>, options: StoreOptions) -> Result<LogStore, LogError> {
        let discipline = Discipline::EveryCommitSynced;
        let store = Store::open(path, StoreOptions { discipline, separate_values_from_bytes: None, ..options })?;
        let space = store.space(LOG_SPACE)?;
        let inner = Inner { store, space, writing: Mutex::default(), groups: Mutex::default() };
        let log = LogStore { inner: Arc::new(inner) };
        *log.groups() = log.find_groups()?;
        Ok(log)
    }

    /// The groups that have a log, in order.
    pub fn group_ids(&self) -> Vec<GroupId> {
        self.groups().keys().copied().collect()
    }

    /// Where the log of a group begins and ends; an empty log for an unknown group.
    pub fn bounds(&self, group: GroupId) -> LogBounds {
        self.groups().get(&group).copied().unwrap_or_default()
    }

    /// First index that can be read, 1 in an empty log.
    pub fn first_index(&self, group: GroupId) -> LogIndex {
        self.bounds(group).first_index()
    }

    /// Last index, 0 in an empty log.
    pub fn last_index(&self, group: GroupId) -> LogIndex {
        self.bounds(group).last_index
    }

    /// Appends the entries of any number of groups in one batch with one sync. Entries that start at or before a group's
    /// last index replace everything from there on, as Raft's followers need. Error `OutOfRange`: nothing was written.
    pub fn append(&self, appends: &[Append]) -> Result<(), LogError> {
        let _writing = self.writing();
        let mut changed = BTreeMap::new();
        let mut batch = self.inner.store.batch();
        for append in appends {
            let known = self.groups().get(&append.group).copied();
            let bounds = *changed.entry(append.group).or_insert_with(|| known.unwrap_or_default());
            if known.is_none() {
                self.put_state(&mut batch, append.group, bounds);
            }
            changed.insert(append.group, self.put_entries(&mut batch, append, bounds)?);
        }
        let durability = if mutant!(2) { Durability::Buffered } else { Durability::Synced };
        batch.commit(durability)?;
        self.groups().extend(changed);
        Ok(())
    }

    /// The entries of a group from `from` on: at least one if there is one, then as long as their data stays within
    /// `bytes_max`. Nothing behind the last index. Error `OutOfRange` for an index compacted away, `Corrupt` for an entry that is
    /// missing or damaged.
    pub fn read(&self, group: GroupId, from: LogIndex, bytes_max: usize) -> Result<Vec<Entry>, LogError> {
        let bounds = self.bounds(group);
        if from < bounds.first_index() {
            return Err(out_of_range(group, from, bounds.first_index(), bounds.last_index));
        }
        let view = self.inner.store.view();
        let keys = keys::entry_keys(group, from);
        let mut stored = view.range(&self.inner.space, &keys.start..&keys.end, Direction::Forward);
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in from..=bounds.last_index {
            let Some(record) = stored.next() else { return Err(self.missing(group, index)) };
            let (key, value) = record?;
            if keys::entry_of_key(&key) != Some((group, index)) {
                return Err(self.missing(group, index));
            }
            let (term, data) = keys::decode_entry(group, index, &value).map_err(|e| self.damaged(group, index, e))?;
            bytes += data.len();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(Entry { index, term, data: Bytes::from_owner(value).slice(keys::ENTRY_HEAD_BYTES..) });
        }
        Ok(entries)
    }

    /// Removes the entries of a group up to and with `upto`, in steps of [`COMPACT_ENTRIES_MAX`]; a crash in between leaves a
    /// log that begins at one of the steps. An index already compacted away is not an error.
    pub fn compact(&self, group: GroupId, upto: LogIndex) -> Result<(), LogError> {
        loop {
            let _writing = self.writing();
            let bounds = self.bounds(group);
            if upto > bounds.last_index {
                return Err(out_of_range(group, upto, bounds.first_index(), bounds.last_index));
            }
            if upto <= bounds.compacted_index {
                return Ok(());
            }
            self.compact_step(group, bounds, upto.min(bounds.compacted_index + COMPACT_ENTRIES_MAX))?;
        }
    }

    /// Forgets a group and its log. An unknown group is not an error.
    pub fn remove_group(&self, group: GroupId) -> Result<(), LogError> {
        self.compact(group, self.last_index(group))?;
        let _writing = self.writing();
        let mut batch = self.inner.store.batch();
        batch.delete(&self.inner.space, &keys::state_key(group));
        batch.commit(Durability::Synced)?;
        self.groups().remove(&group);
        Ok(())
    }

    /// Whether a write or sync has failed; no further write is taken until a restart.
    pub fn is_poisoned(&self) -> bool {
        self.inner.store.is_poisoned()
    }

    /// Flushes and compacts the database on this thread where nothing else does (see [`Store::maintain`]).
    pub fn maintain(&self) -> Result<(), LogError> {
        let _writing = self.writing();
        Ok(self.inner.store.maintain()?)
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self) -> Result<u64, LogError> {
        Ok(self.inner.store.disk_bytes()?)
    }

    fn put_state(&self, batch: &mut Batch, group: GroupId, bounds: LogBounds) {
        batch.put(&self.inner.space, &keys::state_key(group), &bounds.state().encode(group));
    }

    /// Adds the writes of one append to `batch`; the bounds of the group after it.
    fn put_entries(&self, batch: &mut Batch, append: &Append, bounds: LogBounds) -> Result<LogBounds, LogError> {
        let group = append.group;
        let (Some(first), Some(last)) = (append.entries.first(), append.entries.last()) else { return Ok(bounds) };
        if first.index <= bounds.compacted_index || first.index > bounds.last_index + 1 {
            return Err(out_of_range(group, first.index, bounds.first_index(), bounds.last_index + 1));
        }
        for (entry, expected) in append.entries.iter().zip(first.index..) {
            if entry.index != expected {
                return Err(out_of_range(group, entry.index, expected, expected));
            }
            let value = keys::encode_entry(group, entry.index, entry.term, &entry.data);
            batch.put(&self.inner.space, &keys::entry_key(group, entry.index), &value);
        }
        for replaced in last.index + 1..=bounds.last_index {
            batch.delete(&self.inner.space, &keys::entry_key(group, replaced));
        }
        Ok(LogBounds { last_index: last.index, last_term: last.term, ..bounds })
    }

    fn compact_step(&self, group: GroupId, bounds: LogBounds, upto: LogIndex) -> Result<(), LogError> {
        let compacted_term = self.term_at(group, upto)?;
        let after = LogBounds { compacted_index: upto, compacted_term, ..bounds };
        let mut batch = self.inner.store.batch();
        self.put_state(&mut batch, group, after);
        for index in bounds.first_index()..=upto {
            batch.delete(&self.inner.space, &keys::entry_key(group, index));
        }
        // Synced like every commit to this store: only then does damage before a later batch prove corruption.
        batch.commit(Durability::Synced)?;
        self.groups().insert(group, after);
        Ok(())
    }

    fn term_at(&self, group: GroupId, index: LogIndex) -> Result<u64, LogError> {
        let value = self.inner.store.view().get(&self.inner.space, &keys::entry_key(group, index))?;
        let value = value.ok_or_else(|| self.missing(group, index))?;
        let (term, _) = keys::decode_entry(group, index, &value).map_err(|e| self.damaged(group, index, e))?;
        Ok(term)
    }

    /// Finds every group by jumping from one to the next.
    fn find_groups(&self) -> Result<BTreeMap<GroupId, LogBounds>, LogError> {
        let view = self.inner.store.view();
        let mut groups = BTreeMap::new();
        let mut next = Some(0);
        while let Some(from) = next {
            let keys = &keys::state_key(from)[..8]..&[0xff; keys::KEY_BYTES + 1][..];
            let Some(record) = view.range(&self.inner.space, keys, Direction::Forward).next() else { break };
            let (key, _) = record?;
            let group = keys::group_of_key(&key).ok_or_else(|| self.corrupt(from, 0, "a key that is not a log's"))?;
            groups.insert(group, self.find_bounds(&view, group)?);
            next = group.checked_add(1);
        }
        Ok(groups)
    }

    fn find_bounds(&self, view: &View, group: GroupId) -> Result<LogBounds, LogError> {
        let state = view.get(&self.inner.space, &keys::state_key(group))?;
        let state = state.ok_or_else(|| self.corrupt(group, 0, "its first index is missing"))?;
        let state = GroupState::decode(group, &state).map_err(|e| self.damaged(group, 0, e))?;
        let (compacted_index, compacted_term) = (state.compacted_index, state.compacted_term);
        let keys = keys::entry_keys(group, 0);
        let last = view.range(&self.inner.space, &keys.start..&keys.end, Direction::Backward).next().transpose()?;
        let Some((key, value)) = last else {
            return Ok(LogBounds {
                compacted_index,
                compacted_term,
                last_index: compacted_index,
                last_term: compacted_term,
            });
        };
        let last_index = keys::entry_of_key(&key).map_or(0, |(_, index)| index);
        let (last_term, _) =
            keys::decode_entry(group, last_index, &value).map_err(|e| self.damaged(group, last_index, e))?;
        // The first entry tells whether the front is whole; gaps further on are found when they are read.
        if !view.contains(&self.inner.space, &keys::entry_key(group, compacted_index + 1))? {
            return Err(self.missing(group, compacted_index + 1));
        }
        Ok(LogBounds { compacted_index, compacted_term, last_index, last_term })
    }

    fn missing(&self, group: GroupId, index: LogIndex) -> LogError {
        self.corrupt(group, index, "the entry is missing")
    }

    fn damaged(&self, group: GroupId, index: LogIndex, error: RecordError) -> LogError {
        self.corrupt(group, index, error.to_string())
    }

    pub(super) fn corrupt(&self, group: GroupId, index: LogIndex, problem: impl Into<String>) -> LogError {
        LogError::Corrupt { path: self.inner.store.path().into(), group, index, problem: problem.into() }
    }

    fn groups(&self) -> MutexGuard<'_, BTreeMap<GroupId, LogBounds>> {
        // Whole after a panic: every change is one insert, remove or extend.
        self.inner.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.inner.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn out_of_range(group: GroupId, got: LogIndex, first: LogIndex, last: LogIndex) -> LogError {
    LogError::OutOfRange { group, got, first, last }
}
