//! The mutable whole: a flat tail, posting lists once trained, and where each live point is. Every change is visible to the next
//! search. Rows are known by ordinal; the [`Points`] that give ordinals to ids belong to the shard. Heavy work (training, filing) happens on values taken from it, off the lock that the shard keeps it behind.
//! Called by `shard`.

use super::filing::FilingJob;
use super::kernels::{self, Kernels};
use super::list::LiveList;
use super::locations::{Location, Locations};
use super::points::Points;
use super::rearrange::Rearranged;
use super::reshape::ReshapeJob;
use super::sealed::Sealed;
use super::search::{Plan, Scratch};
use super::spec::{Hit, IndexKind, IndexSpec, IndexState, SearchOutcome, SearchParams, SearchStats};
use super::tail::{Evicted, Tail, TailSlot};
use super::top::TopHits;
use super::train::Built;
use super::trained::Trained;
use crate::types::PointId;
use std::sync::Arc;

/// Retrain when there are this many times as many rows as at training.
const GROWTH_MAX: usize = 2;

/// Why a sealed part was not installed; the index is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    /// Built for another metric, dimension or kind.
    #[error("sealed index: expected the metric, dimension and kind of the specification")]
    Specification,
    /// Rows would be lost: they are in the present lists, but not in the new ones. (Filing must rest while a training runs:
    /// see [`VectorIndex::training_started`].)
    #[error("sealed index: {rows} filed rows are not in it")]
    NotCovered {
        /// How many.
        rows: usize,
    },
}

/// What [`VectorIndex::install`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Rows of the sealed part that are live.
    pub live_rows: usize,
    /// Rows of it that were replaced or removed since it was built.
    pub dead_rows: usize,
}

/// The index of one named vector of one shard: a row for each of the shard's points that has such a vector.
pub struct VectorIndex {
    spec: IndexSpec,
    kernels: &'static Kernels,
    tail: Tail,
    trained: Option<Trained>,
    locations: Locations,
    /// Counts changes of the lists other than by deletes: a filing job belongs to one epoch.
    epoch: u64,
    training: bool,
}

impl VectorIndex {
    /// An empty index.
    pub fn new(spec: IndexSpec) -> Self {
        VectorIndex::with_kernels(spec, kernels::active())
    }

    pub(crate) fn with_kernels(spec: IndexSpec, kernels: &'static Kernels) -> Self {
        let tail = Tail::new(spec.dimension, spec.tail_rows_max);
        let locations = Locations::default();
        VectorIndex { spec, kernels, tail, trained: None, locations, epoch: 0, training: false }
    }

    /// An index whose rows are the live rows of `sealed`, by the ordinals of `points`: how a node starts from a file. The caller
    /// then brings up to date what has changed since.
    pub fn restore(spec: IndexSpec, points: &Points, mut sealed: Sealed) -> Result<Self, InstallError> {
        if !sealed.quantizer.fits(&spec) {
            return Err(InstallError::Specification);
        }
        let mut index = VectorIndex::new(spec);
        for (i, list) in sealed.lists.iter_mut().enumerate() {
            for slot in list.live_slots().collect::<Vec<_>>() {
                let ordinal = list.list.ordinals[slot];
                if points.is_live(ordinal) && !index.contains(ordinal) {
                    index.locations.set(ordinal, Location::List { list: i as u32, slot: slot as u32 });
                } else {
                    list.clear(slot);
                }
            }
        }
        index.trained = Some(Trained::new(sealed));
        Ok(index)
    }

    /// The specification it was made with.
    pub fn spec(&self) -> &IndexSpec {
        &self.spec
    }

    /// Live points.
    pub fn len(&self) -> usize {
        self.locations.len()
    }

    /// Whether there is no live point.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the point has a row.
    pub fn contains(&self, ordinal: u32) -> bool {
        self.locations.get(ordinal).is_some()
    }

    /// Bytes held, by arithmetic on capacities.
    pub fn memory_bytes(&self) -> usize {
        let lists = self.trained.as_ref().map_or(0, |trained| {
            let lists = trained.lists.iter().map(|l| l.list.memory_bytes() + l.live.capacity() * 4).sum::<usize>();
            lists + trained.quantizer.memory_bytes()
        });
        lists + self.tail.memory_bytes() + self.locations.memory_bytes()
    }

