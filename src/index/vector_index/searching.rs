//! Searches of an index without a filter, one by one and in batches: hits of the lists and of the tail together. Called by `shard`.

use super::VectorIndex;
use crate::index::plan::Plan;
use crate::index::points::Points;
use crate::index::search::Scratch;
use crate::index::spec::{Hit, SearchOutcome, SearchParams, SearchPlan, SearchStats};
use crate::index::tail::TailScan;
use crate::index::top::TopHits;
use crate::index::trained::Trained;
use crate::types::Rerank;
use std::sync::atomic::Ordering::Relaxed;

/// Lists a query up to which it pays to put queries in order: of fewer queries, hardly any lie near each other.
const ORDERED_LISTS_MAX: usize = 4;

/// Rows read from a mapped file before its pages are given back, where memory is low. A row brings in up to 64 KiB of its
/// neighbours (Linux maps what is cached around a fault), so this keeps some MiB.
const FILE_READS_MAX: usize = 256;

impl VectorIndex {
    /// The points nearest to `query` (same rules as a stored vector), ordered by (distance, id). Exact hits: the k nearest of the
    /// tail (and of IVF-Flat lists). Others: from the lists, `max(16, 2k)`, for the caller to score again in f32 and cut to k.
    /// With `exact`: every row of the lists that may be among the true k nearest, proven by error bounds. `points` are those whose
    /// ordinals the rows have.
    ///
    /// # Panics
    /// If the dimension is not the spec's: the caller validates.
    pub fn search(
        &self,
        points: &Points,
        query: &[f32],
        params: &SearchParams,
        scratch: &mut Scratch,
    ) -> SearchOutcome {
        assert_eq!(query.len(), self.spec.dimension, "invariant: queries are validated before they are searched");
        let mut hits = Vec::with_capacity(Plan::hits_returned(params.k).min(self.len()));
        let (mut plan, mut stats) = (SearchPlan::EXACT, SearchStats::default());
        if let Some(trained) = self.trained.as_ref().filter(|_| params.k > 0) {
            (plan, stats) = self.search_lists(trained, points, query, params, scratch, &mut hits);
        }
        self.finish((points, query), params, scratch, SearchOutcome { hits, settled: false, plan, stats })
    }

    /// The places of the queries in an order in which those that lie near each other follow each other, so that a search finds in
    /// the caches what the one before it read. By the number of the nearest list: training numbers lists that lie near each other one
    /// after the other. Cost: about 2 µs a query over a thousand lists.
    ///
    /// # Panics
    /// If a query's dimension is not the spec's: the caller validates.
    pub fn batch_order(&self, queries: &[&[f32]], scratch: &mut Scratch) -> Vec<u32> {
        let mut places: Vec<u32> = (0..queries.len() as u32).collect();
        if let Some(trained) = self.trained.as_ref().filter(|t| t.lists.len() <= ORDERED_LISTS_MAX * queries.len()) {
            let nearest = scratch.ranking.nearest(&trained.quantizer, queries, scratch.kernels);
            places.sort_by_key(|&place| nearest[place as usize]);
        }
        places
    }

    /// The answers of [`VectorIndex::search`] for each query, found in [`VectorIndex::batch_order`].
    ///
    /// # Panics
    /// If a query's dimension is not the spec's: the caller validates.
    pub fn search_batch(
        &self,
        points: &Points,
        queries: &[&[f32]],
        params: &SearchParams,
        scratch: &mut Scratch,
    ) -> Vec<SearchOutcome> {
        let mut outcomes: Vec<Option<SearchOutcome>> = queries.iter().map(|_| None).collect();
        for place in self.batch_order(queries, scratch) {
            outcomes[place as usize] = Some(self.search(points, queries[place as usize], params, scratch));
        }
        outcomes.into_iter().flatten().collect()
    }

    /// Adds the tail's hits to those of the lists, in order.
    fn finish(
        &self,
        (points, query): (&Points, &[f32]),
        params: &SearchParams,
        &Scratch { kernels, threads, .. }: &Scratch,
        mut outcome: SearchOutcome,
    ) -> SearchOutcome {
        self.count_file_reads(outcome.stats.reranked);
        let mut top = TopHits::new(params.k);
        let (metric, k) = (self.spec.metric, params.k);
        let scan = TailScan { points, metric, query, k, allowed: None, kernels, threads };
        outcome.stats.tail_scanned = self.tail.search(scan, &mut top);
        outcome.hits.extend(top.into_hits());
        outcome.hits.sort_unstable_by(Hit::order);
        outcome.settled = self.spec.rerank == Rerank::Int8 && !outcome.plan.exact;
        outcome
    }

    /// Gives the file's pages back after so many rows read from it.
    fn count_file_reads(&self, rows: usize) {
        let Some(reads) = &self.file_reads else { return };
        if reads.fetch_add(rows, Relaxed) + rows >= FILE_READS_MAX {
            reads.store(0, Relaxed);
            let list = self.trained.as_ref().and_then(|trained| trained.lists.first());
            list.iter().for_each(|live| live.list.release_file());
        }
    }

    fn search_lists(
        &self,
        trained: &Trained,
        points: &Points,
        query: &[f32],
        params: &SearchParams,
        scratch: &mut Scratch,
        hits: &mut Vec<Hit>,
    ) -> (SearchPlan, SearchStats) {
        let lists = trained.view(points);
        match self.plan_lists(trained, params) {
            (None, chosen) => (chosen, lists.search_exact(query, params.k, scratch, hits)),
            (Some(plan), chosen) => (chosen, lists.search(query, plan, scratch, hits)),
        }
    }

    /// How to answer from the lists: `None` means exactly.
    fn plan_lists(&self, trained: &Trained, params: &SearchParams) -> (Option<Plan>, SearchPlan) {
        let (plan, chosen) = trained.plan(&self.spec, params);
        (plan.map(|plan| Plan { candidates: plan.candidates.min(self.len().max(1)), ..plan }), chosen)
    }
}
