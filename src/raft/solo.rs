//! A group of one: what a standalone node puts behind [`Group`]. A proposal is appended to the log, synced, applied, and
//! only then answered. Two tasks, so that one batch is applied while the next is being synced:
//!
//! ```text
//! propose → queue → sequencer: number, append, sync → committed → applier: apply, answer, compact the log
//! ```
//!
//! Promises: entries are applied in log order, each exactly once over restarts (the state machine keeps its applied index with
//! its effects); what is answered survives a power loss; at a start everything in the log is applied before the handle is
//! given out; a failed append, sync or apply ends the group, and what was under way is `Indeterminate`. Called by `shard`.

use super::group::{Message, Proposal, Shared};
use super::{Append, AppendError, ApplyError, Entry, Group, GroupId, LogError, LogIndex, LogStore, LogWriter};
use super::{ProposeError, StateMachine};
use crate::mutants::mutant;
use crate::rt::{self, compute};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Batches between the sequencer and the applier: one being applied, one waiting.
const COMMITTED_BATCHES_MAX: usize = 1;

/// Bounds of a group.
#[derive(Clone, Copy, Debug)]
pub struct SoloOptions {
    /// Proposals waiting to be numbered.
    pub proposals_max: usize,
    /// Bytes of all proposals not yet answered.
    pub bytes_max: usize,
    /// Bytes of one proposal; at most `bytes_max`.
    pub entry_bytes_max: usize,
    /// Entries applied at a time.
    pub apply_entries_max: usize,
    /// Bytes applied at a time (a larger entry is applied alone).
    pub apply_bytes_max: usize,
    /// Bytes appended after which the state is synced and the log compacted.
    pub compact_after_bytes: usize,
}

impl Default for SoloOptions {
    fn default() -> Self {
        SoloOptions {
            proposals_max: 4096,
            bytes_max: 64 << 20,
            entry_bytes_max: 32 << 20,
            apply_entries_max: 1024,
            apply_bytes_max: 4 << 20,
            compact_after_bytes: 16 << 20,
        }
    }
}

/// Why a group could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log failed or is corrupt.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The state machine cannot apply what is in the log.
    #[error("group {group}: cannot replay the log: {source}")]
    Apply {
        /// The group.
        group: GroupId,
        /// What the state machine said.
        source: ApplyError,
    },
}

/// Starts group `id`: applies what is in the log and not in the state, then serves. Error `Corrupt` when log and state do
/// not join: entries between them are missing, or the state is ahead of the log it came from.
pub async fn start_solo<M: StateMachine>(
    id: GroupId,
    log: LogStore,
    writer: LogWriter,
    machine: M,
    options: SoloOptions,
) -> Result<Group<M::Outcome>, StartError> {
    let (machine, replayed_bytes) = {
        let log = log.clone();
        compute::io(move || replay(id, &log, machine, options.apply_bytes_max)).await?
    };
    let bounds = log.bounds(id);
    let shared = Arc::new(Shared::new(id, bounds.last_index));
    let (messages, queue) = mpsc::channel(options.proposals_max.max(1));
    let (committed, batches) = mpsc::channel(COMMITTED_BATCHES_MAX);
    let sequencer = Sequencer {
        shared: shared.clone(),
        writer,
        queue,
        committed,
        next_index: bounds.last_index + 1,
        // A group of one never holds an election; it goes on in the term it finds.
        term: bounds.last_term.max(1),
        most: options.proposals_max.max(1),
    };
    let applier = Applier { shared: shared.clone(), log, batches, options, uncompacted_bytes: replayed_bytes };
    let applying = rt::spawn("raft-solo-apply", applier.run(machine));
    rt::spawn("raft-solo-sequence", sequencer.run(applying));
    Ok(Group::new(shared, messages, options.bytes_max, options.entry_bytes_max.min(options.bytes_max)))
}

