//! One search for many queries at once: a list that several of them visit is brought into the nearest cache once and scanned for all.
//! Each query's answer is that of a search of its own, to the bit: what is kept of its candidates does not depend on the order
//! of its lists. Called by `vector_index`.

use super::search::{Lists, Plan, QueryScratch, Scratch};
use super::spec::{Hit, SearchStats};

/// Queries whose look-up tables and candidates are held at once: their buffers fit the second cache.
const QUERIES_AT_ONCE: usize = 128;
/// Lists of each query that are scanned before all others, so that its threshold is low for the rest.
const NEAREST_LISTS: usize = 4;

/// The buffers of many queries at once.
#[derive(Debug, Default)]
pub(super) struct Many {
    queries: Vec<QueryScratch>,
    visits: Vec<Visit>,
}

/// A list to be scanned for a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Visit {
    /// Whether it is not one of the query's nearest.
    far: bool,
    list: u32,
    query: u32,
    /// Its place among the query's probes.
    probe: u32,
}

impl Lists<'_> {
    /// Appends each query's hits to its element of `out` and adds up its work. The lists hold codes.
    pub(crate) fn search_many(
        self,
        queries: &[&[f32]],
        plan: Plan,
        scratch: &mut Scratch,
        out: &mut [(Vec<Hit>, SearchStats)],
    ) {
        for (queries, out) in queries.chunks(QUERIES_AT_ONCE).zip(out.chunks_mut(QUERIES_AT_ONCE)) {
            self.prepare(queries, plan, scratch);
            self.scan_visits(scratch, out);
            for (i, (hits, stats)) in out.iter_mut().enumerate() {
                std::mem::swap(&mut scratch.query, &mut scratch.many.queries[i]);
                stats.lists_probed = scratch.query.probes.len();
                stats.reranked = self.finish_query(plan, scratch, hits);
                std::mem::swap(&mut scratch.query, &mut scratch.many.queries[i]);
            }
        }
    }

    /// Each query's probes and table, and all visits in the order in which they are made.
    fn prepare(self, queries: &[&[f32]], plan: Plan, scratch: &mut Scratch) {
        let Scratch { kernels, ranking, many, .. } = scratch;
        many.visits.clear();
        if many.queries.len() < queries.len() {
            many.queries.resize_with(queries.len(), QueryScratch::default);
        }
        for (i, (query, state)) in queries.iter().zip(&mut many.queries).enumerate() {
            self.choose_probes_into(query, plan.nprobe, ranking, state, kernels);
            if let Some(codebook) = &self.quantizer.codebook {
                codebook.look_up(&state.projected, &mut state.table, kernels);
            }
            state.candidates.reset(plan.candidates_kept());
            many.visits.extend(state.probes.iter().enumerate().map(|(at, probe)| Visit {
                far: at >= NEAREST_LISTS,
                list: probe.list as u32,
                query: i as u32,
                probe: at as u32,
            }));
        }
        many.visits.sort_unstable();
    }

    fn scan_visits(self, scratch: &mut Scratch, out: &mut [(Vec<Hit>, SearchStats)]) {
        let Scratch { kernels, many: Many { queries, visits }, .. } = scratch;
        for (i, visit) in visits.iter().enumerate() {
            let next = visits.get(i + 1).map(|next| next.list);
            // The list itself is in cache when its second query comes.
            let ahead = next.filter(|&next| next != visit.list).map(|next| next as usize);
            let QueryScratch { probes, table, candidates, .. } = &mut queries[visit.query as usize];
            let scanned = self.scan_list(&probes[visit.probe as usize], ahead, table, candidates, kernels);
            out[visit.query as usize].1.codes_scanned += scanned;
        }
    }
}
