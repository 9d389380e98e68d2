//! Slots: the fixed hash that spreads points over shards. The hash is in stored data for ever (which shard holds which
//! point), so it has no seed and golden tests. Called by `catalog` (ranges) and `service` (routing).

use crate::types::PointId;
use serde::{Deserialize, Serialize};

/// Number of slots of a collection.
pub const SLOTS: u16 = 16_384;

/// The slot of a point: FNV-1a over its key bytes, finished with the mixer of SplitMix64 (Steele et al. 2014, "Fast
/// splittable pseudorandom number generators", variant 13), modulo [`SLOTS`].
pub fn slot_of(id: PointId) -> u16 {
    let fnv = id
        .to_key()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mut z = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) % u64::from(SLOTS)) as u16
}

/// A contiguous, non-empty range of slots, `first..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlotRange {
    pub first: u16,
    pub end: u16,
}

impl SlotRange {
    /// Whether the slot is in the range.
    pub fn contains(self, slot: u16) -> bool {
        (self.first..self.end).contains(&slot)
    }

    /// Cuts all slots into `shards` ranges whose sizes differ by at most one, in order.
    pub fn cut(shards: u32) -> Vec<SlotRange> {
        let bound = |i: u32| (u64::from(i) * u64::from(SLOTS) / u64::from(shards)) as u16;
        (0..shards).map(|i| SlotRange { first: bound(i), end: bound(i + 1) }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::limits;

    #[test]
    fn the_hash_never_changes() {
        // In stored data for ever: if this fails, existing points can no longer be found.
        let ids = [PointId::Num(0), PointId::Num(1), PointId::Num(u64::MAX), PointId::from_text("doc1")];
        assert_eq!(ids.map(slot_of), [1512, 6255, 1689, 15097]);
    }

    #[test]
    fn ranges_cover_all_slots_once_and_evenly() {
        for shards in [1, 2, 3, 7, 1000, limits::SHARDS_PER_COLLECTION_MAX] {
            let ranges = SlotRange::cut(shards);
            assert_eq!((ranges[0].first, ranges.last().unwrap().end), (0, SLOTS));
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].first));
            let sizes: Vec<u16> = ranges.iter().map(|range| range.end - range.first).collect();
            assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn points_spread_evenly() {
        let mut counts = [0_u32; 16];
        (0..16_000).for_each(|i| counts[usize::from(slot_of(PointId::Num(i)) / 1024)] += 1);
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
