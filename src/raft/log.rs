//! The log of all groups of a node, in a database of its own so that flushing data never delays a sync. With the entries it
//! keeps what a member must never forget: term, vote, commit index, and who the members are.
//! Promises: a write is on the disk when it returns, all of it or none; a group's log has no gap; a committed entry is never
//! replaced; a read never returns an entry other than the one written at that index, it refuses instead. Written by `writer`
//! and `compaction`, read by `storage` and `open`. Blocking: call it on `rt::compute::io`.

mod changes;

pub use changes::LogWrite;

use super::{GroupId, LogError, LogIndex};
use crate::store::keys::log::{self as keys, GroupState};
use crate::store::keys::{LOG_SPACE, RecordError};
use crate::store::{Direction, Discipline, Space, Store, StoreOptions, View};
use crate::telemetry::metrics::StoreRow;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use crate::store::keys::log::{EntryKind, HardState, Members, Reached};

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
    groups: Mutex<BTreeMap<GroupId, GroupLog>>,
    /// What is kept of groups this node has left: term and vote, and how far the log had come.
    left: Mutex<BTreeMap<GroupId, GroupLog>>,
}

/// One position of a log, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Position, from 1, without gaps.
    pub index: LogIndex,
    /// Election term it was proposed in.
    pub term: u64,
    /// What it is to the group.
    pub kind: EntryKind,
    /// A command of the state machine, or a change of the members.
    pub data: Bytes,
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
    /// A log with nothing behind its beginning.
    pub fn empty_behind(compacted_index: LogIndex, compacted_term: u64) -> LogBounds {
        LogBounds { compacted_index, compacted_term, last_index: compacted_index, last_term: compacted_term }
    }

    /// The first index that can be read (or will be, in an empty log).
    pub fn first_index(&self) -> LogIndex {
        self.compacted_index + 1
    }

    fn state(&self) -> GroupState {
        GroupState { compacted_index: self.compacted_index, compacted_term: self.compacted_term }
    }
}

/// What the log knows of a group without reading it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupLog {
    /// Where it begins and ends.
    pub bounds: LogBounds,
    /// Term, vote and commit index.
    pub hard: HardState,
    /// Who belongs to it.
    pub members: Members,
    /// How far it had come when this node last left the group.
    pub reached: Reached,
}

impl LogStore {
    /// Opens the log at `path`, creating it if there is none; finds the state of every group. What makes a database a log
    /// (`discipline`, no separated values) is set here. Costs the store's open and a few lookups a group.
    pub fn open(path: impl AsRef<Path>, options: StoreOptions) -> Result<LogStore, LogError> {
        let discipline = Discipline::EveryCommitSynced;
        let store = Store::open(path, StoreOptions { discipline, separate_values_from_bytes: None, ..options })?;
        let space = store.space(LOG_SPACE)?;
        let (writing, groups, left) = (Mutex::default(), Mutex::default(), Mutex::default());
        let log = LogStore { inner: Arc::new(Inner { store, space, writing, groups, left }) };
        log.find_groups()?;
        Ok(log)
    }

    /// The groups that have a log, in order.
    pub fn group_ids(&self) -> Vec<GroupId> {
        self.groups().keys().copied().collect()
    }

    /// All that is known of a group's log; `None` for a group that has none.
    pub fn group(&self, group: GroupId) -> Option<GroupLog> {
        self.groups().get(&group).cloned()
    }

    /// The groups this node has left, of which only what it promised is kept, in order.
    pub fn left_ids(&self) -> Vec<GroupId> {
        self.left().keys().copied().collect()
    }

    /// Whether this node has left a group, and is not back.
    pub(super) fn has_left(&self, group: GroupId) -> bool {
        self.left().contains_key(&group)
    }

    /// The latest term in which this node has promised anything in a group, though it may have left it; 0 if it was never of it.
    pub fn promised_term(&self, group: GroupId) -> u64 {
        let known = self.group(group).or_else(|| self.left().get(&group).cloned());
        known.map_or(0, |log| log.hard.term)
    }

    /// Where the log of a group begins and ends; an empty log for an unknown group.
    pub fn bounds(&self, group: GroupId) -> LogBounds {
        self.groups().get(&group).map(|log| log.bounds).unwrap_or_default()
    }

    /// Last index, 0 in an empty log.
    pub fn last_index(&self, group: GroupId) -> LogIndex {
        self.bounds(group).last_index
    }

