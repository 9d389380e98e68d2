//! The trained part of an index: its lists, and when they no longer fit their rows. Called by `vector_index`.

use super::kmeans::ListBounds;
use super::list::LiveList;
use super::plan::{CANDIDATES_MAX, Calibration, Plan, TriedOn};
use super::points::Points;
use super::quantizer::Quantizer;
use super::reach::Reach;
use super::rearrange::Rearranged;
use super::sealed::Sealed;
use super::search::Lists;
use super::spec::{IndexKind, IndexSpec, SearchParams, SearchPlan};
use crate::types::Rerank;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Retrain when rows lie this many times farther (squared) from their centroids than the rows of training did.
const DRIFT_MAX: f32 = 1.2;

/// How far neighbours lie is measured again when one list in so many is another than at the last measurement.
const REACH_RENEWED_SHARE: usize = 8;

/// Plans are chosen anew when one list in so many is another than those they were tried on.
const RECALIBRATED_SHARE: usize = 4;

/// Lists of which so many rows are others that their centroid may be elsewhere are looked at when they are more than one in so many:
/// most are found to be sound, and each job costs a copy of the centroids.
const LOOKED_AT_SHARE: usize = 32;

/// Posting lists and what has happened to them since training.
#[derive(Clone)]
pub(crate) struct Trained {
    pub(crate) quantizer: Arc<Quantizer>,
    pub(crate) lists: Vec<LiveList>,
    pub(crate) calibration: Calibration,
    pub(crate) rows_at_training: usize,
    /// Lists that want compaction.
    pub(crate) sparse_lists: usize,
    pub(crate) tried_on: TriedOn,
    /// How far a filtered search goes: measured by whoever makes lists, not when first asked for, so that it is the same wherever
    /// the lists are.
    pub(crate) reach: Reach,
    /// Lists that were renewed or dissolved since then.
    pub(crate) reach_outdated_by: usize,
}

impl Trained {
    pub(crate) fn new(sealed: Sealed) -> Trained {
        let rows_at_training = sealed.len();
        let Sealed { quantizer, lists, calibration, tried_on, reach, reach_outdated_by } = sealed;
        let mut trained = Trained {
            quantizer,
            lists,
            calibration,
            tried_on,
            rows_at_training,
            sparse_lists: 0,
            reach,
            reach_outdated_by,
        };
        trained.count_sparse();
        trained
    }

    /// Takes a job's lists, whose moved rows are still dead, and gives it the rows of before; returns the lists of before whose rows
    /// are all elsewhere now.
    pub(crate) fn adopt(&mut self, rearranged: &mut Rearranged) -> BTreeSet<u32> {
        let mut dissolved: BTreeSet<u32> = (rearranged.lists..self.lists.len()).map(|list| list as u32).collect();
        self.quantizer = Arc::clone(&rearranged.quantizer);
        for &(list, departed) in &rearranged.departed {
            self.lists[list].departed = departed;
        }
        for changed in &mut rearranged.changed {
            let rows = Arc::clone(&changed.rows);
            match self.lists.get_mut(changed.list) {
                Some(live) => changed.rows = live.replace(rows, changed.kept),
                None => self.lists.push(LiveList::none_live(rows)),
            }
            self.lists[changed.list].changed_rows = changed.changed_rows;
            self.lists[changed.list].unparted_rows = changed.unparted_rows;
            if changed.kept == 0 {
                dissolved.insert(changed.list as u32);
            }
        }
        for &list in &rearranged.sound {
            self.lists[list].changed_rows = 0;
        }
        let renewed = rearranged.renewed_lists + rearranged.dissolved_lists;
        self.tried_on.renewed = self.tried_on.renewed.saturating_add(renewed);
        self.reach_outdated_by = self.reach_outdated_by.saturating_add(renewed);
        dissolved
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

    /// Whether so many lists are others that the reach should be measured again.
    pub(crate) fn reach_is_outdated(&self) -> bool {
        self.reach_outdated_by.saturating_mul(REACH_RENEWED_SHARE) > self.lists.len()
    }

    /// Takes a reach measured on the lists there are now.
    pub(crate) fn renew_reach(&mut self, reach: Reach) {
        (self.reach, self.reach_outdated_by) = (reach, 0);
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
        let nprobe = if params.nprobe.is_some() { plan.nprobe } else { self.scaled(plan.nprobe) };
        plan.nprobe = nprobe.min(self.lists.len());
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

    /// Mean squared residual of the lists' rows, relative to training. (Rows of one list are taken to die evenly.)
    pub(crate) fn drift(&self) -> f32 {
        let rows: usize = self.lists.iter().map(|list| list.live_rows).sum();
        let sum: f64 = self.lists.iter().map(|list| list.residual_mean() * list.live_rows as f64).sum();
        let drift = (sum / rows as f64) as f32 / self.quantizer.residual_mean;
        if drift.is_finite() { drift } else { 1.0 }
    }

    /// A calibrated number of lists, as the same share of the lists there are now: splits leave smaller ones.
    pub(crate) fn scaled(&self, nprobe: usize) -> usize {
        nprobe.saturating_mul(self.lists.len()).div_ceil(self.tried_on.lists.max(1))
    }

    /// Whether plans should be chosen anew, and can be: what int8 loses does not show in the lists.
    pub(crate) fn wants_recalibration(&self) -> bool {
        let settled_in_f32 = self.quantizer.rerank != Rerank::Int8 && self.quantizer.kind != IndexKind::IvfInt8;
        settled_in_f32 && self.tried_on.renewed.saturating_mul(RECALIBRATED_SHARE) > self.lists.len()
    }

    /// Whether a list should be split or dissolved, or so many should be looked at that a job for them pays.
    pub(crate) fn wants_reshaping(&self, bounds: ListBounds) -> bool {
        let mut due = 0;
        let is_out_of_bounds = |list: &LiveList| match list.live_rows < bounds.rows_min {
            true => self.lists.len() > 1,
            false => {
                due += usize::from(list.is_due());
                list.wants_split(bounds)
            }
        };
        self.lists.iter().any(is_out_of_bounds) || due * LOOKED_AT_SHARE > self.lists.len()
    }

    /// The lists are in shape, and yet rows lie much farther from their centroids than those of training did: what is common to
    /// all lists, the codebook first of all, is not made for such rows.
    pub(crate) fn has_drifted(&self, bounds: ListBounds) -> bool {
        !self.wants_reshaping(bounds) && self.drift() > DRIFT_MAX
    }
}
