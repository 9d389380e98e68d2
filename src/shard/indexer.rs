//! The background work of one replica. On the leader: deciding which upkeep of the indexes is due, and proposing its beginning and,
//! once it is done here, its adoption (`upkeep`). On every replica: doing the work that was begun, and what concerns this
//! replica alone: saving the indexes, filling payload indexes, moving lists to the memory they are wanted in. Searches and writes go
//! on meanwhile. Called by `live`, one task a state.

use super::{
    files::IndexFiles,
    filling,
    saving::{self, IndexFile},
    state::State,
    upkeep::{Upkeep, Work, job::Job},
};
use crate::{
    index::{VectorIndex, Verification},
    rt,
    rt::shutdown::Shutdown,
    types::{Error, ErrorKind, Result, VectorName},
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::{sync::Arc, time::Duration};

/// How long the indexer rests after a failure of its own.
const REST_AFTER_FAILURE: Duration = Duration::from_secs(5);
/// How long it rests after a proposal that came to nothing: there may be another leader by then.
const REST_AFTER_REFUSAL: Duration = Duration::from_millis(200);

/// The way of upkeep into the shard's log.
pub trait Proposer: Send + Sync + 'static {
    /// Whether this replica leads the shard, as far as it knows.
    fn leads(&self) -> bool;

    /// Commits an entry through the leader, wherever it is; returns when it is applied there.
    fn propose(&self, entry: Bytes) -> BoxFuture<'static, Result<()>>;
}

/// See the module.
pub struct Indexer {
    state: Arc<State>,
    files: IndexFiles,
    proposer: Arc<dyn Proposer>,
    trainings: Arc<tokio::sync::Semaphore>,
}

/// One thing to do.
enum Task {
    /// The index file is damaged.
    GoAstray,
    Fill,
    /// Do the work that is under way.
    Run(Arc<Job>),
    /// Propose the beginning of work.
    Begin(Bytes),
    /// Propose that what was done be put in.
    Adopt(Bytes),
    Place(VectorName),
    Save,
}

impl Task {
    /// Whether it is the log that does it, and so may be given up at any time.
    fn is_proposal(&self) -> bool {
        matches!(self, Task::Begin(_) | Task::Adopt(_))
    }
}

impl Indexer {
    /// The indexer of `state`. `trainings` bounds how many replicas of the node do heavy work at once.
    pub fn new(
        state: Arc<State>,
        files: IndexFiles,
        proposer: Arc<dyn Proposer>,
        trainings: Arc<tokio::sync::Semaphore>,
    ) -> Indexer {
        Indexer { state, files, proposer, trainings }
    }

    /// Works until `stop`.
    pub async fn run(self, stop: Shutdown) {
        self.verify().await;
        let mut permit = None;
        while !stop.is_triggered() {
            let Some(task) = self.next_task() else {
                permit = None;
                tokio::select! {
                    biased;
                    () = stop.wait() => {}
                    () = self.state.changed.notified() => {}
                }
                continue;
            };
            // Whoever begins work keeps the permit to do it: work that waits for its turn would hold a view of the store.
            if permit.is_none() && !matches!(task, Task::Adopt(_)) {
                permit = tokio::select! {
                    biased;
                    () = stop.wait() => return,
                    permit = self.trainings.clone().acquire_owned() => Some(permit.expect("never closed")),
                };
            }
            let done = tokio::select! {
                biased;
                () = stop.wait(), if task.is_proposal() => return,
                done = self.perform(&task, &stop) => done,
            };
            permit = permit.filter(|_| done.is_ok() && matches!(task, Task::Begin(_)));
            if let Err(error) = done {
                self.rest(&task, &error, &stop).await;
            }
        }
    }

    /// After a failure.
    async fn rest(&self, task: &Task, error: &Error, stop: &Shutdown) {
        if !task.is_proposal() && !stop.is_triggered() {
            tracing::error!(shard = self.state.id, %error, "index upkeep failed; it will be tried again");
        }
        tokio::select! {
            biased;
            () = stop.wait() => {}
            () = rt::time::sleep(if task.is_proposal() { REST_AFTER_REFUSAL } else { REST_AFTER_FAILURE }) => {}
        }
    }

    fn next_task(&self) -> Option<Task> {
        if self.state.indexes().damage().found().is_some() {
            return Some(Task::GoAstray);
        }
        if self.state.indexes().payload().wants_filling() {
            return Some(Task::Fill);
        }
        let job = self.state.keeper().job.clone();
        if self.wants_saving(job.is_some()) {
            return Some(Task::Save);
        }
        if let Some(job) = job.clone().filter(|job| job.is_waiting()) {
            return Some(Task::Run(job));
        }
        if let Some(entry) = self.due(job.as_deref()) {
            return Some(entry);
        }
        let indexes = self.state.indexes();
        let misplaced = indexes.iter().find(|(_, index)| index.wants_placement());
        misplaced.map(|(name, _)| Task::Place(name.clone()))
    }

