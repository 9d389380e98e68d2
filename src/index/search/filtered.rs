//! Searches that may answer with some points only. Two ways:
//!
//! - **Gather**: few points are allowed: each is scored in int8 with its error bounds, and those that may be among the nearest are
//!   returned. Exact.
//! - **Probe**: many are allowed: lists are visited nearest first until k are found and the next list is too far to matter (`reach`),
//!   or all have been visited. Rows that are not allowed are masked out like dead ones before the scan; where most are allowed, only
//!   the scan's candidates are tested.
//!
//! Promise: where k or more rows are allowed, k are found. Called by `vector_index`.

use super::{ByteQuery, Lists, Probe, Reranked, Scratch, cut, scan_input};
use crate::index::allowed::Allowed;
use crate::index::distance;
use crate::index::kernels::{BLOCK_ROWS, Kernels, candidate_estimate, order_bits, pack_candidate, prefetch};
use crate::index::list::{CodedRows, LiveList, Rows};
use crate::index::plan::Plan;
use crate::index::product::LookupTable;
use crate::index::quantizer::quantise_query;
use crate::index::reach;
use crate::index::spec::{Hit, IndexKind, SearchStats};
use crate::index::top::TopHits;
use crate::types::{Metric, Rerank};

/// Lists visited between two looks at whether to stop, at least.
const LISTS_BETWEEN_CHECKS: usize = 4;
/// One row in so many allowed, or fewer: rows are masked before the scan. (A mask costs 2 ns a row, the scan 0.5.)
const MASK_SHARE: usize = 4;
/// Rows asked for ahead when scored one by one.
const ROWS_AHEAD: usize = 32;

