//! The worker of one group's state machine: the only place where its outcomes' type is known. It applies committed entries
//! in order, answers their proposers, syncs the state before the log is compacted, gives out checkpoints and installs them,
//! each in its turn, when one of the node's `lanes` comes to it. A machine that fails or breaks its contract ends the group.
//! Fed by `member`.

use super::checkpoints;
use super::driver::Input;
use super::lanes::{Desk, Lane, Lanes};
use super::log::{EntryKind, LogEntry};
use super::shared::Shared;
use super::waiting::Waiting;
use super::{Checkpoint, Entry, LogIndex, StateMachine};
use crate::rt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// What a worker is told to do, in order.
pub(super) enum Task {
    /// Apply entries; some are waited for.
    Apply { entries: Vec<LogEntry>, waiting: Vec<(LogIndex, Waiting)> },
    /// Sync the state, so that the log may be compacted.
    Sync,
    /// Give out the state.
    Checkpoint(oneshot::Sender<Result<Box<dyn Checkpoint>, String>>),
    /// Put the checkpoint of this index, in this file, in place of the state.
    Install { index: LogIndex, path: PathBuf },
    /// Nothing follows.
    End,
}

impl Task {
    fn bytes(&self) -> usize {
        match self {
            Task::Apply { entries, .. } => entries.iter().map(|entry| entry.data.len()).sum(),
            _ => 0,
        }
    }
}

/// Bounds of one call to the machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct ApplyBounds {
    pub(super) entries_max: usize,
    pub(super) bytes_max: usize,
}

/// What a group's machine has to do, and what it is done with. Cheap to clone; the driver's end of it.
#[derive(Clone)]
pub(super) struct Tasks {
    desk: Arc<dyn Taking>,
    lanes: Lanes,
}

impl Tasks {
    /// The tasks of `machine`, done in `lanes`.
    pub(super) fn new<M: StateMachine>(shared: Arc<Shared>, machine: M, bounds: ApplyBounds, lanes: Lanes) -> Tasks {
        let (pending, machine) = (Mutex::default(), Mutex::new(Some(machine)));
        Tasks { desk: Arc::new(Worker { shared, bounds, pending, machine }), lanes }
    }

    /// Queues a task. One for a machine that has ended is dropped: it failed, and said so.
    pub(super) fn send(&self, task: Task) {
        if let Some(desk) = self.desk.clone().take_in(task) {
            self.lanes.queue(desk);
        }
    }
}

/// Where tasks come in.
trait Taking: Send + Sync {
    /// Takes a task in; itself, if it is to be queued now.
    fn take_in(self: Arc<Self>, task: Task) -> Option<Arc<dyn Desk>>;
}

/// See the module.
struct Worker<M: StateMachine> {
    shared: Arc<Shared>,
    bounds: ApplyBounds,
    pending: Mutex<Pending>,
    /// `None` when it has ended. Locked by the one lane that works on it.
    machine: Mutex<Option<M>>,
}

#[derive(Default)]
struct Pending {
    tasks: Vec<Task>,
    bytes: usize,
    /// It waits for a lane or is in one.
    is_queued: bool,
    has_ended: bool,
}

impl<M: StateMachine> Taking for Worker<M> {
    fn take_in(self: Arc<Self>, task: Task) -> Option<Arc<dyn Desk>> {
        let mut pending = self.pending();
        if pending.has_ended {
            return None;
        }
        pending.bytes += task.bytes();
        pending.tasks.push(task);
        let was_queued = std::mem::replace(&mut pending.is_queued, true);
        drop(pending);
        (!was_queued).then_some(self)
    }
}

impl<M: StateMachine> Desk for Worker<M> {
    fn work(&self, lane: &mut Lane) -> bool {
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(working) = machine.as_mut() else { return false };
        let tasks = {
            let mut pending = self.pending();
            pending.bytes = 0;
            std::mem::take(&mut pending.tasks)
        };
        let done = catch_unwind(AssertUnwindSafe(|| self.perform(working, tasks, lane)));
        if !matches!(done, Ok(Ok(Going::On))) {
            // Before anybody is told: what it held may be opened again at once.
            *machine = None;
        }
        match done {
            Ok(Ok(Going::On)) => {
                let mut pending = self.pending();
                pending.is_queued = !pending.tasks.is_empty();
                return pending.is_queued;
            }
            Ok(Ok(Going::Ends)) => self.end(lane),
            Ok(Err(reason)) => self.fail(reason, lane),
            // The group must not look alive.
            Err(panic) => {
                self.fail("the state machine panicked".to_owned(), lane);
                resume_unwind(panic);
            }
        }
        false
    }

    fn waiting_bytes(&self) -> usize {
        self.pending().bytes
    }
}

/// Whether a machine has more to do.
enum Going {
    On,
    Ends,
}

