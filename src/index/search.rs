//! A search over posting lists: rank the lists, one look-up table, scan the codes of the nearest, re-rank candidates in int8.
//! Candidates are collected below a threshold and cut in batches. Called by `vector_index` and `calibrate`.

mod filtered;

pub(crate) use filtered::FilteredPlan;

use super::distance;
use super::kernels::{self, BLOCK_ROWS, Kernels, ScanInput, candidate_estimate, order_bits, pack_candidate, prefetch};
use super::list::{CodedRows, LiveList, Rows};
use super::plan::{Plan, StopRule, later_half};
use super::points::Points;
use super::product::LookupTable;
use super::quantizer::{HALF_STEP, Quantizer, quantise_query};
use super::spec::{Hit, IndexKind, SearchStats};
use super::top::TopHits;
use crate::types::{Metric, Rerank};

/// The buffers of searches, so that a search allocates little more than its answer. One for each thread that searches;
/// holds nothing between searches.
pub struct Scratch {
    pub(crate) kernels: &'static Kernels,
    projected: Vec<f32>,
    scores: Vec<f32>,
    order: Vec<u64>,
    probes: Vec<Probe>,
    table: LookupTable,
    query_wide: Vec<i16>,
    candidates: Vec<u64>,
    /// Of each candidate the probe and the slot.
    found: Vec<(u32, u32)>,
    reranked: Vec<Reranked>,
}

/// A list to visit: the distance's part known of it, and what its first row is called among the candidates.
#[derive(Clone, Copy, Debug)]
struct Probe {
    list: usize,
    base: f32,
    /// `base` in units of the rows' addends.
    estimate_base: f32,
    position: u32,
}

/// A row with its int8 distance and the most that may be wrong with it.
#[derive(Clone, Copy, Debug)]
struct Reranked {
    distance: f32,
    error: f32,
    list: usize,
    slot: usize,
}

/// The lists and what they are encoded against.
#[derive(Clone, Copy)]
pub(crate) struct Lists<'a> {
    pub(crate) points: &'a Points,
    pub(crate) quantizer: &'a Quantizer,
    pub(crate) lists: &'a [LiveList],
}

impl Default for Scratch {
    fn default() -> Self {
        Scratch::new()
    }
}

impl Scratch {
    /// Buffers for the kernels of this process.
    pub fn new() -> Scratch {
        Scratch::with_kernels(kernels::active())
    }

    pub(crate) fn with_kernels(kernels: &'static Kernels) -> Scratch {
        Scratch {
            kernels,
            projected: Vec::new(),
            scores: Vec::new(),
            order: Vec::new(),
            probes: Vec::new(),
            table: LookupTable::default(),
            query_wide: Vec::new(),
            candidates: Vec::new(),
            found: Vec::new(),
            reranked: Vec::new(),
        }
    }

    /// The lists to visit, nearest first, each with the position of its first row among all rows to visit.
    pub(crate) fn visits(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        self.probes.iter().map(|probe| (probe.list, probe.position))
    }

    fn project(&mut self, quantizer: &Quantizer, query: &[f32]) {
        self.projected.resize(quantizer.dimension, 0.0);
        quantizer.project_query(query, &mut self.projected, self.kernels);
    }
}

