//! Held-out rows and their true neighbours, found while all rows stream by: what plans are judged against.
//! Filled by `train` and `recalibrate`, read by `calibrate` and `trace`.

use super::distance;
use super::kernels::{ByteSlice, Kernels};
use super::kmeans::Clustering;
use super::quantizer::Quantizer;
use super::sieve::Sieve;
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

/// A row and a query it may be a neighbour of.
pub(crate) struct Sighting {
    pub(crate) row: usize,
    query: usize,
    distance: f32,
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
        GroundTruth { kernels, metric, queries: places.iter().map(query).collect(), sieve: None }
    }

    /// Queries whose neighbours are known.
    pub(crate) fn known(kernels: &'static Kernels, metric: Metric, queries: Vec<TruthQuery>) -> GroundTruth {
        GroundTruth { kernels, metric, queries, sieve: None }
    }

    /// Makes the search for neighbours fast, given how rows are projected and a sample of them.
    pub(crate) fn prepare(&mut self, quantizer: &Quantizer, sample: Clustering<'_>) {
        let vectors: Vec<f32> = self.queries.iter().flat_map(|query| &query.vector).copied().collect();
        self.sieve = Sieve::new(&vectors, quantizer, sample, NEIGHBOURS);
    }

    /// The rows that may be among the neighbours kept, by their exact distance: `raw` as stored, the same rows `projected`, and
    /// those in int8. Cost: an int8 product a row and query, and some hundred exact distances a query in all.
    pub(crate) fn look(&self, raw: &[f32], projected: &[f32], bytes: ByteSlice<'_>) -> Vec<Sighting> {
        let mut sightings = Vec::new();
        let Some(d) = self.queries.first().map(|query| query.vector.len()) else { return sightings };
        let mut look = |row: usize, number: usize| {
            let query = &self.queries[number];
            let distance = distance::exact(self.kernels, self.metric, &query.vector, &raw[row * d..(row + 1) * d]);
            if distance < query.limit() {
                sightings.push(Sighting { row, query: number, distance });
            }
        };
        match &self.sieve {
            Some(sieve) => sieve.sift(projected, bytes, self.kernels, look),
            None => (0..bytes.len()).for_each(|row| (0..self.queries.len()).for_each(|query| look(row, query))),
        }
        sightings
    }

    /// Keeps the row if it is among the nearest so far.
    pub(crate) fn see(&mut self, sighting: &Sighting, id: PointId) {
        let query = &mut self.queries[sighting.query];
        query.see(id, sighting.distance);
        if let Some(sieve) = &mut self.sieve {
            sieve.lower(sighting.query, query.limit());
        }
    }

    /// The most neighbours of k that any query has.
    pub(crate) fn neighbours(&self, k: usize) -> usize {
        self.queries.iter().map(|query| query.neighbours(k)).max().unwrap_or(0)
    }
}

impl TruthQuery {
    /// Neighbours kept at most.
    pub(crate) const NEIGHBOURS: usize = NEIGHBOURS;

    /// A row with its neighbours, nearest first, itself perhaps among them.
    pub(crate) fn known(id: PointId, vector: Vec<f32>, nearest: impl Iterator<Item = (f32, PointId)>) -> TruthQuery {
        TruthQuery { id, vector, nearest: nearest.filter(|&(_, other)| other != id).take(NEIGHBOURS).collect() }
    }

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
    use crate::index::IndexKind;
    use crate::index::kernels::{self, ByteRows};
    use crate::index::quantizer::{FactorUnits, QuantizerParts};
    use crate::index::random::SplitMix64;
    use crate::index::rotation::Rotation;
    use crate::index::visits::VisitOrder;
    use crate::index::work::Work;
    use crate::types::Rerank;

    /// Rows far from the origin and of unequal lengths, some of them twice.
    fn rows(metric: Metric, d: usize, count: usize, rng: &mut SplitMix64) -> Vec<f32> {
        let mut rows = Vec::with_capacity(d * count);
        for i in 0..count {
            let scale = 1.0 + rng.below(3) as f32;
            let mut row: Vec<f32> = (0..d).map(|_| scale * (rng.below(1000) as f32 / 500.0) + 3.0).collect();
            if metric == Metric::Cosine {
                crate::index::normalize(&mut row);
            }
            if i % 7 == 6 {
                row.copy_from_slice(&rows[(i - 1) * d..]);
            }
            rows.extend(row);
        }
        rows
    }

    #[test]
    fn the_sieve_loses_no_neighbour() {
        let kernels = kernels::active();
        let (d, count) = (21, 3000);
        for metric in Metric::ALL {
            let mut rng = SplitMix64::new(11);
            let rows = rows(metric, d, count, &mut rng);
            let ids: Vec<PointId> = (0..count as u64).map(PointId::Num).collect();
            let places: Vec<usize> = (0..count).step_by(97).collect();
            let parts = QuantizerParts {
                kind: IndexKind::IvfPq,
                rerank: Rerank::F32,
                metric,
                dimension: d,
                mean: vec![4.0 / 3.0; d],
                rotation: Rotation::random(d, &mut rng),
                centroids: vec![0.0; d],
                codebook: None,
                units: FactorUnits::new(1.0),
                residual_mean: 0.0,
                lift: None,
                order: VisitOrder::by_centroid(1),
            };
            let quantizer = Quantizer::new(parts, kernels);
            let mut projected = rows.clone();
            for (row, projected) in rows.chunks(d).zip(projected.chunks_mut(d)) {
                quantizer.project_row(row, projected, kernels);
            }
            let bytes = ByteRows::new(&projected, d, kernels);
            // The sample: rows between the first two queries.
            let (sample, sample_bytes) = (&projected[d..97 * d], bytes.all().slice(1..97));
            let work = Work::alone(kernels);
            let sample = Clustering { rows: sample, bytes: sample_bytes, dimension: d, work };
            let mut truth = GroundTruth::new(kernels, metric, d, &places, &ids, &rows);
            truth.prepare(&quantizer, sample);
            let mut looked = 0;
            for start in (0..count).step_by(500) {
                let (span, part) = (start * d..(start + 500) * d, start..start + 500);
                let sightings = truth.look(&rows[span.clone()], &projected[span], bytes.all().slice(part));
                looked += sightings.len();
                sightings.iter().for_each(|seen| truth.see(seen, ids[start + seen.row]));
            }
            assert!(looked < count * places.len() / 2, "{metric:?}: {looked}");
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
