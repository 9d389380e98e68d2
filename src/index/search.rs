//! A search over posting lists: rank the lists, one look-up table, scan the codes of the nearest, re-rank candidates in int8.
//! Called by `vector_index`, `many` and `calibrate`.

use super::candidates::Candidates;
use super::distance;
use super::kernels::{self, Kernels, ScanInput, prefetch};
use super::list::{LiveList, Rows};
use super::points::Points;
use super::probes::{Probe, Ranking};
use super::product::LookupTable;
use super::quantizer::Quantizer;
use super::rerank::{Against, Reranked, Reranking};
use super::spec::{Hit, SearchStats};
use super::top::TopHits;

/// The buffers of searches, so that a search allocates nothing but its answer. One for each thread that searches; holds nothing
/// between searches.
pub struct Scratch {
    pub(crate) kernels: &'static Kernels,
    projected: Vec<f32>,
    ranking: Ranking,
    probes: Vec<Probe>,
    table: LookupTable,
    candidates: Candidates,
    reranking: Reranking,
}

/// The lists and what they are encoded against.
#[derive(Clone, Copy)]
pub(crate) struct Lists<'a> {
    pub(crate) points: &'a Points,
    pub(crate) quantizer: &'a Quantizer,
    pub(crate) lists: &'a [LiveList],
}

/// How much of the lists to visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) k: usize,
    pub(crate) nprobe: usize,
    pub(crate) candidates: usize,
}

impl Plan {
    /// Int8-ranked hits that are returned for `k`.
    pub(crate) fn hits_returned(k: usize) -> usize {
        (2 * k).max(16)
    }
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
            ranking: Ranking::default(),
            probes: Vec::new(),
            table: LookupTable::default(),
            candidates: Candidates::default(),
            reranking: Reranking::default(),
        }
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
        let Some(codebook) = &self.quantizer.codebook else {
            stats.codes_scanned = self.scan_exact(query, plan.k, scratch, hits);
            return stats;
        };
        codebook.look_up(&scratch.projected, &mut scratch.table, scratch.kernels);
        let returned = Plan::hits_returned(plan.k);
        stats.codes_scanned = self.scan_codes(plan.candidates.max(returned), scratch);
        stats.reranked = self.rerank(scratch);
        self.nearest_reranked(returned, scratch, hits);
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
        if self.quantizer.codebook.is_none() {
            stats.codes_scanned = self.scan_exact(query, k, scratch, hits);
            return stats;
        }
        let Scratch { kernels, projected, probes, reranking, .. } = scratch;
        reranking.score_all(self.against(projected, probes, kernels));
        let rows = &mut reranking.rows;
        stats.reranked = rows.len();
        let mut limit = f32::INFINITY;
        if (1..rows.len()).contains(&k) {
            let upper = |r: &Reranked| r.distance + r.error;
            let (_, kth, _) = rows.select_nth_unstable_by(k - 1, |a, b| upper(a).total_cmp(&upper(b)));
            limit = upper(kth);
        }
        let beyond = |r: &Reranked| r.distance - r.error > limit;
        hits.extend(rows.iter().filter(|r| k > 0 && !beyond(r)).filter_map(|r| self.hit(r)));
        stats
    }

    /// All lists with live rows in the order in which a search visits them.
    pub(crate) fn visit_order(self, query: &[f32], scratch: &mut Scratch) -> Vec<usize> {
        self.choose_probes(query, self.lists.len(), scratch);
        scratch.probes.iter().map(|probe| probe.list).collect()
    }

    /// The `nprobe` lists nearest to the query that have live rows, nearest first.
    fn choose_probes(self, query: &[f32], nprobe: usize, scratch: &mut Scratch) {
        scratch.project(self.quantizer, query);
        let Scratch { kernels, projected, ranking, probes, .. } = scratch;
        ranking.choose(self.quantizer, self.lists, (query, projected), nprobe, probes, kernels);
        self.prefetch_headers(probes);
    }

    /// Asks for what is read of each list before its blocks, all lists' at once: one wait for all instead of one for each.
    fn prefetch_headers(self, probes: &[Probe]) {
        for probe in probes {
            let live = &self.lists[probe.list];
            prefetch(std::slice::from_ref(&*live.list));
            prefetch(&live.live);
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

    /// Leaves the `wanted` candidates of least (estimate, position) in `scratch.candidates`; returns the rows scanned.
    fn scan_codes(self, wanted: usize, scratch: &mut Scratch) -> usize {
        let Scratch { kernels, probes, table, candidates, .. } = scratch;
        let mut scanned = 0;
        candidates.reset(wanted);
        for (at, probe) in probes.iter().enumerate() {
            let Some(input) = self.scan_input(probe, probes.get(at + 1), table) else { continue };
            scanned += self.lists[probe.list].live_rows;
            let mut block = 0;
            while block < input.live.len() {
                let progress = (kernels.scan)(&input, block, candidates.threshold(), candidates.slots());
                block = progress.next_block;
                candidates.appended(progress.written, kernels);
            }
        }
        scanned
    }

    /// The codes of a list, with those of the next one to be in cache in time.
    fn scan_input<'b>(&'b self, probe: &Probe, next: Option<&Probe>, table: &'b LookupTable) -> Option<ScanInput<'b>> {
        let blocks = |probe: &Probe| match &self.lists[probe.list].list.rows {
            Rows::Coded(rows) => Some(&rows.blocks[..]),
            Rows::Exact(_) => None,
        };
        let units = self.quantizer.units;
        Some(ScanInput {
            blocks: blocks(probe)?,
            ahead: next.and_then(blocks).unwrap_or_default(),
            live: &self.lists[probe.list].live,
            table: &table.entries,
            // In the units of the addends; all are powers of two.
            table_step: table.step / units.length,
            table_bias: table.bias / units.length,
            base: probe.base / units.square(),
            position: probe.position,
        })
    }

    /// Int8 distances of the candidates, into `scratch.reranking`; how many.
    fn rerank(self, scratch: &mut Scratch) -> usize {
        let Scratch { kernels, projected, probes, candidates, reranking, .. } = scratch;
        reranking.score(self.against(projected, probes, kernels), candidates.finish(kernels));
        reranking.rows.len()
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
