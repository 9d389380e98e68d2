//! Changing the log: what all groups of a round have to remember goes into one batch with one sync. What would break a
//! promise of Raft (a committed entry replaced, a term or a commit index going back) is refused before anything is
//! written. Called by `writer`, `open` and the driver's compaction.

use super::super::{GroupId, LogError, LogIndex};
use super::{GroupLog, HardState, LogBounds, LogEntry, LogStore, Members, Reached, keys, out_of_range};
use crate::mutants::mutant;
use crate::store::{Batch, Durability};
use std::collections::BTreeMap;

/// Entries removed with one commit, so that a long compaction lets appends through.
const COMPACT_ENTRIES_MAX: u64 = 4096;

/// What one group has to remember. Parts that are absent stay as they are.
#[derive(Clone, Debug, Default)]
pub struct LogWrite {
    /// The group.
    pub group: GroupId,
    /// Forget every entry: the log begins behind this index and term, whose state came as a checkpoint.
    pub reset: Option<(LogIndex, u64)>,
    /// Consecutive entries; they replace whatever is there from the first of them on.
    pub entries: Vec<LogEntry>,
    /// Term, vote and commit index.
    pub hard: Option<HardState>,
    /// The members.
    pub members: Option<Members>,
}

impl LogWrite {
    /// Bytes of the entries' data.
    pub fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.data.len()).sum()
    }
}

