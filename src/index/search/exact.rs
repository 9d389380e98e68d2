//! Scans that look at every row of the lists they are given, or at every row they are given: exact searches, IVF-Flat, kinds without codes, and
//! the few rows that a filter leaves. What they find does not depend on the order in which rows are looked at, so that
//! long ones are cut into parts for several threads. Called by `search` and `filtered`.

use super::{Lists, Scratch};
use crate::index::candidates::Candidates;
use crate::index::distance;
use crate::index::kernels::Kernels;
use crate::index::list::Rows;
use crate::index::probes::Probe;
use crate::index::rerank::Reranking;
use crate::index::spec::{Hit, IndexKind, SearchStats};
use crate::index::threads::{SharedLimit, bounded_nanos, exact_nanos};
use crate::index::top::TopHits;

impl Lists<'_> {
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
        let probes = &scratch.query.chosen.probes;
        let mut stats = SearchStats { lists_probed: probes.len(), ..SearchStats::default() };
        if self.quantizer.kind == IndexKind::IvfFlat {
            stats.codes_scanned = self.scan_exact(query, k, scratch, hits);
            return stats;
        }
        let (kernels, projected) = (scratch.kernels, &scratch.query.projected);
        let nanos = || self.mean_rows(probes.len()) * bounded_nanos(self.quantizer.dimension);
        let possible = &mut scratch.reranking.possible;
        possible.reset(k);
        if scratch.threads.pays(nanos) {
            let size = scratch.threads.items_a_part(probes.len(), nanos());
            let limit = SharedLimit::new(f32::INFINITY);
            let parts = scratch.threads.over(probes.len(), size, |part| {
                let mut reranking = Reranking::within(k, limit.get());
                reranking.score_all(self.against(projected, &probes[part], kernels));
                limit.lower(reranking.possible.limit());
                reranking.possible
            });
            parts.into_iter().for_each(|part| possible.join(part));
        } else {
            scratch.reranking.score_all(self.against(projected, probes, kernels));
        }
        let possible = &mut scratch.reranking.possible;
        stats.reranked = possible.offered();
        hits.extend(possible.finish().iter().filter_map(|r| self.hit(r)));
        stats
    }

    /// About how many rows so many lists have.
    pub(super) fn mean_rows(self, lists: usize) -> usize {
        self.points.len() * lists / self.lists.len().max(1)
    }

    /// Exact distances of all live rows probed, the k nearest into `hits`; returns how many.
    pub(super) fn scan_exact(self, query: &[f32], k: usize, scratch: &Scratch, hits: &mut Vec<Hit>) -> usize {
        let (probes, kernels) = (&scratch.query.chosen.probes, scratch.kernels);
        let nanos = || self.mean_rows(probes.len()) * exact_nanos(self.quantizer.dimension);
        let (mut top, mut scanned) = (TopHits::new(k), 0);
        if scratch.threads.pays(nanos) {
            let size = scratch.threads.items_a_part(probes.len(), nanos());
            let limit = SharedLimit::new(f32::INFINITY);
            let parts = scratch.threads.over(probes.len(), size, |part| {
                let mut top = TopHits::below(k, limit.get());
                let scanned = self.scan_rows(query, &probes[part], &mut top, kernels);
                limit.lower(top.limit());
                (top, scanned)
            });
            scanned += parts.iter().map(|(_, scanned)| scanned).sum::<usize>();
            top.take_all(parts.into_iter().map(|(top, _)| top));
        } else {
            scanned = self.scan_rows(query, probes, &mut top, kernels);
        }
        hits.extend(top.into_hits());
        scanned
    }

    fn scan_rows(self, query: &[f32], probes: &[Probe], top: &mut TopHits, kernels: &Kernels) -> usize {
        let d = self.quantizer.dimension;
        let mut scanned = 0;
        for probe in probes {
            let live = &self.lists[probe.list];
            let Rows::Exact(vectors) = &live.list.rows else { continue };
            for slot in live.live_slots() {
                let vector = &vectors[slot * d..(slot + 1) * d];
                let distance = distance::exact(kernels, self.quantizer.metric, query, vector);
                if top.accepts(distance) {
                    top.extend(Hit::of(self.points, live.list.ordinals[slot], distance, true));
                }
            }
            scanned += live.live_rows;
        }
        scanned
    }

    /// Leaves the rows of least (int8 distance, position) that are wanted for `k` in the query's `candidates`; returns the rows
    /// scanned.
    pub(super) fn scan_bytes(self, k: usize, scratch: &mut Scratch) -> usize {
        let wanted = self.returned(k);
        let (kernels, threads, state) = (scratch.kernels, scratch.threads, &mut scratch.query);
        let (probes, projected) = (&state.chosen.probes, &state.projected);
        let scan = |probes: &[Probe], reranking: &mut Reranking, candidates: &mut Candidates| {
            reranking.begin_scan(projected);
            let against = self.against(projected, probes, kernels);
            for (at, probe) in probes.iter().enumerate() {
                reranking.scan_list(against, at, &self.lists[probe.list].live, candidates);
            }
        };
        state.candidates.reset(wanted);
        let nanos = || self.mean_rows(probes.len()) * bounded_nanos(self.quantizer.dimension);
        if threads.pays(nanos) {
            let size = threads.items_a_part(probes.len(), nanos());
            let limit = SharedLimit::new(f32::INFINITY);
            let mut parts = threads.over(probes.len(), size, |part| {
                let mut candidates = Candidates::default();
                candidates.reset_below(wanted, limit.get());
                scan(&probes[part], &mut Reranking::default(), &mut candidates);
                limit.lower(candidates.threshold());
                candidates
            });
            parts.iter_mut().for_each(|part| state.candidates.take_all(part, kernels));
        } else {
            scan(probes, &mut scratch.reranking, &mut state.candidates);
        }
        probes.iter().map(|probe| self.lists[probe.list].live_rows).sum()
    }
}
