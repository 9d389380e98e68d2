//! The trained part of an index: its lists, and when they no longer fit their rows. Called by `vector_index`.

use super::calibrate::Calibration;
use super::kernels::Kernels;
use super::list::LiveList;
use super::points::Points;
use super::quantizer::Quantizer;
use super::reach::Reach;
use super::sealed::Sealed;
use super::search::Lists;
use std::sync::{Arc, OnceLock};

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
    /// Measured when first asked for.
    reach: OnceLock<Reach>,
}

impl Trained {
    pub(crate) fn new(sealed: Sealed) -> Trained {
        let rows_at_training = sealed.len();
        let Sealed { quantizer, lists, calibration } = sealed;
        let (filed_rows, filed_residual, sparse_lists) = (0, 0.0, 0);
        let mut trained = Trained {
            quantizer,
            lists,
            calibration,
            rows_at_training,
            filed_rows,
            filed_residual,
            sparse_lists,
            reach: OnceLock::new(),
        };
        trained.count_sparse();
        trained
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

    pub(crate) fn view<'a>(&'a self, points: &'a Points) -> Lists<'a> {
        Lists { points, quantizer: &self.quantizer, lists: &self.lists }
    }

    /// How far a filtered search goes. Cost: a measurement the first time.
    pub(crate) fn reach(&self, points: &Points, kernels: &Kernels) -> Reach {
        *self.reach.get_or_init(|| Reach::measure(self.view(points), kernels))
    }

    /// Mean squared residual of filed rows, relative to training; 1 while too few to judge.
    pub(crate) fn drift(&self) -> f32 {
        let mean = (self.filed_residual / self.filed_rows.max(1) as f64) as f32;
        let drift = mean / self.quantizer.residual_mean;
        if self.filed_rows >= DRIFT_ROWS_MIN && drift.is_finite() { drift } else { 1.0 }
    }

    /// Filed rows, at least a tenth as many as were trained on, lie much farther from their centroids than those did.
    pub(crate) fn has_drifted(&self) -> bool {
        self.drift() > DRIFT_MAX && self.filed_rows * 10 >= self.rows_at_training
    }
}