impl Lists<'_> {
    /// Appends the hits of the lists to `hits`: exact ones (at most k) in IVF-Flat, else the `Plan::hits_returned(k)` nearest of
    /// the candidates by int8 distance.
    pub(crate) fn search(self, query: &[f32], plan: Plan, scratch: &mut Scratch, hits: &mut Vec<Hit>) -> SearchStats {
        if plan.k == 0 {
            return SearchStats::default();
        }
        self.choose_probes(query, plan.nprobe, scratch);
        let mut stats = SearchStats { lists_probed: scratch.probes.len(), ..SearchStats::default() };
        if self.quantizer.kind == IndexKind::IvfFlat {
            stats.codes_scanned = self.scan_exact(query, plan.k, scratch, hits);
            return stats;
        }
        let returned = match self.quantizer.rerank {
            Rerank::F32 => Plan::hits_returned(plan.k),
            Rerank::Int8 => plan.k,
        };
        if self.quantizer.codebook.is_some() {
            self.quantizer.look_up(&scratch.projected, &mut scratch.table, scratch.kernels);
            (stats.lists_probed, stats.codes_scanned) =
                self.collect_candidates(plan.candidates.max(returned), plan.stop, scratch);
        } else {
            stats.codes_scanned = self.scan_bytes(returned, scratch);
        }
        self.rerank_candidates(scratch);
        stats.reranked = scratch.reranked.len();
        self.nearest_reranked(returned, &mut scratch.reranked, hits);
        stats
    }

    /// Appends every row that may be among the true k nearest: by int8 distances and their error bounds, without a code. In
    /// IVF-Flat the k nearest themselves.
    pub(crate) fn search_exact(
        self,
        query: &[f32],
        k: usize,
        scratch: &mut Scratch,
        hits: &mut Vec<Hit>,
    ) -> SearchStats {
        self.choose_probes(query, self.lists.len(), scratch);
        let mut stats = SearchStats { lists_probed: scratch.probes.len(), ..SearchStats::default() };
        if self.quantizer.kind == IndexKind::IvfFlat {
            stats.codes_scanned = self.scan_exact(query, k, scratch, hits);
            return stats;
        }
        self.rerank_all(scratch);
        stats.reranked = scratch.reranked.len();
        self.possible_hits(k, &mut scratch.reranked, hits);
        stats
    }

    /// Appends those of the re-ranked rows that may be among the k nearest of them.
    fn possible_hits(self, k: usize, reranked: &mut [Reranked], hits: &mut Vec<Hit>) {
        let mut limit = f32::INFINITY;
        if (1..reranked.len()).contains(&k) {
            let upper = |r: &Reranked| r.distance + r.error;
            let (_, kth, _) = reranked.select_nth_unstable_by(k - 1, |a, b| upper(a).total_cmp(&upper(b)));
            limit = upper(kth);
        }
        let beyond = |r: &Reranked| r.distance - r.error > limit;
        hits.extend(reranked.iter().filter(|r| k > 0 && !beyond(r)).filter_map(|r| self.hit(r)));
    }

    /// All lists with live rows in the order in which a search visits them.
    pub(crate) fn visit_order(self, query: &[f32], scratch: &mut Scratch) -> Vec<usize> {
        self.choose_probes(query, self.lists.len(), scratch);
        scratch.probes.iter().map(|probe| probe.list).collect()
    }

    /// Makes ready to visit the `nprobe` nearest lists one by one: for `trace`. Returns how many there are.
    pub(crate) fn prepare(self, query: &[f32], nprobe: usize, scratch: &mut Scratch) -> usize {
        self.choose_probes(query, nprobe, scratch);
        if self.quantizer.codebook.is_some() {
            self.quantizer.look_up(&scratch.projected, &mut scratch.table, scratch.kernels);
        }
        scratch.probes.len()
    }

    /// Appends the candidates of the list visited as number `at` that are not above `threshold`, in order of position.
    pub(crate) fn collect_list(self, at: usize, threshold: f32, scratch: &Scratch, out: &mut Vec<u64>) {
        let probe = scratch.probes[at];
        let live = &self.lists[probe.list];
        let Rows::Coded(rows) = &live.list.rows else { return };
        let start = out.len();
        out.resize(start + (live.live.len() + 1) * BLOCK_ROWS, 0);
        let input = scan_input(rows, &live.live, &scratch.table, &probe, &[]);
        let progress = (scratch.kernels.scan)(&input, 0, threshold, &mut out[start..]);
        out.truncate(start + progress.written);
    }

    /// The `nprobe` lists nearest to the query that have live rows, nearest first.
    fn choose_probes(self, query: &[f32], nprobe: usize, scratch: &mut Scratch) {
        scratch.project(self.quantizer, query);
        let Scratch { kernels, projected, scores, order, probes, .. } = scratch;
        self.quantizer.rank(projected, scores, kernels);
        order.clear();
        let ranked = scores.iter().zip(self.lists).enumerate().filter(|(_, (_, list))| list.live_rows > 0);
        order.extend(ranked.map(|(i, (&score, _))| u64::from(order_bits(score)) << 32 | i as u64));
        let nprobe = nprobe.max(1);
        if nprobe < order.len() {
            order.select_nth_unstable(nprobe - 1);
            order.truncate(nprobe);
        }
        order.sort_unstable();
        let offset = self.quantizer.query_offset(query, kernels);
        let (_, base_factor) = self.quantizer.estimate_factors(projected, kernels);
        let mut position = 0u32;
        probes.clear();
        for &packed in order.iter() {
            let list = packed as u32 as usize;
            if !self.lists[list].list.is_sound() {
                // The caller learns of the damage and answers in another way.
                continue;
            }
            let base = self.quantizer.list_base(projected, list, kernels) + offset;
            probes.push(Probe { list, base, estimate_base: base * base_factor, position });
            position += (self.lists[list].live.len() * BLOCK_ROWS) as u32;
        }
    }

    /// Exact distances of all live rows probed; returns how many.
    fn scan_exact(self, query: &[f32], k: usize, scratch: &Scratch, hits: &mut Vec<Hit>) -> usize {
        let d = self.quantizer.dimension;
        let mut top = TopHits::new(k);
        let mut scanned = 0;
        for probe in &scratch.probes {
            let live = &self.lists[probe.list];
            let Rows::Exact(vectors) = &live.list.rows else { continue };
            for slot in live.live_slots() {
                let vector = &vectors[slot * d..(slot + 1) * d];
                let distance = distance::exact(scratch.kernels, self.quantizer.metric, query, vector);
                if top.accepts(distance) {
                    top.extend(Hit::of(self.points, live.list.ordinals[slot], distance, true));
                }
            }
            scanned += live.live_rows;
        }
        hits.extend(top.into_hits());
        scanned
    }

    /// Asks for what is read of each list before its blocks, all lists' at once: three misses for all instead of three for each.
    fn prefetch_headers(self, probes: &[Probe]) {
        for probe in probes {
            prefetch(std::slice::from_ref(&self.lists[probe.list]));
        }
        for probe in probes {
            let live = &self.lists[probe.list];
            prefetch(std::slice::from_ref(&*live.list));
            prefetch(&live.live);
        }
    }

    /// Leaves the `wanted` candidates of least (estimate, position) in `scratch.candidates`; returns the lists visited and the
    /// rows scanned.
    fn collect_candidates(self, wanted: usize, stop: StopRule, scratch: &mut Scratch) -> (usize, usize) {
        let Scratch { kernels, probes, table, candidates, .. } = scratch;
        let mut held = 0;
        let mut threshold = f32::INFINITY;
        let mut scanned = 0;
        let mut visited = 0;
        let mut next_check = if stop.is_never() { usize::MAX } else { StopRule::next_check(0) };
        candidates.resize((2 * wanted).max(wanted + 256) + BLOCK_ROWS, 0);
        self.prefetch_headers(probes);
        for (at, probe) in probes.iter().enumerate() {
            let live = &self.lists[probe.list];
            let Rows::Coded(rows) = &live.list.rows else { continue };
            let ahead: &[u8] = match probes.get(at + 1).map(|next| &self.lists[next.list].list.rows) {
                Some(Rows::Coded(next)) => &next.blocks,
                _ => &[],
            };
            scanned += live.live_rows;
            let input = scan_input(rows, &live.live, table, probe, ahead);
            let mut block = 0;
            while block < live.live.len() {
                let progress = (kernels.scan)(&input, block, threshold, &mut candidates[held..]);
                block = progress.next_block;
                held += progress.written;
                if candidates.len() - held < BLOCK_ROWS {
                    held = cut(&mut candidates[..held], wanted, &mut threshold);
                }
            }
            visited = at + 1;
            if visited == next_check {
                next_check = StopRule::next_check(visited);
                held = cut(&mut candidates[..held], wanted, &mut threshold);
                let later = probes[visited - later_half(visited)].position;
                let recent = candidates[..held].iter().filter(|&&candidate| candidate as u32 >= later).count();
                if stop.ends(visited, recent, wanted) {
                    break;
                }
            }
        }
        held = cut(&mut candidates[..held], wanted, &mut threshold);
        candidates.truncate(held);
        (visited, scanned)
    }

    /// Leaves the `wanted` rows of least (int8 distance, position) in `scratch.candidates`; returns the rows scanned.
    fn scan_bytes(self, wanted: usize, scratch: &mut Scratch) -> usize {
        let step = quantise_query(&scratch.projected, &mut scratch.query_wide);
        let Scratch { kernels, projected, probes, query_wide, candidates, .. } = scratch;
        let query = ByteQuery { quantizer: self.quantizer, kernels, projected, wide: query_wide, step };
        let (mut threshold, mut scanned) = (f32::INFINITY, 0);
        candidates.clear();
        for &probe in probes.iter() {
            let live = &self.lists[probe.list];
            let Rows::Coded(rows) = &live.list.rows else { continue };
            scanned += live.live_rows;
            for slot in live.live_slots() {
                let distance = query.distance(rows, slot, probe);
                let above = distance > threshold;
                if !above {
                    candidates.push(pack_candidate(distance, probe.position + slot as u32));
                }
            }
            if candidates.len() > 2 * wanted {
                let held = cut(candidates, wanted, &mut threshold);
                candidates.truncate(held);
            }
        }
        let held = cut(candidates, wanted, &mut threshold);
        candidates.truncate(held);
        scanned
    }

    /// Int8 distances of the candidates, into `scratch.reranked`.
    fn rerank_candidates(self, scratch: &mut Scratch) {
        let step = quantise_query(&scratch.projected, &mut scratch.query_wide);
        let Scratch { kernels, projected, probes, query_wide, candidates, found, reranked, .. } = scratch;
        let query = ByteQuery { quantizer: self.quantizer, kernels, projected, wide: query_wide, step };
        reranked.clear();
        found.clear();
        for &candidate in candidates.iter() {
            let position = candidate as u32;
            let at = probes.partition_point(|probe| probe.position <= position) - 1;
            let slot = position - probes[at].position;
            let Rows::Coded(rows) = &self.lists[probes[at].list].list.rows else { continue };
            prefetch(rows.record(slot as usize, projected.len()));
            found.push((at as u32, slot));
        }
        for &(at, slot) in found.iter() {
            let (probe, slot) = (probes[at as usize], slot as usize);
            let Rows::Coded(rows) = &self.lists[probe.list].list.rows else { continue };
            let distance = query.distance(rows, slot, probe);
            reranked.push(Reranked { distance, error: 0.0, list: probe.list, slot });
        }
    }

    /// Int8 distances and error bounds of all live rows, into `scratch.reranked`.
    fn rerank_all(self, scratch: &mut Scratch) {
        let step = quantise_query(&scratch.projected, &mut scratch.query_wide);
        let Scratch { kernels, projected, probes, query_wide, reranked, .. } = scratch;
        let query = ByteQuery { quantizer: self.quantizer, kernels, projected, wide: query_wide, step };
        let length = (kernels.dot)(projected, projected).sqrt();
        reranked.clear();
        for &probe in probes.iter() {
            let live = &self.lists[probe.list];
            let Rows::Coded(rows) = &live.list.rows else { continue };
            for slot in live.live_slots() {
                let distance = query.distance(rows, slot, probe);
                let error = query.error(rows, live.list.inherited_error, slot, probe, distance, length);
                reranked.push(Reranked { distance, error, list: probe.list, slot });
            }
        }
    }

    fn nearest_reranked(self, wanted: usize, reranked: &mut Vec<Reranked>, hits: &mut Vec<Hit>) {
        let id = |r: &Reranked| self.points.id(self.lists[r.list].list.ordinals[r.slot]);
        if wanted < reranked.len() {
            reranked.select_nth_unstable_by(wanted - 1, |a, b| {
                a.distance.total_cmp(&b.distance).then_with(|| id(a).cmp(&id(b)))
            });
            reranked.truncate(wanted);
        }
        hits.extend(reranked.iter().filter_map(|r| self.hit(r)));
    }

    fn hit(self, r: &Reranked) -> Option<Hit> {
        Hit::of(self.points, self.lists[r.list].list.ordinals[r.slot], r.distance, false)
    }
}

