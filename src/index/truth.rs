//! Held-out rows and their true neighbours, found while all rows stream by: what plans are judged against.
//! Filled by `train`, read by `calibrate` and `trace`.

use super::distance;
use super::kernels::{Kernels, Panels};
use crate::types::{Metric, PointId};

/// True neighbours kept of each query: beyond the largest k, so that ties at the k-th distance are known.
const NEIGHBOURS: usize = 160;

/// The held-out rows and their true neighbours among the rows seen.
pub(crate) struct GroundTruth {
    kernels: &'static Kernels,
    metric: Metric,
    pub(crate) queries: Vec<TruthQuery>,
    sieve: Option<Sieve>,
}

/// One held-out row.
pub(crate) struct TruthQuery {
    pub(crate) id: PointId,
    pub(crate) vector: Vec<f32>,
    /// Ascending by (distance, id), the row itself left out.
    nearest: Vec<(f32, PointId)>,
}

/// Tells with one pass of the matrix kernel which queries a row may be near to: a third of the cost of exact distances.
struct Sieve {
    panels: Panels,
    base: Vec<f32>,
    factor: f32,
    scores: Vec<f32>,
    /// Of each query what a distance must not exceed.
    limits: Vec<f32>,
    /// The longest query's square.
    square_max: f32,
}

impl GroundTruth {
    /// The rows at `places` of the sample.
    pub(crate) fn new(
        kernels: &'static Kernels,
        metric: Metric,
        dimension: usize,
        places: &[usize],
        ids: &[PointId],
        rows: &[f32],
    ) -> GroundTruth {
        let query = |&i: &usize| TruthQuery {
            id: ids[i],
            vector: rows[i * dimension..(i + 1) * dimension].to_vec(),
            nearest: Vec::with_capacity(NEIGHBOURS + 1),
        };
        let queries: Vec<TruthQuery> = places.iter().map(query).collect();
        let sieve = Sieve::new(kernels, metric, dimension, &queries);
        GroundTruth { kernels, metric, queries, sieve }
    }

    /// Compares a row with every query.
    pub(crate) fn see(&mut self, id: PointId, row: &[f32]) {
        let GroundTruth { kernels, metric, queries, sieve } = self;
        let exact = |query: &TruthQuery| distance::exact(kernels, *metric, &query.vector, row);
        let Some(sieve) = sieve else {
            queries.iter_mut().for_each(|query| query.see(id, exact(query)));
            return;
        };
        let slack = sieve.score(kernels, *metric, row);
        for (j, query) in queries.iter_mut().enumerate() {
            let beyond = sieve.scores[j] > sieve.limits[j] + slack;
            if !beyond {
                query.see(id, exact(query));
                sieve.limits[j] = query.limit();
            }
        }
    }

    /// The most neighbours of k that any query has.
    pub(crate) fn neighbours(&self, k: usize) -> usize {
        self.queries.iter().map(|query| query.neighbours(k)).max().unwrap_or(0)
    }
}

impl Sieve {
    /// None where there is nothing to gain: L1 is no product.
    fn new(kernels: &Kernels, metric: Metric, dimension: usize, queries: &[TruthQuery]) -> Option<Sieve> {
        if metric == Metric::Manhattan || queries.is_empty() {
            return None;
        }
        let vectors: Vec<f32> = queries.iter().flat_map(|query| &query.vector).copied().collect();
        let panels = Panels::new(&vectors, dimension, kernels);
        let square_max = panels.norms[..queries.len()].iter().fold(0f32, |most, &norm| most.max(norm));
        let l2 = metric == Metric::Euclidean;
        Some(Sieve {
            base: if l2 { panels.norms.clone() } else { vec![0.0; panels.columns_padded()] },
            factor: if l2 { -2.0 } else { -1.0 },
            scores: vec![0.0; panels.columns_padded()],
            limits: vec![f32::INFINITY; queries.len()],
            square_max,
            panels,
        })
    }

    /// Computes `scores`, distances but for rounding; returns by how much they may be off.
    fn score(&mut self, kernels: &Kernels, metric: Metric, row: &[f32]) -> f32 {
        const ROUNDING: f32 = 1e-4;
        (kernels.scores)(&self.panels, row, &self.base, self.factor, &mut self.scores);
        let square = (kernels.dot)(row, row);
        let shift = match metric {
            Metric::Euclidean => square,
            Metric::Cosine => 1.0,
            Metric::Dot | Metric::Manhattan => 0.0,
        };
        self.scores.iter_mut().for_each(|score| *score += shift);
        (square + self.square_max + 1.0) * ROUNDING
    }
}

