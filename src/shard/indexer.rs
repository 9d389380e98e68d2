//! The background work of one replica: training its indexes once they are large enough, filing fresh rows into posting
//! lists, saving the result. Searches and writes go on meanwhile; locks are held only to swap results in.
//! Called by `replica`, one task each.

use super::{
    files::IndexFiles,
    filling, open,
    records::{Records, View},
    round::components,
    state::{State, prepared},
};
use crate::{
    index::{
        self, Adoption, Built, FilingJob, Installed, Points, Rearranged, ReshapeJob, Sealed, TrainError, VectorIndex,
        Verification,
    },
    rt,
    rt::shutdown::Shutdown,
    store::keys::{meta::MetaKey, point::PointRecord},
    types::{Error, ErrorKind, PointId, Result, VectorName},
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

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
    Rebuild,
    Fill,
    Train(VectorName),
    File(VectorName),
    Reshape(VectorName),
    Recalibrate(VectorName),
    Save,
    Place(VectorName),
}

impl Indexer {
    /// The indexer of `state`. `trainings` bounds how many replicas of the node do such work at once.
    pub fn new(state: Arc<State>, files: IndexFiles, trainings: Arc<tokio::sync::Semaphore>) -> Indexer {
        Indexer { state, files, trainings }
    }

    /// Works until `stop`.
    pub async fn run(self, stop: Shutdown) {
        self.verify().await;
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
            let done = self.perform(&work, &stop).await;
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
        if indexes.damage().found().is_some() {
            return Some(Work::Rebuild);
        }
        if indexes.payload().wants_filling() {
            return Some(Work::Fill);
        }
        let find = |wants: fn(&VectorIndex) -> bool| {
            indexes.iter().find(|(_, index)| wants(index)).map(|(name, _)| name.clone())
        };
        if let Some(name) = find(VectorIndex::wants_training) {
            return Some(Work::Train(name));
        }
        if let Some(name) = find(VectorIndex::wants_filing) {
            return Some(Work::File(name));
        }
        if let Some(name) = find(VectorIndex::wants_reshaping) {
            return Some(Work::Reshape(name));
        }
        if let Some(name) = find(VectorIndex::wants_recalibration) {
            return Some(Work::Recalibrate(name));
        }
        if let Some(name) = find(VectorIndex::wants_placement) {
            return Some(Work::Place(name));
        }
        drop(indexes);
        // A file is written whole, so a large one is written less often.
        let bound = (self.state.settings.unsaved_rows_max as u64).max(self.state.points() / 4);
        (self.state.unsaved_rows() > bound).then_some(Work::Save)
    }
}

/// The steps of the work. Whatever takes long runs off the executor and off every lock; writes go on between the steps.
impl Indexer {
    async fn perform(&self, work: &Work, stop: &Shutdown) -> Result<()> {
        match work {
            Work::Rebuild => self.rebuild().await,
            Work::Fill => {
                let (state, stop) = (self.state.clone(), stop.clone());
                rt::compute::io(move || filling::fill(&state, &stop)).await
            }
            Work::Train(name) => {
                self.state.set_training(true);
                let trained = self.train(name, stop).await;
                self.state.set_training(false);
                trained?;
                self.save().await
            }
            Work::File(name) => {
                self.rearrange(name, VectorIndex::filing_job, FilingJob::run).await;
                Ok(())
            }
            Work::Reshape(name) => {
                self.rearrange(name, VectorIndex::reshape_job, ReshapeJob::run).await;
                Ok(())
            }
            Work::Recalibrate(name) => {
                self.recalibrate(name, stop).await;
                Ok(())
            }
            Work::Save => self.save().await,
            Work::Place(name) => self.place(name).await,
        }
    }

    /// Reads through the parts of the index file that no search has used yet. Damage shows in the next piece of work.
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

    /// Makes the indexes again from the records, the index file being damaged. Writes wait meanwhile; searches go by the records.
    async fn rebuild(&self) -> Result<()> {
        let (state, files) = (self.state.clone(), self.files.clone());
        rt::compute::io(move || {
            let _standing_still = state.close_gate();
            let part = state.indexes().damage().found().unwrap_or_default();
            tracing::error!(
                shard = state.id,
                part,
                "the index file is damaged; the index is made again from the records"
            );
            let indexes = open::from_records(&state.records.view(), &state.spec, &state.settings)?;
            state.records.index_forgotten(state.applied())?;
            state.keep_no_deltas();
            files.keep_only(None).map_err(Records::failed)?;
            state.replace_indexes(indexes);
            Ok(())
        })
        .await
    }

