//! The ordinals a search may answer with, one bit each: what a filter is to the index. Made by `shard` from its payload indexes;
//! read by filtered searches.

/// A set of ordinals below some end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    words: Vec<u64>,
    count: usize,
}

impl Allowed {
    /// None of the ordinals below `ordinals_end`.
    pub fn none(ordinals_end: u32) -> Allowed {
        Allowed { words: vec![0; (ordinals_end as usize).div_ceil(64)], count: 0 }
    }

    /// The set bits of 64-bit words, the lowest ordinal in the lowest bit of the first.
    pub fn from_words(words: Vec<u64>) -> Allowed {
        let count = words.iter().map(|word| word.count_ones() as usize).sum();
        Allowed { words, count }
    }

    /// Adds an ordinal below the end.
    pub fn insert(&mut self, ordinal: u32) {
        let (word, bit) = (&mut self.words[ordinal as usize / 64], 1 << (ordinal % 64));
        self.count += usize::from(*word & bit == 0);
        *word |= bit;
    }

    /// How many ordinals.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether the ordinal is allowed; none beyond the end is.
    #[inline]
    pub fn contains(&self, ordinal: u32) -> bool {
        self.words.get(ordinal as usize / 64).is_some_and(|word| word >> (ordinal % 64) & 1 == 1)
    }

    /// The ordinals, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(i, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(i as u32 * 64 + bit)
            })
        })
    }

    /// Of 32 rows or fewer, a bit for each whose ordinal is allowed.
    #[inline]
    pub(crate) fn mask(&self, ordinals: &[u32]) -> u32 {
        debug_assert!(ordinals.len() <= 32);
        ordinals.iter().zip(0..).fold(0, |mask, (&ordinal, row)| mask | u32::from(self.contains(ordinal)) << row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn equals_a_set(members in prop::collection::btree_set(0..500_u32, 0..300), asked in prop::collection::vec(0..600_u32, 0..32)) {
            let mut allowed = Allowed::none(500);
            members.iter().chain(&members).for_each(|ordinal| allowed.insert(*ordinal));
            prop_assert_eq!(allowed.count(), members.len());
            prop_assert_eq!(allowed.iter().collect::<BTreeSet<_>>(), members.clone());
            prop_assert_eq!(&Allowed::from_words(allowed.words.clone()), &allowed);
            let mask = allowed.mask(&asked);
            for (row, ordinal) in asked.iter().enumerate() {
                prop_assert_eq!(allowed.contains(*ordinal), members.contains(ordinal));
                prop_assert_eq!(mask >> row & 1 == 1, members.contains(ordinal));
            }
        }
    }
}
