//! Searches that may answer with some points only. Two ways:
//!
//! - **Gather**: few points are allowed: each is scored in int8 with its error bounds, and those that may be among the nearest are
//!   returned. Exact.
//! - **Probe**: many are allowed: lists are visited nearest first until k are found and the next list is too far to matter (`reach`),
//!   or all have been visited. Rows that are not allowed are masked out like dead ones before the scan; where most are allowed, only
//!   the scan's candidates are tested.
//!
//! Promise: where k or more rows are allowed, k are found. Called by `vector_index`.

use super::evenness::Evenness;
use super::{Lists, QueryScratch, Scratch};
use crate::index::allowed::Allowed;
use crate::index::distance;
use crate::index::kernels::BLOCK_ROWS;
use crate::index::list::{LiveList, Rows};
use crate::index::probes::{Chosen, Probe, Ranked};
use crate::index::reach::{self, Kappa};
use crate::index::spec::{Hit, IndexKind, SearchStats};
use crate::index::top::TopHits;
use crate::types::Metric;

/// Lists visited between two looks at whether to stop, at least.
const LISTS_BETWEEN_CHECKS: usize = 4;
/// One row in so many allowed, or fewer: rows are masked before the scan. (A mask costs 2 ns a row, the scan 0.5.)
const MASK_SHARE: usize = 4;

/// How far a filtered search goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FilteredPlan {
    pub(crate) k: usize,
    /// Candidates re-ranked in int8.
    pub(crate) candidates: usize,
    /// Lists to visit, where the caller said so; else as far as neighbours may lie.
    pub(crate) nprobe: Option<usize>,
    /// How much farther than the k-th nearest lists may rank: see `reach`.
    pub(crate) kappa: Kappa,
}