impl LogStore {
    /// Writes what any number of groups have to remember, in order, in one batch with one sync. An error other than
    /// `Store` says that nothing was written; every error is final for the node, because its groups believe otherwise.
    pub fn write<'a>(&self, writes: impl IntoIterator<Item = &'a LogWrite>) -> Result<(), LogError> {
        let _writing = self.writing();
        let mut changed: BTreeMap<GroupId, GroupLog> = BTreeMap::new();
        let mut batch = self.inner.store.batch();
        for write in writes {
            let log = match changed.remove(&write.group) {
                Some(log) => log,
                None => self.known_or_new(&mut batch, write.group),
            };
            changed.insert(write.group, self.put(&mut batch, write, log)?);
        }
        let durability = if mutant!(2) { Durability::Buffered } else { Durability::Synced };
        batch.commit(durability)?;
        self.groups().extend(changed);
        let mut left = self.left();
        if !left.is_empty() {
            let groups = self.groups();
            left.retain(|group, _| !groups.contains_key(group));
        }
        Ok(())
    }

    /// Removes the entries of a group up to and with `upto`, in steps of [`COMPACT_ENTRIES_MAX`]; a crash in between leaves a
    /// log that begins at one of the steps. An index already compacted away is not an error.
    pub fn compact(&self, group: GroupId, upto: LogIndex) -> Result<(), LogError> {
        loop {
            let _writing = self.writing();
            let Some(log) = self.group(group) else { return Ok(()) };
            let bounds = log.bounds;
            if upto > bounds.last_index {
                return Err(out_of_range(group, upto, bounds.first_index(), bounds.last_index));
            }
            if upto <= bounds.compacted_index {
                return Ok(());
            }
            self.compact_step(group, log, upto.min(bounds.compacted_index + COMPACT_ENTRIES_MAX))?;
        }
    }

    /// Forgets a group and its log, for good: it is not to exist any more. An unknown group is not an error.
    pub fn remove_group(&self, group: GroupId) -> Result<(), LogError> {
        self.compact(group, self.last_index(group))?;
        let _writing = self.writing();
        let mut batch = self.inner.store.batch();
        for key in [keys::hard_state_key(group), keys::reached_key(group)] {
            batch.delete(&self.inner.space, &key);
        }
        self.delete_log(&mut batch, group);
        batch.commit(Durability::Synced)?;
        self.groups().remove(&group);
        self.left().remove(&group);
        Ok(())
    }

    /// Forgets the log of a group that excluded this node in `term`, and what it commits this node to stays: its vote, a term no older
    /// than that, and how far the log had come (Ongaro, "Consensus: Bridging Theory and Practice", 2014, section 3.8: a server that
    /// has lost what it persisted cannot come back as who it was). Members that were cut off since may count this node still; the node may be
    /// made a member again, and would begin with an empty log. An unknown group is not an error.
    pub fn leave_group(&self, group: GroupId, term: u64) -> Result<(), LogError> {
        self.compact(group, self.last_index(group))?;
        let _writing = self.writing();
        let Some(log) = self.group(group) else { return Ok(()) };
        let vote = if term > log.hard.term { 0 } else { log.hard.vote };
        let hard = HardState { term: term.max(log.hard.term), vote, commit: 0 };
        let reached = log.reached.max(Reached { term: log.bounds.last_term, index: log.bounds.last_index });
        let (mut batch, space) = (self.inner.store.batch(), &self.inner.space);
        batch.put(space, &keys::hard_state_key(group), &hard.encode(group));
        batch.put(space, &keys::reached_key(group), &reached.encode(group));
        self.delete_log(&mut batch, group);
        batch.commit(Durability::Synced)?;
        self.left().insert(group, GroupLog { hard, reached, ..GroupLog::default() });
        self.groups().remove(&group);
        Ok(())
    }

    /// What of a group is its log; the entries are gone already.
    fn delete_log(&self, batch: &mut Batch, group: GroupId) {
        for key in [keys::state_key(group), keys::members_key(group)] {
            batch.delete(&self.inner.space, &key);
        }
    }

    fn known_or_new(&self, batch: &mut Batch, group: GroupId) -> GroupLog {
        self.group(group).unwrap_or_else(|| {
            let log = self.left().get(&group).cloned().unwrap_or_default();
            self.put_bounds(batch, group, log.bounds);
            log
        })
    }

    /// Adds the writes of one group to `batch`; what is known of the group after it.
    fn put(&self, batch: &mut Batch, write: &LogWrite, mut log: GroupLog) -> Result<GroupLog, LogError> {
        let (space, group) = (&self.inner.space, write.group);
        if let Some((index, term)) = write.reset {
            if index < log.hard.commit {
                return Err(LogError::Broken { group, problem: "a checkpoint older than what is committed".into() });
            }
            log.bounds = self.put_reset(batch, group, log.bounds, LogBounds::empty_behind(index, term));
        }
        if !write.entries.is_empty() {
            log.bounds = self.put_entries(batch, write, &log)?;
        }
        if let Some(members) = &write.members {
            let value = members.encode(group).map_err(|e| LogError::Broken { group, problem: e.to_string() })?;
            batch.put(space, &keys::members_key(group), &value);
            log.members = members.clone();
        }
        // Mutant 3: term and vote are kept in memory only, until there is an entry to write as well.
        if let Some(hard) = write.hard.filter(|_| !mutant!(3) || !write.entries.is_empty()) {
            check_forward(group, log.hard, hard, log.bounds.last_index)?;
            batch.put(space, &keys::hard_state_key(group), &hard.encode(group));
            log.hard = hard;
        }
        Ok(log)
    }

    fn put_bounds(&self, batch: &mut Batch, group: GroupId, bounds: LogBounds) {
        batch.put(&self.inner.space, &keys::state_key(group), &bounds.state().encode(group));
    }

    fn put_reset(&self, batch: &mut Batch, group: GroupId, before: LogBounds, after: LogBounds) -> LogBounds {
        for index in before.first_index()..=before.last_index {
            batch.delete(&self.inner.space, &keys::entry_key(group, index));
        }
        self.put_bounds(batch, group, after);
        after
    }

    /// Adds the entries of one write to `batch`; the bounds of the group after it.
    fn put_entries(&self, batch: &mut Batch, write: &LogWrite, log: &GroupLog) -> Result<LogBounds, LogError> {
        let (group, bounds) = (write.group, log.bounds);
        let (first, last) = (&write.entries[0], &write.entries[write.entries.len() - 1]);
        if first.index <= bounds.compacted_index || first.index > bounds.last_index + 1 {
            return Err(out_of_range(group, first.index, bounds.first_index(), bounds.last_index + 1));
        }
        if first.index <= log.hard.commit {
            let problem = format!("index {} would be replaced, but {} is committed", first.index, log.hard.commit);
            return Err(LogError::Broken { group, problem });
        }
        for (entry, expected) in write.entries.iter().zip(first.index..) {
            if entry.index != expected {
                return Err(out_of_range(group, entry.index, expected, expected));
            }
            let value = keys::encode_entry(group, entry.index, entry.term, entry.kind, &entry.data);
            batch.put(&self.inner.space, &keys::entry_key(group, entry.index), &value);
        }
        for replaced in last.index + 1..=bounds.last_index {
            batch.delete(&self.inner.space, &keys::entry_key(group, replaced));
        }
        Ok(LogBounds { last_index: last.index, last_term: last.term, ..bounds })
    }

    fn compact_step(&self, group: GroupId, log: GroupLog, upto: LogIndex) -> Result<(), LogError> {
        let compacted_term = self.term_at(group, upto)?;
        let after = LogBounds { compacted_index: upto, compacted_term, ..log.bounds };
        let mut batch = self.inner.store.batch();
        self.put_bounds(&mut batch, group, after);
        for index in log.bounds.first_index()..=upto {
            batch.delete(&self.inner.space, &keys::entry_key(group, index));
        }
        // Synced like every commit to this store: only then does damage before a later batch prove corruption.
        batch.commit(Durability::Synced)?;
        self.groups().insert(group, GroupLog { bounds: after, ..log });
        Ok(())
    }
}

/// Neither the term nor the commit index goes back, a vote is not changed within a term, and what is committed is in the log.
fn check_forward(group: GroupId, before: HardState, after: HardState, last_index: LogIndex) -> Result<(), LogError> {
    let vote_kept = after.term > before.term || before.vote == 0 || after.vote == before.vote;
    if after.term >= before.term && after.commit >= before.commit && vote_kept && after.commit <= last_index {
        return Ok(());
    }
    let problem = format!("the hard state went from {before:?} to {after:?}, with entries up to {last_index}");
    Err(LogError::Broken { group, problem })
}
