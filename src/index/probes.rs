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
    order: Vec<u64>,
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
        (query, projected): (&[f32], &[f32]),
        nprobe: usize,
        probes: &mut Vec<Probe>,
        kernels: &Kernels,
    ) {
        let nprobe = nprobe.clamp(1, lists.len().max(1));
        self.score(quantizer, projected, kernels);
        let mut wanted = recheck_lists(nprobe);
        loop {
            self.take_best(wanted, kernels);
            self.recheck(quantizer, lists, projected, kernels);
            // Lists without live rows took places: look at more.
            if self.order.len() >= nprobe || self.lists.len() >= lists.len() {
                break;
            }
            wanted *= 2;
        }
        self.order.truncate(nprobe);
        let offset = quantizer.query_offset(query, kernels);
        let mut position = 0u32;
        probes.clear();
        for &packed in &self.order {
            let list = packed as u32 as usize;
            let base = key_estimate((packed >> 32) as u32) + offset;
            probes.push(Probe { list, base, position });
            position += (lists[list].live.len() * BLOCK_ROWS) as u32;
        }
    }

    /// Int8 scores of all centroids.
    fn score(&mut self, quantizer: &Quantizer, projected: &[f32], kernels: &Kernels) {
        let ranking = &quantizer.ranking;
        self.query.refill(projected, quantizer.dimension, kernels);
        self.scores.resize(ranking.columns_padded(), 0.0);
        (kernels.scores_i8)(ranking, &self.query, quantizer.product_factor(), &mut self.scores);
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

    /// Those with live rows, by (f32 distance, number).
    fn recheck(&mut self, quantizer: &Quantizer, lists: &[LiveList], projected: &[f32], kernels: &Kernels) {
        // The padding of the last panel is no list.
        self.lists.retain(|&list| (list as usize) < lists.len());
        self.order.clear();
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
            self.order.push(u64::from(order_bits(base)) << 32 | u64::from(list));
        }
        self.order.sort_unstable();
    }
}