impl TruthQuery {
    fn see(&mut self, id: PointId, distance: f32) {
        if id == self.id || distance >= self.limit() {
            return;
        }
        let order = |other: &(f32, PointId)| other.0.total_cmp(&distance).then_with(|| other.1.cmp(&id)).is_lt();
        let at = self.nearest.partition_point(order);
        self.nearest.insert(at, (distance, id));
        self.nearest.truncate(NEIGHBOURS);
    }

    /// The last distance kept, once there are enough.
    fn limit(&self) -> f32 {
        if self.nearest.len() == NEIGHBOURS { self.nearest[NEIGHBOURS - 1].0 } else { f32::INFINITY }
    }

    /// Neighbours there are to find.
    pub(crate) fn neighbours(&self, k: usize) -> usize {
        self.nearest.len().min(k)
    }

    /// The k nearest and those as near as the k-th, nearest first.
    pub(crate) fn true_ids(&self, k: usize) -> impl Iterator<Item = PointId> + '_ {
        let last = self.neighbours(k).checked_sub(1).map_or(f32::NEG_INFINITY, |i| self.nearest[i].0);
        self.nearest.iter().take_while(move |(distance, _)| *distance <= last).map(|(_, id)| *id)
    }
}

/// Recalls of queries, one by one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RecallCounts {
    queries: usize,
    sum: f64,
    sum_of_squares: f64,
}

impl RecallCounts {
    pub(crate) fn add(&mut self, found: usize, wanted: usize) {
        if wanted > 0 {
            let recall = found.min(wanted) as f64 / wanted as f64;
            self.queries += 1;
            self.sum += recall;
            self.sum_of_squares += recall * recall;
        }
    }

    pub(crate) fn mean(&self) -> f64 {
        if self.queries == 0 { 1.0 } else { self.sum / self.queries as f64 }
    }

    /// Two standard errors below the mean: what other queries of the kind will have, too, with 98 % confidence. That no miss was
    /// seen proves no more than that fewer than one query in as many would have one.
    pub(crate) fn lower_bound(&self) -> f64 {
        let n = self.queries.max(1) as f64;
        let variance = (self.sum_of_squares / n - self.mean() * self.mean()).max(0.0);
        (self.mean() - 2.0 * (variance / n).sqrt()).clamp(0.0, 1.0 - 1.0 / (n + 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{kernels, random::SplitMix64};

    #[test]
    fn the_sieve_loses_no_neighbour() {
        let kernels = kernels::active();
        let (d, count) = (21, 3000);
        let mut rng = SplitMix64::new(11);
        let rows: Vec<f32> = (0..d * count).map(|_| rng.below(1000) as f32 / 500.0 + 3.0).collect();
        let ids: Vec<PointId> = (0..count as u64).map(PointId::Num).collect();
        let places: Vec<usize> = (0..count).step_by(97).collect();
        for metric in Metric::ALL {
            let mut truth = GroundTruth::new(kernels, metric, d, &places, &ids, &rows);
            rows.chunks(d).zip(&ids).for_each(|(row, &id)| truth.see(id, row));
            for (query, &place) in truth.queries.iter().zip(&places) {
                let mut all: Vec<(f32, PointId)> = (0..count)
                    .filter(|&i| i != place)
                    .map(|i| (distance::exact(kernels, metric, &query.vector, &rows[i * d..(i + 1) * d]), ids[i]))
                    .collect();
                all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                assert_eq!(query.nearest, all[..NEIGHBOURS], "{metric:?}");
                assert!(query.true_ids(10).count() >= 10);
            }
        }
    }

    #[test]
    fn the_lower_bound_allows_for_the_spread() {
        let mut counts = RecallCounts::default();
        (0..100).for_each(|i| counts.add(if i % 2 == 0 { 10 } else { 8 }, 10));
        assert!((counts.mean() - 0.9).abs() < 1e-9);
        assert!((counts.lower_bound() - 0.88).abs() < 1e-6, "{}", counts.lower_bound());
        counts.add(0, 0);
        assert_eq!(counts.queries, 100);
        let mut perfect = RecallCounts::default();
        (0..199).for_each(|_| perfect.add(11, 10));
        assert!(perfect.mean() == 1.0 && (perfect.lower_bound() - 0.995).abs() < 1e-9);
    }
}