/// Applies the entries behind the state's applied index. Answers the machine and the bytes applied.
fn replay<M: StateMachine>(
    id: GroupId,
    log: &LogStore,
    mut machine: M,
    bytes_max: usize,
) -> Result<(M, usize), StartError> {
    let bounds = log.bounds(id);
    let applied = machine.applied();
    if applied > bounds.last_index || applied + 1 < bounds.first_index() {
        let (first, last) = (bounds.first_index(), bounds.last_index);
        let problem = format!("the state has applied up to {applied}, but the log holds {first} to {last}");
        return Err(log.corrupt(id, applied + 1, problem).into());
    }
    let mut next = if mutant!(13) { applied.max(bounds.first_index()) } else { applied + 1 };
    let mut bytes = 0;
    while next <= bounds.last_index {
        let entries = log.read(id, next, bytes_max)?;
        machine.apply(&entries).map_err(|source| StartError::Apply { group: id, source })?;
        bytes += data_bytes(&entries);
        next += entries.len() as u64;
    }
    Ok((machine, bytes))
}

fn data_bytes(entries: &[Entry]) -> usize {
    entries.iter().map(|entry| entry.data.len()).sum()
}

/// Entries that are on the disk, with their proposals in the same order.
struct Committed<O> {
    entries: Arc<[Entry]>,
    proposals: Vec<Proposal<O>>,
}

/// Numbers proposals and appends them. One append at a time: while it is synced the next batch gathers in the queue.
struct Sequencer<O> {
    shared: Arc<Shared>,
    writer: LogWriter,
    queue: mpsc::Receiver<Message<O>>,
    committed: mpsc::Sender<Committed<O>>,
    next_index: LogIndex,
    term: u64,
    most: usize,
}

impl<O: Send + 'static> Sequencer<O> {
    async fn run(mut self, applying: rt::Task<()>) {
        let mut messages = Vec::new();
        let mut stopped = Vec::new();
        while stopped.is_empty() && self.queue.recv_many(&mut messages, self.most).await > 0 {
            let mut proposals = Vec::with_capacity(messages.len());
            for message in messages.drain(..) {
                match message {
                    Message::Propose(proposal) if stopped.is_empty() => proposals.push(proposal),
                    Message::Propose(proposal) => proposal.answer(Err(ProposeError::Stopped)),
                    Message::Stop(done) => stopped.push(done),
                }
            }
            if !proposals.is_empty() && self.commit(proposals).await.is_err() {
                break;
            }
        }
        self.shared.stop();
        self.refuse_queued(&mut stopped);
        drop(self.committed);
        // Whether it ended well is already in `shared`.
        let _ = applying.await;
        for done in stopped {
            // Whoever gave up waiting does not want the answer.
            let _ = done.send(());
        }
    }

    /// Appends and hands over one batch. The error says that the group has failed.
    async fn commit(&mut self, proposals: Vec<Proposal<O>>) -> Result<(), ()> {
        // The applier may have failed while these were queued; they must not reach the log any more.
        if let Err(reason) = self.shared.check_running() {
            proposals.into_iter().for_each(|proposal| proposal.answer(Err(reason.clone())));
            return Err(());
        }
        let number =
            |(proposal, index): (&Proposal<O>, LogIndex)| Entry { index, term: self.term, data: proposal.data.clone() };
        let entries: Arc<[Entry]> = proposals.iter().zip(self.next_index..).map(number).collect();
        let append = Append { group: self.shared.id(), entries: entries.clone() };
        match self.writer.append(append).await {
            Ok(()) => {}
            Err(AppendError::Exhausted) => {
                proposals.into_iter().for_each(|proposal| proposal.answer(Err(ProposeError::Exhausted)));
                return Ok(());
            }
            // The proposals are dropped unanswered: they may be in the log.
            Err(AppendError::Failed(reason)) => {
                self.shared.fail(reason);
                return Err(());
            }
        }
        self.next_index += entries.len() as u64;
        self.shared.advance_committed(self.next_index - 1);
        self.committed.send(Committed { entries, proposals }).await.map_err(|_| ())
    }

    /// Answers what will never be numbered.
    fn refuse_queued(&mut self, stopped: &mut Vec<oneshot::Sender<()>>) {
        self.queue.close();
        while let Ok(message) = self.queue.try_recv() {
            match message {
                Message::Propose(proposal) => proposal.answer(Err(self.shared.why_not_running())),
                Message::Stop(done) => stopped.push(done),
            }
        }
    }
}

