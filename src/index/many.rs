//! One search for many queries at once: a list that several of them visit is brought into the nearest cache once, and its codes are
//! taken apart once for some of them together. Each query's answer is that of a search of its own, to the bit: what is kept of its
//! candidates does not depend on the order of its lists, and where its search ends is found out afterwards.
//! Called by `vector_index`.

use super::candidates::Candidates;
use super::kernels::{Kernels, SCAN_QUERIES, ScanQuery};
use super::plan::{Plan, StopRule};
use super::search::{Lists, QueryScratch, Scratch};
use super::spec::{Hit, SearchStats};
use std::ops::Range;

/// Queries whose look-up tables and candidates are held at once: their buffers fit the second cache.
const QUERIES_AT_ONCE: usize = 512;
/// Lists of each query that are visited before all others, one query after the other, so that its threshold is low for the rest.
const NEAREST_LISTS: usize = 4;
/// The same with a stop rule, which ends few searches after less.
const FIRST_ROUND: usize = 12;
/// Checks of the stop rule in a round: lists visited after the check that ends a search are visited in vain.
const ROUND_CHECKS: usize = 2;

/// The buffers of many queries at once.
#[derive(Debug, Default)]
pub(super) struct Many {
    queries: Vec<QueryScratch>,
    /// Queries that go on.
    open: Vec<u32>,
    visits: Vec<Visit>,
    /// Candidates as they were at a check.
    pub(super) spare: Candidates,
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
    /// Appends each query's hits to its element of `out` and puts the work of a search of its own there. The lists hold codes. Each
    /// query visits its first lists by itself; the others in rounds, and the lists of a round are visited for all queries
    /// together.
    pub(crate) fn search_many(
        self,
        queries: &[&[f32]],
        plan: Plan,
        scratch: &mut Scratch,
        out: &mut [(Vec<Hit>, SearchStats)],
    ) {
        for (queries, out) in queries.chunks(QUERIES_AT_ONCE).zip(out.chunks_mut(QUERIES_AT_ONCE)) {
            let mut visited = if plan.stop.is_never() { NEAREST_LISTS } else { FIRST_ROUND };
            self.begin_many(queries, visited, plan, scratch);
            while !scratch.many.open.is_empty() {
                let end = round_end(visited, plan.stop);
                self.choose_rests(queries, end, plan, scratch);
                self.scan_round(visited..end, plan.stop, scratch);
                close_round(end, plan.stop, scratch);
                visited = end;
            }
            for (i, (hits, stats)) in out.iter_mut().enumerate() {
                std::mem::swap(&mut scratch.query, &mut scratch.many.queries[i]);
                (stats.lists_probed, stats.codes_scanned) = self.visited(&scratch.query);
                stats.reranked = self.finish_query(plan.k, scratch, hits);
                std::mem::swap(&mut scratch.query, &mut scratch.many.queries[i]);
            }
        }
    }

    /// Each query's table and its first lists.
    fn begin_many(self, queries: &[&[f32]], lists: usize, plan: Plan, scratch: &mut Scratch) {
        let Scratch { kernels, ranking, many: Many { queries: states, open, spare, .. }, .. } = scratch;
        if states.len() < queries.len() {
            states.resize_with(queries.len(), QueryScratch::default);
        }
        open.clear();
        for (i, (query, state)) in queries.iter().zip(states).enumerate() {
            self.choose_first(query, plan, ranking, state, kernels);
            self.begin_codes(plan, state, kernels);
            if self.scan_until(lists, (query, plan), ranking, state, spare, kernels) {
                open.push(i as u32);
            }
        }
    }

    /// The rest of the lists of those open queries that go on to so many and do not have them yet.
    fn choose_rests(self, queries: &[&[f32]], visits: usize, plan: Plan, scratch: &mut Scratch) {
        let Scratch { kernels, ranking, many, .. } = scratch;
        for &query in &many.open {
            let state = &mut many.queries[query as usize];
            self.choose_rest((queries[query as usize], visits), plan, ranking, state, kernels);
        }
    }

    /// Visits the lists of the open queries that are at these places among their probes, list by list.
    fn scan_round(self, round: Range<usize>, stop: StopRule, scratch: &mut Scratch) {
        let Scratch { kernels, many: Many { queries, open, visits, .. }, .. } = scratch;
        visits.clear();
        for &query in open.iter() {
            let probes = queries[query as usize].probes.iter().enumerate();
            let of_round = probes.take(round.end).skip(round.start);
            visits.extend(of_round.map(|(at, probe)| Visit { list: probe.list as u32, query, probe: at as u32 }));
        }
        visits.sort_unstable();
        let mut rest = &visits[..];
        while let Some(first) = rest.first() {
            let same = rest.iter().take(SCAN_QUERIES).take_while(|visit| visit.list == first.list).count();
            let (together, after) = rest.split_at(same);
            // The list itself is in cache when more of its queries come.
            let ahead = after.first().map(|next| next.list).filter(|&next| next != first.list);
            self.scan_together(together, ahead, stop, queries, kernels);
            rest = after;
        }
    }

    /// Collects the candidates of one list for some queries.
    fn scan_together(
        self,
        visits: &[Visit],
        ahead: Option<u32>,
        stop: StopRule,
        queries: &mut [QueryScratch],
        kernels: &Kernels,
    ) {
        let list = visits[0].list as usize;
        let Some(input) = self.scan_input(list, &self.lists[list].live, ahead.map(|next| next as usize)) else {
            return;
        };
        let mut block = 0;
        while block < input.live.len() {
            let mut scans = Vec::with_capacity(SCAN_QUERIES);
            let (mut rest, mut passed) = (&mut *queries, 0);
            for visit in visits {
                let (before, after) = rest.split_at_mut(visit.query as usize - passed + 1);
                passed = visit.query as usize + 1;
                rest = after;
                let Some(QueryScratch { probes, table, candidates, .. }) = before.last_mut() else { continue };
                let threshold = candidates.threshold();
                scans.push(table.scan_query(&probes[visit.probe as usize], threshold, candidates.slots()));
            }
            block = (kernels.scan)(&input, &mut scans, block);
            let written: [usize; SCAN_QUERIES] =
                std::array::from_fn(|i| scans.get(i).map_or(0, |scan: &ScanQuery<'_>| scan.written));
            for (visit, written) in visits.iter().zip(written) {
                let candidates = &mut queries[visit.query as usize].candidates;
                if stop.is_never() {
                    candidates.appended(written, kernels);
                } else {
                    candidates.appended_all(written);
                }
            }
        }
    }
}

/// Takes those from the open queries that have visited all their lists, or whose search the rule ends at a check before `end`: with the
/// candidates that it had there.
fn close_round(end: usize, stop: StopRule, scratch: &mut Scratch) {
    let Scratch { kernels, many: Many { queries, open, spare, .. }, .. } = scratch;
    open.retain(|&query| {
        let state = &mut queries[query as usize];
        state.visited = end.min(state.probes.len());
        while state.next_check <= state.visited {
            let check = state.next_check;
            state.next_check = StopRule::next_check(check);
            if state.ends(stop, check, spare, kernels) {
                if check < state.visited {
                    std::mem::swap(&mut state.candidates, spare);
                }
                state.visited = check;
                return false;
            }
        }
        state.visited < state.probes.len() || !state.is_chosen
    });
}

/// Where the round ends that begins at this place.
fn round_end(start: usize, stop: StopRule) -> usize {
    if stop.is_never() {
        return usize::MAX;
    }
    (0..ROUND_CHECKS).fold(start, |at, _| StopRule::next_check(at))
}
