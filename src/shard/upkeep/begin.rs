//! Pinning what a job works on, and putting in what came of it, each at its place in the log. What is done depends on the entry and
//! the state alone; a replica that is astray begins nothing but trainings. Called by `machine` behind the gate, and by `replay`.

use super::{
    Work,
    job::{Finished, Job, Pinned, Unfinished, adopt_some},
    training::Training,
};
use crate::{
    index::IndexKind,
    mutants::mutant,
    rt,
    shard::{mutated, records::View, state::State},
    types::VectorName,
};
use std::sync::Arc;

/// A beginning as it stands in the log.
#[derive(Clone, Copy)]
pub struct Beginning<'a> {
    pub at: u64,
    pub vector: &'a str,
    pub work: Work,
    pub list_rows: u32,
}

/// Whether there is anything to begin: there are, or can be, lists.
pub fn is_possible(state: &State, beginning: &Beginning<'_>) -> bool {
    let is_training = beginning.work == Work::Train;
    let Ok(name) = VectorName::new(beginning.vector) else { return false };
    let indexes = state.indexes();
    let fits = |index: &crate::index::VectorIndex| match is_training {
        true => index.spec().kind != IndexKind::Flat && !indexes.points().is_empty(),
        false => index.lists() > 0,
    };
    beginning.list_rows > 0 && indexes.get(&name).is_some_and(fits)
}

/// Ends the job under way, if there is one; pins what the new one works on, if that is possible. `view` is of its log index or later.
/// Cost: copies of handles.
pub fn begin(state: &State, beginning: &Beginning<'_>, view: View) {
    abandon(state);
    if !is_possible(state, beginning) {
        return;
    }
    let Ok(name) = VectorName::new(beginning.vector) else { return };
    let (threads, stop) = (state.settings.build_threads(), state.retired.clone());
    let mut indexes = state.indexes_mut();
    let points = indexes.points().clone();
    let Some((_, index)) = indexes.get_mut(&name) else { return };
    index.set_list_rows(beginning.list_rows as usize);
    let pinned = match beginning.work {
        Work::Train => {
            if index.state().trained {
                rt::mark("an index was trained again");
            }
            index.training_started();
            Some(Pinned::Train(Box::new(Training {
                view,
                at: beginning.at,
                name: name.clone(),
                spec: index.spec().clone(),
                points: points.len(),
                // Mutant 33: each replica trains with a seed of its own.
                seed: if mutant!(33) { mutated::own_seed() } else { state.id },
                threads,
                stop,
            })))
        }
        Work::Arrange => index.arrange_job(&points).map(|job| Pinned::Arrange(Box::new(job))),
        Work::Recalibrate => {
            index.recalibration_job(&points).map(|job| Pinned::Recalibrate(Box::new(job), threads, stop))
        }
    };
    drop(indexes);
    if let Some(pinned) = pinned {
        state.keeper().began(Arc::new(Job::new(beginning.at, name, beginning.work, pinned)));
    }
}

/// Ends the job under way, if there is one, with nothing come of it.
fn abandon(state: &State) {
    let Some(job) = state.keeper().job.take() else { return };
    abandoned(state, &job);
}

fn abandoned(state: &State, job: &Job) {
    if let Some((_, index)) = state.indexes_mut().get_mut(&job.vector) {
        match job.work {
            Work::Train => index.training_abandoned(),
            Work::Arrange => index.arranging_abandoned(),
            Work::Recalibrate => {}
        }
    }
}

/// Puts in what came of the job under way, for the entry `at`. Searches wait for as long as it takes to look up the rows moved.
pub fn adopt(state: &State, job: &Job, at: u64, result: Result<Finished, Unfinished>) {
    let problem = match result {
        Ok(finished) => install(state, job, at, finished).err(),
        Err(Unfinished::NoRows) => {
            let mut indexes = state.indexes_mut();
            if let Some((_, index)) = indexes.get_mut(&job.vector) {
                index.training_found_nothing();
            }
            indexes.reach(at);
            state.keeper().emptied(job);
            return;
        }
        Err(unfinished) => Some(format!("{unfinished:?}")),
    };
    let mut keeper = state.keeper();
    keeper.job = None;
    match problem {
        None => keeper.filed(job),
        Some(why) => {
            drop(keeper);
            tracing::error!(shard = state.id, vector = %job.vector, why, "upkeep that others have done cannot be done here");
            // The indexer makes the indexes anew; until then searches go by the records.
            state.indexes().damage().note("what upkeep works on");
        }
    }
}

/// The lists and the applied index they are of change at once to whoever looks.
fn install(state: &State, job: &Job, at: u64, finished: Finished) -> Result<(), String> {
    let gone = || "the vector is gone".to_owned();
    match finished {
        Finished::Trained(mut adoption) => loop {
            while adopt_some(state, &job.vector, &mut adoption) {}
            let mut indexes = state.indexes_mut();
            let installed = indexes.get_mut(&job.vector).ok_or_else(gone)?.1.install_adopted(&mut adoption);
            if let Some(installed) = installed {
                indexes.reach(at);
                drop(indexes);
                return installed.map(drop).map_err(|error| error.to_string());
            }
        },
        Finished::Arranged(mut arranged) => {
            let mut indexes = state.indexes_mut();
            let is_done = indexes.get_mut(&job.vector).ok_or_else(gone)?.1.install_arranged(&mut arranged);
            indexes.reach(at);
            drop(indexes);
            note(&arranged);
            if is_done { Ok(()) } else { Err("its lists are others".to_owned()) }
        }
        Finished::Recalibrated(recalibrated) => {
            rt::mark("plans were chosen anew");
            let mut indexes = state.indexes_mut();
            let is_done = indexes.get_mut(&job.vector).ok_or_else(gone)?.1.install_recalibrated(recalibrated);
            indexes.reach(at);
            if is_done { Ok(()) } else { Err("its lists are others".to_owned()) }
        }
    }
}

/// For the simulation's coverage.
fn note(arranged: &crate::index::Arranged) {
    if arranged.renewed_lists() > 0 {
        rt::mark("lists got new centroids");
    }
    if arranged.dissolved_lists() > 0 {
        rt::mark("small lists were dissolved");
    }
    if arranged.moved_rows() > 0 {
        rt::mark("rows were filed");
    }
}
