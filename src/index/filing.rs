//! Moving rows from the tail into posting lists, and lists that are a quarter dead into lists that are not: a job taken under the
//! lock, run off it, installed under it. Rows keep their slots, so installing costs the rows moved, not the rows held.
//! Called by `vector_index` and `shard`.

use super::assigner::Assigner;
use super::batch::Batch;
use super::kernels::Kernels;
use super::list::{LiveList, PostingList};
use super::locations::Location;
use super::quantizer::Quantizer;
use super::tail::{Chunk, TailSlot};
use super::work::Work;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A consistent copy of what filing needs. Pure and `Send`: run it on any thread.
pub struct FilingJob {
    pub(crate) epoch: u64,
    pub(crate) kernels: &'static Kernels,
    pub(crate) quantizer: Arc<Quantizer>,
    pub(crate) lists: Vec<LiveList>,
    pub(crate) chunks: Vec<(u32, Chunk)>,
}

/// The lists a job changed. Valid for the index it was taken from until lists are changed otherwise.
pub struct Filed {
    pub(crate) epoch: u64,
    pub(crate) changed: Vec<ChangedList>,
    pub(crate) residual_sum: f64,
    pub(crate) rows: usize,
}

/// A list's new rows: the first `kept` slots are as they were; the others came from `origins`.
pub(crate) struct ChangedList {
    pub(crate) list: usize,
    pub(crate) rows: Arc<PostingList>,
    pub(crate) kept: usize,
    pub(crate) origins: Vec<Location>,
}

struct OpenList {
    rows: PostingList,
    kept: usize,
    origins: Vec<Location>,
}

impl FilingJob {
    /// Rows of the tail that the job files.
    pub fn tail_rows(&self) -> usize {
        self.chunks.iter().map(|(_, chunk)| chunk.live_slots().count()).sum()
    }

    /// Encodes the tail's rows into copies of their lists and rewrites lists that are more than a quarter dead.
    /// Cost: rows · lists · d for the assignment, and a copy of every list touched.
    pub fn run(self) -> Filed {
        let mut open: BTreeMap<usize, OpenList> = BTreeMap::new();
        for (i, list) in self.lists.iter().enumerate().filter(|(_, list)| list.wants_compaction()) {
            open.insert(i, self.open(i, list));
        }
        let mut filed = Filed { epoch: self.epoch, changed: Vec::new(), residual_sum: 0.0, rows: 0 };
        let work = Work::alone(self.kernels);
        let rows = self.tail_rows();
        let assigner = Assigner::new(&self.quantizer.centroids, self.quantizer.space(), rows, work);
        let mut batch = Batch::default();
        let mut origins: Vec<Location> = Vec::new();
        for (number, chunk) in &self.chunks {
            for slot in chunk.live_slots() {
                let d = self.quantizer.dimension;
                let vector = &chunk.rows.vectors[slot * d..(slot + 1) * d];
                batch.add(chunk.rows.ordinals[slot], vector);
                origins.push(Location::Tail(TailSlot { chunk: *number, slot: slot as u32 }));
                if batch.is_full() {
                    self.flush(&assigner, &mut batch, &mut origins, &mut open, &mut filed);
                }
            }
        }
        self.flush(&assigner, &mut batch, &mut origins, &mut open, &mut filed);
        filed.changed = open.into_iter().map(|(list, open)| open.close(list)).collect();
        filed
    }

    fn flush(
        &self,
        assigner: &Assigner,
        batch: &mut Batch,
        origins: &mut Vec<Location>,
        open: &mut BTreeMap<usize, OpenList>,
        filed: &mut Filed,
    ) {
        let encoded = batch.encode(&self.quantizer, assigner, None, Work::alone(self.kernels));
        for (row, origin) in encoded.rows().zip(origins.drain(..)) {
            let target = open.entry(row.list).or_insert_with(|| self.open(row.list, &self.lists[row.list]));
            target.origins.push(origin);
            row.push(&mut target.rows);
            filed.residual_sum += f64::from(row.residual_square);
        }
        filed.rows += batch.len();
        batch.clear();
    }

    /// A list to append to: a copy, or its live rows alone.
    fn open(&self, number: usize, live: &LiveList) -> OpenList {
        // Damage is noted by this, and the index made again before anything is saved: no copy of it gets a checksum of its own.
        let _ = live.list.is_sound();
        if !live.wants_compaction() {
            let rows = live.list.to_grow();
            return OpenList { kept: rows.len(), rows, origins: Vec::new() };
        }
        let mut rows = live.list.empty_like();
        let mut origins = Vec::with_capacity(live.live_rows);
        for slot in live.live_slots() {
            rows.push_from(&live.list, slot, self.quantizer.dimension);
            origins.push(Location::List { list: number as u32, slot: slot as u32 });
        }
        OpenList { rows, kept: 0, origins }
    }
}

impl OpenList {
    fn close(mut self, list: usize) -> ChangedList {
        self.rows.shrink();
        ChangedList { list, rows: Arc::new(self.rows), kept: self.kept, origins: self.origins }
    }
}

impl ChangedList {
    /// Slots, ordinals and origins of the rows that are not where they were. A row is still current if its ordinal is at its
    /// origin: places in the tail and, within an epoch, in lists are never used twice.
    pub(crate) fn moved(&self) -> impl Iterator<Item = (usize, u32, Location)> + '_ {
        let slots = self.kept..self.rows.len();
        slots.zip(&self.origins).map(|(slot, &origin)| (slot, self.rows.ordinals[slot], origin))
    }
}
