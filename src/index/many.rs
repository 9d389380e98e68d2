//! One search for many queries at once. Their lists are ranked in one pass over the centroids for some of them together, and a list
//! that several visit is brought into the nearest cache once and its codes are taken apart once for up to four of them. Queries
//! visit lists in rounds that end where the stop rule is asked, so each query's answer is that of a search of its own, to the bit:
//! what is kept of its candidates does not depend on the order of its lists within a round. Called by `vector_index`.

use super::kernels::{Kernels, SCAN_QUERIES, ScanQuery, prefetch};
use super::plan::{Plan, StopRule};
use super::search::{Lists, QueryScratch, Scratch, next_choice};
use super::spec::{Hit, SearchStats};
use std::ops::Range;

/// Queries whose look-up tables and candidates are held at once, some 8 KiB each: the more, the more of them share a list.
const QUERIES_AT_ONCE: usize = 4096;
/// Queries whose lists are ranked together: their scores stay in the second cache.
const QUERIES_RANKED: usize = 24;
/// Lists that each query visits by itself, so that its threshold is low for the rest.
const NEAREST_LISTS: usize = 4;
/// Visits that a list must have in a round for queries to share it: fewer are cheaper query by query.
const SHARED_VISITS: usize = 4;
/// Lists of a round in most searches with a stop rule.
const ROUND_LISTS: usize = 4;

/// The buffers of many queries at once.
#[derive(Debug, Default)]
pub(super) struct Many {
    queries: Vec<QueryScratch>,
    /// Queries that go on.
    open: Vec<u32>,
    /// Queries, in the lists' space, that are ranked together, and which they are.
    projected: Vec<f32>,
    ranked: Vec<u32>,
    visits: Vec<Visit>,
    /// Where the next visit of each list is placed.
    places: Vec<u32>,
}

/// A query for which a list is to be scanned.
#[derive(Clone, Copy, Debug, Default)]
struct Visit {
    list: u32,
    query: u32,
    /// The list's place among the query's probes.
    probe: u32,
}

impl Lists<'_> {
    /// Whether so many queries visit lists often enough for [`Lists::search_many`] to pay.
    pub(crate) fn are_shared(self, queries: usize, plan: Plan) -> bool {
        let round = if plan.stop.is_never() { plan.nprobe } else { ROUND_LISTS };
        queries.min(QUERIES_AT_ONCE).saturating_mul(round) >= SHARED_VISITS * self.lists.len()
    }

    /// Appends each query's hits to its element of `out` and puts the work of a search of its own there. The lists hold codes.
    pub(crate) fn search_many(
        self,
        queries: &[&[f32]],
        plan: Plan,
        scratch: &mut Scratch,
        out: &mut [(Vec<Hit>, SearchStats)],
    ) {
        for (queries, out) in queries.chunks(QUERIES_AT_ONCE).zip(out.chunks_mut(QUERIES_AT_ONCE)) {
            self.begin_many(queries, plan, scratch);
            let mut visited = NEAREST_LISTS;
            while !scratch.many.open.is_empty() {
                let end = if plan.stop.is_never() { plan.nprobe } else { StopRule::next_check(visited) };
                self.choose_rests(queries, end, plan, scratch);
                self.scan_round(visited..end, scratch);
                close_round(end, plan, scratch);
                visited = end;
            }
            for (i, (hits, stats)) in out.iter_mut().enumerate() {
                if i + 1 < queries.len() {
                    scratch.many.queries[i + 1].candidates.prefetch_held();
                }
                std::mem::swap(&mut scratch.query, &mut scratch.many.queries[i]);
                (stats.lists_probed, stats.codes_scanned) = self.visited(&scratch.query);
                stats.reranked = self.finish_query(plan.k, scratch, hits);
                std::mem::swap(&mut scratch.query, &mut scratch.many.queries[i]);
            }
        }
    }

    /// Each query's table and its nearest lists.
    fn begin_many(self, queries: &[&[f32]], plan: Plan, scratch: &mut Scratch) {
        let many = &mut scratch.many;
        if many.queries.len() < queries.len() {
            many.queries.resize_with(queries.len(), QueryScratch::default);
        }
        for (query, state) in queries.iter().zip(&mut many.queries) {
            self.project(query, state, scratch.kernels);
            state.chosen.clear();
        }
        many.ranked.clear();
        many.ranked.extend(0..queries.len() as u32);
        self.choose_ranked(queries, plan, scratch);
        let Scratch { kernels, ranking, many, .. } = scratch;
        many.open.clear();
        for (i, (query, state)) in queries.iter().zip(&mut many.queries).enumerate() {
            self.begin_codes(plan, state, kernels);
            if self.scan_until(NEAREST_LISTS, (query, plan), ranking, state, kernels) {
                many.open.push(i as u32);
            }
        }
    }

    /// Chooses more lists for those open queries that have not enough of them for so many visits.
    fn choose_rests(self, queries: &[&[f32]], visits: usize, plan: Plan, scratch: &mut Scratch) {
        let wanted = visits.min(plan.nprobe);
        let Many { queries: states, open, ranked, .. } = &mut scratch.many;
        let has_few = |&&query: &&u32| {
            let chosen = &states[query as usize].chosen;
            chosen.probes.len() < wanted && !chosen.is_all
        };
        ranked.clear();
        ranked.extend(open.iter().filter(has_few));
        self.choose_ranked(queries, plan, scratch);
    }

    /// Chooses the next lists for the queries in `ranked`.
    fn choose_ranked(self, queries: &[&[f32]], plan: Plan, scratch: &mut Scratch) {
        let Scratch { kernels, ranking, many: Many { queries: states, projected, ranked, .. }, .. } = scratch;
        for together in ranked.chunks(QUERIES_RANKED) {
            projected.clear();
            together.iter().for_each(|&query| projected.extend(&states[query as usize].projected));
            ranking.score(self.quantizer, projected, kernels);
            for (row, &query) in together.iter().enumerate() {
                let QueryScratch { projected, chosen, .. } = &mut states[query as usize];
                let of_query = (row, queries[query as usize], &projected[..]);
                let wanted = next_choice(chosen.probes.len(), plan);
                ranking.choose(self.quantizer, self.lists, of_query, wanted, chosen, kernels);
            }
        }
    }

    /// Visits the lists of the open queries that are at these places among their probes, list by list.
    fn scan_round(self, round: Range<usize>, scratch: &mut Scratch) {
        let Scratch { kernels, many, .. } = scratch;
        many.sort_visits(round, self.lists.len());
        let Many { queries, visits, .. } = many;
        let mut at = 0;
        while let Some(first) = visits.get(at) {
            let rest = &visits[at..];
            let same = rest.iter().take(SCAN_QUERIES).take_while(|visit| visit.list == first.list).count();
            let (together, after) = rest.split_at(same);
            prefetch_visits(after, queries);
            // The list itself is in cache when more of its queries come.
            let ahead = after.first().map(|next| next.list as usize).filter(|&next| next != first.list as usize);
            self.scan_together(together, ahead, queries, kernels);
            at += same;
        }
    }

    /// Collects the candidates of one list for some queries, in ascending order.
    fn scan_together(self, visits: &[Visit], ahead: Option<usize>, queries: &mut [QueryScratch], kernels: &Kernels) {
        let list = visits[0].list as usize;
        let Some(input) = self.scan_input(list, &self.lists[list].live, ahead) else { return };
        let mut block = 0;
        while block < input.live.len() {
            let mut scans: [Option<ScanQuery<'_>>; SCAN_QUERIES] = Default::default();
            let (mut rest, mut passed) = (&mut *queries, 0);
            for (scan, visit) in scans.iter_mut().zip(visits) {
                let (before, after) = rest.split_at_mut(visit.query as usize - passed + 1);
                passed = visit.query as usize + 1;
                rest = after;
                *scan = before.last_mut().map(|query| query.scan(visit.probe as usize));
            }
            let mut scans: Vec<ScanQuery<'_>> = scans.into_iter().flatten().collect();
            block = (kernels.scan)(&input, &mut scans, block);
            let mut written = [0; SCAN_QUERIES];
            written.iter_mut().zip(&scans).for_each(|(written, scan)| *written = scan.written);
            for (visit, written) in visits.iter().zip(written) {
                queries[visit.query as usize].candidates.appended(written, kernels);
            }
        }
    }
}