    /// What it looks like now. Cost: one pass over the lists' counters.
    pub fn state(&self) -> IndexState {
        let flat = IndexState {
            kind: IndexKind::Flat,
            trained: false,
            lists: 0,
            rows: self.len(),
            tail_rows: self.tail.live_rows(),
            dead_rows: 0,
            drift: 1.0,
            nprobe: 0,
            candidates: 0,
            calibrated_recall: 1.0,
        };
        let Some(trained) = &self.trained else { return flat };
        let setting = trained.calibration.settings[0];
        IndexState {
            kind: self.spec.kind,
            trained: true,
            lists: trained.lists.len(),
            dead_rows: trained.lists.iter().map(LiveList::dead_rows).sum(),
            drift: trained.drift(),
            nprobe: trained.scaled(setting.nprobe as usize),
            candidates: setting.candidates as usize,
            calibrated_recall: setting.recall,
            ..flat
        }
    }

    /// Live rows of the smallest and the largest posting list.
    pub fn list_sizes(&self) -> Option<(usize, usize)> {
        let sizes = || self.trained.iter().flat_map(|trained| trained.lists.iter().map(|list| list.live_rows));
        sizes().min().zip(sizes().max())
    }

    /// Gives a point a row, or replaces it. `vector` has the spec's dimension, is finite, and for cosine of unit length. Cost: the
    /// copy; once per 128 deletes a chunk's live rows are copied too.
    ///
    /// # Panics
    /// If the dimension is not the spec's: the caller validates.
    pub fn upsert(&mut self, ordinal: u32, vector: &[f32]) {
        assert_eq!(vector.len(), self.spec.dimension, "invariant: vectors are validated before they are indexed");
        let at = Location::Tail(self.tail.push(ordinal, vector));
        if let Some(old) = self.locations.set(ordinal, at) {
            self.retire(old);
        }
    }

    /// Removes a point's row; whether it had one. Comes before its ordinal is given to another.
    pub fn remove(&mut self, ordinal: u32) -> bool {
        let Some(old) = self.locations.take(ordinal) else { return false };
        self.retire(old);
        true
    }

    /// Makes the row dead. The caller has already pointed its ordinal elsewhere.
    fn retire(&mut self, at: Location) {
        match at {
            Location::Tail(at) => self.retire_tail(at),
            Location::List { list, slot } => {
                if let Some(trained) = &mut self.trained {
                    trained.clear(list as usize, slot as usize);
                }
            }
        }
    }

    fn retire_tail(&mut self, at: TailSlot) {
        if let Some(evicted) = self.tail.remove(at) {
            self.append_again(evicted);
        }
    }

    fn append_again(&mut self, Evicted { rows, slots }: Evicted) {
        for slot in slots {
            let vector = &rows.vectors[slot * self.spec.dimension..(slot + 1) * self.spec.dimension];
            let moved = self.tail.push(rows.ordinals[slot], vector);
            self.locations.set(rows.ordinals[slot], Location::Tail(moved));
        }
    }

    /// The points nearest to `query` (same rules as a stored vector), ordered by (distance, id). Exact hits: the k nearest of the
    /// tail (and of IVF-Flat lists). Others: from the lists, `max(16, 2k)`, for the caller to score again in f32 and cut to k.
    /// With `exact`: every row of the lists that may be among the true k nearest, proven by error bounds. `points` are those whose
    /// ordinals the rows have.
    ///
    /// # Panics
    /// If the dimension is not the spec's: the caller validates.
    pub fn search(
        &self,
        points: &Points,
        query: &[f32],
        params: &SearchParams,
        scratch: &mut Scratch,
    ) -> SearchOutcome {
        assert_eq!(query.len(), self.spec.dimension, "invariant: queries are validated before they are searched");
        let mut hits = Vec::new();
        let mut stats = match &self.trained {
            Some(trained) if params.k > 0 => self.search_lists(trained, points, query, params, scratch, &mut hits),
            _ => SearchStats::default(),
        };
        let mut top = TopHits::new(params.k);
        self.tail.search(points, self.spec.metric, query, &mut top, scratch.kernels);
        stats.tail_scanned = self.tail.live_rows();
        hits.extend(top.into_hits());
        hits.sort_unstable_by(Hit::order);
        SearchOutcome { hits, stats }
    }

