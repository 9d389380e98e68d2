//! The mutable whole: a flat tail, posting lists once trained, and where each live point is. Every change is visible to the next
//! search. Rows are known by ordinal; the [`Points`] that give ordinals to ids belong to the shard. Heavy work (training, filing) happens on values taken from it, off the lock that the shard keeps it behind.
//! Called by `shard`.

mod searching;
mod upkeep;

use super::adoption::Journal;
use super::image::SavedIndex;
use super::kernels::{self, Kernels};
use super::list::LiveList;
use super::locations::{Location, Locations};
use super::placement::{Memory, Placed, PlacedList, Placement};
use super::points::Points;
use super::sealed::Sealed;
use super::spec::{IndexKind, IndexSpec, IndexState, SearchParams, SearchPlan};
use super::tail::{Evicted, Tail, TailSlot};
use super::train::Built;
use super::trained::Trained;
use super::verification::Verification;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

/// Why a sealed part was not installed; the index is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    /// Built for another metric, dimension or kind.
    #[error("sealed index: expected the metric, dimension and kind of the specification")]
    Specification,
    /// Nobody said that a training began, so nobody noted what changed since: see [`VectorIndex::training_started`].
    #[error("sealed index: no training is under way")]
    NoTraining,
    /// Rows would be lost: they are in the index, have not changed since the training began, and are not in the new lists.
    #[error("sealed index: {rows} rows are not in it")]
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
    /// While one runs.
    training: Option<Training>,
    /// Whether an [`super::ArrangeJob`] is under way. Then, and while a training runs, no row moves within the tail: what a job found there
    /// is known by its place.
    is_arranging: bool,
    /// Rows read from a file since its pages were given back, where few may stay: [`Memory::Low`].
    file_reads: Option<AtomicUsize>,
}

/// What is noted while new lists are built.
struct Training {
    journal: Journal,
    /// Rows in chunks before it were there when it began.
    first_chunk: u32,
}

impl VectorIndex {
    /// An empty index.
    pub fn new(spec: IndexSpec) -> Self {
        VectorIndex::with_kernels(spec, kernels::active())
    }

    pub(crate) fn with_kernels(spec: IndexSpec, kernels: &'static Kernels) -> Self {
        let tail = Tail::new(spec.dimension, spec.tail_rows_max);
        let locations = Locations::default();
        VectorIndex {
            spec,
            kernels,
            tail,
            trained: None,
            locations,
            epoch: 0,
            training: None,
            is_arranging: false,
            file_reads: None,
        }
    }

    /// An index as it was just built: its rows are the live rows of `built`, by the ordinals of `built.points`. Cost: a look at
    /// every row.
    pub fn of_built(spec: IndexSpec, built: Built) -> Result<(Points, Self), InstallError> {
        let locations = Locations::of_lists(&built.sealed.lists);
        let index = VectorIndex::with_parts(spec, built.sealed, locations)?;
        Ok((built.points, index))
    }

    /// An index as it is in a file: how a node starts. The caller then brings up to date what has changed since. Cost: a look at
    /// every list; none at a row.
    pub fn open(spec: IndexSpec, saved: SavedIndex) -> Result<Self, InstallError> {
        VectorIndex::with_parts(spec, saved.sealed, saved.locations)
    }

    fn with_parts(spec: IndexSpec, sealed: Sealed, locations: Locations) -> Result<Self, InstallError> {
        if !sealed.quantizer.fits(&spec) {
            return Err(InstallError::Specification);
        }
        let trained = Some(Trained::new(sealed));
        Ok(VectorIndex { trained, locations, ..VectorIndex::new(spec) })
    }

    /// What is left to verify of the file it came from. Cost: a copy of handles.
    pub fn verification(&self) -> Verification {
        let lists = self.trained.iter().flat_map(|trained| &trained.lists);
        Verification { lists: lists.map(|live| Arc::clone(&live.list)).collect(), locations: self.locations.clone() }
    }

    /// Takes the lists of the file that `saved` was just written to in place of the same lists in memory. Cost: a look at every
    /// list.
    pub fn use_saved(&mut self, saved: &Sealed, file: SavedIndex) {
        let Some(trained) = &mut self.trained else { return };
        for ((live, saved), mapped) in trained.lists.iter_mut().zip(&saved.lists).zip(file.sealed.lists) {
            if Arc::ptr_eq(&live.list, &saved.list) && live.list.len() == mapped.list.len() {
                live.list = mapped.list;
            }
        }
    }