/// How far a filtered search goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FilteredPlan {
    pub(crate) k: usize,
    /// Candidates re-ranked in int8.
    pub(crate) candidates: usize,
    /// Lists to visit, where the caller said so; else as far as neighbours may lie.
    pub(crate) nprobe: Option<usize>,
    /// How much farther than the k-th nearest lists may rank: see `reach`.
    pub(crate) kappa: f32,
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
        let mut visits = self.visits(query, scratch);
        if self.quantizer.kind == IndexKind::IvfFlat {
            return self.scan_allowed(query, allowed, plan, &mut visits, scratch, hits);
        }
        let returned = match self.quantizer.rerank {
            Rerank::F32 => Plan::hits_returned(plan.k),
            Rerank::Int8 => plan.k,
        };
        self.quantizer.look_up(&scratch.projected, &mut scratch.table, scratch.kernels);
        let codes_scanned = self.collect_allowed(allowed, plan, plan.candidates.max(returned), &mut visits, scratch);
        self.rerank_candidates(scratch);
        let stats = SearchStats {
            lists_probed: scratch.probes.len(),
            codes_scanned,
            reranked: scratch.reranked.len(),
            ..SearchStats::default()
        };
        self.nearest_reranked(returned, &mut scratch.reranked, hits);
        stats
    }

    /// Ranks all lists with live rows.
    fn visits(self, query: &[f32], scratch: &mut Scratch) -> Visits {
        scratch.project(self.quantizer, query);
        let Scratch { kernels, projected, scores, probes, .. } = scratch;
        self.quantizer.rank(projected, scores, kernels);
        probes.clear();
        let ranked = scores.iter().zip(self.lists).enumerate().filter(|(_, (_, list))| list.live_rows > 0);
        let order = ranked.map(|(i, (&score, _))| u64::from(order_bits(score)) << 32 | i as u64).collect();
        let offset = self.quantizer.query_offset(query, kernels);
        let (_, base_factor) = self.quantizer.estimate_factors(projected, kernels);
        Visits { order, at: 0, sorted: 0, offset, base_factor, position: 0 }
    }

    /// The next list, in the order of visits.
    fn next_probe(self, visits: &mut Visits, scratch: &Scratch) -> Option<Probe> {
        let mut list = visits.next()?;
        // The caller learns of the damage and answers in another way.
        while !self.lists[list].list.is_sound() {
            list = visits.next()?;
        }
        let base = self.quantizer.list_base(&scratch.projected, list, scratch.kernels) + visits.offset;
        let position = visits.position;
        visits.position += (self.lists[list].live.len() * BLOCK_ROWS) as u32;
        Some(Probe { list, base, estimate_base: base * visits.base_factor, position })
    }

    /// Leaves the `wanted` candidates of least (estimate, position) in `scratch.candidates` and the lists visited in
    /// `scratch.probes`; returns the rows scanned.
    fn collect_allowed(
        self,
        allowed: &Allowed,
        plan: FilteredPlan,
        wanted: usize,
        visits: &mut Visits,
        scratch: &mut Scratch,
    ) -> usize {
        let step = quantise_query(&scratch.projected, &mut scratch.query_wide);
        let mut list_scan = ListScan {
            allowed,
            mask_first: allowed.count() * MASK_SHARE < self.points.len(),
            masks: Vec::new(),
            wanted,
            held: 0,
            threshold: f32::INFINITY,
        };
        let (mut scanned, mut next_check) = (0, LISTS_BETWEEN_CHECKS);
        let mut stop = Stop::new(self, plan, visits.offset, scratch);
        scratch.candidates.clear();
        scratch.candidates.resize((2 * wanted).max(wanted + 256) + BLOCK_ROWS, 0);
        while let Some(probe) = self.next_probe(visits, scratch) {
            let Scratch { kernels, projected, scores, probes, table, query_wide, candidates, .. } = &mut *scratch;
            if list_scan.held >= plan.k && probes.len() >= next_check {
                next_check += LISTS_BETWEEN_CHECKS.max(probes.len() / 8);
                list_scan.cut(candidates);
                let (_, kth, _) = candidates[..list_scan.held].select_nth_unstable(plan.k - 1);
                stop.nearest_found(match self.quantizer.codebook {
                    Some(_) => candidate_estimate(*kth) / visits.base_factor,
                    None => self.scanned_distance(candidate_estimate(*kth)),
                });
            }
            if stop.before(scores[probe.list], probes.len()) {
                break;
            }
            probes.push(probe);
            let live = &self.lists[probe.list];
            let Rows::Coded(rows) = &live.list.rows else { continue };
            scanned += if self.quantizer.codebook.is_some() {
                list_scan.codes(live, (rows, table, probe), kernels, candidates)
            } else {
                let query = ByteQuery { quantizer: self.quantizer, kernels, projected, wide: query_wide, step };
                list_scan.bytes(live, probe.position, |slot| query.distance(rows, slot, probe), candidates)
            };
        }
        list_scan.cut(&mut scratch.candidates);
        scratch.candidates.truncate(list_scan.held);
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
        let mut stop = Stop::new(self, plan, visits.offset, scratch);
        let mut next_check = LISTS_BETWEEN_CHECKS;
        while let Some(probe) = self.next_probe(visits, scratch) {
            if stats.codes_scanned >= plan.k && stats.lists_probed >= next_check {
                next_check += LISTS_BETWEEN_CHECKS.max(stats.lists_probed / 8);
                stop.nearest_found(self.scanned_distance(top.limit()));
            }
            if stop.before(scratch.scores[probe.list], stats.lists_probed) {
                break;
            }
            stats.lists_probed += 1;
            let live = &self.lists[probe.list];
            let Rows::Exact(vectors) = &live.list.rows else { continue };
            for slot in live.live_slots().filter(|&slot| allowed.contains(live.list.ordinals[slot])) {
                let vector = &vectors[slot * d..(slot + 1) * d];
                let distance = distance::exact(scratch.kernels, self.quantizer.metric, query, vector);
                stats.codes_scanned += 1;
                if top.accepts(distance) {
                    top.extend(Hit::of(self.points, live.list.ordinals[slot], distance, true));
                }
            }
        }
        hits.extend(top.into_hits());
        stats
    }

    /// Of the given rows (list and slot, all live) appends every one that may be among the k nearest of them, proven by error
    /// bounds; in IVF-Flat the k nearest.
    pub(crate) fn gather(
        self,
        query: &[f32],
        rows: &mut dyn Iterator<Item = (usize, usize)>,
        k: usize,
        scratch: &mut Scratch,
        hits: &mut Vec<Hit>,
    ) -> SearchStats {
        scratch.project(self.quantizer, query);
        if self.quantizer.kind == IndexKind::IvfFlat {
            let codes_scanned = self.gather_exact(query, rows, k, scratch, hits);
            return SearchStats { codes_scanned, ..SearchStats::default() };
        }
        self.rerank_rows(query, rows, scratch);
        let reranked = scratch.reranked.len();
        self.possible_hits(k, &mut scratch.reranked, hits);
        SearchStats { reranked, ..SearchStats::default() }
    }

    fn gather_exact(
        self,
        query: &[f32],
        rows: &mut dyn Iterator<Item = (usize, usize)>,
        k: usize,
        scratch: &Scratch,
        hits: &mut Vec<Hit>,
    ) -> usize {
        let d = self.quantizer.dimension;
        let (mut top, mut scanned) = (TopHits::new(k), 0);
        for (list, slot) in rows {
            let list = &self.lists[list].list;
            if !list.is_sound() {
                continue;
            }
            let Rows::Exact(vectors) = &list.rows else { continue };
            let vector = &vectors[slot * d..(slot + 1) * d];
            let distance = distance::exact(scratch.kernels, self.quantizer.metric, query, vector);
            scanned += 1;
            if top.accepts(distance) {
                top.extend(Hit::of(self.points, list.ordinals[slot], distance, true));
            }
        }
        hits.extend(top.into_hits());
        scanned
    }

    /// Int8 distances and error bounds of the rows, into `scratch.reranked`.
    fn rerank_rows(self, query: &[f32], rows: &mut dyn Iterator<Item = (usize, usize)>, scratch: &mut Scratch) {
        let step = quantise_query(&scratch.projected, &mut scratch.query_wide);
        let Scratch { kernels, projected, query_wide, reranked, .. } = scratch;
        let offset = self.quantizer.query_offset(query, kernels);
        let byte_query = ByteQuery { quantizer: self.quantizer, kernels, projected, wide: query_wide, step };
        let length = (kernels.dot)(projected, projected).sqrt();
        // Lists come in any order and again and again.
        let mut bases: Vec<Option<f32>> = vec![None; self.lists.len()];
        let mut ahead = Vec::with_capacity(ROWS_AHEAD);
        reranked.clear();
        loop {
            ahead.clear();
            ahead.extend(rows.filter(|&(list, _)| self.lists[list].list.is_sound()).take(ROWS_AHEAD));
            if ahead.is_empty() {
                return;
            }
            for &(list, slot) in &ahead {
                if let Rows::Coded(rows) = &self.lists[list].list.rows {
                    prefetch(rows.record(slot, projected.len()));
                }
            }
            for &(list, slot) in &ahead {
                let list_rows = &self.lists[list].list;
                let Rows::Coded(rows) = &list_rows.rows else { continue };
                let base =
                    *bases[list].get_or_insert_with(|| self.quantizer.list_base(projected, list, kernels) + offset);
                let probe = Probe { list, base, estimate_base: 0.0, position: 0 };
                let distance = byte_query.distance(rows, slot, probe);
                let error = byte_query.error(rows, list_rows.inherited_error, slot, probe, distance, length);
                reranked.push(Reranked { distance, error, list, slot });
            }
        }
    }
}

