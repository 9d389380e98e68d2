//! A search over posting lists: rank the lists, one look-up table, scan the codes of the nearest, re-rank candidates in int8.
//! Called by `vector_index`, `trace` and `visits`.

mod evenness;
mod exact;
mod filtered;
mod gather;
mod scratch;

pub(crate) use filtered::FilteredPlan;
use scratch::QueryScratch;
pub use scratch::Scratch;

use super::candidates::Candidates;
use super::kernels::{BLOCK_ROWS, CandidateSlots, Kernels, ScanInput, ScanQuery, prefetch};
use super::list::{LiveList, Rows};
use super::plan::{Plan, StopRule};
use super::points::Points;
use super::probes::{Chosen, Probe, Ranking};
use super::product::LookupTable;
use super::quantizer::Quantizer;
use super::rerank::{Against, Reranked};
use super::spec::{Hit, IndexKind, SearchStats};
use crate::types::Rerank;

/// Lists that a search which may stop early chooses at first: to choose is dear, and many stop before they need more. Those that go on
/// choose as many again, and so on.
const FIRST_LISTS: usize = 32;

/// How many lists a search over codes has chosen after the next step, having chosen so many.
fn next_choice(chosen: usize, plan: Plan) -> usize {
    let first = if plan.stop.is_never() { plan.nprobe } else { FIRST_LISTS };
    (2 * chosen).max(first).min(plan.nprobe)
}

/// The lists and what they are encoded against.
#[derive(Clone, Copy)]
pub(crate) struct Lists<'a> {
    pub(crate) points: &'a Points,
    pub(crate) quantizer: &'a Quantizer,
    pub(crate) lists: &'a [LiveList],
}

impl LookupTable {
    /// The query of this table, to be scanned for in the list probed.
    fn scan_query<'b>(&'b self, probe: &Probe, threshold: f32, out: CandidateSlots<'b>) -> ScanQuery<'b> {
        ScanQuery {
            table: self.entries(),
            table_step: self.step,
            table_bias: self.bias,
            base: probe.estimate_base,
            position: probe.position,
            threshold,
            out,
            written: 0,
        }
    }
}

impl<'a> Lists<'a> {
    /// Appends the hits of the lists to `hits`: exact ones (at most k) in IVF-Flat, else the nearest of the candidates by int8
    /// distance: k where that settles the answer, `Plan::hits_returned(k)` where the caller scores them again.
    pub(crate) fn search(self, query: &[f32], plan: Plan, scratch: &mut Scratch, hits: &mut Vec<Hit>) -> SearchStats {
        if plan.k == 0 {
            return SearchStats::default();
        }
        let has_codes = self.quantizer.codebook.is_some();
        self.choose_probes(query, if has_codes { next_choice(0, plan) } else { plan.nprobe }, scratch);
        let mut stats = SearchStats { lists_probed: scratch.query.chosen.probes.len(), ..SearchStats::default() };
        if self.quantizer.kind == IndexKind::IvfFlat {
            stats.codes_scanned = self.scan_exact(query, plan.k, scratch, hits);
            return stats;
        }
        if has_codes {
            self.begin_codes(plan, &mut scratch.query, scratch.kernels);
            let Scratch { kernels, query: state, ranking, .. } = &mut *scratch;
            self.scan_until(usize::MAX, (query, plan), ranking, state, kernels);
            (stats.lists_probed, stats.codes_scanned) = self.visited(state);
        } else {
            stats.codes_scanned = self.scan_bytes(plan.k, scratch);
        }
        stats.reranked = self.finish_query(plan.k, scratch, hits);
        stats
    }

    /// Hits wanted of the re-rank.
    fn returned(self, k: usize) -> usize {
        match self.quantizer.rerank {
            Rerank::F32 => Plan::hits_returned(k),
            Rerank::Int8 => k,
        }
    }