    /// Whether lists are in a mapped file that belong elsewhere.
    pub fn wants_placement(&self) -> bool {
        self.trained.iter().flat_map(|trained| &trained.lists).any(|live| live.list.is_mapped())
    }

    /// The work of moving the lists of a file to where they are wanted. Cost: a copy of handles.
    pub fn placement(&self, memory: Memory) -> Placement {
        let lists = self.trained.iter().flat_map(|trained| trained.lists.iter().enumerate());
        let mapped = lists.filter(|(_, live)| live.list.is_mapped());
        let lists = mapped.map(|(number, live)| (number, Arc::clone(&live.list))).collect();
        Placement { memory, dimension: self.spec.dimension, lists }
    }

    /// Puts lists in place that were moved, where they are still the same. Cost: a look at each.
    pub fn install_placed(&mut self, placed: Placed) {
        let Some(trained) = &mut self.trained else { return };
        self.file_reads = (placed.memory == Memory::Low).then(AtomicUsize::default);
        for PlacedList { number, before, after } in placed.lists {
            if let Some(live) = trained.lists.get_mut(number).filter(|live| Arc::ptr_eq(&live.list, &before)) {
                live.list = after;
            }
        }
    }

    /// The specification it was made with.
    pub fn spec(&self) -> &IndexSpec {
        &self.spec
    }

    /// From the next job on lists should hold so many rows.
    pub fn set_list_rows(&mut self, rows: usize) {
        self.spec.list_rows = rows;
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

    pub(crate) fn trained(&self) -> Option<&Trained> {
        self.trained.as_ref()
    }

    pub(crate) fn tail(&self) -> &Tail {
        &self.tail
    }

    pub(crate) fn location(&self, ordinal: u32) -> Option<Location> {
        self.locations.get(ordinal)
    }

    /// Bytes held, by arithmetic on capacities.
    pub fn memory_bytes(&self) -> usize {
        let lists = self.trained.as_ref().map_or(0, |trained| {
            let lists = trained.lists.iter().map(|l| l.list.memory_bytes() + l.live.capacity() * 4).sum::<usize>();
            lists + trained.quantizer.memory_bytes()
        });
        lists + self.tail.memory_bytes() + self.locations.memory_bytes()
    }

    /// Posting lists; 0 while flat.
    pub fn lists(&self) -> usize {
        self.trained.as_ref().map_or(0, |trained| trained.lists.len())
    }

    /// Live rows of the flat tail.
    pub fn tail_rows(&self) -> usize {
        self.tail.live_rows()
    }

    /// How a search would be answered.
    pub fn plan(&self, params: &SearchParams) -> SearchPlan {
        self.trained.as_ref().map_or(SearchPlan::EXACT, |trained| trained.plan(&self.spec, params).1)
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
            plan: SearchPlan::EXACT,
        };
        let Some(trained) = &self.trained else { return flat };
        IndexState {
            kind: self.spec.kind,
            trained: true,
            lists: trained.lists.len(),
            dead_rows: trained.lists.iter().map(LiveList::dead_rows).sum(),
            drift: trained.drift(),
            plan: self.plan(&SearchParams::new(10)),
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
        self.note(ordinal);
        let at = Location::Tail(self.tail.push(ordinal, vector));
        if let Some(old) = self.locations.set(ordinal, at) {
            self.retire(old);
        }
    }

    /// Removes a point's row; whether it had one. Comes before its ordinal is given to another.
    pub fn remove(&mut self, ordinal: u32) -> bool {
        let Some(old) = self.locations.take(ordinal) else { return false };
        self.note(ordinal);
        self.retire(old);
        true
    }

    /// Remembers a change that a training under way does not know of.
    fn note(&mut self, ordinal: u32) {
        if let Some(training) = &mut self.training {
            training.journal.note(ordinal);
        }
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
        if self.training.is_some() || self.is_arranging {
            self.tail.clear(at);
        } else if let Some(evicted) = self.tail.remove(at) {
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
            calibration: trained.calibration.clone(),
            tried_on: trained.tried_on,
            reach: trained.reach.clone(),
            reach_outdated_by: trained.reach_outdated_by,
        })
    }
}
