//! The nearest centroid of many rows, in int8 and, where there are many centroids, in two levels: the centroids are grouped around
//! √k centres, and a row is compared with those of the nearest groups. Near ties are settled in f32.
//! Called by `kmeans`, `batch` and `train`.

use super::kernels::{BytePanels, ByteRows, ByteSlice, Kernels, Nearest};
use super::kmeans::Clustering;
use super::random::SplitMix64;
use super::work::Work;
use std::ops::Range;

/// Fewer centroids than this are one group.
const GROUPED_MIN: usize = 512;
/// Centroids a group should have at least: a few whole panels.
const GROUP_SIZE_MIN: usize = 48;
/// Groups are worth their making if there are at least so many rows a centroid.
const ROWS_PER_CENTROID_MIN: usize = 16;
/// Groups a row is compared with.
const GROUPS_PROBED: usize = 8;
const SEED: u64 = 0x6772_6f75_7073;

/// Centroids prepared for assignment.
pub(crate) struct Assigner<'a> {
    centroids: &'a [f32],
    /// The groups' centres; none if there is one group.
    centres: Option<BytePanels>,
    /// The centroids, group after group, each group padded to whole panels.
    columns: BytePanels,
    /// The panels of each group.
    groups: Vec<Range<usize>>,
    /// The centroid at each column.
    order: Vec<u32>,
}

/// Buffers of an assignment.
#[derive(Default)]
pub(crate) struct AssignScratch {
    scores: Vec<f32>,
    /// Of each group the rows that want it.
    picked: Vec<Vec<u32>>,
    nearest: Vec<Nearest>,
}

