//! Opening a group: what its log, its state machine and a checkpoint that a crash left half installed say, brought together.
//! A log that does not exist yet begins with a synthetic checkpoint at index 1 that names the voters (rule 10). Committed
//! entries that the state lacks are applied here, before anything else runs. Blocking; called by the driver's handle.

use super::apply::{apply_now, for_machine};
use super::cache::NodeCache;
use super::checkpoints::FoundCheckpoint;
use super::log::{EntryKind, GroupLog, HardState, LogBounds, LogStore, LogWrite, Members};
use super::storage::Mirror;
use super::{ApplyError, Entry, GroupId, LogIndex, NodeId, StartError, StateMachine, checkpoints};
use crate::mutants::mutant;
use bytes::Bytes;

/// Index and term of the checkpoint every log begins with.
const BEGINNING: (LogIndex, u64) = (1, 1);

/// What is to be opened.
pub(super) struct Opening<'a> {
    pub(super) node: NodeId,
    pub(super) group: GroupId,
    /// Who votes in a new group; nobody if this member joins one that exists.
    pub(super) voters: &'a [NodeId],
    pub(super) log: &'a LogStore,
    /// Whole checkpoints of this group that lie in the directory.
    pub(super) checkpoints: Vec<FoundCheckpoint>,
    pub(super) apply_bytes_max: usize,
    pub(super) cache: &'a NodeCache,
}

/// A group ready to run.
pub(super) struct Opened<M> {
    pub(super) machine: M,
    pub(super) mirror: Mirror,
    /// Up to where the library is to take the state for applied.
    pub(super) applied: LogIndex,
    /// The state is older than the log's beginning and no checkpoint is here.
    pub(super) awaits_state: bool,
    /// The log was made just now.
    pub(super) is_new: bool,
    /// Bytes applied here.
    pub(super) replayed_bytes: usize,
}