    /// The entries of a group from `from` on: at least one if there is one, then as long as their data stays within
    /// `bytes_max`. Nothing behind the last index. Error `OutOfRange` for an index compacted away, `Corrupt` for an entry that is
    /// missing or damaged.
    pub fn read(&self, group: GroupId, from: LogIndex, bytes_max: usize) -> Result<Vec<LogEntry>, LogError> {
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
            let (term, kind, data) =
                keys::decode_entry(group, index, &value).map_err(|e| self.damaged(group, index, e))?;
            bytes += data.len();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(LogEntry {
                index,
                term,
                kind,
                data: Bytes::from_owner(value).slice(keys::ENTRY_HEAD_BYTES..),
            });
        }
        Ok(entries)
    }

    /// The term of the entry at `index`, which may be the last one compacted away.
    pub fn term(&self, group: GroupId, index: LogIndex) -> Result<u64, LogError> {
        let bounds = self.bounds(group);
        if index == bounds.compacted_index {
            return Ok(bounds.compacted_term);
        }
        if index < bounds.compacted_index || index > bounds.last_index {
            return Err(out_of_range(group, index, bounds.compacted_index, bounds.last_index));
        }
        self.term_at(group, index)
    }

    /// Whether a write or sync has failed; no further write is taken until a restart.
    pub fn is_poisoned(&self) -> bool {
        self.inner.store.is_poisoned()
    }

    /// See [`Store::ask_engine`].
    pub fn ask_engine(&self) {
        self.inner.store.ask_engine();
    }

    /// As if a write had failed.
    #[cfg(test)]
    pub fn poison(&self) {
        self.inner.store.poison();
    }

    /// Flushes and compacts the database on this thread where nothing else does (see [`Store::maintain`]).
    pub fn maintain(&self) -> Result<(), LogError> {
        let _writing = self.writing();
        Ok(self.inner.store.maintain()?)
    }

    /// See [`Store::row`].
    pub fn row(&self) -> StoreRow {
        self.inner.store.row("log")
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self) -> Result<u64, LogError> {
        Ok(self.inner.store.disk_bytes()?)
    }

    fn term_at(&self, group: GroupId, index: LogIndex) -> Result<u64, LogError> {
        let value = self.inner.store.view().get(&self.inner.space, &keys::entry_key(group, index))?;
        let value = value.ok_or_else(|| self.missing(group, index))?;
        let (term, ..) = keys::decode_entry(group, index, &value).map_err(|e| self.damaged(group, index, e))?;
        Ok(term)
    }

    /// Finds every group by jumping from one to the next.
    fn find_groups(&self) -> Result<(), LogError> {
        let view = self.inner.store.view();
        let mut next = Some(0);
        while let Some(from) = next {
            let keys = &keys::state_key(from)[..8]..&[0xff; keys::KEY_BYTES + 1][..];
            let Some(record) = view.range(&self.inner.space, keys, Direction::Forward).next() else { break };
            let (key, _) = record?;
            let group = keys::group_of_key(&key).ok_or_else(|| self.corrupt(from, 0, "a key that is not a log's"))?;
            let is_left = self.is_left(&view, group)?;
            let found = self.find_group(&view, group, is_left)?;
            match is_left {
                true => self.left().insert(group, found),
                false => self.groups().insert(group, found),
            };
            next = group.checked_add(1);
        }
        Ok(())
    }

    /// Whether all there is of a group is what was kept when this node left it.
    fn is_left(&self, view: &View, group: GroupId) -> Result<bool, LogError> {
        let (space, keys) = (&self.inner.space, keys::entry_keys(group, 0));
        if view.contains(space, &keys::state_key(group))? || !view.contains(space, &keys::reached_key(group))? {
            return Ok(false);
        }
        Ok(view.range(space, &keys.start..&keys.end, Direction::Forward).next().transpose()?.is_none())
    }

    fn find_group(&self, view: &View, group: GroupId, is_left: bool) -> Result<GroupLog, LogError> {
        let bounds = match is_left {
            true => LogBounds::default(),
            false => self.find_bounds(view, group)?,
        };
        let hard = view.get(&self.inner.space, &keys::hard_state_key(group))?;
        let hard = hard.map(|value| HardState::decode(group, &value)).transpose();
        let members = view.get(&self.inner.space, &keys::members_key(group))?;
        let members = members.map(|value| Members::decode(group, &value)).transpose();
        let hard = hard.map_err(|e| self.damaged(group, 0, e))?.unwrap_or_default();
        let members = members.map_err(|e| self.damaged(group, 0, e))?.unwrap_or_default();
        let reached = view.get(&self.inner.space, &keys::reached_key(group))?;
        let reached = reached.map(|value| Reached::decode(group, &value)).transpose();
        let reached = reached.map_err(|e| self.damaged(group, 0, e))?.unwrap_or_default();
        if hard.commit > bounds.last_index {
            let problem = format!("its end is missing: index {} was committed", hard.commit);
            return Err(self.corrupt(group, bounds.last_index + 1, problem));
        }
        Ok(GroupLog { bounds, hard, members, reached })
    }

    fn find_bounds(&self, view: &View, group: GroupId) -> Result<LogBounds, LogError> {
        let state = view.get(&self.inner.space, &keys::state_key(group))?;
        let state = state.ok_or_else(|| self.corrupt(group, 0, "its first index is missing"))?;
        let state = GroupState::decode(group, &state).map_err(|e| self.damaged(group, 0, e))?;
        let bounds = LogBounds::empty_behind(state.compacted_index, state.compacted_term);
        let keys = keys::entry_keys(group, 0);
        let last = view.range(&self.inner.space, &keys.start..&keys.end, Direction::Backward).next().transpose()?;
        let Some((key, value)) = last else { return Ok(bounds) };
        let last_index = keys::entry_of_key(&key).map_or(0, |(_, index)| index);
        let (last_term, ..) =
            keys::decode_entry(group, last_index, &value).map_err(|e| self.damaged(group, last_index, e))?;
        // The first entry tells whether the front is whole; gaps further on are found when they are read.
        if !view.contains(&self.inner.space, &keys::entry_key(group, bounds.first_index()))? {
            return Err(self.missing(group, bounds.first_index()));
        }
        Ok(LogBounds { last_index, last_term, ..bounds })
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

    fn groups(&self) -> MutexGuard<'_, BTreeMap<GroupId, GroupLog>> {
        // Whole after a panic: every change is one insert, remove or extend.
        self.inner.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self) -> MutexGuard<'_, BTreeMap<GroupId, GroupLog>> {
        // As above.
        self.inner.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.inner.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn out_of_range(group: GroupId, got: LogIndex, first: LogIndex, last: LogIndex) -> LogError {
    LogError::OutOfRange { group, got, first, last }
}
