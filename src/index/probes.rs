//! Which lists a search visits, and in which order: that of int8 scores of all centroids (they misplace a list by a few places, which
//! costs nothing: what decides is how many lists are visited). The distances that estimates start from are measured in f32, of the
//! lists chosen alone. Called by `search` and `many`.

use super::kernels::{BLOCK_ROWS, ByteRows, Kernels, key_estimate, order_bits, prefetch};
use super::list::LiveList;
use super::quantizer::Quantizer;
use super::select;
use std::ops::Range;

/// A list to visit: the distance's part known of it, and what its first row is called among the candidates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub(crate) list: usize,
    pub(crate) base: f32,
    /// `base` in units of the rows' addends.
    pub(crate) estimate_base: f32,
    pub(crate) position: u32,
}

/// The buffers of a ranking.
#[derive(Debug, Default)]
pub(crate) struct Ranking {
    queries: ByteRows,
    /// Of each query in turn: int8 scores of all centroids.
    scores: Vec<f32>,
    keys: Vec<u32>,
    lists: Vec<u32>,
    order: Vec<u64>,
    ranked: Vec<Ranked>,
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
        list_of(self.key)
    }

    pub(crate) fn rank(&self) -> f32 {
        key_estimate((self.key >> 32) as u32)
    }
}

/// A rank's bits, then the list's number: ties go to the lower number.
fn key(rank: u32, list: u32) -> u64 {
    u64::from(rank) << 32 | u64::from(list)
}

fn list_of(key: u64) -> usize {
    key as u32 as usize
}

/// What a search has chosen of the order of visits so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chosen {
    /// Nearest first.
    pub(crate) probes: Vec<Probe>,
    /// Where the order goes on: after this key.
    last: Option<u64>,
    /// Whether there are no more lists with live rows.
    pub(crate) is_all: bool,
}

impl Chosen {
    /// Nothing, for another query.
    pub(crate) fn clear(&mut self) {
        self.probes.clear();
        (self.last, self.is_all) = (None, false);
    }
}

impl Ranking {
    /// Scores all centroids for each of the queries given (in the lists' space, one after the other), one pass over the centroids for
    /// some of them together: [`Ranking::choose`] reads the scores of one.
    pub(crate) fn score(&mut self, quantizer: &Quantizer, projected: &[f32], kernels: &Kernels) {
        self.queries.refill(projected, quantizer.dimension, kernels);
        for (row, query) in projected.chunks_exact(quantizer.dimension).enumerate() {
            self.queries.lengthen(row, quantizer.query_scale(query, kernels));
        }
        self.scores.resize(self.queries.all().len() * quantizer.ranking.columns_padded(), 0.0);
        (kernels.scores_i8)(&quantizer.ranking, self.queries.all(), quantizer.product_factor(), &mut self.scores);
    }

    /// Appends to `chosen` the next lists by int8 score that have live rows, until there are `wanted` or no more. `row` is the
    /// query's place among those scored, `query` what it is in both spaces.
    pub(crate) fn choose(
        &mut self,
        quantizer: &Quantizer,
        lists: &[LiveList],
        (row, query, projected): (usize, &[f32], &[f32]),
        wanted: usize,
        chosen: &mut Chosen,
        kernels: &Kernels,
    ) {
        let more = wanted.saturating_sub(chosen.probes.len());
        self.next_lists(quantizer, lists, row, (chosen.last, more), kernels);
        chosen.is_all = self.order.len() < more;
        chosen.last = self.order.last().copied().or(chosen.last);
        self.prefetch_lists(quantizer, lists);
        let end = |probe: &Probe| probe.position + (lists[probe.list].live.len() * BLOCK_ROWS) as u32;
        let offset = quantizer.query_offset(query, kernels);
        let (_, base_factor) = quantizer.estimate_factors(projected, kernels);
        for list in self.order.iter().map(|&key| list_of(key)) {
            if !lists[list].list.is_sound() {
                // The caller learns of the damage and answers in another way.
                continue;
            }
            let base = quantizer.list_base(projected, list, kernels) + offset;
            let position = chosen.probes.last().map_or(0, end);
            chosen.probes.push(Probe { list, base, estimate_base: base * base_factor, position });
        }
    }

    /// Leaves in `order` the nearest `more` lists with live rows that come after a key, nearest first.
    fn next_lists(
        &mut self,
        quantizer: &Quantizer,
        lists: &[LiveList],
        row: usize,
        (last, more): (Option<u64>, usize),
        kernels: &Kernels,
    ) {
        let columns = quantizer.ranking.columns_padded();
        let scores = row * columns..(row + 1) * columns;
        let mut wanted = more.min(lists.len());
        loop {
            self.take_after(scores.clone(), last, wanted, kernels);
            let taken = self.lists.len();
            self.order.clear();
            // The padding of the last panel is no list.
            let ranked = self.keys.iter().zip(&self.lists).filter(|(_, list)| (**list as usize) < lists.len());
            let ranked = ranked.filter(|(_, list)| lists[**list as usize].live_rows > 0);
            self.order.extend(ranked.map(|(&rank, &list)| key(rank, list)));
            // Lists without live rows took places: look at more.
            if self.order.len() >= more || taken < wanted || wanted >= lists.len() {
                break;
            }
            wanted = wanted.saturating_mul(2).min(lists.len());
        }
        self.order.sort_unstable();
        self.order.truncate(more);
    }

    /// Leaves in `keys` and `lists` the ranks and numbers of at least the `wanted` nearest columns that come after a key, or of all
    /// there are.
    fn take_after(&mut self, scores: Range<usize>, last: Option<u64>, wanted: usize, kernels: &Kernels) {
        self.lists.clear();
        self.lists.extend(0..scores.len() as u32);
        self.keys.clear();
        self.keys.extend(self.scores[scores].iter().map(|&score| order_bits(score)));
        if let Some(last) = last {
            // Those before count as the farthest.
            let taken = |(rank, list): (&mut u32, &u32)| *rank |= if key(*rank, *list) <= last { u32::MAX } else { 0 };
            self.keys.iter_mut().zip(&self.lists).for_each(taken);
        }
        let limit = select::limit(&self.keys, wanted, wanted.saturating_add(wanted / 8), kernels).min(u32::MAX - 1);
        let kept = (kernels.keep_at_most)(&mut self.keys, &mut self.lists, limit);
        self.keys.truncate(kept);
        self.lists.truncate(kept);
    }

    /// Asks for what is read of each list before its rows, and for its centroid: one wait for all instead of one for each.
    fn prefetch_lists(&self, quantizer: &Quantizer, lists: &[LiveList]) {
        for list in self.order.iter().map(|&key| list_of(key)) {
            let live = &lists[list];
            prefetch(quantizer.centroid(list));
            prefetch(std::slice::from_ref(&*live.list));
            prefetch(&live.live);
        }
        self.order.iter().for_each(|&key| lists[list_of(key)].list.read_unverified());
    }

    /// All lists with live rows, ranked in f32, in no order.
    pub(crate) fn all(
        &mut self,
        quantizer: &Quantizer,
        lists: &[LiveList],
        projected: &[f32],
        kernels: &Kernels,
    ) -> &[Ranked] {
        self.ranked.clear();
        let scale = quantizer.query_scale(projected, kernels);
        for (list, _) in lists.iter().enumerate().filter(|(_, live)| live.live_rows > 0) {
            let base = quantizer.list_base(projected, list, kernels);
            let rank = quantizer.rank(list, base, scale);
            self.ranked.push(Ranked { key: key(order_bits(rank), list as u32), base });
        }
        &self.ranked
    }
}
