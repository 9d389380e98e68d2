//! The order in which a search visits the lists. The nearest centroid is not always the best list: one whose rows lie widely
//! around it may hold nearer rows than its centroid tells. A row's residual r adds `|r|² − 2⟨q − c, r⟩` to the distance `|q − c|²` (or
//! `−⟨q, r⟩` to an inner product), and seen from the query its direction is a matter of chance: mean ρ² and standard deviation
//! 2·|q − c|·ρ/√d (or |q|·ρ/√d), where ρ² is the list's mean squared residual. So lists are ordered by the distance that a row some
//! deviations better than the mean has; how many is found by trial on the held-out rows (`train`). Costs a search nothing: it is a
//! constant of each list. Called by `quantizer`, `train` and `file`.

use super::kernels::Kernels;
use super::list::LiveList;
use super::points::Points;
use super::quantizer::Quantizer;
use super::search::{Lists, Scratch};
use super::trace::homes;
use super::truth::GroundTruth;
use crate::types::Metric;

/// How lists are ordered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct VisitOrder {
    /// None: by the centroid's distance alone.
    pub(crate) deviations: Option<f32>,
    /// The root of each list's mean squared residual.
    pub(crate) radii: Vec<f32>,
}

impl VisitOrder {
    /// By the centroids alone.
    pub(crate) fn by_centroid(lists: usize) -> VisitOrder {
        VisitOrder { deviations: None, radii: vec![0.0; lists] }
    }

    /// What may be tried, the plainest first.
    pub(crate) fn choices(metric: Metric) -> &'static [Option<f32>] {
        match metric {
            Metric::Dot => &[None, Some(1.0), Some(2.0), Some(3.0), Some(4.0)],
            _ => &[None, Some(3.0), Some(4.0), Some(5.0), Some(6.0), Some(7.0)],
        }
    }

    /// What is added to each list's distance from the query (which has length 1 where lists are ranked by inner product) in a
    /// `space` of so many dimensions. `row_radius`: the root of all rows' mean squared residual, which stands for the distance of a
    /// query from the centroids near it.
    pub(crate) fn shifts(&self, metric: Metric, space: usize, row_radius: f32) -> Vec<f32> {
        let root = (space as f32).sqrt();
        let shift = |&radius: &f32| match (self.deviations, metric) {
            (None, _) => 0.0,
            (Some(deviations), Metric::Dot) => -(deviations * radius / root),
            (Some(deviations), _) => radius * radius - 2.0 * row_radius * (deviations * radius / root),
        };
        self.radii.iter().map(shift).collect()
    }
}

/// Neighbours that the choice is made for.
const NEIGHBOURS: usize = 10;
/// What visiting a list costs beyond its rows, in rows.
const VISIT_COST: usize = 100;

/// Chooses the order by which the fewest rows have to be looked at to meet `target` of the held-out rows' neighbours; the plainer
/// of two as good. Cost: a visit order for each choice and held-out row.
pub(crate) fn choose(
    quantizer: &mut Quantizer,
    (points, lists): (&Points, &[LiveList]),
    truth: &GroundTruth,
    target: f32,
    kernels: &'static Kernels,
) {
    let mut scratch = Scratch::with_kernels(kernels);
    let homes = homes(Lists { points, quantizer, lists }, truth);
    let mut best = (None, usize::MAX);
    for &deviations in VisitOrder::choices(quantizer.metric) {
        quantizer.visit_by(deviations, kernels);
        let (mut rows_at, mut found_at) = (vec![0usize; lists.len()], vec![0usize; lists.len()]);
        for query in &truth.queries {
            let order = Lists { points, quantizer, lists }.visit_order(&query.vector, &mut scratch);
            let mut place = vec![0; lists.len()];
            for (rank, &list) in order.iter().enumerate() {
                place[list] = rank;
                rows_at[rank] += lists[list].live_rows + VISIT_COST;
            }
            for home in query.true_ids(NEIGHBOURS).filter_map(|id| homes.get(&id)) {
                found_at[place[home.0 as usize]] += 1;
            }
        }
        let wanted = found_at.iter().sum::<usize>() as f64 * f64::from(target);
        let cost = rows_until(&rows_at, &found_at, wanted);
        if cost < best.1 {
            best = (deviations, cost);
        }
    }
    quantizer.visit_by(best.0, kernels);
}

/// Rows in the ranks before enough is found.
fn rows_until(rows_at: &[usize], found_at: &[usize], wanted: f64) -> usize {
    let (mut rows, mut found) = (0, 0);
    for (here, hits) in rows_at.iter().zip(found_at) {
        if found as f64 >= wanted {
            break;
        }
        rows += here;
        found += hits;
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_list_goes_before_a_narrow_one_at_the_same_distance() {
        let order = |deviations| VisitOrder { deviations, radii: vec![0.5, 1.0] };
        for metric in Metric::ALL {
            assert_eq!(order(None).shifts(metric, 2, 1.0), [0.0, 0.0]);
            let shifts = order(Some(3.0)).shifts(metric, 2, 1.0);
            assert!(shifts[1] < shifts[0], "{metric:?}");
        }
    }
}
