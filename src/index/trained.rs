//! The trained part of an index: its lists, and when they no longer fit their rows. Called by `vector_index`.

use super::kernels::Kernels;
use super::list::LiveList;
use super::plan::{CANDIDATES_MAX, Calibration, Plan};
use super::points::Points;
use super::quantizer::Quantizer;
use super::reach::Reach;
use super::sealed::Sealed;
use super::search::Lists;
use super::spec::{IndexSpec, SearchParams, SearchPlan};
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
        // A damaged file may say anything.
        let Some(live) = self.lists.get_mut(list).filter(|live| live.has_live(slot)) else { return };
        let before = live.wants_compaction();
        live.clear(slot);
        self.sparse_lists += usize::from(live.wants_compaction() && !before);
    }

    pub(crate) fn view<'a>(&'a self, points: &'a Points) -> Lists<'a> {
        Lists { points, quantizer: &self.quantizer, lists: &self.lists }
    }

    /// How far a filtered search goes. Cost: a measurement the first time.
    pub(crate) fn reach(&self, points: &Points, kernels: &Kernels) -> &Reach {
        self.reach.get_or_init(|| Reach::measure(self.view(points), kernels))
    }

    /// How to answer a search: `None` means exactly.
    pub(crate) fn plan(&self, spec: &IndexSpec, params: &SearchParams) -> (Option<Plan>, SearchPlan) {
        let target = params.recall_target.unwrap_or(spec.recall_target);
        let found = match params.nprobe {
            _ if params.exact => None,
            // Without a calibration (too few rows to hold any out) a guess, and no promise.
            Some(nprobe) => self.calibration.at(params.k, nprobe).or(Some((Plan::unmeasured(params.k, nprobe), 0.0))),
            None => self.calibration.reaching(params.k, target),
        };
        let Some((mut plan, mut recall)) = found else { return (None, SearchPlan::EXACT) };
        plan.nprobe = plan.nprobe.min(self.lists.len());
        if let Some(candidates) = params.candidates {
            // Recall rises ever more slowly with the candidates: with a share of them it has at least that share.
            recall *= (candidates as f32 / plan.candidates as f32).min(1.0);
            plan.candidates = candidates.min(CANDIDATES_MAX);
        }
        let chosen = SearchPlan {
            exact: false,
            recall_target: params.nprobe.is_none().then_some(target),
            nprobe: plan.nprobe,
            candidates: plan.candidates,
            estimated_recall: recall,
        };
        (Some(plan), chosen)
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
