//! The chance the index needs: SplitMix64 from a seed, so that the same rows and seed build the same bytes on every machine.
//! Called by `kmeans`, `product`, `rotation` and `train`.

/// SplitMix64 (Steele, Lea, Flood 2014): 64 bits of state, one stream a seed.
#[derive(Clone, Debug)]
pub(crate) struct SplitMix64(u64);

impl SplitMix64 {
    pub(crate) fn new(seed: u64) -> Self {
        SplitMix64(seed)
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Another stream, decided by this one: for work that is done in parallel.
    pub(crate) fn fork(&mut self) -> SplitMix64 {
        SplitMix64(self.next())
    }

    /// A number below `bound` (the high half of a 128-bit product; the bias of at most `bound / 2^64` does not matter here).
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// `count` distinct numbers below `bound`, in random order (a partial Fisher–Yates shuffle, sparse). All of them when
    /// `count >= bound`.
    pub(crate) fn sample(&mut self, bound: usize, count: usize) -> Vec<usize> {
        let mut moved = std::collections::BTreeMap::new();
        let mut picked = Vec::with_capacity(count.min(bound));
        for i in 0..count.min(bound) {
            let j = i + self.below(bound - i);
            let at_j = moved.get(&j).copied().unwrap_or(j);
            let at_i = moved.get(&i).copied().unwrap_or(i);
            moved.insert(j, at_i);
            picked.push(at_j);
        }
        picked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_distinct_and_complete() {
        let mut rng = SplitMix64::new(7);
        let mut all = rng.sample(100, 1000);
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
        let mut some = rng.sample(1_000_000, 500);
        some.sort_unstable();
        some.dedup();
        assert_eq!(some.len(), 500);
        assert!(some.iter().all(|&i| i < 1_000_000));
    }

    #[test]
    fn the_stream_never_changes() {
        // Stored indexes were built with it: a rebuild with the same seed must give the same bytes.
        let mut rng = SplitMix64::new(1);
        assert_eq!(rng.next(), 0x910a_2dec_8902_5cc1);
    }
}
