//! The background work of one replica: training its indexes once they are large enough, filing fresh rows into posting
//! lists, saving the result. Searches and writes go on meanwhile; locks are held only to swap results in.
//! Called by `replica`, one task each.

use super::{
    files::IndexFiles,
    records::{Records, View},
    round::components,
    state::{State, prepared},
};
use crate::{
    index::{self, VectorIndex},
    rt,
    rt::shutdown::Shutdown,
    store::keys::{meta::MetaKey, point::PointRecord},
    types::{Error, Result, VectorName},
};
use std::{sync::Arc, time::Duration};

/// How long the indexer rests after a failure.
const REST_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// See the module.
pub struct Indexer {
    state: Arc<State>,
    files: IndexFiles,
    trainings: Arc<tokio::sync::Semaphore>,
}

/// One piece of work.
#[derive(Clone, Debug)]
enum Work {
    Train(VectorName),
    File(VectorName),
    Save,
}

impl Indexer {
    /// The indexer of `state`. `trainings` bounds how many replicas of the node do such work at once.
    pub fn new(state: Arc<State>, files: IndexFiles, trainings: Arc<tokio::sync::Semaphore>) -> Indexer {
        Indexer { state, files, trainings }
    }

    /// Works until `stop`.
    pub async fn run(self, stop: Shutdown) {
        while !stop.is_triggered() {
            let Some(work) = self.next_work() else {
                tokio::select! {
                    biased;
                    () = stop.wait() => {}
                    () = self.state.changed.notified() => {}
                }
                continue;
            };
            let permit = tokio::select! {
                biased;
                () = stop.wait() => return,
                permit = self.trainings.clone().acquire_owned() => permit.expect("the semaphore is never closed"),
            };
            let (state, files, todo, stopping) = (self.state.clone(), self.files.clone(), work.clone(), stop.clone());
            let done = rt::compute::io(move || perform(&state, &files, &todo, &stopping)).await;
            drop(permit);
            if let Err(error) = done
                && !stop.is_triggered()
            {
                tracing::error!(shard = self.state.id, ?work, %error, "index upkeep failed; it will be tried again");
                tokio::select! {
                    biased;
                    () = stop.wait() => {}
                    () = rt::time::sleep(REST_AFTER_FAILURE) => {}
                }
            }
        }
    }

    fn next_work(&self) -> Option<Work> {
        let indexes = self.state.indexes();
        let find = |wants: fn(&VectorIndex) -> bool| {
            indexes.iter().find(|(_, index)| wants(index)).map(|(name, _)| name.clone())
        };
        if let Some(name) = find(VectorIndex::wants_training) {
            return Some(Work::Train(name));
        }
        if let Some(name) = find(VectorIndex::wants_filing) {
            return Some(Work::File(name));
        }
        drop(indexes);
        // A file is written whole, so a large one is written less often.
        let bound = (self.state.settings.unsaved_rows_max as u64).max(self.state.points() / 4);
        (self.state.unsaved_rows() > bound).then_some(Work::Save)
    }
}

fn perform(state: &State, files: &IndexFiles, work: &Work, stop: &Shutdown) -> Result<()> {
    match work {
        Work::Train(name) => {
            state.set_training(true);
            let trained = train(state, name, stop);
            state.set_training(false);
            trained?;
            save(state, files)
        }
        Work::File(name) => {
            file(state, name);
            Ok(())
        }
        Work::Save => save(state, files),
    }
}

/// Trains the index of one vector on all its points and swaps the result in. Points written meanwhile stay in the tail.
fn train(state: &State, name: &VectorName, stop: &Shutdown) -> Result<()> {
    let started = rt::time::now();
    let (view, spec) = {
        let _standing_still = state.close_gate();
        state.keep_deltas();
        let mut indexes = state.indexes_mut();
        let index = indexes.get_mut(name).expect("the index was just seen");
        index.training_started();
        (state.records.view(), index.spec().clone())
    };
    let mut rows = Rows { view: &view, name, spec: &spec, rows_hint: state.points() as usize, stop };
    let sealed = index::train(&spec, &mut rows, state.id);
    let mut indexes = state.indexes_mut();
    let index = indexes.get_mut(name).expect("indexes do not go away");
    let installed = sealed.map_err(Records::corrupt).and_then(|sealed| index.install(sealed).map_err(not_installed));
    if installed.is_err() {
        index.training_abandoned();
    }
    let installed = installed?;
    drop(indexes);
    let rows = installed.live_rows;
    tracing::info!(shard = state.id, vector = %name, rows, seconds = started.elapsed().as_secs_f64(), "index trained");
    Ok(())
}

fn not_installed(error: index::InstallError) -> Error {
    Error::internal(format!("a trained index does not fit: {error}"))
}

/// Moves rows of the tail into their posting lists.
fn file(state: &State, name: &VectorName) {
    let job = state.indexes().get(name).and_then(VectorIndex::filing_job);
    if let Some(job) = job {
        let filed = job.run();
        state.indexes_mut().get_mut(name).expect("indexes do not go away").install_filed(filed);
    }
}

/// Writes the sealed parts of all indexes to the next index file and forgets the deltas it covers.
fn save(state: &State, files: &IndexFiles) -> Result<()> {
    let (parts, through, epoch, tail_rows) = {
        let _standing_still = state.close_gate();
        let epoch = state.records.view().number(MetaKey::IndexEpoch)? + 1;
        let indexes = state.indexes();
        let sealed = |(name, index): (&VectorName, &VectorIndex)| Some((name.clone(), index.sealed()?));
        let parts: Vec<_> = indexes.iter().filter_map(sealed).collect();
        let oldest = indexes
            .iter()
            .filter(|(_, index)| index.sealed().is_some())
            .filter_map(|(_, index)| index.oldest_tail_version())
            .min();
        // Everything up to here is in the sealed parts; rows still in a tail are made again from their deltas.
        let through = oldest.map_or(state.applied(), |version| version.saturating_sub(1));
        let tail_rows = indexes.iter().map(|(_, index)| index.state().tail_rows as u64).sum();
        (parts, through, epoch, tail_rows)
    };
    if parts.is_empty() {
        return Ok(());
    }
    files.write(epoch, &parts).map_err(Records::failed)?;
    state.records.index_saved(epoch, through)?;
    state.saved_but(tail_rows);
    files.keep_only(Some(epoch)).map_err(Records::failed)
}

/// The rows of one vector, streamed from a view.
struct Rows<'a> {
    view: &'a View,
    name: &'a VectorName,
    spec: &'a index::IndexSpec,
    rows_hint: usize,
    /// A node that stops does not wait for a training.
    stop: &'a Shutdown,
}

impl index::RowSource for Rows<'_> {
    fn rows_hint(&self) -> usize {
        self.rows_hint
    }

    fn visit(&mut self, visit: &mut index::RowVisitor<'_>) -> Result<(), index::SourceError> {
        for point in self.view.points() {
            if self.stop.is_triggered() {
                return Err("the shard is closing".into());
            }
            let (id, bytes) = point?;
            let record = PointRecord::decode(&bytes)?;
            if let Some(vector) = record.vectors.get(self.name.as_str()) {
                visit(id, record.version, &prepared(self.spec.metric, components(vector)));
            }
        }
        Ok(())
    }
}