impl Lists<'_> {
    /// Appends the hits among the allowed rows to `hits`: in IVF-Flat the k nearest of the lists visited, else the nearest of the
    /// candidates by int8 distance, as many as an ordinary search returns.
    pub(crate) fn search_allowed(
        self,
        query: &[f32],
        allowed: &Allowed,
        plan: FilteredPlan,
        scratch: &mut Scratch,
        hits: &mut Vec<Hit>,
    ) -> SearchStats {
        let mut visits = self.rank_all(query, scratch);
        if self.quantizer.kind == IndexKind::IvfFlat {
            return self.scan_allowed(query, allowed, plan, &mut visits, scratch, hits);
        }
        let Scratch { kernels, query: QueryScratch { projected, table, candidates, .. }, reranking, .. } =
            &mut *scratch;
        self.quantizer.look_up(projected, table, kernels);
        reranking.begin_scan(projected);
        candidates.reset(plan.candidates.max(self.returned(plan.k)));
        let codes_scanned = self.collect_allowed(allowed, plan, &mut visits, scratch);
        let lists_probed = scratch.query.chosen.probes.len();
        let reranked = self.finish_query(plan.k, scratch, hits);
        SearchStats { lists_probed, codes_scanned, reranked, ..SearchStats::default() }
    }

    /// Ranks all lists with live rows.
    fn rank_all(self, query: &[f32], scratch: &mut Scratch) -> Visits {
        let Scratch { kernels, ranking, query: state, .. } = scratch;
        self.project(query, state, kernels);
        state.chosen.clear();
        let order = ranking.all(self.quantizer, self.lists, &state.projected, kernels).to_vec();
        let offset = self.quantizer.query_offset(query, kernels);
        let (_, base_factor) = self.quantizer.estimate_factors(&state.projected, kernels);
        Visits { order, at: 0, sorted: 0, offset, base_factor, position: 0 }
    }

    /// The next list, in the order of visits, and its rank.
    fn next_probe(self, visits: &mut Visits) -> Option<(Probe, f32)> {
        let mut ranked = visits.next()?;
        // The caller learns of the damage and answers in another way.
        while !self.lists[ranked.list()].list.is_sound() {
            ranked = visits.next()?;
        }
        let (list, base, position) = (ranked.list(), ranked.base + visits.offset, visits.position);
        visits.position += (self.lists[list].live.len() * BLOCK_ROWS) as u32;
        Some((Probe { list, base, estimate_base: base * visits.base_factor, position }, ranked.rank()))
    }

    /// Leaves the wanted candidates of least (estimate, position) in the query's `candidates` and the lists visited in its `probes`;
    /// returns the rows scanned.
    fn collect_allowed(
        self,
        allowed: &Allowed,
        plan: FilteredPlan,
        visits: &mut Visits,
        scratch: &mut Scratch,
    ) -> usize {
        let mask_first = allowed.count() * MASK_SHARE < self.points.len();
        let mut masks = Vec::new();
        let (mut scanned, mut next_check) = (0, LISTS_BETWEEN_CHECKS);
        let mut stop = Stop::new(self, plan, visits.offset);
        let mut evenness = Evenness::new(allowed.count(), self.points.len());
        let Scratch {
            kernels,
            query: QueryScratch { projected, chosen: Chosen { probes, .. }, table, candidates, .. },
            reranking,
            ..
        } = scratch;
        let has_codes = self.quantizer.codebook.is_some();
        while let Some((probe, rank)) = self.next_probe(visits) {
            if candidates.len() >= plan.k && probes.len() >= next_check {
                next_check += LISTS_BETWEEN_CHECKS.max(probes.len() / 8);
                let kth = candidates.kth(plan.k, kernels).unwrap_or(f32::INFINITY);
                let distance = if has_codes { kth / visits.base_factor } else { self.scanned_distance(kth) };
                stop.nearest_found(distance, self.quantizer.query_scale(projected, kernels), evenness);
            }
            if stop.before(rank, probes.len()) {
                break;
            }
            probes.push(probe);
            let live = &self.lists[probe.list];
            let (bits, count) = if mask_first || !has_codes {
                let (bits, count) = mask_list(live, allowed, &mut masks);
                evenness.saw(count, live.live_rows);
                (bits, count)
            } else {
                evenness.look_at(live, allowed);
                (live.live.as_slice(), live.live_rows)
            };
            scanned += count;
            if count == 0 {
                continue;
            }
            if !has_codes {
                reranking.scan_list(self.against(projected, probes, kernels), probes.len() - 1, bits, candidates);
                continue;
            }
            let Some(input) = self.scan_input(probe.list, bits, None) else { continue };
            let is_allowed = |position: u32| {
                mask_first || allowed.contains(live.list.ordinals[(position - probe.position) as usize])
            };
            let mut block = 0;
            while block < bits.len() {
                let mut query = table.scan_query(&probe, candidates.threshold(), candidates.slots());
                block = (kernels.scan)(&input, &mut query, block);
                let written = query.written;
                candidates.appended_if(written, is_allowed, kernels);
            }
        }
        scanned
    }

    /// An exact distance in the measure that lists are ranked by.
    fn scanned_distance(self, distance: f32) -> f32 {
        reach::scanned_distance(self.quantizer.metric, self.quantizer.dimension, distance)
    }

    /// The k nearest allowed rows of IVF-Flat lists.
    fn scan_allowed(
        self,
        query: &[f32],
        allowed: &Allowed,
        plan: FilteredPlan,
        visits: &mut Visits,
        scratch: &mut Scratch,
        hits: &mut Vec<Hit>,
    ) -> SearchStats {
        let d = self.quantizer.dimension;
        let mut top = TopHits::new(plan.k);
        let mut stats = SearchStats::default();
        let mut stop = Stop::new(self, plan, visits.offset);
        let query_scale = self.quantizer.query_scale(&scratch.query.projected, scratch.kernels);
        let mut next_check = LISTS_BETWEEN_CHECKS;
        let mut evenness = Evenness::new(allowed.count(), self.points.len());
        while let Some((probe, rank)) = self.next_probe(visits) {
            if stats.codes_scanned >= plan.k && stats.lists_probed >= next_check {
                next_check += LISTS_BETWEEN_CHECKS.max(stats.lists_probed / 8);
                stop.nearest_found(self.scanned_distance(top.limit()), query_scale, evenness);
            }
            if stop.before(rank, stats.lists_probed) {
                break;
            }
            stats.lists_probed += 1;
            let live = &self.lists[probe.list];
            let Rows::Exact(vectors) = &live.list.rows else { continue };
            let scanned_before = stats.codes_scanned;
            for slot in live.live_slots().filter(|&slot| allowed.contains(live.list.ordinals[slot])) {
                let vector = &vectors[slot * d..(slot + 1) * d];
                let distance = distance::exact(scratch.kernels, self.quantizer.metric, query, vector);
                stats.codes_scanned += 1;
                if top.accepts(distance) {
                    top.extend(Hit::of(self.points, live.list.ordinals[slot], distance, true));
                }
            }
            evenness.saw(stats.codes_scanned - scanned_before, live.live_rows);
        }
        hits.extend(top.into_hits());
        stats
    }
}

