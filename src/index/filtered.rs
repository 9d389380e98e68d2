//! Searches of an index that may answer with some points only: which way is taken. Few points are scored one by one, exactly; with
//! many, lists are visited until it is enough. Called by `shard`.

use super::allowed::Allowed;
use super::distance;
use super::locations::Location;
use super::points::Points;
use super::search::{FilteredPlan, Scratch};
use super::spec::{FilterPlan, Hit, SearchOutcome, SearchParams, SearchStats};
use super::top::TopHits;
use super::trained::Trained;
use super::vector_index::VectorIndex;
use crate::types::Rerank;

/// Up to this many allowed rows each is scored by itself: about where visiting lists begins to be faster.
const GATHER_ROWS_MAX: usize = 8_000;
/// One row allowed in so many of a flat index, or more: the index is scanned; else rows are looked up.
const FLAT_SCAN_SHARE: usize = 8;
/// Candidates re-ranked for each one an ordinary search re-ranks: rows that a filter leaves may lie far from the query, and their
/// estimates close together.
const CANDIDATES_FACTOR: usize = 2;

impl VectorIndex {
    /// The points nearest to `query` among the allowed; hits as [`VectorIndex::search`] gives them. `params.exact` or few allowed
    /// points: exact, `Gather` or `Flat`. Else `Probe`, at the recall that the index was calibrated for. Where `params.k` allowed points
    /// have a row, that many are found.
    ///
    /// # Panics
    /// If the dimension is not the spec's: the caller validates.
    pub fn search_allowed(
        &self,
        points: &Points,
        query: &[f32],
        params: &SearchParams,
        allowed: &Allowed,
        scratch: &mut Scratch,
    ) -> (SearchOutcome, FilterPlan) {
        assert_eq!(query.len(), self.spec().dimension, "invariant: queries are validated before they are searched");
        let mut found = Found { hits: Vec::new(), tail: TopHits::new(params.k) };
        let (plan, stats) = match self.trained() {
            _ if params.k == 0 => (FilterPlan::Gather, SearchStats::default()),
            None if allowed.count() * FLAT_SCAN_SHARE < self.len() => {
                (FilterPlan::Gather, self.gather(points, query, params.k, allowed, scratch, &mut found))
            }
            None => (FilterPlan::Flat, self.scan_tail(points, query, allowed, scratch, &mut found)),
            Some(_) if params.exact || allowed.count() <= GATHER_ROWS_MAX => {
                (FilterPlan::Gather, self.gather(points, query, params.k, allowed, scratch, &mut found))
            }
            Some(trained) => {
                (FilterPlan::Probe, self.probe(trained, (points, query), params, allowed, scratch, &mut found))
            }
        };
        let settled = plan == FilterPlan::Probe && self.spec().rerank == Rerank::Int8;
        (found.outcome(settled, stats), plan)
    }

    /// A search for 10 that visits lists however few points are allowed.
    #[cfg(test)]
    pub(crate) fn search_allowed_by_probing(
        &self,
        points: &Points,
        query: &[f32],
        allowed: &Allowed,
    ) -> (SearchOutcome, FilterPlan) {
        let mut scratch = Scratch::new();
        let mut found = Found { hits: Vec::new(), tail: TopHits::new(10) };
        let trained = self.trained().expect("a trained index");
        let stats = self.probe(trained, (points, query), &SearchParams::new(10), allowed, &mut scratch, &mut found);
        (found.outcome(false, stats), FilterPlan::Probe)
    }

    /// Scores every allowed row of the tail.
    fn scan_tail(
        &self,
        points: &Points,
        query: &[f32],
        allowed: &Allowed,
        scratch: &Scratch,
        found: &mut Found,
    ) -> SearchStats {
        let metric = self.spec().metric;
        let tail_scanned = self.tail().search_allowed(points, metric, query, allowed, &mut found.tail, scratch.kernels);
        SearchStats { tail_scanned, ..SearchStats::default() }
    }

    /// Scores every allowed row, wherever it is.
    fn gather(
        &self,
        points: &Points,
        query: &[f32],
        k: usize,
        allowed: &Allowed,
        scratch: &mut Scratch,
        found: &mut Found,
    ) -> SearchStats {
        let (metric, kernels) = (self.spec().metric, scratch.kernels);
        let mut tail_scanned = 0;
        let Found { hits, tail } = found;
        let mut filed = allowed.iter().filter_map(|ordinal| match self.location(ordinal)? {
            Location::List { list, slot } => Some((list as usize, slot as usize)),
            Location::Tail(at) => {
                let distance = distance::exact(kernels, metric, query, self.tail().vector(at)?);
                tail_scanned += 1;
                if tail.accepts(distance) {
                    tail.extend(Hit::of(points, ordinal, distance, true));
                }
                None
            }
        });
        let stats = match self.trained() {
            Some(trained) => trained.view(points).gather(query, &mut filed, k, scratch, hits),
            None => {
                filed.for_each(drop);
                SearchStats::default()
            }
        };
        SearchStats { tail_scanned, ..stats }
    }

    fn probe(
        &self,
        trained: &Trained,
        (points, query): (&Points, &[f32]),
        params: &SearchParams,
        allowed: &Allowed,
        scratch: &mut Scratch,
        found: &mut Found,
    ) -> SearchStats {
        let calibrated = trained.calibration.plan(params.k).candidates * CANDIDATES_FACTOR;
        let plan = FilteredPlan {
            k: params.k,
            candidates: params.candidates.unwrap_or(calibrated).min(self.len().max(1)),
            nprobe: params.nprobe,
            reach: trained.reach(points, scratch.kernels),
        };
        let tail = self.scan_tail(points, query, allowed, scratch, found);
        let stats = trained.view(points).search_allowed(query, allowed, plan, scratch, &mut found.hits);
        SearchStats { tail_scanned: tail.tail_scanned, ..stats }
    }
}

/// What is found in the lists, and in the tail.
struct Found {
    hits: Vec<Hit>,
    tail: TopHits,
}

impl Found {
    fn outcome(self, settled: bool, stats: SearchStats) -> SearchOutcome {
        let Found { mut hits, tail } = self;
        hits.extend(tail.into_hits());
        hits.sort_unstable_by(Hit::order);
        SearchOutcome { hits, settled, stats }
    }
}