impl<'a> Assigner<'a> {
    /// For about `rows` rows to come. Deterministic in the centroids.
    pub(crate) fn new(centroids: &'a [f32], dimension: usize, rows: usize, work: Work<'_>) -> Assigner<'a> {
        let count = centroids.len() / dimension;
        let grouped = count >= GROUPED_MIN && rows >= count * ROWS_PER_CENTROID_MIN;
        if grouped { Assigner::grouped(centroids, dimension, work) } else { Assigner::flat(centroids, dimension, work.kernels) }
    }

    fn flat(centroids: &'a [f32], dimension: usize, kernels: &Kernels) -> Assigner<'a> {
        let columns = BytePanels::new(centroids, dimension, kernels);
        let order = (0..(centroids.len() / dimension) as u32).collect();
        let all = 0..columns.panels();
        Assigner { centroids, centres: None, columns, groups: vec![all], order }
    }

    fn grouped(centroids: &'a [f32], dimension: usize, work: Work<'_>) -> Assigner<'a> {
        let count = centroids.len() / dimension;
        let size = ((count as f32).sqrt() as usize).max(knob("GS", GROUP_SIZE_MIN));
        let bytes = ByteRows::new(centroids, dimension, work.kernels);
        let clustering = Clustering { rows: centroids, bytes: bytes.all(), dimension, work };
        let centres = clustering.lloyd(count.div_ceil(size), &mut SplitMix64::new(SEED));
        let members = clustering.members(&centres);
        let (mut order, mut groups, mut kept) = (Vec::with_capacity(count * 5 / 4), Vec::new(), Vec::new());
        for (centre, members) in (0..).zip(members).filter(|(_, members)| !members.is_empty()) {
            let first = order.len() / BytePanels::WIDTH;
            order.extend(members);
            order.resize(order.len().next_multiple_of(BytePanels::WIDTH), BytePanels::PADDING);
            groups.push(first..order.len() / BytePanels::WIDTH);
            kept.push(centre);
        }
        let centres = BytePanels::ordered(&centres, dimension, &kept, work.kernels);
        let columns = BytePanels::ordered(centroids, dimension, &order, work.kernels);
        Assigner { centroids, centres: Some(centres), columns, groups, order }
    }

    fn dimension(&self) -> usize {
        self.columns.dimension
    }

    /// The nearest centroid of each row, by the int8 score.
    pub(crate) fn nearest(&self, rows: ByteSlice<'_>, scratch: &mut AssignScratch, kernels: &Kernels, out: &mut Vec<u32>) {
        self.rank(rows, scratch, kernels);
        out.clear();
        out.extend(scratch.nearest.iter().map(|nearest| self.order[nearest.least().1 as usize]));
    }

    /// The nearest centroid of each row; those that int8 cannot tell apart (in two places of a panel) are compared in f32.
    pub(crate) fn settle(
        &self,
        rows: &[f32],
        bytes: ByteSlice<'_>,
        scratch: &mut AssignScratch,
        kernels: &Kernels,
        out: &mut Vec<u32>,
    ) {
        self.rank(bytes, scratch, kernels);
        out.clear();
        let d = self.dimension();
        for (i, (row, nearest)) in rows.chunks_exact(d).zip(&scratch.nearest).enumerate() {
            let (score, column) = nearest.least();
            let doubt = bytes.step(i) * self.columns.bases[column as usize].sqrt() * (knob("DOUBT", 200) as f32 * 0.01);
            let mut best = (f32::INFINITY, self.order[column as usize]);
            let mut close = nearest.within(score + doubt).map(|column| self.order[column as usize]).peekable();
            let first = close.next();
            if close.peek().is_some() {
                for c in first.into_iter().chain(close) {
                    let distance = (kernels.l2)(row, &self.centroids[c as usize * d..(c as usize + 1) * d]);
                    if distance < best.0 || (distance == best.0 && c < best.1) {
                        best = (distance, c);
                    }
                }
            }
            out.push(best.1);
        }
    }

    fn rank(&self, rows: ByteSlice<'_>, scratch: &mut AssignScratch, kernels: &Kernels) {
        scratch.nearest.clear();
        scratch.nearest.resize(rows.len(), Nearest::NONE);
        self.pick(rows, scratch, kernels);
        for (group, picked) in self.groups.iter().zip(&scratch.picked) {
            (kernels.nearest_i8)(&self.columns, group.clone(), rows, picked, &mut scratch.nearest);
        }
    }

    /// Which rows are to be compared with which groups.
    fn pick(&self, rows: ByteSlice<'_>, scratch: &mut AssignScratch, kernels: &Kernels) {
        let AssignScratch { scores, picked, .. } = scratch;
        picked.resize(self.groups.len(), Vec::new());
        picked.iter_mut().for_each(Vec::clear);
        let Some(centres) = &self.centres else {
            picked[0].extend(0..rows.len() as u32);
            return;
        };
        scores.resize(rows.len() * centres.columns_padded(), 0.0);
        (kernels.scores_i8)(centres, rows, -2.0, scores);
        for (row, scores) in (0..).zip(scores.chunks_exact(centres.columns_padded())) {
            for_least(&scores[..self.groups.len()], knob("GP", GROUPS_PROBED), |group| picked[group].push(row));
        }
    }
}
pub(crate) fn knob(n: &str, d: usize) -> usize {
    use std::sync::{Mutex, OnceLock}; static C: OnceLock<Mutex<std::collections::BTreeMap<String, usize>>> = OnceLock::new();
    thread_local!(static L: std::cell::RefCell<std::collections::BTreeMap<String, usize>> = Default::default());
    let _ = &C; let _: Option<Mutex<()>> = None;
    L.with(|l| { let mut l = l.borrow_mut(); if let Some(v) = l.get(n) { return *v; } let v = std::env::var(n).ok().and_then(|v| v.parse().ok()).unwrap_or(d); l.insert(n.into(), v); v })
}

/// Calls `found` with the places of the `count` least scores (ties: the lowest place), in no order.
fn for_least(scores: &[f32], count: usize, mut found: impl FnMut(usize)) {
    let mut least: Vec<(f32, usize)> = Vec::with_capacity(count + 1);
    for (place, &score) in scores.iter().enumerate() {
        if least.len() < count || score < least[count - 1].0 {
            let at = least.partition_point(|held| held.0 <= score);
            least.insert(at, (score, place));
            least.truncate(count);
        }
    }
    least.into_iter().for_each(|(_, place)| found(place));
}