    /// Trains the index of one vector on all its points and swaps the result in. Points written meanwhile stay in the
    /// tail.
    async fn train(&self, name: &VectorName, stop: &Shutdown) -> Result<()> {
        let started = rt::time::now();
        let (state, vector, stop) = (self.state.clone(), name.clone(), stop.clone());
        let training = rt::compute::io(move || Training::begin(&state, &vector, stop)).await;
        let built = rt::compute::io(move || training.run()).await;
        let (state, vector) = (self.state.clone(), name.clone());
        let installed = rt::compute::io(move || install(&state, &vector, built)).await?;
        let seconds = started.elapsed().as_secs_f64();
        tracing::info!(shard = self.state.id, vector = %name, rows = installed.live_rows, seconds, "index trained");
        Ok(())
    }

    /// Takes a job from an index, runs it off every lock, and swaps its lists in.
    async fn rearrange<J: Send + 'static>(
        &self,
        name: &VectorName,
        take: fn(&VectorIndex) -> Option<J>,
        run: fn(J) -> Option<Rearranged>,
    ) {
        let Some(job) = self.state.indexes().get(name).and_then(take) else { return };
        // Without an outcome the index file is damaged: that shows in the next piece of work.
        let Some(mut rearranged) = rt::compute::io(move || run(job)).await else { return };
        note(&rearranged);
        self.state.indexes_mut().get_mut(name).expect("indexes do not go away").1.install_rearranged(&mut rearranged);
        // What was replaced goes off the lock, and off the executor.
        rt::compute::io(move || drop(rearranged)).await;
    }

    /// Chooses the plans of searches anew for the lists there are now.
    async fn recalibrate(&self, name: &VectorName, stop: &Shutdown) {
        let job = {
            let indexes = self.state.indexes();
            indexes.get(name).and_then(|index| index.recalibration_job(indexes.points()))
        };
        let Some(job) = job else { return };
        let (threads, stop) = (self.state.settings.build_threads(), stop.clone());
        let recalibrated = rt::compute::io(move || job.run(threads, &|| stop.is_triggered())).await;
        // Without an outcome the node stops, or the index file is damaged: that shows in the next piece of work.
        let Some(recalibrated) = recalibrated else { return };
        rt::mark("plans were chosen anew");
        self.state.indexes_mut().get_mut(name).expect("indexes do not go away").1.install_recalibrated(recalibrated);
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

    /// Writes the sealed parts of all indexes to the next index file and forgets the deltas it covers.
    async fn save(&self) -> Result<()> {
        let state = self.state.clone();
        let file = rt::compute::io(move || IndexFile::capture(&state)).await?;
        let (state, files) = (self.state.clone(), self.files.clone());
        rt::compute::io(move || file.map_or(Ok(()), |file| file.write(&state, &files))).await
    }
}

/// For the simulation's coverage.
fn note(rearranged: &Rearranged) {
    let (renewed, dissolved) = (rearranged.renewed_lists() > 0, rearranged.dissolved_lists() > 0);
    if renewed {
        rt::mark("lists got new centroids");
    }
    if dissolved {
        rt::mark("small lists were dissolved");
    }
    if !renewed && !dissolved && rearranged.moved_rows() > 0 {
        rt::mark("rows were filed");
    }
}

/// A training under way.
struct Training {
    view: View,
    name: VectorName,
    spec: index::IndexSpec,
    rows_hint: usize,
    seed: u64,
    threads: usize,
    /// A node that stops does not wait for a training.
    stop: Shutdown,
}

impl Training {
    /// Takes the view to train on; from here on every row is in the view, in the tail, or in both.
    fn begin(state: &State, name: &VectorName, stop: Shutdown) -> Training {
        let _standing_still = state.close_gate();
        state.keep_deltas();
        let mut indexes = state.indexes_mut();
        let (_, index) = indexes.get_mut(name).expect("the index was just seen");
        if index.state().trained {
            rt::mark("an index was trained again");
        }
        index.training_started();
        let (view, spec) = (state.records.view(), index.spec().clone());
        let (rows_hint, threads) = (state.points() as usize, state.settings.build_threads());
        Training { view, name: name.clone(), spec, rows_hint, seed: state.id, threads, stop }
    }

