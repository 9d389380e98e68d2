//! The trained part of an index: its lists, and when they no longer fit their rows. Called by `vector_index`.

use super::calibrate::Calibration;
use super::kmeans::ListBounds;
use super::list::LiveList;
use super::quantizer::Quantizer;
use super::rearrange::Rearranged;
use super::sealed::Sealed;
use super::search::Lists;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Filed rows below which drift is not judged.
const DRIFT_ROWS_MIN: usize = 1_000;
/// Retrain when filed rows lie this many times farther from their centroids than the rows of training did.
const DRIFT_MAX: f32 = 1.2;
/// Posting lists and what has happened to them since training.
pub(crate) struct Trained {
    pub(crate) quantizer: Arc<Quantizer>,
    pub(crate) lists: Vec<LiveList>,
    pub(crate) calibration: Calibration,
    pub(crate) rows_at_training: usize,
    pub(crate) filed_rows: usize,
    pub(crate) filed_residual: f64,
    /// Lists that want compaction.
    pub(crate) sparse_lists: usize,
    /// Lists there were when the settings were chosen.
    pub(crate) calibrated_lists: usize,
}

impl Trained {
    pub(crate) fn new(sealed: Sealed) -> Trained {
        let rows_at_training = sealed.len();
        let Sealed { quantizer, lists, calibration } = sealed;
        let mut trained = Trained {
            calibrated_lists: lists.len(),
            quantizer,
            lists,
            calibration,
            rows_at_training,
            filed_rows: 0,
            filed_residual: 0.0,
            sparse_lists: 0,
        };
        trained.count_sparse();
        trained
    }

    /// Takes a job's lists, whose moved rows are still dead; returns the lists of before whose rows are all elsewhere now.
    pub(crate) fn adopt(&mut self, rearranged: &Rearranged) -> BTreeSet<u32> {
        let mut dissolved: BTreeSet<u32> = (rearranged.lists..self.lists.len()).map(|list| list as u32).collect();
        self.quantizer = Arc::clone(&rearranged.quantizer);
        for changed in &rearranged.changed {
            let rows = Arc::clone(&changed.rows);
            match self.lists.get_mut(changed.list) {
                Some(live) => live.replace(rows, changed.kept),
                None => self.lists.push(LiveList::none_live(rows)),
            }
            if changed.kept == 0 {
                dissolved.insert(changed.list as u32);
            }
        }
        for &list in &rearranged.refused {
            self.lists[list].unparted_rows = self.lists[list].live_rows;
        }
        self.filed_rows += rearranged.filed_rows;
        self.filed_residual += rearranged.residual_sum;
        dissolved
    }

    /// Counts the lists that want compaction anew.
    pub(crate) fn count_sparse(&mut self) {
        self.sparse_lists = self.lists.iter().filter(|l| l.wants_compaction()).count();
    }

    /// Makes a live row dead.
    pub(crate) fn clear(&mut self, list: usize, slot: usize) {
        let live = &mut self.lists[list];
        let before = live.wants_compaction();
        live.clear(slot);
        self.sparse_lists += usize::from(live.wants_compaction() && !before);
    }

    pub(crate) fn view(&self) -> Lists<'_> {
        Lists { quantizer: &self.quantizer, lists: &self.lists }
    }

    /// Mean squared residual of filed rows, relative to training; 1 while too few to judge.
    pub(crate) fn drift(&self) -> f32 {
        let mean = (self.filed_residual / self.filed_rows.max(1) as f64) as f32;
        let drift = mean / self.quantizer.residual_mean;
        if self.filed_rows >= DRIFT_ROWS_MIN && drift.is_finite() { drift } else { 1.0 }
    }

    /// Whether a list should be split or dissolved.
    pub(crate) fn wants_reshaping(&self, bounds: ListBounds) -> bool {
        let small = |list: &LiveList| list.live_rows < bounds.rows_min && self.lists.len() > 1;
        self.lists.iter().any(|list| list.wants_split(bounds) || small(list))
    }

    pub(crate) fn version(&self, list: u32, slot: u32) -> u64 {
        self.lists[list as usize].list.versions[slot as usize]
    }

    /// Filed rows, at least a tenth as many as were trained on, lie much farther from their centroids than those did.
    pub(crate) fn has_drifted(&self) -> bool {
        self.drift() > DRIFT_MAX && self.filed_rows * 10 >= self.rows_at_training
    }
}