/// The lists by rank, sorted as far as they are visited.
struct Visits {
    order: Vec<Ranked>,
    at: usize,
    sorted: usize,
    /// What the query alone adds to every list's base.
    offset: f32,
    /// A list's base times this is in the units of estimates.
    base_factor: f32,
    position: u32,
}

impl Visits {
    fn next(&mut self) -> Option<Ranked> {
        if self.at == self.sorted {
            let rest = &mut self.order[self.sorted..];
            let more = self.sorted.max(64).min(rest.len());
            if more < rest.len() {
                rest.select_nth_unstable_by_key(more, |ranked| ranked.key);
            }
            rest[..more].sort_unstable_by_key(|ranked| ranked.key);
            self.sorted += more;
        }
        let ranked = *self.order.get(self.at)?;
        self.at += 1;
        Some(ranked)
    }
}

/// When a search may end. Distances become ranks of lists: the offset, which lists' ranks leave out, is taken off, and inner products
/// are those of a query of length 1.
struct Stop {
    plan: FilteredPlan,
    is_dot: bool,
    residual: f32,
    offset: f32,
    /// A list ranked behind this holds nothing that matters; none yet while fewer than k are found.
    limit: Option<f32>,
}

impl Stop {
    fn new(lists: Lists<'_>, plan: FilteredPlan, offset: f32) -> Stop {
        let residual = lists.quantizer.residual_mean.max(0.0).sqrt();
        Stop { plan, is_dot: lists.quantizer.metric == Metric::Dot, residual, offset, limit: None }
    }

    /// The k-th nearest found so far is this near. `query_scale` as [`Quantizer::query_scale`] gives it.
    ///
    /// [`Quantizer::query_scale`]: crate::index::quantizer::Quantizer::query_scale
    fn nearest_found(&mut self, kth: f32, query_scale: f32, evenness: Evenness) {
        let rank = (kth - self.offset) * query_scale;
        let Kappa { even, uneven } = self.plan.kappa;
        let kappa = if evenness.is_uneven() { uneven } else { even };
        self.limit = Some(rank + reach::margin(kappa, kth, self.residual, self.is_dot));
    }

    /// Whether to end before a list of this rank, `visited` lists having been visited.
    fn before(&self, rank: f32, visited: usize) -> bool {
        match (self.limit, self.plan.nprobe) {
            (None, _) => false,
            (Some(_), Some(nprobe)) => visited >= nprobe,
            (Some(limit), None) => rank > limit,
        }
    }
}

/// A bit for each live row that is allowed, a word a block, and how many they are.
fn mask_list<'m>(live: &LiveList, allowed: &Allowed, masks: &'m mut Vec<u32>) -> (&'m [u32], usize) {
    masks.clear();
    let blocks = live.list.ordinals.chunks(BLOCK_ROWS).zip(&live.live);
    masks.extend(blocks.map(|(ordinals, live)| if *live == 0 { 0 } else { allowed.mask(ordinals) & live }));
    let rows = masks.iter().map(|mask| mask.count_ones() as usize).sum();
    (masks, rows)
}