    /// The entry of upkeep that is due, if it is for this replica to propose.
    fn due(&self, job: Option<&Job>) -> Option<Task> {
        let begin = |name: &VectorName, work| {
            let list_rows = u32::try_from(self.state.settings.list_rows).unwrap_or(u32::MAX).max(1);
            Some(Task::Begin(Upkeep::Begin { vector: name.as_str(), work, list_rows }.encode()))
        };
        // Whoever has lost its lists asks for new ones, whether it leads or not. Not while others are trained: what two replicas
        // ask for would end each other's work for ever.
        let astray = self.state.keeper().astray().iter().next().cloned();
        if let Some(name) = astray.filter(|_| job.is_none_or(|job| job.work != Work::Train))
            && self.state.points() > 0
        {
            return begin(&name, Work::Train);
        }
        if !self.proposer.leads() {
            return None;
        }
        if let Some(job) = job {
            return job.is_done().then(|| Task::Adopt(Upkeep::Adopt { begun: job.begun }.encode()));
        }
        let indexes = self.state.indexes();
        let find =
            |wants: fn(&VectorIndex) -> bool| indexes.iter().find(|(_, index)| wants(index)).map(|(name, _)| name);
        if let Some(name) = find(VectorIndex::wants_training) {
            return begin(name, Work::Train);
        }
        if let Some(name) = find(|index| index.wants_filing() || index.wants_reshaping()) {
            return begin(name, Work::Arrange);
        }
        find(VectorIndex::wants_recalibration).and_then(|name| begin(name, Work::Recalibrate))
    }

    /// Whether the index file should be written anew. While a job is under way it cannot be taken; then the machine is asked to take
    /// it when the job has ended.
    fn wants_saving(&self, has_job: bool) -> bool {
        // A file is written whole, so a large one is written less often.
        let bound = (self.state.settings.unsaved_rows_max as u64).max(self.state.points() / 4);
        let mut keeper = self.state.keeper();
        if keeper.captured.is_some() {
            return true;
        }
        let is_new = keeper.has_unsaved_training();
        let is_due = keeper.has_journal() && (is_new || self.state.unsaved_rows() > bound);
        keeper.wants_file = is_due && has_job;
        is_due && !has_job
    }
}

/// The steps of the work. Whatever takes long runs off the executor and off every lock; writes go on between the steps.
impl Indexer {
    async fn perform(&self, task: &Task, stop: &Shutdown) -> Result<()> {
        match task {
            Task::GoAstray => self.go_astray().await,
            Task::Fill => {
                let (state, stop) = (self.state.clone(), stop.clone());
                rt::compute::io(move || filling::fill(&state, &stop)).await
            }
            Task::Run(job) => {
                self.run_job(job.clone()).await;
                Ok(())
            }
            Task::Begin(entry) | Task::Adopt(entry) => self.proposer.propose(entry.clone()).await,
            Task::Place(name) => self.place(name).await,
            Task::Save => self.save().await,
        }
    }

    async fn run_job(&self, job: Arc<Job>) {
        let started = rt::time::now();
        let (state, its) = (self.state.clone(), job.clone());
        let counted = move || {
            let _computing = rt::compute::busy();
            its.run(&state)
        };
        rt::compute::io(counted).await;
        let seconds = started.elapsed().as_secs_f64();
        tracing::debug!(shard = self.state.id, vector = %job.vector, work = ?job.work, seconds, "upkeep done, to be adopted");
    }

    /// Reads through the parts of the index file that no search has used yet. Damage shows in the next task.
    async fn verify(&self) {
        let (points, parts) = {
            let indexes = self.state.indexes();
            let parts: Vec<_> = indexes.iter().map(|(_, index)| index.verification()).collect();
            (indexes.points().clone(), parts)
        };
        rt::compute::io(move || {
            points.verify();
            parts.iter().for_each(Verification::run);
        })
        .await;
    }

    /// Gives up indexes whose file is damaged. Writes wait meanwhile; searches go by the records.
    async fn go_astray(&self) -> Result<()> {
        let (state, files) = (self.state.clone(), self.files.clone());
        rt::compute::io(move || {
            let _standing_still = state.close_gate();
            let part = state.indexes().damage().found().unwrap_or_default();
            tracing::error!(
                shard = state.id,
                part,
                "the index file is damaged; searches are exact until the index is trained anew"
            );
            saving::go_astray(&state, &files)
        })
        .await
    }

    /// Moves the lists of the index file to the memory the settings want them in.
    async fn place(&self, name: &VectorName) -> Result<()> {
        let memory = self.state.settings.memory;
        let Some(placement) = self.state.indexes().get(name).map(|index| index.placement(memory)) else {
            return Ok(());
        };
        let placed = rt::compute::io(move || placement.run()).await;
        let no_memory = |error| Error::new(ErrorKind::Exhausted, "memory_full", format!("for the index: {error}"));
        let placed = placed.map_err(no_memory)?;
        self.state.indexes_mut().get_mut(name).expect("indexes do not go away").1.install_placed(placed);
        Ok(())
    }

    /// Writes the sealed parts of all indexes to the next index file.
    async fn save(&self) -> Result<()> {
        let (state, files) = (self.state.clone(), self.files.clone());
        rt::compute::io(move || {
            let file = {
                let _standing_still = state.close_gate();
                let captured = state.keeper().captured.take();
                if captured.is_none() && state.keeper().job.is_some() {
                    return Ok(());
                }
                match captured.or_else(|| IndexFile::capture(&state)) {
                    Some(file) => file,
                    None => return saving::forget(&state, &files),
                }
            };
            file.write(&state, &files)
        })
        .await
    }
}
