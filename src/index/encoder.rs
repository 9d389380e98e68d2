//! The second pass of a build: every row is given its list and codes, batch by batch, and the true neighbours of held-out rows are
//! found on the side. Batches hold a fixed number of rows, and each list gets its rows in order, so that the threads do not
//! matter. Called by `train`.

use super::assigner::Assigner;
use super::batch::{AssignedRow, Batch};
use super::list::{LiveList, PostingList};
use super::points::Points;
use super::quantizer::Quantizer;
use super::truth::GroundTruth;
use super::work::Work;
use crate::types::PointId;

/// See the module.
pub(crate) struct Encoder<'a> {
    work: Work<'a>,
    quantizer: &'a Quantizer,
    assigner: Assigner,
    truth: GroundTruth,
    points: Points,
    lists: Vec<PostingList>,
    batch: Batch,
}

/// What the pass made.
pub(crate) struct Encoded {
    pub(crate) lists: Vec<LiveList>,
    pub(crate) points: Points,
    pub(crate) truth: GroundTruth,
}

impl<'a> Encoder<'a> {
    /// For about `rows` rows.
    pub(crate) fn new(work: Work<'a>, quantizer: &'a Quantizer, truth: GroundTruth, rows: usize) -> Self {
        let lists = (0..quantizer.lists()).map(|_| quantizer.empty_list()).collect();
        let assigner = Assigner::new(&quantizer.centroids, quantizer.space(), rows, work);
        let (points, batch) = (Points::new(), Batch::default());
        Encoder { work, quantizer, assigner, truth, points, lists, batch }
    }

    pub(crate) fn push(&mut self, id: PointId, version: u64, row: &[f32]) {
        let rows = self.points.len();
        let ordinal = self.points.put(id, version);
        if self.points.len() == rows {
            // Not the first time: a row more than the source promised.
            return;
        }
        self.batch.add(ordinal, row);
        if self.batch.is_full() {
            self.flush();
        }
    }

    fn flush(&mut self) {
        // The rest of a cancelled build is left out: nobody will see it.
        if !self.work.is_cancelled() {
            self.encode();
        }
        self.batch.clear();
    }

    fn encode(&mut self) {
        let encoded = self.batch.encode(self.quantizer, &self.assigner, Some(&self.truth), self.work);
        let share = self.lists.len().div_ceil(self.work.threads());
        self.work.parallel(self.lists.chunks_mut(share).zip((0..).step_by(share)), |(lists, first)| {
            let span = first..first + lists.len();
            let own = |row: &AssignedRow<'_>| span.contains(&row.list);
            encoded.rows().filter(own).for_each(|row| row.push(&mut lists[row.list - first]));
        });
        for (ordinal, seen) in encoded.sightings() {
            let id = self.points.id(ordinal).expect("invariant: every row of the batch is a point");
            self.truth.see(seen, id);
        }
    }

    pub(crate) fn finish(mut self) -> Encoded {
        self.flush();
        let mut lists = self.lists;
        lists.iter_mut().for_each(PostingList::shrink);
        let lists = lists.into_iter().map(LiveList::all_live).collect();
        Encoded { lists, points: self.points, truth: self.truth }
    }
}
