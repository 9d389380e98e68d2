//! One piece of upkeep under way: what it works on, pinned, until somebody does it; then what came of it, until it is adopted. Who
//! comes first does the work: the indexer in the background, or the state machine, which cannot go on without it. Made by `begin`,
//! run by `indexer`, taken by `machine`.

use super::{Work, training::Training};
use crate::{
    index::{Adoption, ArrangeJob, Arranged, Recalibrated, RecalibrationJob, TrainError},
    rt::shutdown::Shutdown,
    shard::state::State,
    types::VectorName,
};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// See the module.
pub struct Job {
    /// The log index of its beginning, by which it is known.
    pub begun: u64,
    pub vector: VectorName,
    pub work: Work,
    stage: Mutex<Stage>,
    /// Told when the work ends.
    ended: Condvar,
}

/// What a job works on. Large, and moved once.
pub enum Pinned {
    Train(Box<Training>),
    Arrange(Box<ArrangeJob>),
    Recalibrate(Box<RecalibrationJob>, usize, Shutdown),
}

/// What came of it.
pub enum Finished {
    Trained(Box<Adoption>),
    Arranged(Arranged),
    Recalibrated(Recalibrated),
}

/// Why nothing came of it.
#[derive(Debug)]
pub enum Unfinished {
    /// The shard closes.
    Cancelled,
    /// There was no row to train on, on any replica.
    NoRows,
    /// Here something is damaged that is not elsewhere.
    Damaged(String),
}

enum Stage {
    Pinned(Pinned),
    Running,
    Ended(Result<Finished, Unfinished>),
    Taken,
}

impl Job {
    /// A job that nobody has begun to do.
    pub fn new(begun: u64, vector: VectorName, work: Work, pinned: Pinned) -> Job {
        Job { begun, vector, work, stage: Mutex::new(Stage::Pinned(pinned)), ended: Condvar::new() }
    }

    /// Whether nobody has begun to do it.
    pub fn is_waiting(&self) -> bool {
        matches!(*self.stage(), Stage::Pinned(_))
    }

    /// Whether the work is done and can be adopted.
    pub fn is_done(&self) -> bool {
        matches!(*self.stage(), Stage::Ended(_))
    }

    /// Does the work, unless somebody else does or did. Blocking; holds no lock of `state` for longer than a fraction of a
    /// millisecond.
    pub fn run(&self, state: &State) {
        let pinned = {
            let mut stage = self.stage();
            match std::mem::replace(&mut *stage, Stage::Running) {
                Stage::Pinned(pinned) => pinned,
                other => {
                    *stage = other;
                    return;
                }
            }
        };
        // Whoever waits must not wait for ever if this panics.
        let mut ending = Ending { job: self, result: Some(Err(Unfinished::Damaged("the work panicked".to_owned()))) };
        ending.result = Some(pinned.run(state, &self.vector));
    }

    /// What came of the work, which is done now if nobody else does it. Blocking.
    pub fn take(&self, state: &State) -> Result<Finished, Unfinished> {
        self.run(state);
        let mut stage = self.stage();
        while matches!(*stage, Stage::Running) {
            stage = self.ended.wait(stage).unwrap_or_else(PoisonError::into_inner);
        }
        match std::mem::replace(&mut *stage, Stage::Taken) {
            Stage::Ended(result) => result,
            _ => Err(Unfinished::Damaged("the work was taken before".to_owned())),
        }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        // A stage is whole at any time.
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says how the work ended, in whatever way it did.
struct Ending<'a> {
    job: &'a Job,
    result: Option<Result<Finished, Unfinished>>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if let Some(result) = self.result.take() {
            *self.job.stage() = Stage::Ended(result);
        }
        self.job.ended.notify_all();
    }
}

impl Pinned {
    fn run(self, state: &State, vector: &VectorName) -> Result<Finished, Unfinished> {
        let damaged = || Unfinished::Damaged("the index file is damaged".to_owned());
        match self {
            Pinned::Train(training) => {
                let built = training.run().map_err(|error| match error {
                    TrainError::Cancelled => Unfinished::Cancelled,
                    TrainError::Source(_) if state.retired.is_triggered() => Unfinished::Cancelled,
                    TrainError::NoRows => Unfinished::NoRows,
                    TrainError::Source(_) | TrainError::Flat | TrainError::Dimension { .. } => {
                        Unfinished::Damaged(error.to_string())
                    }
                })?;
                let mut adoption = Adoption::new(built);
                while adopt_some(state, vector, &mut adoption) {}
                Ok(Finished::Trained(Box::new(adoption)))
            }
            Pinned::Arrange(job) => job.run().map(Finished::Arranged).ok_or_else(damaged),
            Pinned::Recalibrate(job, threads, stop) => {
                let recalibrated = job.run(threads, &|| stop.is_triggered());
                let why = || if stop.is_triggered() { Unfinished::Cancelled } else { damaged() };
                recalibrated.map(Finished::Recalibrated).ok_or_else(why)
            }
        }
    }
}

/// A piece of what has to be done before lists can be installed; whether there is more.
pub fn adopt_some(state: &State, vector: &VectorName, adoption: &mut Adoption) -> bool {
    let indexes = state.indexes();
    indexes.get(vector).is_some_and(|index| index.adopt_some(indexes.points(), adoption))
}
