//! Ordinals by id: open addressing over u32s with linear probing, the ids themselves kept by ordinal. A removed entry is filled
//! from behind (Knuth, The Art of Computer Programming 3, algorithm 6.4 R), so there are no tombstones. The hash is fixed: ids
//! crafted to collide cost whoever writes them, and the others of that shard, time, never an answer. Called by `points`.

use super::ids::Ids;
use crate::types::PointId;

/// An entry without a point.
const EMPTY: u32 = u32::MAX;
/// Slots of the first table.
const SLOTS_MIN: usize = 16;

/// See the module. The number of slots is a power of two, of which at most 7 in 10 are taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    slots: Vec<u32>,
    len: usize,
}

impl Table {
    /// Ordinals there can be.
    pub(super) const ORDINALS_MAX: usize = EMPTY as usize;

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn find(&self, id: PointId, ids: &Ids) -> Option<u32> {
        self.position(id, ids).map(|slot| self.slots[slot])
    }

    fn position(&self, id: PointId, ids: &Ids) -> Option<usize> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut slot = hash(id) as usize & mask;
        while self.slots[slot] != EMPTY {
            if ids.get(self.slots[slot] as usize) == id {
                return Some(slot);
            }
            slot = (slot + 1) & mask;
        }
        None
    }

    /// Enters an ordinal whose id is in `ids` and not in the table.
    pub(super) fn insert(&mut self, ordinal: u32, ids: &Ids) {
        if (self.len + 1) * 10 > self.slots.len() * 7 {
            self.grow(ids);
        }
        self.place(ordinal, ids);
        self.len += 1;
    }

    fn place(&mut self, ordinal: u32, ids: &Ids) {
        let mask = self.slots.len() - 1;
        let mut slot = hash(ids.get(ordinal as usize)) as usize & mask;
        while self.slots[slot] != EMPTY {
            slot = (slot + 1) & mask;
        }
        self.slots[slot] = ordinal;
    }

    fn grow(&mut self, ids: &Ids) {
        let slots = (self.slots.len() * 2).max(SLOTS_MIN);
        let old = std::mem::replace(&mut self.slots, vec![EMPTY; slots]);
        old.into_iter().filter(|&ordinal| ordinal != EMPTY).for_each(|ordinal| self.place(ordinal, ids));
    }

    /// Takes an id out; its ordinal, if it was in.
    pub(super) fn remove(&mut self, id: PointId, ids: &Ids) -> Option<u32> {
        let mut hole = self.position(id, ids)?;
        let ordinal = self.slots[hole];
        let mask = self.slots.len() - 1;
        let mut slot = hole;
        loop {
            slot = (slot + 1) & mask;
            let candidate = self.slots[slot];
            if candidate == EMPTY {
                break;
            }
            // It may move back to the hole unless its own place lies behind the hole.
            let home = hash(ids.get(candidate as usize)) as usize & mask;
            if slot.wrapping_sub(home) & mask >= slot.wrapping_sub(hole) & mask {
                self.slots[hole] = candidate;
                hole = slot;
            }
        }
        self.slots[hole] = EMPTY;
        self.len -= 1;
        Some(ordinal)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        4 * self.slots.capacity()
    }
}

/// Two rounds of the finalizer of SplitMix64, so that numbers in sequence and UUIDs that differ in few bits spread.
fn hash(id: PointId) -> u64 {
    match id {
        PointId::Num(number) => mix(number),
        PointId::Uuid(uuid) => {
            let (high, low) = uuid.as_u64_pair();
            mix(mix(low) ^ !high)
        }
    }
}

fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