impl Opening<'_> {
    /// # Errors
    /// `Corrupt` when log and state do not join: entries between them are missing and nobody else can have them, or the state
    /// is ahead of the log it came from.
    pub(super) fn open<M: StateMachine>(mut self, mut machine: M) -> Result<Opened<M>, StartError> {
        let known = self.log.group(self.group);
        let is_new = known.is_none();
        let mut found = known.map_or_else(|| self.begin(), Ok)?;
        self.check(&found, &machine)?;
        let awaits_state = !self.join(&found, &mut machine)?;
        for left in &self.checkpoints {
            checkpoints::remove(&left.path).map_err(|error| StartError::Log(error.into()))?;
        }
        let compacted = found.bounds.compacted_index;
        found.hard.commit = found.hard.commit.max(compacted).max(machine.applied());
        let (mut applied, mut replayed_bytes) = (compacted.max(machine.applied()), 0);
        if !awaits_state {
            (applied, replayed_bytes) = self.replay(&mut found, &mut machine)?;
        }
        if mutant!(8) {
            // Mutant 8: what the state does not have yet is taken for uncommitted, and dropped.
            self.drop_behind(applied, &mut found)?;
        }
        let mut mirror = Mirror::new(self.group, self.log.clone(), found, self.cache.share());
        mirror.load(applied + 1)?;
        if !awaits_state {
            mirror.set_applied(applied);
        }
        Ok(Opened { machine, mirror, applied, awaits_state, is_new, replayed_bytes })
    }

    /// Makes the log of a new group, or the empty one of a member that joins.
    fn begin(&self) -> Result<GroupLog, StartError> {
        let mut write = LogWrite { group: self.group, ..LogWrite::default() };
        // A group that this node has left is not to begin again: it goes on without this node, until that is a member once more.
        if !self.voters.is_empty() && !self.log.has_left(self.group) {
            let (index, term) = BEGINNING;
            let mut voters = self.voters.to_vec();
            voters.sort_unstable();
            write.reset = Some(BEGINNING);
            write.hard = Some(HardState { term, vote: 0, commit: index });
            write.members = Some(Members { index, voters, ..Members::default() });
        }
        self.log.write([&write])?;
        Ok(self.log.group(self.group).unwrap_or_default())
    }

    fn check<M: StateMachine>(&self, found: &GroupLog, machine: &M) -> Result<(), StartError> {
        let (bounds, applied) = (found.bounds, machine.applied());
        if applied > bounds.last_index {
            return Err(self.does_not_join(bounds, applied));
        }
        if found.members.voters.is_empty() && bounds.last_index > 0 {
            return Err(self.log.corrupt(self.group, 0, "its members are missing").into());
        }
        Ok(())
    }

    fn does_not_join(&self, bounds: LogBounds, applied: LogIndex) -> StartError {
        let (first, last) = (bounds.first_index(), bounds.last_index);
        let problem = format!("the state has applied up to {applied}, but the log holds {first} to {last}");
        self.log.corrupt(self.group, applied + 1, problem).into()
    }

    fn decides_alone(&self, members: &Members) -> bool {
        members.voters == [self.node] && members.voters_outgoing.is_empty()
    }

    /// Brings the state to where the log begins, if it is not there: false if only another member can.
    fn join<M: StateMachine>(&mut self, found: &GroupLog, machine: &mut M) -> Result<bool, StartError> {
        let (bounds, applied) = (found.bounds, machine.applied());
        if applied >= bounds.compacted_index {
            return Ok(true);
        }
        if applied == 0 && (bounds.compacted_index, bounds.compacted_term) == BEGINNING {
            let (index, term) = BEGINNING;
            self.apply(machine, &[Entry { index, term, data: Bytes::new() }])?;
            return Ok(true);
        }
        // A crash between the log's reset and the end of the installation.
        let fits = |file: &FoundCheckpoint| (bounds.compacted_index..=bounds.last_index).contains(&file.head.index);
        if let Some(at) = self.checkpoints.iter().position(fits) {
            let file = self.checkpoints.remove(at);
            tracing::info!(group = self.group, index = file.head.index, "installing a checkpoint after a restart");
            crate::rt::mark("a restart installed the checkpoint that a crash had left");
            super::apply::install_now(machine, file.head.index, &file.path).map_err(|problem| self.broken(problem))?;
            return Ok(true);
        }
        if self.decides_alone(&found.members) {
            return Err(self.does_not_join(bounds, applied));
        }
        Ok(false)
    }

    /// Applies what is known to be committed and not in the state, up to a change of members that the library has to see.
    fn replay<M: StateMachine>(&self, found: &mut GroupLog, machine: &mut M) -> Result<(LogIndex, usize), StartError> {
        let bounds = found.bounds;
        let mut committed = found.hard.commit;
        if self.decides_alone(&found.members) {
            // What is on the disk of the only voter is committed.
            committed = bounds.last_index;
        }
        let applied = machine.applied();
        let mut next = if mutant!(13) { applied.max(bounds.first_index()) } else { applied + 1 };
        let (mut bytes, mut done) = (0, false);
        while next <= committed && !done {
            let mut entries = self.log.read(self.group, next, self.apply_bytes_max)?;
            let changes =
                |entry: &super::LogEntry| entry.kind == EntryKind::Members && entry.index > found.members.index;
            if let Some(at) = entries.iter().position(changes) {
                committed = found.hard.commit.max(entries[at].index).min(committed);
                (done, entries) = (true, entries.drain(..at).collect());
            }
            entries.retain(|entry| entry.index <= committed);
            let entries: Vec<Entry> = entries.into_iter().map(for_machine).collect();
            if let Some(last) = entries.last() {
                next = last.index + 1;
                bytes += entries.iter().map(|entry| entry.data.len()).sum::<usize>();
                self.apply(machine, &entries)?;
            }
        }
        found.hard.commit = found.hard.commit.max(committed);
        Ok((machine.applied(), bytes))
    }

    fn apply<M: StateMachine>(&self, machine: &mut M, entries: &[Entry]) -> Result<(), StartError> {
        apply_now(machine, entries).map(|_| ()).map_err(|problem| self.broken(problem))
    }

    fn broken(&self, problem: String) -> StartError {
        let index = self.log.bounds(self.group).first_index();
        StartError::Apply { group: self.group, source: ApplyError::Entry { index, problem } }
    }

    fn drop_behind(&self, applied: LogIndex, found: &mut GroupLog) -> Result<(), StartError> {
        if applied < found.bounds.last_index {
            (found.bounds.last_index, found.bounds.last_term) = (applied, self.log.term(self.group, applied)?);
            found.hard.commit = found.hard.commit.min(applied);
        }
        Ok(())
    }
}