    /// The table of a query whose lists are chosen, and room for its candidates: never fewer than the hits returned.
    fn begin_codes(self, plan: Plan, query: &mut QueryScratch, kernels: &Kernels) {
        self.quantizer.look_up(&query.projected, &mut query.table, kernels);
        query.candidates.reset(plan.candidates.max(self.returned(plan.k)));
        (query.visited, query.next_check) = (0, plan.stop.first_check());
    }

    /// All lists with live rows in the order in which a search visits them.
    pub(crate) fn visit_order(self, query: &[f32], scratch: &mut Scratch) -> Vec<usize> {
        self.choose_probes(query, self.lists.len(), scratch);
        scratch.query.chosen.probes.iter().map(|probe| probe.list).collect()
    }

    /// Makes ready to visit the `nprobe` nearest lists one by one: for `trace`. Returns how many there are.
    pub(crate) fn prepare(self, query: &[f32], nprobe: usize, scratch: &mut Scratch) -> usize {
        self.choose_probes(query, nprobe, scratch);
        let QueryScratch { projected, chosen: Chosen { probes, .. }, table, .. } = &mut scratch.query;
        self.quantizer.look_up(projected, table, scratch.kernels);
        probes.len()
    }

    /// Leaves in `keys` and `positions` the candidates of the list visited as number `at` that are not above `threshold`, in order
    /// of position.
    pub(crate) fn collect_list(
        self,
        at: usize,
        threshold: f32,
        scratch: &Scratch,
        (keys, positions): (&mut Vec<u32>, &mut Vec<u32>),
    ) {
        let QueryScratch { chosen: Chosen { probes, .. }, table, .. } = &scratch.query;
        let list = probes[at].list;
        let Some(input) = self.scan_input(list, &self.lists[list].live, None) else { return };
        let room = (input.live.len() + 1) * BLOCK_ROWS;
        keys.resize(room, 0);
        positions.resize(room, 0);
        let mut query = table.scan_query(&probes[at], threshold, CandidateSlots { keys, positions });
        (scratch.kernels.scan)(&input, &mut query, 0);
        let written = query.written;
        keys.truncate(written);
        positions.truncate(written);
    }

    /// The `nprobe` lists nearest to the query that have live rows, nearest first, into the scratch, and the query in their space.
    fn choose_probes(self, query: &[f32], nprobe: usize, scratch: &mut Scratch) {
        let Scratch { kernels, ranking, query: state, .. } = scratch;
        self.project(query, state, kernels);
        state.chosen.clear();
        self.choose_more(query, nprobe, ranking, state, kernels);
    }

    /// The next lists of a query in the lists' space, until there are `wanted`.
    fn choose_more(
        self,
        query: &[f32],
        wanted: usize,
        ranking: &mut Ranking,
        state: &mut QueryScratch,
        kernels: &Kernels,
    ) {
        let of_query = (query, &state.projected[..]);
        ranking.choose(self.quantizer, self.lists, of_query, wanted, &mut state.chosen, kernels);
    }

    /// Makes sure that so many lists of the plan are chosen, if there are so many.
    fn choose_until(
        self,
        visits: usize,
        (query, plan): (&[f32], Plan),
        ranking: &mut Ranking,
        state: &mut QueryScratch,
        kernels: &Kernels,
    ) {
        let chosen = state.chosen.probes.len();
        if chosen < visits.min(plan.nprobe) && !state.chosen.is_all {
            self.choose_more(query, next_choice(chosen, plan), ranking, state, kernels);
        }
    }

    fn project(self, query: &[f32], state: &mut QueryScratch, kernels: &Kernels) {
        state.projected.resize(self.quantizer.dimension, 0.0);
        self.quantizer.project_query(query, &mut state.projected, kernels);
    }

