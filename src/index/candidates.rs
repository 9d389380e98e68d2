//! The rows of least estimate seen so far: a scan appends what is not above a threshold, and when the room is used up the threshold
//! is lowered and the rest cut away in one pass. What is left in the end is exact: the `wanted` least by (estimate, position),
//! whatever order the rows came in. Called by `search`.

use super::kernels::{BLOCK_ROWS, CandidateSlots, Kernels, key_estimate, order_bits};
use super::select;

/// Room beyond twice what is wanted, so that few cuts are needed even for few candidates.
const ROOM_MIN: usize = 384;

/// See the module. Buffers are kept from query to query.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    keys: Vec<u32>,
    positions: Vec<u32>,
    held: usize,
    wanted: usize,
    threshold: f32,
    packed: Vec<u64>,
}

impl Candidates {
    /// Empty, to keep `wanted` (at least 1).
    pub(crate) fn reset(&mut self, wanted: usize) {
        let room = wanted + wanted.max(ROOM_MIN) + 2 * BLOCK_ROWS;
        self.keys.resize(room, 0);
        self.positions.resize(room, 0);
        self.held = 0;
        self.wanted = wanted.max(1);
        self.threshold = f32::INFINITY;
    }

    /// Empty, to keep `wanted` of those that are not above a threshold.
    pub(crate) fn reset_below(&mut self, wanted: usize, threshold: f32) {
        self.reset(wanted);
        self.threshold = threshold;
    }

    /// Appends what another has of positions above all before, to the same end as if it had been appended here at first.
    pub(crate) fn take_all(&mut self, other: &mut Candidates, kernels: &Kernels) {
        other.cut_to_wanted(kernels);
        let (keys, positions) =
            (other.keys[..other.held].chunks(BLOCK_ROWS), other.positions[..other.held].chunks(BLOCK_ROWS));
        for (keys, positions) in keys.zip(positions) {
            let slots = self.slots();
            slots.keys[..keys.len()].copy_from_slice(keys);
            slots.positions[..keys.len()].copy_from_slice(positions);
            self.appended(keys.len(), kernels);
        }
    }

    /// Estimates above it need not be appended.
    pub(crate) fn threshold(&self) -> f32 {
        self.threshold
    }

    /// Where to append; room for at least one block.
    pub(crate) fn slots(&mut self) -> CandidateSlots<'_> {
        CandidateSlots { keys: &mut self.keys[self.held..], positions: &mut self.positions[self.held..] }
    }

    /// Notes what was appended; makes room when there is none for a block.
    pub(crate) fn appended(&mut self, count: usize, kernels: &Kernels) {
        self.held += count;
        if self.keys.len() - self.held < BLOCK_ROWS {
            self.cut(self.wanted + self.wanted / 4, kernels);
        }
    }

    /// How many are to be kept.
    pub(crate) fn wanted(&self) -> usize {
        self.wanted
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.held
    }

    /// Notes what was appended as [`Candidates::appended`] does, but for those that are not to be kept.
    pub(crate) fn appended_if(&mut self, count: usize, keep: impl Fn(u32) -> bool, kernels: &Kernels) {
        let mut kept = self.held;
        for i in self.held..self.held + count {
            let (key, position) = (self.keys[i], self.positions[i]);
            self.keys[kept] = key;
            self.positions[kept] = position;
            kept += usize::from(keep(position));
        }
        self.appended(kept - self.held, kernels);
    }

    /// The k-th least estimate; none while there are fewer.
    pub(crate) fn kth(&mut self, k: usize, kernels: &Kernels) -> Option<f32> {
        self.cut_to_wanted(kernels);
        let at = k.checked_sub(1).filter(|&at| at < self.held)?;
        self.packed.clear();
        self.packed.extend(self.keys[..self.held].iter().map(|&key| u64::from(key)));
        let (_, kth, _) = self.packed.select_nth_unstable(at);
        Some(key_estimate(*kth as u32))
    }

    /// Appends one of a position above all before, unless it is above the threshold.
    pub(crate) fn push(&mut self, estimate: f32, position: u32, kernels: &Kernels) {
        let above = estimate > self.threshold;
        if !above {
            self.keys[self.held] = order_bits(estimate);
            self.positions[self.held] = position;
            self.appended(1, kernels);
        }
    }

    /// How many of the wanted ones are at `position` or after it.
    pub(crate) fn count_from(&mut self, position: u32, kernels: &Kernels) -> usize {
        self.cut_to_wanted(kernels);
        self.positions[..self.held].iter().filter(|&&at| at >= position).count()
    }

    /// Cuts to the wanted ones; their positions, ascending.
    pub(crate) fn finish(&mut self, kernels: &Kernels) -> &[u32] {
        self.cut_to_wanted(kernels);
        let positions = &mut self.positions[..self.held];
        // They came in order unless the lists were visited in another one.
        if !positions.is_sorted() {
            positions.sort_unstable();
        }
        positions
    }

    fn cut_to_wanted(&mut self, kernels: &Kernels) {
        if self.held > self.wanted {
            self.cut(self.wanted, kernels);
        }
    }

    /// Keeps at least the wanted ones and at most `most`.
    fn cut(&mut self, most: usize, kernels: &Kernels) {
        let limit = select::limit(&self.keys[..self.held], self.wanted, most, kernels);
        self.held = (kernels.keep_at_most)(&mut self.keys[..self.held], &mut self.positions[..self.held], limit);
        self.threshold = key_estimate(limit);
        if self.held > most {
            self.cut_ties();
        }
    }

    /// Keeps the wanted ones where equal estimates left too many: those of the least positions.
    fn cut_ties(&mut self) {
        let rows = self.keys[..self.held].iter().zip(&self.positions[..self.held]);
        self.packed.clear();
        self.packed.extend(rows.map(|(&key, &position)| u64::from(key) << 32 | u64::from(position)));
        self.packed.select_nth_unstable(self.wanted - 1);
        self.packed.truncate(self.wanted);
        self.packed.sort_unstable_by_key(|&packed| packed as u32);
        self.held = self.wanted;
        for (i, &packed) in self.packed.iter().enumerate() {
            self.keys[i] = (packed >> 32) as u32;
            self.positions[i] = packed as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::kernels::available;
    use crate::index::random::SplitMix64;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_least_are_left(rows in 0usize..3000, wanted in 1usize..200, values in 1usize..2000, seed: u64) {
            let mut rng = SplitMix64::new(seed);
            let estimates: Vec<f32> = (0..rows).map(|_| rng.below(values) as f32 - 100.0).collect();
            let mut expected: Vec<(f32, u32)> = estimates.iter().copied().zip(0..).collect();
            expected.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let mut expected: Vec<u32> = expected.into_iter().take(wanted).map(|row| row.1).collect();
            expected.sort_unstable();
            for kernels in available() {
                let mut candidates = Candidates::default();
                candidates.reset(wanted);
                for (block, estimates) in estimates.chunks(BLOCK_ROWS).enumerate() {
                    let threshold = candidates.threshold();
                    let slots = candidates.slots();
                    let mut count = 0;
                    for (i, &estimate) in estimates.iter().enumerate().filter(|(_, e)| **e <= threshold) {
                        slots.keys[count] = order_bits(estimate);
                        slots.positions[count] = (block * BLOCK_ROWS + i) as u32;
                        count += 1;
                    }
                    candidates.appended(count, kernels);
                }
                prop_assert_eq!(candidates.finish(kernels), &expected[..]);
            }
        }
    }
}
