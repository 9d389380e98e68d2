//! What the library sees of a group's log: a mirror in memory of where it begins and ends, with the recent entries at hand.
//! It runs ahead of the disk: what the driver has queued for the log is here at once. Entries that are written, applied and
//! old leave the memory and are read from the log again when a member far behind needs them; the library is told to wait
//! then, and the driver reads on an I/O thread. Owned by `replica`.

use super::cache::CacheShare;
use super::convert;
use super::log::{GroupLog, HardState, LogEntry, LogStore, Members, Reached};
use super::{GroupId, LogError, LogIndex};
use raft::eraftpb::{Entry, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};
use std::cell::RefCell;
use std::collections::VecDeque;

/// Bytes an entry costs beside its data, about.
const ENTRY_COST_BYTES: usize = 128;
/// Bytes read from the log at a time for a member far behind.
pub(super) const COLD_READ_BYTES: usize = 4 << 20;

/// See the module.
pub(super) struct Mirror {
    group: GroupId,
    log: LogStore,
    hard: HardState,
    /// Members over time, oldest first; the last are those of now. Never empty.
    members: VecDeque<Members>,
    compacted: (LogIndex, u64),
    last: (LogIndex, u64),
    /// How far the log had come when this node left the group before.
    reached: Reached,
    /// The end of the log, without gaps.
    recent: VecDeque<Entry>,
    /// Their bytes, which count for the whole node.
    share: CacheShare,
    /// A run of older entries, read for a member far behind.
    cold: Vec<Entry>,
    /// Reads the library waits for.
    wanted: RefCell<Option<ColdRead>>,
    /// Last applied index; 0 while the state cannot be given to others.
    applied: LogIndex,
}

/// Entries to be read from the log.
pub(super) struct ColdRead {
    pub(super) from: LogIndex,
    pub(super) context: GetEntriesContext,
}

impl Mirror {
    /// The mirror of a log as it is on the disk.
    pub(super) fn new(group: GroupId, log: LogStore, found: GroupLog, share: CacheShare) -> Mirror {
        let bounds = found.bounds;
        Mirror {
            group,
            log,
            hard: found.hard,
            members: VecDeque::from([found.members]),
            compacted: (bounds.compacted_index, bounds.compacted_term),
            last: (bounds.last_index, bounds.last_term),
            reached: found.reached,
            recent: VecDeque::new(),
            share,
            cold: Vec::new(),
            wanted: RefCell::new(None),
            applied: 0,
        }
    }

    pub(super) fn group(&self) -> GroupId {
        self.group
    }

    #[cfg(test)]
    pub(super) fn log(&self) -> &LogStore {
        &self.log
    }

    pub(super) fn compacted_index(&self) -> LogIndex {
        self.compacted.0
    }

    pub(super) fn last_index(&self) -> LogIndex {
        self.last.0
    }

    /// Whether the log has come as far as it ever had. Not so only after the node has left the group and is back.
    pub(super) fn is_far_enough(&self) -> bool {
        Reached { term: self.last.1, index: self.last.0 } >= self.reached
    }

    pub(super) fn members(&self) -> &Members {
        self.members.back().expect("invariant: a mirror always has members")
    }

    pub(super) fn applied(&self) -> LogIndex {
        self.applied
    }

    /// The members as of a log index.
    pub(super) fn members_at(&self, index: LogIndex) -> Option<&Members> {
        self.members.iter().rev().find(|members| members.index <= index)
    }

    pub(super) fn set_hard(&mut self, hard: HardState) {
        self.hard = hard;
    }

    pub(super) fn set_members(&mut self, members: Members) {
        self.members.push_back(members);
    }

    /// The state machine has applied up to `index`: that is what a checkpoint can be of.
    pub(super) fn set_applied(&mut self, index: LogIndex) {
        self.applied = index;
        while self.members.get(1).is_some_and(|next| next.index <= index) {
            self.members.pop_front();
        }
    }