impl<M: StateMachine> Worker<M> {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the tasks in order; entries of several are applied as one.
    fn perform(&self, machine: &mut M, tasks: Vec<Task>, lane: &mut Lane) -> Result<Going, String> {
        let (mut entries, mut waiting) = (Vec::new(), Vec::new());
        for task in tasks {
            if let Task::Apply { entries: more, waiting: who } = task {
                entries.extend(more);
                waiting.extend(who);
                continue;
            }
            self.apply_all(machine, std::mem::take(&mut entries), std::mem::take(&mut waiting), lane)?;
            match task {
                Task::Sync => self.sync(machine, lane)?,
                Task::Checkpoint(answer) => {
                    lane.wake_driver();
                    let checkpoint = machine.checkpoint().map_err(|error| error.to_string());
                    // Whoever asked may have gone.
                    let _ = answer.send(checkpoint);
                }
                Task::Install { index, path } => self.install(machine, index, &path, lane)?,
                Task::End => return Ok(Going::Ends),
                Task::Apply { .. } => unreachable!("handled above"),
            }
        }
        self.apply_all(machine, entries, waiting, lane)?;
        Ok(Going::On)
    }

    fn apply_all(
        &self,
        machine: &mut M,
        entries: Vec<LogEntry>,
        waiting: Vec<(LogIndex, Waiting)>,
        lane: &mut Lane,
    ) -> Result<(), String> {
        // What a checkpoint brought with it is not applied again.
        let applied = machine.applied();
        let mut entries = entries.into_iter().skip_while(|entry| entry.index <= applied).map(for_machine).peekable();
        let mut waiting = waiting.into_iter().peekable();
        while entries.peek().is_some() {
            let chunk = chunk(&mut entries, self.bounds);
            let (first, last) = (chunk[0].index, chunk[chunk.len() - 1].index);
            let outcomes = apply_now(machine, &chunk)?;
            self.shared.advance_applied(last);
            for (index, outcome) in (first..).zip(outcomes) {
                if let Some((_, who)) = waiting.next_if(|(at, _)| *at == index) {
                    who.answer(index, outcome);
                }
            }
            lane.applied(self.shared.id(), last);
        }
        Ok(())
    }

    fn sync(&self, machine: &mut M, lane: &mut Lane) -> Result<(), String> {
        lane.step_aside();
        let index = machine.sync().map_err(|e| format!("cannot sync the state: {e}"))?;
        lane.report(Input::Synced { group: self.shared.id(), index });
        Ok(())
    }

    fn install(&self, machine: &mut M, index: LogIndex, path: &Path, lane: &mut Lane) -> Result<(), String> {
        lane.step_aside();
        install_now(machine, index, path)?;
        rt::mark("a replica caught up by a checkpoint");
        self.shared.advance_applied(index);
        lane.report(Input::Installed { group: self.shared.id(), index });
        Ok(())
    }

    fn fail(&self, reason: String, lane: &mut Lane) {
        self.shared.fail(reason.clone());
        lane.report(Input::ApplyFailed { group: self.shared.id(), reason });
        self.end(lane);
    }

    fn end(&self, lane: &mut Lane) {
        let left = {
            let mut pending = self.pending();
            pending.has_ended = true;
            std::mem::take(&mut pending.tasks)
        };
        // Whoever waits for them is told that nobody knows.
        drop(left);
        self.shared.drop_readers();
        lane.report(Input::WorkerEnded { group: self.shared.id() });
    }
}

impl<M: StateMachine> Drop for Worker<M> {
    /// The whole runtime is going down, unless it has ended.
    fn drop(&mut self) {
        if !self.pending().has_ended {
            self.shared.stop();
            self.shared.drop_readers();
        }
    }
}

/// Puts the checkpoint in the file in place of the machine's state, then removes the file.
pub(super) fn install_now<M: StateMachine>(machine: &mut M, index: LogIndex, path: &Path) -> Result<(), String> {
    let mut opened = checkpoints::open(path).map_err(|e| format!("cannot open a checkpoint: {e}"))?;
    machine.install(index, &mut opened).map_err(|e| format!("cannot install a checkpoint: {e}"))?;
    if machine.applied() != index {
        let applied = machine.applied();
        return Err(format!("the state machine broke its contract: installed {index}, applied {applied}"));
    }
    checkpoints::remove(path).map_err(|e| format!("cannot remove a checkpoint: {e}"))
}

/// The machine sees every index; what is not a command of its own has no data.
pub(super) fn for_machine(entry: LogEntry) -> Entry {
    let LogEntry { index, term, kind, data } = entry;
    let data = if kind == EntryKind::Command { data } else { bytes::Bytes::new() };
    Entry { index, term, data }
}

/// At least one entry, then as many as stay within the bounds.
fn chunk(entries: &mut std::iter::Peekable<impl Iterator<Item = Entry>>, bounds: ApplyBounds) -> Vec<Entry> {
    let mut chunk = Vec::new();
    let mut bytes = 0;
    while let Some(entry) = entries.peek() {
        bytes += entry.data.len();
        if !chunk.is_empty() && (chunk.len() >= bounds.entries_max || bytes > bounds.bytes_max) {
            break;
        }
        chunk.extend(entries.next());
    }
    chunk
}

/// Applies entries and holds the machine to its contract.
pub(super) fn apply_now<M: StateMachine>(machine: &mut M, entries: &[Entry]) -> Result<Vec<M::Outcome>, String> {
    let outcomes = machine.apply(entries).map_err(|e| format!("cannot apply a committed entry: {e}"))?;
    let (last, applied) = (entries.last().map_or(0, |entry| entry.index), machine.applied());
    if outcomes.len() != entries.len() || applied != last {
        let problem = format!("{} outcomes for {} entries, applied {applied} of {last}", outcomes.len(), entries.len());
        return Err(format!("the state machine broke its contract: {problem}"));
    }
    Ok(outcomes)
}
