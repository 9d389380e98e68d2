//! Which lists a search visits, and in which order: all centroids are ranked in int8, the best few more than asked for again in f32,
//! which is also what the estimates start from. A search may choose its lists some at a time. Called by `search` and `vector_index`.

use super::kernels::{BLOCK_ROWS, ByteRows, Kernels, key_estimate, order_bits, prefetch};
use super::list::LiveList;
use super::quantizer::Quantizer;
use super::select;

/// A list to visit: the distance's part known of it, and what its first row is called among the candidates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub(crate) list: usize,
    pub(crate) base: f32,
    /// `base` in units of the rows' addends.
    pub(crate) estimate_base: f32,
    pub(crate) position: u32,
}

/// Centroids asked for ahead of the one that is measured.
const PREFETCH_LISTS: usize = 8;

/// Queries scored together for [`Ranking::nearest`]: their scores stay in the second cache.
const SCORED_TOGETHER: usize = 24;

/// The buffers of a ranking.
#[derive(Debug, Default)]
pub(crate) struct Ranking {
    queries: ByteRows,
    /// Of each query in turn: int8 scores of all centroids.
    scores: Vec<f32>,
    keys: Vec<u32>,
    lists: Vec<u32>,
    ranked: Vec<Ranked>,
    /// Lists chosen before, ascending.
    before: Vec<u32>,
}

/// A list with its place in the order of visits and its part of the distance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ranked {
    /// The rank's bits, then the list's number.
    pub(crate) key: u64,
    pub(crate) base: f32,
}

impl Ranked {
    pub(crate) fn list(&self) -> usize {
        self.key as u32 as usize
    }

    pub(crate) fn rank(&self) -> f32 {
        key_estimate((self.key >> 32) as u32)
    }
}

/// Lists ranked again in f32 for `nprobe`: int8 scores misplace a list by a few places, so only the last ones are in doubt.
fn recheck_lists(nprobe: usize) -> usize {
    nprobe.saturating_add(nprobe / 4 + 4)
}

/// What a search has chosen of the lists so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chosen {
    /// Nearest first.
    pub(crate) probes: Vec<Probe>,
    /// Whether there are no more lists with live rows.
    pub(crate) is_all: bool,
}

impl Chosen {
    /// Nothing, for another query.
    pub(crate) fn clear(&mut self) {
        self.probes.clear();
        self.is_all = false;
    }
}

impl Ranking {
    /// Scores all centroids for each of the queries given (in the lists' space, one after the other), one pass over the centroids for
    /// all of them together.
    fn score(&mut self, quantizer: &Quantizer, projected: &[f32], kernels: &Kernels) {
        self.queries.refill(projected, quantizer.dimension, kernels);
        for (row, query) in projected.chunks_exact(quantizer.dimension).enumerate() {
            self.queries.lengthen(row, quantizer.query_scale(query, kernels));
        }
        self.scores.resize(self.queries.all().len() * quantizer.ranking.columns_padded(), 0.0);
        (kernels.scores_i8)(&quantizer.ranking, self.queries.all(), quantizer.product_factor(), &mut self.scores);
    }