    fn search_lists(
        &self,
        trained: &Trained,
        points: &Points,
        query: &[f32],
        params: &SearchParams,
        scratch: &mut Scratch,
        hits: &mut Vec<Hit>,
    ) -> SearchStats {
        let lists = trained.view(points);
        if params.exact {
            return lists.search_exact(query, params.k, scratch, hits);
        }
        let calibrated = trained.calibration.plan(params.k);
        let candidates = params.candidates.unwrap_or(calibrated.candidates).min(self.len().max(1));
        let nprobe = params.nprobe.unwrap_or(trained.scaled(calibrated.nprobe));
        lists.search(query, Plan { k: params.k, nprobe, candidates }, scratch, hits)
    }

    /// Whether building posting lists would pay: too many rows for a flat index, twice the rows of the last training, or
    /// rows that lie a fifth farther from their centroids though the lists are in shape. False while a training runs.
    pub fn wants_training(&self) -> bool {
        if self.spec.kind == IndexKind::Flat || self.training {
            return false;
        }
        match &self.trained {
            None => self.len() > self.spec.flat_rows_max,
            Some(trained) => {
                self.len() > GROWTH_MAX * trained.rows_at_training.max(self.spec.flat_rows_max / 2)
                    || trained.has_drifted(self.spec.list_bounds())
            }
        }
    }

    /// A training on a view of now or later begins. Until [`VectorIndex::install`] or [`VectorIndex::training_abandoned`] no row
    /// leaves the tail, so that every row is in the tail or in the view.
    pub fn training_started(&mut self) {
        self.training = true;
        self.epoch += 1;
    }

    /// The training ended without a result.
    pub fn training_abandoned(&mut self) {
        self.training = false;
    }

    /// Puts new posting lists in place of the old. Rows of the tail that they cover (same id and version) leave it; rows replaced
    /// or removed since the lists were built are dead in them. Cost: a look-up a row.
    pub fn install(&mut self, points: &Points, built: Built) -> Result<Installed, InstallError> {
        if !built.sealed.quantizer.fits(&self.spec) {
            return Err(InstallError::Specification);
        }
        let rows = self.rows_not_covered(points, &built.points);
        if rows > 0 {
            return Err(InstallError::NotCovered { rows });
        }
        self.training = false;
        self.epoch += 1;
        let built_rows = built.sealed.len();
        let sealed = self.adopt(points, built);
        self.trained = Some(Trained::new(sealed));
        self.sweep_tail();
        let live_rows = self.trained.as_ref().map_or(0, |t| t.lists.iter().map(|l| l.live_rows).sum());
        Ok(Installed { live_rows, dead_rows: built_rows - live_rows })
    }

    /// Live rows of the present lists that the new ones do not have.
    fn rows_not_covered(&self, points: &Points, built: &Points) -> usize {
        let Some(trained) = &self.trained else { return 0 };
        let filed: usize = trained.lists.iter().map(|l| l.live_rows).sum();
        let in_lists = |ordinal: &u32| matches!(self.locations.get(*ordinal), Some(Location::List { .. }));
        let covered = built.iter().filter_map(|(_, id, version)| current(points, id, version)).filter(in_lists).count();
        filed.saturating_sub(covered)
    }

    /// The built lists, with those rows live that are current; their points' rows are there from now on.
    fn adopt(&mut self, points: &Points, built: Built) -> Sealed {
        let Built { mut sealed, points: rows } = built;
        for (i, source) in sealed.lists.iter_mut().enumerate() {
            // Nobody else has the lists yet, so this copies nothing.
            let list = Arc::make_mut(&mut source.list);
            let mut gone = Vec::new();
            for (slot, ordinal) in list.ordinals.iter_mut().enumerate() {
                let now = rows.get(*ordinal).and_then(|(id, version)| current(points, id, version));
                match now.and_then(|now| Some((now, self.locations.get(now)?))) {
                    None => gone.push(slot),
                    Some((now, before)) => {
                        *ordinal = now;
                        self.locations.set(now, Location::List { list: i as u32, slot: slot as u32 });
                        if let Location::Tail(at) = before {
                            self.tail.clear(at);
                        }
                    }
                }
            }
            gone.into_iter().for_each(|slot| source.clear(slot));
        }
        sealed
    }