/// The lists by rank, sorted as far as they are visited.
struct Visits {
    /// Rank above, list below.
    order: Vec<u64>,
    at: usize,
    sorted: usize,
    /// What the query alone adds to every list's base.
    offset: f32,
    /// A list's base times this is in the units of estimates.
    base_factor: f32,
    position: u32,
}

impl Visits {
    fn next(&mut self) -> Option<usize> {
        if self.at == self.sorted {
            let rest = &mut self.order[self.sorted..];
            let more = self.sorted.max(64).min(rest.len());
            if more < rest.len() {
                rest.select_nth_unstable(more);
            }
            rest[..more].sort_unstable();
            self.sorted += more;
        }
        let list = *self.order.get(self.at)? as u32 as usize;
        self.at += 1;
        Some(list)
    }
}

/// Candidates being collected from list after list. The first `held` of the buffer are candidates.
struct ListScan<'a> {
    allowed: &'a Allowed,
    mask_first: bool,
    masks: Vec<u32>,
    wanted: usize,
    held: usize,
    threshold: f32,
}

impl ListScan<'_> {
    /// Adds the allowed rows of a list by their codes; returns how many were scanned.
    fn codes(
        &mut self,
        live: &LiveList,
        (rows, table, probe): (&CodedRows, &LookupTable, Probe),
        kernels: &Kernels,
        candidates: &mut [u64],
    ) -> usize {
        let mut masks = std::mem::take(&mut self.masks);
        let (bits, count) = match self.mask_first {
            true => mask_list(live, self.allowed, &mut masks),
            false => (live.live.as_slice(), live.live_rows),
        };
        if count > 0 {
            let input = scan_input(rows, bits, table, &probe, &[]);
            let mut block = 0;
            while block < bits.len() {
                let progress = (kernels.scan)(&input, block, self.threshold, &mut candidates[self.held..]);
                block = progress.next_block;
                let written = &mut candidates[self.held..][..progress.written];
                self.held += match self.mask_first {
                    true => written.len(),
                    false => keep_allowed(written, input.position, live, self.allowed),
                };
                if candidates.len() - self.held < BLOCK_ROWS {
                    self.cut(candidates);
                }
            }
        }
        self.masks = masks;
        count
    }

    /// Adds the allowed rows of a list by their int8 distances; returns how many were scanned.
    fn bytes(
        &mut self,
        live: &LiveList,
        position: u32,
        distance: impl Fn(usize) -> f32,
        candidates: &mut [u64],
    ) -> usize {
        let mut rows = 0;
        for slot in live.live_slots().filter(|&slot| self.allowed.contains(live.list.ordinals[slot])) {
            rows += 1;
            let distance = distance(slot);
            let above = distance > self.threshold;
            if above {
                continue;
            }
            candidates[self.held] = pack_candidate(distance, position + slot as u32);
            self.held += 1;
            if self.held == candidates.len() {
                self.cut(candidates);
            }
        }
        rows
    }

    fn cut(&mut self, candidates: &mut [u64]) {
        self.held = cut(&mut candidates[..self.held], self.wanted, &mut self.threshold);
    }
}