    /// The list of least int8 score for each query. Cost: that of scoring alone, a tenth or so of a search's choice of lists.
    pub(crate) fn nearest(&mut self, quantizer: &Quantizer, queries: &[&[f32]], kernels: &Kernels) -> Vec<u32> {
        let (d, columns) = (quantizer.dimension, quantizer.ranking.columns_padded());
        let mut nearest = Vec::with_capacity(queries.len());
        for together in queries.chunks(SCORED_TOGETHER) {
            let mut projected = vec![0.0; together.len() * d];
            for (query, projected) in together.iter().zip(projected.chunks_exact_mut(d)) {
                quantizer.project_query(query, projected, kernels);
            }
            self.score(quantizer, &projected, kernels);
            // The padding of the last panel is no list.
            let scores = self.scores.chunks_exact(columns).map(|scores| (0..).zip(&scores[..quantizer.lists()]));
            nearest.extend(scores.map(|scores| scores.min_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(list, _)| list)));
        }
        nearest
    }

    /// Appends to `chosen` the lists that come next and have live rows, nearest first, until there are `wanted` or no more.
    /// `projected` is the query in the lists' space. The same lists follow only the same steps.
    pub(crate) fn choose(
        &mut self,
        quantizer: &Quantizer,
        lists: &[LiveList],
        (query, projected): (&[f32], &[f32]),
        wanted: usize,
        chosen: &mut Chosen,
        kernels: &Kernels,
    ) {
        self.score(quantizer, projected, kernels);
        let more = wanted.saturating_sub(chosen.probes.len());
        self.before.clear();
        self.before.extend(chosen.probes.iter().map(|probe| probe.list as u32));
        self.before.sort_unstable();
        self.rank_next(quantizer, lists, projected, (wanted, more), kernels);
        chosen.is_all = self.ranked.len() < more;
        self.prefetch_headers(lists);
        let end = |probe: &Probe| probe.position + (lists[probe.list].live.len() * BLOCK_ROWS) as u32;
        let offset = quantizer.query_offset(query, kernels);
        let (_, base_factor) = quantizer.estimate_factors(projected, kernels);
        for ranked in &self.ranked {
            let list = ranked.list();
            if !lists[list].list.is_sound() {
                // The caller learns of the damage and answers in another way.
                continue;
            }
            let (base, position) = (ranked.base + offset, chosen.probes.last().map_or(0, end));
            chosen.probes.push(Probe { list, base, estimate_base: base * base_factor, position });
        }
    }

    /// Leaves in `ranked` the nearest `more` lists with live rows that are not in `before`, nearest first, of somewhat more than
    /// `wanted` by int8 score.
    fn rank_next(
        &mut self,
        quantizer: &Quantizer,
        lists: &[LiveList],
        projected: &[f32],
        (wanted, more): (usize, usize),
        kernels: &Kernels,
    ) {
        let mut by_score = recheck_lists(wanted.clamp(1, lists.len().max(1)));
        loop {
            self.take_best(by_score, kernels);
            let seen = self.lists.len();
            let Ranking { lists: best, before, .. } = self;
            // The padding of the last panel is no list.
            best.retain(|&list| (list as usize) < lists.len() && before.binary_search(&list).is_err());
            self.recheck(quantizer, lists, projected, kernels);
            // Lists without live rows took places: look at more.
            if self.ranked.len() >= more || seen >= lists.len() {
                break;
            }
            by_score *= 2;
        }
        self.ranked.sort_unstable_by_key(|ranked| ranked.key);
        self.ranked.truncate(more);
    }

    /// The best `wanted` lists and somewhat more by the int8 scores, ascending by number.
    fn take_best(&mut self, wanted: usize, kernels: &Kernels) {
        self.keys.clear();
        self.keys.extend(self.scores.iter().map(|&score| order_bits(score)));
        self.lists.clear();
        self.lists.extend(0..self.scores.len() as u32);
        let limit = select::limit(&self.keys, wanted, wanted.saturating_add(wanted / 8), kernels);
        let kept = (kernels.keep_at_most)(&mut self.keys, &mut self.lists, limit);
        self.lists.truncate(kept);
    }

    /// Those with live rows, ranked in f32.
    fn recheck(&mut self, quantizer: &Quantizer, lists: &[LiveList], projected: &[f32], kernels: &Kernels) {
        self.ranked.clear();
        let scale = quantizer.query_scale(projected, kernels);
        let ask = |&list: &u32| {
            prefetch(std::slice::from_ref(&lists[list as usize]));
            prefetch(quantizer.centroid(list as usize));
        };
        self.lists.iter().take(PREFETCH_LISTS).for_each(ask);
        for (i, &list) in self.lists.iter().enumerate() {
            self.lists.get(i + PREFETCH_LISTS).into_iter().for_each(ask);
            if lists[list as usize].live_rows == 0 {
                continue;
            }
            let base = quantizer.list_base(projected, list as usize, kernels);
            let rank = quantizer.rank(list as usize, base, scale);
            self.ranked.push(Ranked { key: u64::from(order_bits(rank)) << 32 | u64::from(list), base });
        }
    }

    /// Asks for what is read of each list before its rows, all lists' at once: one wait for all instead of one for each.
    fn prefetch_headers(&self, lists: &[LiveList]) {
        for ranked in &self.ranked {
            let live = &lists[ranked.list()];
            prefetch(std::slice::from_ref(&*live.list));
            prefetch(&live.live);
        }
        self.ranked.iter().for_each(|ranked| lists[ranked.list()].list.read_unverified());
    }

    /// All lists with live rows, ranked in f32, in no order.
    pub(crate) fn all(
        &mut self,
        quantizer: &Quantizer,
        lists: &[LiveList],
        projected: &[f32],
        kernels: &Kernels,
    ) -> &[Ranked] {
        self.lists.clear();
        self.lists.extend(0..lists.len() as u32);
        self.recheck(quantizer, lists, projected, kernels);
        &self.ranked
    }
}
