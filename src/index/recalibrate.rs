//! Choosing the plans of searches anew once upkeep has made many lists others than those the plans were tried on. The rows are taken
//! from the lists themselves: some of them are the queries, and their neighbours are those by stored distance (int8, or f32 in
//! IVF-Flat), so no store is read. What int8 itself loses cannot be seen so: where nothing scores hits again in f32, plans stay as
//! they are. A job is taken under the lock, run off it, installed under it, as [`super::FilingJob`]. Called by `vector_index` and
//! `shard`.

use super::distance::normalize;
use super::kernels::Kernels;
use super::list::LiveList;
use super::plan::Calibration;
use super::points::Points;
use super::quantizer::Quantizer;
use super::random::SplitMix64;
use super::rearrange::all_sound;
use super::search::{Lists, Scratch};
use super::spec::Hit;
use super::truth::{GroundTruth, TruthQuery};
use super::work::Work;
use crate::types::Metric;
use std::sync::Arc;

/// A consistent copy of what calibrating needs. Pure and `Send`: run it on any thread.
pub struct RecalibrationJob {
    pub(crate) epoch: u64,
    pub(crate) kernels: &'static Kernels,
    /// Queries at most.
    pub(crate) queries: usize,
    pub(crate) quantizer: Arc<Quantizer>,
    pub(crate) lists: Vec<LiveList>,
    pub(crate) points: Points,
}

/// Plans for the lists as they were when the job was taken.
pub struct Recalibrated {
    pub(crate) epoch: u64,
    pub(crate) calibration: Calibration,
}

impl RecalibrationJob {
    /// Chooses plans. `None` if it was cancelled, or if a list of the index file is damaged, which is then noted. Cost: two scans of
    /// all rows for each query, one of int8 rows and one of codes: about 3 s CPU for a million rows of 100 dimensions, and 16 B a row
    /// and thread.
    pub fn run(self, threads: usize, cancelled: &(dyn Fn() -> bool + Sync)) -> Option<Recalibrated> {
        if !all_sound(&self.lists) {
            return None;
        }
        let work = Work::new(self.kernels, threads, cancelled);
        let calibration = Calibration::choose(self.view(), &self.truth(work), work);
        (!work.is_cancelled()).then_some(Recalibrated { epoch: self.epoch, calibration })
    }

    fn view(&self) -> Lists<'_> {
        Lists { points: &self.points, quantizer: &self.quantizer, lists: &self.lists }
    }

    /// Some rows, as few beside all as the rows a training holds out, with their neighbours.
    fn truth(&self, work: Work<'_>) -> GroundTruth {
        let places = self.choose();
        let queries =
            work.parallel(places, |(list, slot)| if work.is_cancelled() { None } else { self.query(list, slot) });
        GroundTruth::known(self.kernels, self.quantizer.metric, queries.into_iter().flatten().collect())
    }

    /// Lists and slots of live rows, in their order.
    fn choose(&self) -> Vec<(usize, usize)> {
        let rows: usize = self.lists.iter().map(|list| list.live_rows).sum();
        let seed = (rows as u64) << 32 | self.lists.len() as u64;
        let mut picked = SplitMix64::new(seed).sample(rows, self.queries.min(rows / 8));
        picked.sort_unstable();
        let (mut places, mut first) = (Vec::with_capacity(picked.len()), 0);
        let mut left = picked.into_iter().peekable();
        for (number, list) in self.lists.iter().enumerate() {
            let mut slots = list.live_slots().zip(first..);
            while let Some(place) = left.next_if(|&place| place < first + list.live_rows) {
                places.extend(slots.find(|&(_, at)| at == place).map(|(slot, _)| (number, slot)));
            }
            first += list.live_rows;
        }
        places
    }

    /// A row as a query.
    fn query(&self, list: usize, slot: usize) -> Option<TruthQuery> {
        let live = &self.lists[list].list;
        let id = self.points.id(live.ordinals[slot])?;
        let mut vector = vec![0.0; self.quantizer.space()];
        let lack = self.quantizer.stored_row(list, live, slot, &mut vector, self.kernels);
        vector.truncate(self.quantizer.dimension);
        self.quantizer.unproject(&mut vector, self.kernels);
        if self.quantizer.metric == Metric::Cosine && lack == 0.0 {
            normalize(&mut vector);
        }
        let mut hits = Vec::new();
        let mut scratch = Scratch::with_kernels(self.kernels);
        self.view().search_exact(&vector, TruthQuery::NEIGHBOURS + 1, &mut scratch, &mut hits);
        hits.sort_unstable_by(Hit::order);
        Some(TruthQuery::known(id, vector, hits.iter().map(|hit| (hit.distance, hit.id))))
    }
}
