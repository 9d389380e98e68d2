//! The nearest centroid of many rows, in int8 and, where there are many centroids, in two levels: the centroids are grouped around
//! √k centres, and a row is compared with those of the nearest groups. Measured on 336,000 rows of 100 dimensions and 842
//! centroids: the mean squared residual is 0.012 % above that of an exact assignment; settling near ties in f32 would take back
//! 0.0008 %. Called by `kmeans`, `batch`, `train` and `filing`.

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
/// Groups a row is compared with. (Half as many: a residual 0.2 % larger; all of them: 0.011 % smaller.)
const GROUPS_PROBED: usize = 8;
const SEED: u64 = 0x6772_6f75_7073;

/// Centroids prepared for assignment.
pub(crate) struct Assigner {
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

impl Assigner {
    /// For about `rows` rows to come. Deterministic in the centroids.
    pub(crate) fn new(centroids: &[f32], dimension: usize, rows: usize, work: Work<'_>) -> Assigner {
        let count = centroids.len() / dimension;
        let grouped = count >= GROUPED_MIN && rows >= count * ROWS_PER_CENTROID_MIN;
        if grouped {
            Assigner::grouped(centroids, dimension, work)
        } else {
            Assigner::flat(centroids, dimension, work.kernels)
        }
    }

    fn flat(centroids: &[f32], dimension: usize, kernels: &Kernels) -> Assigner {
        let columns = BytePanels::new(centroids, dimension, kernels);
        let order = (0..(centroids.len() / dimension) as u32).collect();
        let all = 0..columns.panels();
        Assigner { centres: None, columns, groups: vec![all], order }
    }

    fn grouped(centroids: &[f32], dimension: usize, work: Work<'_>) -> Assigner {
        let count = centroids.len() / dimension;
        let size = ((count as f32).sqrt() as usize).max(GROUP_SIZE_MIN);
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
        Assigner { centres: Some(centres), columns, groups, order }
    }

    /// The nearest centroid of each row, by the int8 score, among the groups probed.
    pub(crate) fn nearest(&self, rows: ByteSlice<'_>, scratch: &mut AssignScratch, kernels: &Kernels) -> Vec<u32> {
        scratch.nearest.clear();
        scratch.nearest.resize(rows.len(), Nearest::NONE);
        self.pick(rows, scratch, kernels);
        for (group, picked) in self.groups.iter().zip(&scratch.picked) {
            (kernels.nearest_i8)(&self.columns, group.clone(), rows, picked, &mut scratch.nearest);
        }
        scratch.nearest.iter().map(|nearest| self.order[nearest.least() as usize]).collect()
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
            for_least(&scores[..self.groups.len()], GROUPS_PROBED, |group| picked[group].push(row));
        }
    }
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