    /// Visits lists one after the other until there are `end`, or no more of them, or the stop rule ends the search: whether it goes
    /// on. Leaves the wanted candidates of least (estimate, position) in the query's `candidates`.
    fn scan_until(
        self,
        end: usize,
        (query, plan): (&[f32], Plan),
        ranking: &mut Ranking,
        state: &mut QueryScratch,
        kernels: &Kernels,
    ) -> bool {
        while state.visited < end {
            self.choose_until(state.visited + 1, (query, plan), ranking, state, kernels);
            let QueryScratch { chosen: Chosen { probes, .. }, table, candidates, visited, .. } = &mut *state;
            let Some(probe) = probes.get(*visited) else { return false };
            let ahead = probes.get(*visited + 1).map(|next| next.list);
            self.scan_list(probe, ahead, table, candidates, kernels);
            *visited += 1;
            if state.visited == state.next_check {
                state.next_check = StopRule::next_check(state.visited);
                if state.ends(plan.stop, kernels) {
                    return false;
                }
            }
        }
        true
    }

    /// The lists that a query has visited, and their rows.
    fn visited(self, state: &QueryScratch) -> (usize, usize) {
        let rows = state.chosen.probes[..state.visited].iter().map(|probe| self.lists[probe.list].live_rows);
        (state.visited, rows.sum())
    }

    /// Collects the candidates of one list. `ahead` is the list that is scanned next.
    fn scan_list(
        self,
        probe: &Probe,
        ahead: Option<usize>,
        table: &LookupTable,
        candidates: &mut Candidates,
        kernels: &Kernels,
    ) {
        let Some(input) = self.scan_input(probe.list, &self.lists[probe.list].live, ahead) else { return };
        let mut block = 0;
        while block < input.live.len() {
            let mut query = table.scan_query(probe, candidates.threshold(), candidates.slots());
            block = (kernels.scan)(&input, &mut query, block);
            let written = query.written;
            candidates.appended(written, kernels);
        }
    }

    /// The codes of a list and the bits of the rows looked at, with the codes of the next list to be in cache in time.
    fn scan_input<'b>(self, list: usize, live: &'b [u32], ahead: Option<usize>) -> Option<ScanInput<'b>>
    where
        'a: 'b,
    {
        let blocks = |list: usize| match &self.lists[list].list.rows {
            Rows::Coded(rows) => Some(&rows.blocks[..]),
            Rows::Exact(_) => None,
        };
        Some(ScanInput { blocks: blocks(list)?, ahead: ahead.and_then(blocks).unwrap_or_default(), live })
    }

    /// What a search does once a query's lists are scanned: re-ranks its candidates and appends the nearest; how many were
    /// re-ranked.
    fn finish_query(self, k: usize, scratch: &mut Scratch, hits: &mut Vec<Hit>) -> usize {
        let Scratch {
            kernels,
            query: QueryScratch { projected, chosen: Chosen { probes, .. }, candidates, .. },
            reranking,
            ..
        } = scratch;
        reranking.score(self.against(projected, probes, kernels), candidates.finish(kernels));
        let reranked = reranking.rows.len();
        self.nearest_reranked(self.returned(k), scratch, hits);
        reranked
    }

    fn against<'b>(&'b self, projected: &'b [f32], probes: &'b [Probe], kernels: &'b Kernels) -> Against<'b> {
        Against { quantizer: self.quantizer, lists: self.lists, probes, projected, kernels }
    }

    /// Appends the `wanted` nearest of the rows scored.
    fn nearest_reranked(self, wanted: usize, scratch: &mut Scratch, hits: &mut Vec<Hit>) {
        let Scratch { kernels, reranking, .. } = scratch;
        let id = |r: &Reranked| self.points.id(self.ordinal(r));
        reranking.cut(wanted, kernels, |a, b| id(a).cmp(&id(b)));
        let rows = &reranking.rows;
        // Each step reads where the one before told: all rows' lines are asked for before the first is read.
        rows.iter().for_each(|r| prefetch(&self.lists[r.list as usize].list.ordinals[r.slot as usize..][..1]));
        rows.iter().for_each(|r| self.points.prefetch(self.ordinal(r)));
        hits.extend(rows.iter().filter_map(|r| self.hit(r)));
    }

    fn ordinal(self, r: &Reranked) -> u32 {
        self.lists[r.list as usize].list.ordinals[r.slot as usize]
    }

    fn hit(self, r: &Reranked) -> Option<Hit> {
        Hit::of(self.points, self.ordinal(r), r.distance, false)
    }
}