/// Applies committed batches, answers their proposers, and compacts the log now and then.
struct Applier<O> {
    shared: Arc<Shared>,
    log: LogStore,
    batches: mpsc::Receiver<Committed<O>>,
    options: SoloOptions,
    uncompacted_bytes: usize,
}

impl<O: Send + 'static> Applier<O> {
    async fn run<M: StateMachine<Outcome = O>>(mut self, machine: M) {
        // Also when the state machine panics: the group must not look alive.
        let guard = FailUnlessDone { shared: self.shared.clone(), done: false };
        let result = self.apply_all(machine).await;
        if let Err(reason) = &result {
            self.shared.fail(reason.clone());
        }
        guard.done();
        self.shared.drop_readers();
    }

    async fn apply_all<M: StateMachine<Outcome = O>>(&mut self, mut machine: M) -> Result<(), String> {
        while let Some(Committed { entries, proposals }) = self.batches.recv().await {
            let mut proposals = proposals.into_iter();
            for chunk in chunks(&entries, self.options.apply_entries_max, self.options.apply_bytes_max) {
                let outcomes;
                (machine, outcomes) = apply_chunk(machine, entries.clone(), chunk.clone()).await?;
                self.shared.advance_applied(entries[chunk.end - 1].index);
                for ((entry, outcome), proposal) in entries[chunk].iter().zip(outcomes).zip(proposals.by_ref()) {
                    proposal.answer(Ok((entry.index, outcome)));
                }
            }
            self.uncompacted_bytes += data_bytes(&entries);
            if self.uncompacted_bytes >= self.options.compact_after_bytes {
                machine = self.compact(machine).await?;
            }
        }
        Ok(())
    }

    /// Syncs the state and removes what it no longer needs from the log.
    async fn compact<M: StateMachine<Outcome = O>>(&mut self, mut machine: M) -> Result<M, String> {
        self.uncompacted_bytes = 0;
        let (log, group) = (self.log.clone(), self.shared.id());
        compute::io(move || {
            let upto = machine.sync().map_err(|e| format!("cannot sync the state: {e}"))?;
            log.compact(group, upto).map_err(|e| format!("cannot compact the log: {e}"))?;
            Ok(machine)
        })
        .await
    }
}

/// Applies `entries[chunk]` where it may block.
async fn apply_chunk<M: StateMachine>(
    mut machine: M,
    entries: Arc<[Entry]>,
    chunk: Range<usize>,
) -> Result<(M, Vec<M::Outcome>), String> {
    compute::io(move || {
        let chunk = &entries[chunk];
        let outcomes = machine.apply(chunk).map_err(|e| format!("cannot apply a committed entry: {e}"))?;
        let (last, applied) = (chunk[chunk.len() - 1].index, machine.applied());
        if outcomes.len() != chunk.len() || applied != last {
            let problem =
                format!("{} outcomes for {} entries, applied {applied} of {last}", outcomes.len(), chunk.len());
            return Err(format!("the state machine broke its contract: {problem}"));
        }
        Ok((machine, outcomes))
    })
    .await
}

/// Cuts a batch into ranges of at most so many entries and bytes, at least one entry each.
fn chunks(entries: &[Entry], entries_max: usize, bytes_max: usize) -> Vec<Range<usize>> {
    let mut chunks = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, entry) in entries.iter().enumerate() {
        if at > start && (at - start >= entries_max || bytes + entry.data.len() > bytes_max) {
            chunks.push(start..at);
            (start, bytes) = (at, 0);
        }
        bytes += entry.data.len();
    }
    if start < entries.len() {
        chunks.push(start..entries.len());
    }
    chunks
}

/// Ends the group when it is dropped before `done`.
struct FailUnlessDone {
    shared: Arc<Shared>,
    done: bool,
}

impl FailUnlessDone {
    fn done(mut self) {
        self.done = true;
    }
}

impl Drop for FailUnlessDone {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if std::thread::panicking() {
            self.shared.fail("the state machine panicked".to_owned());
        } else {
            // The whole runtime is going down.
            self.shared.stop();
            self.shared.drop_readers();
        }
    }
}
