//! The worker of one group's state machine: the only place where its outcomes' type is known. It applies committed entries
//! in order on an I/O thread, answers their proposers, syncs the state before the log is compacted, gives out checkpoints and
//! installs them, each in its turn. A machine that fails or breaks its contract ends the group. Fed by `member`.

use super::checkpoints;
use super::driver::Input;
use super::log::{EntryKind, LogEntry};
use super::shared::Shared;
use super::waiting::Waiting;
use super::{Checkpoint, Entry, GroupId, LogIndex, StateMachine};
use crate::rt::{self, compute};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Tasks looked at together, so that small ones are applied as one.
const TASKS_MAX: usize = 256;

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

/// Bounds of one call to the machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct ApplyBounds {
    pub(super) entries_max: usize,
    pub(super) bytes_max: usize,
}

/// See the module.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) tasks: mpsc::UnboundedReceiver<Task>,
    pub(super) driver: mpsc::WeakUnboundedSender<Input>,
    pub(super) bounds: ApplyBounds,
}

impl Worker {
    /// Runs until `End`, or until nobody can give it more to do.
    pub(super) async fn run<M: StateMachine>(mut self, machine: M) {
        // Also when the state machine panics: the group must not look alive.
        let guard = FailUnlessDone { shared: self.shared.clone(), driver: self.driver.clone(), done: false };
        let result = self.work(machine).await;
        if let Err(reason) = result {
            self.shared.fail(reason.clone());
            self.report(Input::ApplyFailed { group: self.shared.id(), reason });
        }
        guard.done();
        self.shared.drop_readers();
        self.report(Input::WorkerEnded { group: self.shared.id() });
    }

    async fn work<M: StateMachine>(&mut self, mut machine: M) -> Result<(), String> {
        let mut tasks = Vec::new();
        while self.tasks.recv_many(&mut tasks, TASKS_MAX).await > 0 {
            let mut entries = Vec::new();
            let mut waiting = Vec::new();
            for task in tasks.drain(..) {
                if let Task::Apply { entries: more, waiting: who } = task {
                    entries.extend(more);
                    waiting.extend(who);
                    continue;
                }
                machine = self.apply_all(machine, std::mem::take(&mut entries), std::mem::take(&mut waiting)).await?;
                machine = match task {
                    Task::Sync => self.sync(machine).await?,
                    Task::Checkpoint(answer) => checkpoint(machine, answer).await,
                    Task::Install { index, path } => self.install(machine, index, path).await?,
                    Task::End => return Ok(()),
                    Task::Apply { .. } => unreachable!("handled above"),
                };
            }
            machine = self.apply_all(machine, entries, waiting).await?;
        }
        Ok(())
    }

    async fn apply_all<M: StateMachine>(
        &self,
        mut machine: M,
        entries: Vec<LogEntry>,
        waiting: Vec<(LogIndex, Waiting)>,
    ) -> Result<M, String> {
        // What a checkpoint brought with it is not applied again.
        let applied = machine.applied();
        let mut entries = entries.into_iter().skip_while(|entry| entry.index <= applied).map(for_machine).peekable();
        let mut waiting = waiting.into_iter().peekable();
        while entries.peek().is_some() {
            let chunk = chunk(&mut entries, self.bounds);
            let outcomes;
            let (first, last) = (chunk[0].index, chunk[chunk.len() - 1].index);
            (machine, outcomes) = apply(machine, chunk).await?;
            self.shared.advance_applied(last);
            for (index, outcome) in (first..).zip(outcomes) {
                if let Some((_, who)) = waiting.next_if(|(at, _)| *at == index) {
                    who.answer(index, outcome);
                }
            }
            self.report(Input::Applied { group: self.shared.id(), index: last });
        }
        Ok(machine)
    }

    async fn sync<M: StateMachine>(&self, mut machine: M) -> Result<M, String> {
        let (machine, synced) = compute::io(move || {
            let synced = machine.sync();
            (machine, synced)
        })
        .await;
        let index = synced.map_err(|e| format!("cannot sync the state: {e}"))?;
        self.report(Input::Synced { group: self.shared.id(), index });
        Ok(machine)
    }

    async fn install<M: StateMachine>(&self, machine: M, index: LogIndex, path: PathBuf) -> Result<M, String> {
        let machine = install(machine, index, path).await?;
        rt::mark("a replica caught up by a checkpoint");
        self.shared.advance_applied(index);
        self.report(Input::Installed { group: self.shared.id(), index });
        Ok(machine)
    }

    fn report(&self, input: Input) {
        if let Some(driver) = self.driver.upgrade() {
            // The driver has ended: nobody is left to be told.
            let _ = driver.send(input);
        }
    }
}

/// Puts the checkpoint in the file in place of the machine's state, then removes the file.
pub(super) async fn install<M: StateMachine>(mut machine: M, index: LogIndex, path: PathBuf) -> Result<M, String> {
    compute::io(move || {
        install_now(&mut machine, index, &path)?;
        Ok(machine)
    })
    .await
}

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

/// Applies entries where it may block.
async fn apply<M: StateMachine>(mut machine: M, entries: Vec<Entry>) -> Result<(M, Vec<M::Outcome>), String> {
    compute::io(move || {
        let outcomes = apply_now(&mut machine, &entries)?;
        Ok((machine, outcomes))
    })
    .await
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

async fn checkpoint<M: StateMachine>(
    mut machine: M,
    answer: oneshot::Sender<Result<Box<dyn Checkpoint>, String>>,
) -> M {
    let (machine, checkpoint) = compute::io(move || {
        let checkpoint = machine.checkpoint();
        (machine, checkpoint)
    })
    .await;
    // Whoever asked may have gone.
    let _ = answer.send(checkpoint.map_err(|error| error.to_string()));
    machine
}

/// Ends the group when it is dropped before `done`.
struct FailUnlessDone {
    shared: Arc<Shared>,
    driver: mpsc::WeakUnboundedSender<Input>,
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
        let group: GroupId = self.shared.id();
        if std::thread::panicking() {
            let reason = "the state machine panicked".to_owned();
            self.shared.fail(reason.clone());
            if let Some(driver) = self.driver.upgrade() {
                // As in `report`.
                let _ = driver.send(Input::ApplyFailed { group, reason });
                let _ = driver.send(Input::WorkerEnded { group });
            }
        } else {
            // The whole runtime is going down.
            self.shared.stop();
            self.shared.drop_readers();
        }
    }
}
