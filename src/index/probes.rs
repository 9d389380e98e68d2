//! Which lists a search visits: all centroids are ranked in int8, the best few more than asked for again in f32, which is also what
//! the estimates start from. Called by `search` and `many`.

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

/// The buffers of a ranking.
#[derive(Debug, Default)]
pub(crate) struct Ranking {
    query: ByteRows,
    scores: Vec<f32>,
    keys: Vec<u32>,
    lists: Vec<u32>,
    order: Vec<Ranked>,
    chosen: Vec<usize>,
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

impl Ranking {
    /// Leaves in `probes` the `nprobe` lists nearest to the query (in both spaces) that have live rows, nearest first.
    pub(crate) fn choose(
        &mut self,
        quantizer: &Quantizer,
        lists: &[LiveList],
        query: (&[f32], &[f32]),
        nprobe: usize,
        probes: &mut Vec<Probe>,
        kernels: &Kernels,
    ) {
        probes.clear();
        self.choose_more(quantizer, lists, query, nprobe, probes, kernels);
    }

    /// Appends to `probes`, which are the first ones, what comes after them until there are `nprobe`.
    pub(crate) fn choose_more(
        &mut self,
        quantizer: &Quantizer,
        lists: &[LiveList],
        (query, projected): (&[f32], &[f32]),
        nprobe: usize,
        probes: &mut Vec<Probe>,
        kernels: &Kernels,
    ) {
        self.rank(quantizer, lists, projected, nprobe, kernels);
        self.chosen.clear();
        self.chosen.extend(probes.iter().map(|probe| probe.list));
        self.chosen.sort_unstable();
        self.order.retain(|ranked| self.chosen.binary_search(&ranked.list()).is_err());
        self.order.truncate(nprobe.saturating_sub(probes.len()));
        self.prefetch_headers(lists);
        let end = |probe: &Probe| probe.position + (lists[probe.list].live.len() * BLOCK_ROWS) as u32;
        let offset = quantizer.query_offset(query, kernels);
        let (_, base_factor) = quantizer.estimate_factors(projected, kernels);
        for ranked in &self.order {
            let list = ranked.list();
            if !lists[list].list.is_sound() {
                // The caller learns of the damage and answers in another way.
                continue;
            }
            let (base, position) = (ranked.base + offset, probes.last().map_or(0, end));
            probes.push(Probe { list, base, estimate_base: base * base_factor, position });
        }
    }

    /// Leaves in `order` the `nprobe` nearest lists that have live rows, nearest first.
    fn rank(&mut self, quantizer: &Quantizer, lists: &[LiveList], projected: &[f32], nprobe: usize, kernels: &Kernels) {
        let nprobe = nprobe.clamp(1, lists.len().max(1));
        self.score(quantizer, projected, kernels);
        let mut wanted = recheck_lists(nprobe);
        loop {
            self.take_best(wanted, kernels);
            self.recheck(quantizer, lists, projected, kernels);
            self.order.sort_unstable_by_key(|ranked| ranked.key);
            // Lists without live rows took places: look at more.
            if self.order.len() >= nprobe || self.lists.len() >= lists.len() {
                break;
            }
            wanted *= 2;
        }
        self.order.truncate(nprobe);
    }

    /// Asks for what is read of each list before its rows, all lists' at once: one wait for all instead of one for each.
    fn prefetch_headers(&self, lists: &[LiveList]) {
        for ranked in &self.order {
            let live = &lists[ranked.list()];
            prefetch(std::slice::from_ref(&*live.list));
            prefetch(&live.live);
        }
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
        &self.order
    }

    /// Int8 scores of all centroids.
    fn score(&mut self, quantizer: &Quantizer, projected: &[f32], kernels: &Kernels) {
        let ranking = &quantizer.ranking;
        self.query.refill(projected, quantizer.dimension, kernels);
        self.scores.resize(ranking.columns_padded(), 0.0);
        let factor = quantizer.rank_factor(projected, kernels);
        (kernels.scores_i8)(ranking, self.query.all(), factor, &mut self.scores);
    }

    /// The best `wanted` lists and somewhat more by int8 score, ascending by number.
    fn take_best(&mut self, wanted: usize, kernels: &Kernels) {
        let count = self.scores.len();
        self.keys.clear();
        self.keys.extend(self.scores.iter().map(|&score| order_bits(score)));
        self.lists.clear();
        self.lists.extend(0..count as u32);
        let limit = select::limit(&self.keys, wanted, wanted.saturating_add(wanted / 8), kernels);
        let kept = (kernels.keep_at_most)(&mut self.keys, &mut self.lists, limit);
        self.lists.truncate(kept);
    }

    /// Those with live rows, ranked in f32.
    fn recheck(&mut self, quantizer: &Quantizer, lists: &[LiveList], projected: &[f32], kernels: &Kernels) {
        // The padding of the last panel is no list.
        self.lists.retain(|&list| (list as usize) < lists.len());
        self.order.clear();
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
            self.order.push(Ranked { key: u64::from(order_bits(rank)) << 32 | u64::from(list), base });
        }
    }
}