/// When a search may end. Distances become scores by which lists are ranked: what the query alone adds is taken off, and inner
/// products are those of a query of length 1.
struct Stop {
    plan: FilteredPlan,
    is_dot: bool,
    residual: f32,
    offset: f32,
    /// The query's squared length, or for inner products the factor that brings its length to 1.
    query: f32,
    /// A list ranked behind this holds nothing that matters; none yet while fewer than k are found.
    limit: Option<f32>,
}

impl Stop {
    fn new(lists: Lists<'_>, plan: FilteredPlan, offset: f32, scratch: &Scratch) -> Stop {
        let (quantizer, projected) = (lists.quantizer, &scratch.projected);
        let is_dot = quantizer.metric == Metric::Dot;
        let query = match is_dot {
            true => quantizer.query_scale(projected, scratch.kernels),
            false => (scratch.kernels.dot)(projected, projected),
        };
        let residual = quantizer.residual_mean.max(0.0).sqrt();
        Stop { plan, is_dot, residual, offset, query, limit: None }
    }

    /// The k-th nearest found so far is this near.
    fn nearest_found(&mut self, kth: f32) {
        let score = match self.is_dot {
            true => (kth - self.offset) * self.query,
            false => kth - self.offset - self.query,
        };
        self.limit = Some(score + reach::margin(self.plan.kappa, kth, self.residual, self.is_dot));
    }

    /// Whether to end before a list of this score, `visited` lists having been visited.
    fn before(&self, score: f32, visited: usize) -> bool {
        match (self.limit, self.plan.nprobe) {
            (None, _) => false,
            (Some(_), Some(nprobe)) => visited >= nprobe,
            (Some(limit), None) => score > limit,
        }
    }
}

/// Moves the candidates whose rows are allowed to the front; returns how many. All are of one list.
fn keep_allowed(candidates: &mut [u64], position: u32, live: &LiveList, allowed: &Allowed) -> usize {
    let mut kept = 0;
    for i in 0..candidates.len() {
        let slot = candidates[i] as u32 - position;
        candidates[kept] = candidates[i];
        kept += usize::from(allowed.contains(live.list.ordinals[slot as usize]));
    }
    kept
}

/// A bit for each live row that is allowed, a word a block, and how many they are.
fn mask_list<'m>(live: &LiveList, allowed: &Allowed, masks: &'m mut Vec<u32>) -> (&'m [u32], usize) {
    masks.clear();
    let blocks = live.list.ordinals.chunks(BLOCK_ROWS).zip(&live.live);
    masks.extend(blocks.map(|(ordinals, live)| if *live == 0 { 0 } else { allowed.mask(ordinals) & live }));
    let rows = masks.iter().map(|mask| mask.count_ones() as usize).sum();
    (masks, rows)
}
