//! Slots: the fixed hash that spreads points over shards. The hash is in stored data for ever (which shard holds which
//! point), so it has no seed and golden tests. Called by `cluster` (ranges), `service` (routing) and `shard` (what it owns).

use super::PointId;
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

/// A contiguous range of slots, `first..end`; empty if both are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlotRange {
    pub first: u16,
    pub end: u16,
}

impl SlotRange {
    /// No slot.
    pub const NONE: SlotRange = SlotRange { first: 0, end: 0 };
    /// Every slot.
    pub const ALL: SlotRange = SlotRange { first: 0, end: SLOTS };

    /// The slots `first..end`, if these are some of [`SLOTS`], or none.
    pub fn new(first: u16, end: u16) -> Option<SlotRange> {
        (first <= end && end <= SLOTS).then_some(SlotRange { first, end })
    }

    /// The least range that holds the slots of all these points; [`SlotRange::NONE`] for no points.
    pub fn around(ids: impl IntoIterator<Item = PointId>) -> SlotRange {
        ids.into_iter().map(slot_of).fold(SlotRange::NONE, |range, slot| {
            let slot = SlotRange { first: slot, end: slot + 1 };
            if range.is_empty() {
                slot
            } else {
                SlotRange { first: range.first.min(slot.first), end: range.end.max(slot.end) }
            }
        })
    }

    /// The first slot of the upper half; `None` of fewer than two slots.
    pub fn middle(self) -> Option<u16> {
        let middle = self.first + self.end.saturating_sub(self.first) / 2;
        (middle > self.first).then_some(middle)
    }

    /// Whether it has no slot.
    pub fn is_empty(self) -> bool {
        self.first >= self.end
    }

    /// Whether every slot of `other` is in the range.
    pub fn covers(self, other: SlotRange) -> bool {
        other.is_empty() || (self.first <= other.first && other.end <= self.end)
    }

    /// What is left without `edge`; `None` unless that is slots at one end of the range, at least one.
    pub fn without(self, edge: SlotRange) -> Option<SlotRange> {
        match edge {
            _ if edge.is_empty() || !self.covers(edge) => None,
            _ if edge == self => Some(SlotRange::NONE),
            _ if edge.first == self.first => Some(SlotRange { first: edge.end, ..self }),
            _ if edge.end == self.end => Some(SlotRange { end: edge.first, ..self }),
            _ => None,
        }
    }

    /// Both as one range; `None` unless they lie side by side, or one is empty.
    pub fn with(self, next: SlotRange) -> Option<SlotRange> {
        match next {
            _ if self.is_empty() => Some(next),
            _ if next.is_empty() => Some(self),
            _ if self.end == next.first => Some(SlotRange { end: next.end, ..self }),
            _ if next.end == self.first => Some(SlotRange { first: next.first, ..self }),
            _ => None,
        }
    }

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
    fn edges_are_taken_off_and_put_on() {
        let range = |first, end| SlotRange::new(first, end).unwrap();
        let whole = range(10, 20);
        assert_eq!(whole.without(range(10, 12)), Some(range(12, 20)));
        assert_eq!(whole.without(range(18, 20)), Some(range(10, 18)));
        assert_eq!(whole.without(whole), Some(SlotRange::NONE));
        for no_edge in [range(12, 18), range(9, 12), range(18, 21), SlotRange::NONE, range(12, 12)] {
            assert_eq!(whole.without(no_edge), None, "{no_edge:?}");
        }
        assert_eq!((whole.with(range(20, 21)), whole.with(range(9, 10))), (Some(range(10, 21)), Some(range(9, 20))));
        assert_eq!((SlotRange::NONE.with(whole), whole.with(SlotRange::NONE)), (Some(whole), Some(whole)));
        for apart in [range(21, 22), range(8, 9), range(15, 25), whole] {
            assert_eq!(whole.with(apart), None, "{apart:?}");
        }
        assert_eq!((SlotRange::new(2, 1), SlotRange::new(0, SLOTS + 1)), (None, None));
    }

    #[test]
    fn the_range_around_points_is_the_least() {
        let ids: Vec<PointId> = (0..9).map(PointId::Num).collect();
        let around = SlotRange::around(ids.iter().copied());
        assert!(ids.iter().all(|id| around.contains(slot_of(*id))));
        let slots = || ids.iter().map(|id| slot_of(*id));
        assert_eq!((Some(around.first), Some(around.end - 1)), (slots().min(), slots().max()));
        assert_eq!(SlotRange::around([]), SlotRange::NONE);
    }

    #[test]
    fn points_spread_evenly() {
        let mut counts = [0_u32; 16];
        (0..16_000).for_each(|i| counts[usize::from(slot_of(PointId::Num(i)) / 1024)] += 1);
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
