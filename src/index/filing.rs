//! Moving rows from the tail into posting lists, and lists that are a quarter dead into lists that are not: a job taken under the
//! lock, run off it, installed under it. Called by `vector_index` and `shard`.

use super::assigner::Assigner;
use super::batch::Batch;
use super::kernels::Kernels;
use super::list::LiveList;
use super::locations::Location;
use super::points::Points;
use super::quantizer::Quantizer;
use super::rearrange::{ChangedList, Rearranged, all_sound};
use super::tail::{ChunkRows, Tail, TailSlot};
use super::work::Work;
use crate::types::PointId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Live rows, roughly, of the sparse lists that one job rewrites: bounds what installing it costs.
const COMPACTED_ROWS_MAX: usize = 16_384;

/// A consistent copy of what filing needs. Pure and `Send`: run it on any thread.
pub struct FilingJob {
    pub(crate) epoch: u64,
    pub(crate) kernels: &'static Kernels,
    pub(crate) quantizer: Arc<Quantizer>,
    pub(crate) lists: Vec<LiveList>,
    pub(crate) tail: Tail,
    pub(crate) points: Points,
}

/// A row to file.
struct TailRow<'a> {
    /// Decides the order: the same wherever the same points were written, however they came into the tail.
    written: (u64, PointId),
    rows: &'a ChunkRows,
    at: TailSlot,
}

impl FilingJob {
    /// Rows of the tail that the job files.
    pub fn tail_rows(&self) -> usize {
        self.tail.live_rows()
    }

    /// Encodes the tail's rows into copies of their lists and rewrites lists that are more than a quarter dead. `None` if a list
    /// of the index file is damaged, which is then noted. Cost: rows · lists · d for the assignment, and a copy of every list
    /// touched; lists that nobody has verified yet are.
    pub fn run(self) -> Option<Rearranged> {
        if !all_sound(&self.lists) {
            return None;
        }
        let mut changed: Vec<ChangedList> = self.file().into_values().collect();
        changed.iter_mut().for_each(ChangedList::close);
        Some(Rearranged {
            epoch: self.epoch,
            lists: self.lists.len(),
            quantizer: self.quantizer,
            changed,
            departed: Vec::new(),
            sound: Vec::new(),
            retired: Vec::new(),
            renewed_lists: 0,
            dissolved_lists: 0,
        })
    }

    /// The lists that change, by number.
    fn file(&self) -> BTreeMap<usize, ChangedList> {
        let mut open = self.open_sparse();
        let work = Work::alone(self.kernels);
        let assigner = Assigner::new(&self.quantizer.centroids, self.quantizer.space(), self.tail_rows(), work);
        let mut batch = Batch::default();
        let mut origins: Vec<Location> = Vec::new();
        let d = self.quantizer.dimension;
        for TailRow { rows, at, .. } in self.rows() {
            let slot = at.slot as usize;
            batch.add(rows.ordinals[slot], &rows.vectors[slot * d..(slot + 1) * d]);
            origins.push(Location::Tail(at));
            if batch.is_full() {
                self.flush(&assigner, &mut batch, &mut origins, &mut open);
            }
        }
        self.flush(&assigner, &mut batch, &mut origins, &mut open);
        open
    }

    /// The tail's rows in the order in which they are filed.
    fn rows(&self) -> Vec<TailRow<'_>> {
        let row = |number, rows: &'_ ChunkRows, slot: usize| {
            let (id, version) = self.points.get(rows.ordinals[slot])?;
            Some(((version, id), TailSlot { chunk: number, slot: slot as u32 }))
        };
        let mut found = Vec::with_capacity(self.tail.live_rows());
        for (number, chunk) in self.tail.chunks() {
            let rows = chunk.live_slots().filter_map(|slot| row(number, &chunk.rows, slot));
            found.extend(rows.map(|(written, at)| TailRow { written, rows: &chunk.rows, at }));
        }
        found.sort_unstable_by_key(|row| row.written);
        found
    }

    /// Lists that are rewritten whether a row comes or not.
    fn open_sparse(&self) -> BTreeMap<usize, ChangedList> {
        let mut open = BTreeMap::new();
        let mut rows = 0;
        for (i, list) in self.lists.iter().enumerate().filter(|(_, list)| list.wants_compaction()) {
            if rows < COMPACTED_ROWS_MAX {
                rows += list.live_rows;
                open.insert(i, self.open(i));
            }
        }
        open
    }

    fn flush(
        &self,
        assigner: &Assigner,
        batch: &mut Batch,
        origins: &mut Vec<Location>,
        open: &mut BTreeMap<usize, ChangedList>,
    ) {
        let encoded = batch.encode(&self.quantizer, assigner, None, Work::alone(self.kernels));
        for (row, origin) in encoded.rows().zip(origins.drain(..)) {
            let target = open.entry(row.list).or_insert_with(|| self.open(row.list));
            row.push(target.arrive(origin));
        }
        batch.clear();
    }

    /// A list to append to.
    fn open(&self, number: usize) -> ChangedList {
        ChangedList::reopened(number, number, &self.lists[number], &BTreeSet::new(), (&self.quantizer, self.kernels))
    }
}