impl Many {
    /// Sorts the open queries' visits of a round by list, those of a list by query.
    fn sort_visits(&mut self, round: Range<usize>, lists: usize) {
        let Many { queries, open, visits, places, .. } = self;
        let of_round = |query: u32| {
            let probes = &queries[query as usize].chosen.probes;
            let span = round.start.min(probes.len())..round.end.min(probes.len());
            span.map(move |probe| Visit { list: probes[probe].list as u32, query, probe: probe as u32 })
        };
        places.clear();
        places.resize(lists, 0);
        open.iter().flat_map(|&query| of_round(query)).for_each(|visit| places[visit.list as usize] += 1);
        let mut start = 0;
        for end in places.iter_mut() {
            // For now where the list's visits start; each that is placed moves it.
            (*end, start) = (start, start + *end);
        }
        visits.clear();
        visits.resize(start as usize, Visit::default());
        for visit in open.iter().flat_map(|&query| of_round(query)) {
            let place = &mut places[visit.list as usize];
            visits[*place as usize] = visit;
            *place += 1;
        }
    }
}

impl QueryScratch {
    /// To be scanned for in the list probed.
    fn scan(&mut self, probe: usize) -> ScanQuery<'_> {
        let threshold = self.candidates.threshold();
        self.table.scan_query(&self.chosen.probes[probe], threshold, self.candidates.slots())
    }

    /// Asks for what a scan of the list probed reads and writes.
    fn prefetch(&self, probe: usize) {
        prefetch(self.table.entries());
        prefetch(&self.chosen.probes[probe..=probe]);
        self.candidates.prefetch();
    }
}

/// Asks for what the next visits read: of those that come first all, of those after them the place where that is told.
fn prefetch_visits(visits: &[Visit], queries: &[QueryScratch]) {
    let ahead = |from: usize| visits.iter().skip(from).take(SCAN_QUERIES);
    ahead(0).for_each(|visit| queries[visit.query as usize].prefetch(visit.probe as usize));
    ahead(SCAN_QUERIES).for_each(|visit| prefetch(&queries[visit.query as usize..][..1]));
}

/// Takes those from the open queries that have visited all their lists, or whose search the rule ends.
fn close_round(end: usize, plan: Plan, scratch: &mut Scratch) {
    let Scratch { kernels, many: Many { queries, open, .. }, .. } = scratch;
    let mut going = 0;
    for at in 0..open.len() {
        if let Some(&next) = open.get(at + 1) {
            queries[next as usize].candidates.prefetch_held();
        }
        let query = open[at];
        if goes_on(&mut queries[query as usize], end, plan, kernels) {
            open[going] = query;
            going += 1;
        }
    }
    open.truncate(going);
}

/// Notes that a query has visited its lists up to `end`: whether it visits more.
fn goes_on(query: &mut QueryScratch, end: usize, plan: Plan, kernels: &Kernels) -> bool {
    query.visited = end.min(query.chosen.probes.len());
    if query.visited < end || end >= plan.nprobe {
        return false;
    }
    query.next_check = StopRule::next_check(end);
    !query.ends(plan.stop, kernels)
}
