//! One search for many queries at once: a list that several of them visit is brought into the nearest cache once and scanned for all.
//! Each query's answer is that of a search of its own, to the bit: what is kept of its candidates does not depend on the order
//! of its lists. Called by `vector_index`.

use super::plan::{Plan, StopRule};
use super::search::{Lists, QueryScratch, Scratch};
use super::spec::{Hit, SearchStats};
use std::ops::Range;

/// Queries whose look-up tables and candidates are held at once: their buffers fit the second cache.
const QUERIES_AT_ONCE: usize = 128;
/// Lists of each query that are scanned before all others where no stop rule makes rounds, so that its threshold is low for the
/// rest.
const NEAREST_LISTS: usize = 4;

/// The buffers of many queries at once.
#[derive(Debug, Default)]
pub(super) struct Many {
    queries: Vec<QueryScratch>,
    /// Queries that go on.
    open: Vec<u32>,
    visits: Vec<Visit>,
}

/// A list to be scanned for a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Visit {
    list: u32,
    query: u32,
    /// Its place among the query's probes.
    probe: u32,
}

impl Lists<'_> {
    /// Appends each query's hits to its element of `out` and adds up its work. The lists hold codes. Each query visits its lists in
    /// rounds, from one check of the stop rule to the next, and the lists of a round are visited for all queries together.
    pub(crate) fn search_many(
        self,
        queries: &[&[f32]],
        plan: Plan,
        scratch: &mut Scratch,
        out: &mut [(Vec<Hit>, SearchStats)],
    ) {
        for (queries, out) in queries.chunks(QUERIES_AT_ONCE).zip(out.chunks_mut(QUERIES_AT_ONCE)) {
            self.prepare_many(queries, plan, scratch);
            let mut round = 0..round_end(0, plan.stop);
            while !scratch.many.open.is_empty() {
                self.scan_round(round.clone(), scratch, out);
                self.close(round.end, plan.stop, scratch, out);
                round = round.end..round_end(round.end, plan.stop);
            }
            for (i, (hits, stats)) in out.iter_mut().enumerate() {
                std::mem::swap(&mut scratch.query, &mut scratch.many.queries[i]);
                stats.reranked = self.finish_query(plan.k, scratch, hits);
                std::mem::swap(&mut scratch.query, &mut scratch.many.queries[i]);
            }
        }
    }

    /// Each query's probes and table; all go on.
    fn prepare_many(self, queries: &[&[f32]], plan: Plan, scratch: &mut Scratch) {
        let Scratch { kernels, ranking, many, .. } = scratch;
        if many.queries.len() < queries.len() {
            many.queries.resize_with(queries.len(), QueryScratch::default);
        }
        for (query, state) in queries.iter().zip(&mut many.queries) {
            self.choose_probes_into(query, plan.nprobe, ranking, state, kernels);
            self.begin_codes(plan, state, kernels);
        }
        many.open.clear();
        many.open.extend(0..queries.len() as u32);
    }

    /// Visits the lists of the open queries that are at these places among their probes, list by list.
    fn scan_round(self, round: Range<usize>, scratch: &mut Scratch, out: &mut [(Vec<Hit>, SearchStats)]) {
        let Scratch { kernels, many: Many { queries, open, visits }, .. } = scratch;
        visits.clear();
        for &query in open.iter() {
            let probes = queries[query as usize].probes.iter().enumerate();
            let of_round = probes.take(round.end).skip(round.start);
            visits.extend(of_round.map(|(at, probe)| Visit { list: probe.list as u32, query, probe: at as u32 }));
        }
        visits.sort_unstable();
        for (i, visit) in visits.iter().enumerate() {
            let next = visits.get(i + 1).map(|next| next.list);
            // The list itself is in cache when its second query comes.
            let ahead = next.filter(|&next| next != visit.list).map(|next| next as usize);
            let QueryScratch { probes, table, candidates, .. } = &mut queries[visit.query as usize];
            let scanned = self.scan_list(&probes[visit.probe as usize], ahead, table, candidates, kernels);
            out[visit.query as usize].1.codes_scanned += scanned;
        }
    }

    /// Takes those from the open queries that have visited all their lists, or end after so many.
    fn close(self, visited: usize, stop: StopRule, scratch: &mut Scratch, out: &mut [(Vec<Hit>, SearchStats)]) {
        let Scratch { kernels, many: Many { queries, open, .. }, .. } = scratch;
        open.retain(|&query| {
            let (state, stats) = (&mut queries[query as usize], &mut out[query as usize].1);
            stats.lists_probed = visited.min(state.probes.len());
            visited < state.probes.len() && (stop.is_never() || !state.ends(stop, visited, kernels))
        });
    }
}

/// Where the round ends that begins at this place.
fn round_end(start: usize, stop: StopRule) -> usize {
    match (stop.is_never(), start) {
        (true, 0) => NEAREST_LISTS,
        (true, _) => usize::MAX,
        (false, _) => StopRule::next_check(start),
    }
}