    /// Packs the rows of mostly dead chunks together.
    fn sweep_tail(&mut self) {
        for evicted in self.tail.sweep() {
            self.append_again(evicted);
        }
    }

    /// Whether filing would pay: the tail is longer than its bound, or one list in sixteen is more than a quarter dead. False
    /// until trained and while a training runs.
    pub fn wants_filing(&self) -> bool {
        let Some(trained) = &self.trained else { return false };
        let tail_long = self.tail.live_rows() > self.spec.tail_rows_max && self.tail.full_chunks().next().is_some();
        !self.training && (tail_long || trained.sparse_lists * 16 > trained.lists.len())
    }

    /// The work of moving the tail's full chunks into their lists; none if not trained, or while a training runs.
    /// Cost: a copy of the lists' handles and live bits.
    pub fn filing_job(&self) -> Option<FilingJob> {
        let trained = self.trained.as_ref().filter(|_| !self.training)?;
        Some(FilingJob {
            epoch: self.epoch,
            kernels: self.kernels,
            quantizer: Arc::clone(&trained.quantizer),
            lists: trained.lists.clone(),
            chunks: self.tail.full_chunks().map(|(number, chunk)| (number, chunk.clone())).collect(),
        })
    }

    /// Whether splitting and dissolving lists would pay: one of them is out of bounds. False until trained and while a training
    /// runs. Cost: a look at every list.
    pub fn wants_reshaping(&self) -> bool {
        !self.training && self.trained.as_ref().is_some_and(|t| t.wants_reshaping(self.spec.list_bounds()))
    }

    /// The work of splitting lists that grew too large and dissolving those that shrank; none if not trained, or while a training
    /// runs. Cost: a copy of the lists' handles and live bits.
    pub fn reshape_job(&self) -> Option<ReshapeJob> {
        let trained = self.trained.as_ref().filter(|_| !self.training)?;
        Some(ReshapeJob {
            epoch: self.epoch,
            kernels: self.kernels,
            bounds: self.spec.list_bounds(),
            quantizer: Arc::clone(&trained.quantizer),
            lists: trained.lists.clone(),
        })
    }

    /// Puts a job's lists in place: rows that were replaced or removed meanwhile are dead in them. Whether it was done: not if
    /// lists were changed otherwise since the job was taken. Cost: a look-up a row moved.
    pub fn install_rearranged(&mut self, rearranged: Rearranged) -> bool {
        let Some(trained) = self.trained.as_mut().filter(|_| rearranged.epoch == self.epoch) else { return false };
        self.epoch += 1;
        let dissolved = trained.adopt(&rearranged);
        for changed in &rearranged.changed {
            for (slot, ordinal, origin) in changed.moved() {
                if self.locations.get(ordinal) != Some(origin) {
                    continue;
                }
                self.locations.set(ordinal, Location::List { list: changed.list as u32, slot: slot as u32 });
                trained.lists[changed.list].set(slot);
                match origin {
                    Location::Tail(at) => self.tail.clear(at),
                    Location::List { list, slot } if !dissolved.contains(&list) => {
                        trained.lists[list as usize].clear(slot as usize);
                    }
                    Location::List { .. } => {}
                }
            }
        }
        trained.lists.truncate(rearranged.lists);
        trained.count_sparse();
        self.sweep_tail();
        true
    }

    /// Ordinals of the points whose rows only the tail has: what a file of [`VectorIndex::sealed`] lacks.
    pub fn tail_ordinals(&self) -> impl Iterator<Item = u32> + '_ {
        self.tail.ordinals()
    }

    /// The posting lists as they are now, to be written to a file. Cost: a copy of handles and live bits. Rows of the tail are
    /// not in it.
    pub fn sealed(&self) -> Option<Sealed> {
        self.trained.as_ref().map(|trained| Sealed {
            quantizer: Arc::clone(&trained.quantizer),
            lists: trained.lists.clone(),
            calibration: trained.calibration,
        })
    }
}

/// The ordinal of a point that still is at this version.
fn current(points: &Points, id: PointId, version: u64) -> Option<u32> {
    points.ordinal(id).filter(|&ordinal| points.get(ordinal).is_some_and(|point| point.1 == version))
}