    fn run(self) -> Result<Built, TrainError> {
        let (spec, seed, threads, stop) = (self.spec.clone(), self.seed, self.threads, self.stop.clone());
        let cancelled = || stop.is_triggered();
        index::train(&spec, &mut { self }, &index::TrainOptions { seed, threads, cancelled: &cancelled })
    }
}

impl index::RowSource for Training {
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

/// Swaps trained lists in, or says that there are none. Blocking; locks are held for a fraction of a millisecond at a time.
fn install(state: &State, name: &VectorName, built: Result<Built, TrainError>) -> Result<Installed> {
    let installed = built.map_err(Records::corrupt).and_then(|built| {
        let mut adoption = Adoption::new(built);
        loop {
            while adopt_some(state, name, &mut adoption) {}
            let mut indexes = state.indexes_mut();
            let (_, index) = indexes.get_mut(name).expect("indexes do not go away");
            let installed = index.install_adopted(&mut adoption);
            drop(indexes);
            if let Some(installed) = installed {
                break installed.map_err(|error| Error::internal(format!("a trained index does not fit: {error}")));
            }
        }
    });
    if installed.is_err() {
        state.indexes_mut().get_mut(name).expect("indexes do not go away").1.training_abandoned();
    }
    installed
}

fn adopt_some(state: &State, name: &VectorName, adoption: &mut Adoption) -> bool {
    let indexes = state.indexes();
    indexes.get(name).is_some_and(|index| index.adopt_some(indexes.points(), adoption))
}

/// What the next index file will hold.
struct IndexFile {
    epoch: u64,
    /// The log index at which it was taken.
    at: u64,
    points: Points,
    parts: Vec<(VectorName, Sealed)>,
    /// Points that were in a tail then, and so are not in the parts.
    missing: Vec<PointId>,
}

impl IndexFile {
    /// Takes the sealed parts of one moment. If no index is trained there is nothing to take, and deltas are no longer
    /// kept.
    fn capture(state: &State) -> Result<Option<IndexFile>> {
        let _standing_still = state.close_gate();
        let indexes = state.indexes();
        let trained = || indexes.iter().filter_map(|(name, index)| Some((name, index, index.sealed()?)));
        let parts: Vec<_> = trained().map(|(name, _, sealed)| (name.clone(), sealed)).collect();
        if parts.is_empty() {
            state.records.index_forgotten(state.applied())?;
            state.keep_no_deltas();
            return Ok(None);
        }
        let points = indexes.points().clone();
        let tails = trained().flat_map(|(_, index, _)| index.tail_ordinals());
        let missing: BTreeSet<PointId> = tails.filter_map(|ordinal| points.id(ordinal)).collect();
        let epoch = state.records.view().number(MetaKey::IndexEpoch)? + 1;
        Ok(Some(IndexFile { epoch, at: state.applied(), points, parts, missing: missing.into_iter().collect() }))
    }

    fn write(self, state: &State, files: &IndexFiles) -> Result<()> {
        files.write(self.epoch, &self.points, &self.parts).map_err(Records::failed)?;
        state.records.index_saved(self.epoch, self.at, &self.missing)?;
        state.saved_but(self.missing.len() as u64);
        files.keep_only(Some(self.epoch)).map_err(Records::failed)?;
        self.use_saved(state, files)
    }

    /// Goes on with the lists as they are in the file, so that memory is free for others.
    fn use_saved(self, state: &State, files: &IndexFiles) -> Result<()> {
        let damage = state.indexes().damage().clone();
        let image = files.open(self.epoch, &damage).map_err(|error| Error::internal(error.to_string()))?;
        let mut indexes = state.indexes_mut();
        for ((name, sealed), saved) in self.parts.iter().zip(image.parts) {
            if let Some((_, index)) = indexes.get_mut(name) {
                index.use_saved(sealed, saved);
            }
        }
        Ok(())
    }
}
