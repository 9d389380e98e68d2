//! Ordinals by id: open addressing over u32s with linear probing, the ids themselves kept by ordinal. A removed entry is filled
//! from behind (Knuth, The Art of Computer Programming 3, algorithm 6.4 R), so there are no tombstones. The hash is fixed: ids
//! crafted to collide cost whoever writes them, and the others of that shard, time, never an answer. Called by `points`.

use super::ids::Ids;
use crate::index::pages::Pages;
use crate::types::PointId;

/// A slot without a point; others hold an ordinal and one.
const EMPTY: u32 = 0;
/// Slots of the first table.
const SLOTS_MIN: usize = 16;

/// See the module. The number of slots is a power of two, of which at most 7 in 10 are taken. Every walk ends after as many
/// steps as there are slots, whatever a damaged file says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) slots: Pages<u32>,
    pub(crate) len: usize,
}

impl Table {
    /// Ordinals there can be.
    pub(crate) const ORDINALS_MAX: usize = u32::MAX as usize;

    /// Whether so many entries are a table of so many slots.
    pub(crate) fn fits(slots: usize, len: usize) -> bool {
        (slots == 0 || slots.is_power_of_two()) && len * 10 <= slots * 7
    }

    pub(super) fn find(&self, id: PointId, ids: &Ids) -> Option<u32> {
        self.position(id, ids).map(|(_, ordinal)| ordinal)
    }

    /// The ordinal in a slot.
    fn at(&self, slot: usize) -> Option<u32> {
        self.slots.get(slot).and_then(|entry| entry.checked_sub(1))
    }

    fn position(&self, id: PointId, ids: &Ids) -> Option<(usize, u32)> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut slot = hash(id) as usize & mask;
        for _ in 0..=mask {
            let ordinal = self.at(slot)?;
            if ids.get(ordinal as usize) == Some(id) {
                return Some((slot, ordinal));
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
        let mut slot = home(ordinal, ids, mask);
        for _ in 0..=mask {
            if self.at(slot).is_none() {
                self.slots.set(slot, ordinal + 1);
                return;
            }
            slot = (slot + 1) & mask;
        }
    }

    fn grow(&mut self, ids: &Ids) {
        let slots = (self.slots.len() * 2).max(SLOTS_MIN);
        let old = std::mem::replace(&mut self.slots, Pages::zeros(slots));
        let entries = old.chunks().flatten().filter(|&&entry| entry != EMPTY);
        entries.for_each(|entry| self.place(entry - 1, ids));
    }

    /// Takes an id out; its ordinal, if it was in.
    pub(super) fn remove(&mut self, id: PointId, ids: &Ids) -> Option<u32> {
        let (mut hole, ordinal) = self.position(id, ids)?;
        let mask = self.slots.len() - 1;
        let mut slot = hole;
        for _ in 0..mask {
            slot = (slot + 1) & mask;
            let Some(candidate) = self.at(slot) else { break };
            // It may move back to the hole unless its own place lies behind the hole.
            let home = home(candidate, ids, mask);
            if slot.wrapping_sub(home) & mask >= slot.wrapping_sub(hole) & mask {
                self.slots.set(hole, candidate + 1);
                hole = slot;
            }
        }
        self.slots.set(hole, EMPTY);
        self.len = self.len.saturating_sub(1);
        Some(ordinal)
    }
}

fn home(ordinal: u32, ids: &Ids, mask: usize) -> usize {
    hash(ids.get(ordinal as usize).unwrap_or(PointId::Num(0))) as usize & mask
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
