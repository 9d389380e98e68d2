//! The few rows that a filter leaves, scored one by one: those that may be among the nearest, proven by error bounds; in IVF-Flat the
//! nearest. Rows may be given in parts, to several threads. Called by `filtered`.

use super::{Lists, Scratch};
use crate::index::distance;
use crate::index::kernels::Kernels;
use crate::index::list::Rows;
use crate::index::possible::Possible;
use crate::index::rerank::Reranking;
use crate::index::spec::{Hit, IndexKind, SearchStats};
use crate::index::threads::SharedLimit;
use crate::index::top::TopHits;

/// What one of several parts of the rows comes to.
pub(crate) struct GatheredPart {
    /// Of int8 rows: those that may be among the k nearest of the part.
    possible: Possible,
    /// Of f32 rows.
    nearest: TopHits,
    scanned: usize,
}

impl Lists<'_> {
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
        self.project(query, &mut scratch.query, scratch.kernels);
        let Scratch { kernels, query: state, reranking, .. } = scratch;
        if self.quantizer.kind == IndexKind::IvfFlat {
            let mut top = TopHits::new(k);
            let codes_scanned = self.gather_exact(query, rows, &mut top, kernels);
            hits.extend(top.into_hits());
            return SearchStats { codes_scanned, ..SearchStats::default() };
        }
        let offset = self.quantizer.query_offset(query, kernels);
        // Lists come in any order and again and again.
        let mut bases: Vec<Option<f32>> = vec![None; self.lists.len()];
        let base_of = |list: usize| {
            *bases[list].get_or_insert_with(|| self.quantizer.list_base(&state.projected, list, kernels) + offset)
        };
        reranking.possible.reset(k);
        reranking.score_given(self.against(&state.projected, &[], kernels), rows, base_of);
        hits.extend(reranking.possible.finish().iter().filter_map(|r| self.hit(r)));
        SearchStats { reranked: reranking.possible.offered(), ..SearchStats::default() }
    }

    /// What every part needs of the lists: their parts of the distance.
    pub(crate) fn gather_bases(self, query: &[f32], scratch: &mut Scratch) -> Vec<f32> {
        let Scratch { kernels, query: state, .. } = scratch;
        self.project(query, state, kernels);
        let offset = self.quantizer.query_offset(query, kernels);
        (0..self.lists.len()).map(|list| self.quantizer.list_base(&state.projected, list, kernels) + offset).collect()
    }

    /// [`Lists::gather`] for one of several parts, after [`Lists::gather_bases`].
    pub(crate) fn gather_part(
        self,
        query: &[f32],
        (bases, limit): (&[f32], &SharedLimit),
        rows: &mut dyn Iterator<Item = (usize, usize)>,
        k: usize,
        kernels: &Kernels,
    ) -> GatheredPart {
        let nearest = TopHits::below(k, limit.get());
        let mut part = GatheredPart { possible: Possible::new(k), nearest, scanned: 0 };
        if self.quantizer.kind == IndexKind::IvfFlat {
            part.scanned = self.gather_exact(query, rows, &mut part.nearest, kernels);
            limit.lower(part.nearest.limit());
            return part;
        }
        let mut projected = vec![0.0; self.quantizer.dimension];
        let mut reranking = Reranking::within(k, limit.get());
        self.quantizer.project_query(query, &mut projected, kernels);
        reranking.score_given(self.against(&projected, &[], kernels), rows, |list| bases[list]);
        limit.lower(reranking.possible.limit());
        GatheredPart { possible: reranking.possible, ..part }
    }

    /// Appends what [`Lists::gather`] would have of the rows of all parts.
    pub(crate) fn join_gathered(self, k: usize, parts: Vec<GatheredPart>, hits: &mut Vec<Hit>) -> SearchStats {
        let (mut stats, mut possible, mut top) = (SearchStats::default(), Possible::new(k), TopHits::new(k));
        for part in parts {
            stats.codes_scanned += part.scanned;
            possible.join(part.possible);
            top.take_all([part.nearest].into_iter());
        }
        stats.reranked = possible.offered();
        hits.extend(possible.finish().iter().filter_map(|r| self.hit(r)));
        hits.extend(top.into_hits());
        stats
    }

    fn gather_exact(
        self,
        query: &[f32],
        rows: &mut dyn Iterator<Item = (usize, usize)>,
        top: &mut TopHits,
        kernels: &Kernels,
    ) -> usize {
        let d = self.quantizer.dimension;
        let mut scanned = 0;
        for (list, slot) in rows {
            let list = &self.lists[list].list;
            if !list.is_sound() {
                continue;
            }
            let Rows::Exact(vectors) = &list.rows else { continue };
            let vector = &vectors[slot * d..(slot + 1) * d];
            let distance = distance::exact(kernels, self.quantizer.metric, query, vector);
            scanned += 1;
            if top.accepts(distance) {
                top.extend(Hit::of(self.points, list.ordinals[slot], distance, true));
            }
        }
        scanned
    }
}
