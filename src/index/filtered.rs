//! Searches of an index that may answer with some points only: which way is taken. Few points are scored one by one, exactly; with
//! many, lists are visited until it is enough. Called by `shard`.

use super::allowed::Allowed;
use super::distance;
use super::kernels::Kernels;
use super::locations::Location;
use super::plan::Plan;
use super::points::Points;
use super::search::{FilteredPlan, Scratch};
use super::spec::{FilterPlan, Hit, SearchOutcome, SearchParams, SearchPlan, SearchStats};
use super::tail::TailScan;
use super::threads::{SharedLimit, gathered_nanos};
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
        let probed = self.trained().filter(|_| params.k > 0 && allowed.count() > GATHER_ROWS_MAX).and_then(|trained| {
            let (plan, chosen) = trained.plan(self.spec(), params);
            plan.map(|plan| (trained, plan, chosen))
        });
        if let Some((trained, plan, chosen)) = probed {
            let stats = self.probe(trained, plan, (points, query), params, allowed, scratch, &mut found);
            return (found.outcome(chosen, self.spec().rerank == Rerank::Int8, stats), FilterPlan::Probe);
        }
        let (plan, stats) = if params.k == 0 {
            (FilterPlan::Gather, SearchStats::default())
        } else if self.trained().is_none() && allowed.count() * FLAT_SCAN_SHARE >= self.len() {
            (FilterPlan::Flat, self.scan_tail(points, query, allowed, scratch, &mut found))
        } else {
            (FilterPlan::Gather, self.gather(points, query, params.k, allowed, scratch, &mut found))
        };
        (found.outcome(SearchPlan::EXACT, false, stats), plan)
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
        let params = SearchParams::new(10);
        let (plan, chosen) = trained.plan(self.spec(), &params);
        let plan = plan.unwrap_or(Plan::unmeasured(10, 1));
        let stats = self.probe(trained, plan, (points, query), &params, allowed, &mut scratch, &mut found);
        (found.outcome(chosen, false, stats), FilterPlan::Probe)
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
        let (metric, k, &Scratch { kernels, threads, .. }) = (self.spec().metric, found.tail.k(), scratch);
        let scan = TailScan { points, metric, query, k, allowed: Some(allowed), kernels, threads };
        let tail_scanned = self.tail().search(scan, &mut found.tail);
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
        let threads = scratch.threads;
        let nanos = || allowed.count() * gathered_nanos(self.spec().dimension);
        if self.trained().is_none_or(|trained| trained.lists.len() <= allowed.count()) && threads.pays(nanos) {
            return self.gather_together((points, query), k, allowed, nanos(), scratch, found);
        }
        let Found { hits, tail } = found;
        let (mut tail_scanned, kernels) = (0, scratch.kernels);
        let mut filed = self.filed(allowed.iter(), (points, query), kernels, tail, &mut tail_scanned);
        let stats = match self.trained() {
            Some(trained) => trained.view(points).gather(query, &mut filed, k, scratch, hits),
            None => {
                filed.by_ref().for_each(drop);
                SearchStats::default()
            }
        };
        drop(filed);
        SearchStats { tail_scanned, ..stats }
    }

    /// Where the rows of the ordinals are that are in lists; those in the tail are scored on the way.
    fn filed<'a>(
        &'a self,
        ordinals: impl Iterator<Item = u32> + 'a,
        (points, query): (&'a Points, &'a [f32]),
        kernels: &'a Kernels,
        tail: &'a mut TopHits,
        tail_scanned: &'a mut usize,
    ) -> impl Iterator<Item = (usize, usize)> + 'a {
        let metric = self.spec().metric;
        ordinals.filter_map(move |ordinal| match self.location(ordinal)? {
            Location::List { list, slot } => Some((list as usize, slot as usize)),
            Location::Tail(at) => {
                let distance = distance::exact(kernels, metric, query, self.tail().vector(at)?);
                *tail_scanned += 1;
                if tail.accepts(distance) {
                    tail.extend(Hit::of(points, ordinal, distance, true));
                }
                None
            }
        })
    }

    /// [`VectorIndex::gather`] in parts, on several threads.
    fn gather_together(
        &self,
        (points, query): (&Points, &[f32]),
        k: usize,
        allowed: &Allowed,
        nanos: usize,
        scratch: &mut Scratch,
        found: &mut Found,
    ) -> SearchStats {
        let (threads, kernels) = (scratch.threads, scratch.kernels);
        let lists = self.trained().map(|trained| trained.view(points));
        let bases = lists.map_or(Vec::new(), |lists| lists.gather_bases(query, scratch));
        let (ordinals, limit) = (allowed.iter().collect::<Vec<u32>>(), SharedLimit::new(f32::INFINITY));
        let parts = threads.over(ordinals.len(), threads.items_a_part(ordinals.len(), nanos), |part| {
            let (mut tail, mut tail_scanned) = (TopHits::new(k), 0);
            let ordinals = ordinals[part].iter().copied();
            let mut filed = self.filed(ordinals, (points, query), kernels, &mut tail, &mut tail_scanned);
            let gathered = match lists {
                Some(lists) => Some(lists.gather_part(query, (&bases, &limit), &mut filed, k, kernels)),
                None => {
                    filed.by_ref().for_each(drop);
                    None
                }
            };
            drop(filed);
            (tail, tail_scanned, gathered)
        });
        let (mut gathered, mut tail_scanned) = (Vec::with_capacity(parts.len()), 0);
        for (tail, scanned, part) in parts {
            found.tail.take_all([tail].into_iter());
            tail_scanned += scanned;
            gathered.extend(part);
        }
        let stats = lists.map(|lists| lists.join_gathered(k, gathered, &mut found.hits)).unwrap_or_default();
        SearchStats { tail_scanned, ..stats }
    }

    #[allow(clippy::too_many_arguments)]
    fn probe(
        &self,
        trained: &Trained,
        ordinary: Plan,
        (points, query): (&Points, &[f32]),
        params: &SearchParams,
        allowed: &Allowed,
        scratch: &mut Scratch,
        found: &mut Found,
    ) -> SearchStats {
        let target = params.recall_target.unwrap_or(self.spec().recall_target);
        let candidates = params.candidates.unwrap_or(ordinary.candidates * CANDIDATES_FACTOR);
        let plan = FilteredPlan {
            k: params.k,
            candidates: candidates.min(self.len().max(1)),
            nprobe: params.nprobe,
            kappa: trained.reach.kappa(target),
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
    fn outcome(self, plan: SearchPlan, settled: bool, stats: SearchStats) -> SearchOutcome {
        let Found { mut hits, tail } = self;
        hits.extend(tail.into_hits());
        hits.sort_unstable_by(Hit::order);
        SearchOutcome { hits, plan, settled, stats }
    }
}