    /// Takes entries in; they replace whatever is there from the first of them on.
    pub(super) fn append(&mut self, entries: &[Entry]) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
        assert!(
            first.index > self.compacted.0 && first.index <= self.last.0 + 1,
            "group {}: entries from {} do not join a log of {} to {}",
            self.group,
            first.index,
            self.compacted.0 + 1,
            self.last.0
        );
        while self.recent.back().is_some_and(|entry| entry.index >= first.index) {
            let entry = self.recent.pop_back();
            self.share.remove(entry.map_or(0, |entry| cost(&entry)));
        }
        if self.recent.back().is_none_or(|entry| entry.index + 1 != first.index) {
            self.recent.clear();
            self.share.clear();
        }
        self.cold.clear();
        self.share.add(entries.iter().map(cost).sum());
        self.recent.extend(entries.iter().cloned());
        self.last = (last.index, last.term);
    }

    /// The log begins anew behind a checkpoint.
    pub(super) fn reset(&mut self, index: LogIndex, term: u64, members: Members) {
        (self.compacted, self.last) = ((index, term), (index, term));
        self.recent.clear();
        self.share.clear();
        self.cold.clear();
        self.members.push_back(members);
    }

    /// Entries up to and with `upto` are no longer offered.
    pub(super) fn compact(&mut self, upto: LogIndex) -> Result<()> {
        let term = self.term(upto)?;
        self.compacted = (upto, term);
        self.cold.clear();
        self.evict(upto, 0);
        Ok(())
    }

    /// Lets go of entries up to `upto`, oldest first, until the rest fits in `bytes_max`, or in what the node has for it.
    pub(super) fn evict(&mut self, upto: LogIndex, bytes_max: usize) {
        let bytes_max = self.share.limit(bytes_max);
        while self.share.bytes() > bytes_max && self.recent.front().is_some_and(|entry| entry.index <= upto) {
            let entry = self.recent.pop_front();
            self.share.remove(entry.map_or(0, |entry| cost(&entry)));
        }
        if bytes_max == 0 {
            self.recent.shrink_to_fit();
        }
    }

    /// Takes in what is at the end of the log on the disk, from `from` on.
    pub(super) fn load(&mut self, from: LogIndex) -> std::result::Result<(), LogError> {
        let entries = self.log.read(self.group, from.max(self.compacted.0 + 1), usize::MAX)?;
        let last = self.last.0;
        self.recent = entries.into_iter().filter(|entry| entry.index <= last).map(convert::entry_out).collect();
        self.share.clear();
        self.share.add(self.recent.iter().map(cost).sum());
        Ok(())
    }

    /// The read the library waits for, if it waits for one.
    pub(super) fn take_wanted(&mut self) -> Option<ColdRead> {
        self.wanted.get_mut().take()
    }

    /// Entries that were wanted have come.
    pub(super) fn set_cold(&mut self, entries: Vec<LogEntry>) {
        let before_recent = self.recent_first();
        self.cold = entries.into_iter().filter(|entry| entry.index < before_recent).map(convert::entry_out).collect();
    }

    /// The first index in memory.
    fn recent_first(&self) -> LogIndex {
        self.recent.front().map_or(self.last.0 + 1, |entry| entry.index)
    }

    /// Entries of the log on the disk before those in memory. Blocks; for the few and short reads that cannot wait.
    fn read(&self, from: LogIndex, to: LogIndex, bytes_max: usize) -> Result<Vec<Entry>> {
        let entries = self.log.read(self.group, from, bytes_max).map_err(storage_error)?;
        Ok(entries.into_iter().filter(|entry| entry.index < to).map(convert::entry_out).collect())
    }
}

impl Storage for Mirror {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState::new(convert::hard_out(&self.hard), convert::members_out(self.members())))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low <= self.compacted.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last.0 + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let bytes_max = max_size.into().map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
        let recent_first = self.recent_first();
        if low >= recent_first {
            let at = |index: LogIndex| usize::try_from(index - recent_first).expect("an index within memory");
            return Ok(within(self.recent.range(at(low)..at(high)), bytes_max));
        }
        let cold = self.cold.iter().skip_while(|entry| entry.index < low).take_while(|entry| entry.index < high);
        if self.cold.first().is_some_and(|first| first.index <= low) && cold.clone().next().is_some() {
            return Ok(within(cold, bytes_max));
        }
        if context.can_async() {
            self.wanted.borrow_mut().get_or_insert(ColdRead { from: low, context });
            return Err(Error::Store(StorageError::LogTemporarilyUnavailable));
        }
        let mut entries = self.read(low, high.min(recent_first), bytes_max)?;
        // Without a bound all of them are wanted, also those that are in memory.
        if bytes_max == usize::MAX && high > recent_first {
            entries.extend(self.recent.iter().take_while(|entry| entry.index < high).cloned());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.compacted.0 {
            return Ok(self.compacted.1);
        }
        if index < self.compacted.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        if index > self.last.0 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let recent_first = self.recent_first();
        if index >= recent_first {
            return Ok(self.recent[usize::try_from(index - recent_first).expect("an index within memory")].term);
        }
        if index == self.last.0 {
            return Ok(self.last.1);
        }
        self.log.term(self.group, index).map_err(storage_error)
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.compacted.0 + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last.0)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> Result<Snapshot> {
        let unavailable = || Error::Store(StorageError::SnapshotTemporarilyUnavailable);
        if self.applied == 0 || self.applied < request_index {
            return Err(unavailable());
        }
        // A member that was added a moment ago is not in the state yet, and would refuse a checkpoint without itself.
        let members = self.members_at(self.applied).filter(|members| members.contains(to)).ok_or_else(unavailable)?;
        let term = self.term(self.applied).map_err(|_| unavailable())?;
        Ok(convert::snapshot(self.applied, term, members))
    }
}

fn cost(entry: &Entry) -> usize {
    entry.data.len() + ENTRY_COST_BYTES
}

/// At least one entry, then as many as stay within `bytes_max`.
fn within<'a>(entries: impl Iterator<Item = &'a Entry>, bytes_max: usize) -> Vec<Entry> {
    let mut bytes = 0usize;
    let mut taken = Vec::new();
    for entry in entries {
        bytes = bytes.saturating_add(cost(entry));
        if bytes > bytes_max && !taken.is_empty() {
            break;
        }
        taken.push(entry.clone());
    }
    taken
}

fn storage_error(error: LogError) -> Error {
    match error {
        LogError::OutOfRange { .. } => Error::Store(StorageError::Compacted),
        other => Error::Store(StorageError::Other(Box::new(other))),
    }
}