/// One list's rows for the scan, which prefetches `ahead`.
fn scan_input<'a>(
    rows: &'a CodedRows,
    live: &'a [u32],
    table: &'a LookupTable,
    probe: &Probe,
    ahead: &'a [u8],
) -> ScanInput<'a> {
    ScanInput {
        blocks: &rows.blocks,
        ahead,
        live,
        table: &table.entries,
        table_step: table.step,
        table_bias: table.bias,
        base: probe.estimate_base,
        position: probe.position,
    }
}

/// Moves the `wanted` least candidates to the front and lowers the threshold to the last of them; returns how many are left.
fn cut(candidates: &mut [u64], wanted: usize, threshold: &mut f32) -> usize {
    if candidates.len() <= wanted {
        return candidates.len();
    }
    let (_, last, _) = candidates.select_nth_unstable(wanted - 1);
    *threshold = candidate_estimate(*last);
    wanted
}

/// A query ready for int8 rows.
struct ByteQuery<'a> {
    quantizer: &'a Quantizer,
    kernels: &'a Kernels,
    projected: &'a [f32],
    /// `projected / step`, rounded.
    wide: &'a [i16],
    step: f32,
}

impl ByteQuery<'_> {
    fn distance(&self, rows: &CodedRows, slot: usize, probe: Probe) -> f32 {
        let row = rows.byte_row(slot, self.wide.len());
        if self.quantizer.metric == Metric::Manhattan {
            let centroid = self.quantizer.centroid(probe.list);
            return (self.kernels.l1_i8)(self.projected, centroid, row.bytes, row.step);
        }
        let product = (self.kernels.dot_i8)(self.wide, row.bytes) as f32 * (row.step * self.step);
        self.quantizer.finish((probe.base + row.add) + self.quantizer.product_factor() * product)
    }

    /// The most by which [`ByteQuery::distance`] can be off, rounding of both sides and of the arithmetic included. A residual
    /// is off by at most half a step a dimension, and what it inherited: `e = step/2 · √d` in length, `step/2 · d` in L1. Then
    /// |√D − √D̃| ≤ e for an L2 distance, and |⟨q, e⟩| ≤ |q|·e for a product.
    fn error(
        &self,
        rows: &CodedRows,
        inherited: f32,
        slot: usize,
        probe: Probe,
        distance: f32,
        query_length: f32,
    ) -> f32 {
        const ARITHMETIC: f32 = 1e-5;
        let d = self.wide.len() as f32;
        let factors = rows.byte_row(slot, self.wide.len());
        let half = factors.step * HALF_STEP + inherited;
        if self.quantizer.metric == Metric::Manhattan {
            return half * d + ARITHMETIC * distance.abs();
        }
        let row_error = half * d.sqrt();
        // The query's rounding, against a row of int8 numbers at most 127 · √d · step long.
        let query_error = self.step * 0.5001 * d.sqrt() * 127.0 * d.sqrt() * factors.step;
        let slack = ARITHMETIC * (probe.base.abs() + factors.add.abs() + query_length * query_length + distance.abs());
        let error = match self.quantizer.metric {
            Metric::Dot => query_length * row_error + query_error,
            _ => {
                let square = distance.abs() * if self.quantizer.metric == Metric::Cosine { 2.0 } else { 1.0 };
                self.quantizer.finish(2.0 * square.sqrt() * row_error + row_error * row_error + 2.0 * query_error)
            }
        };
        error + slack
    }
}
