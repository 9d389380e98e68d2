//! What a partial answer leaves out, by its own word: the shards that could not be read, as the slots they own. Used by the checkers of
//! reads that may be answered in part.
use vectorsphere::types::{PointId, SLOTS, slot_of};

/// First slot, and the one after the last.
pub type Slots = (u16, u16);

/// Every slot: what may be missing where slots move, and nobody knows what a shard owned at that moment.
pub const ALL: Slots = (0, SLOTS);

/// Documents that may be missing: those of some slots whose ids are from `first` to `last`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    pub first: u64,
    pub last: u64,
    pub slots: Vec<Slots>,
}

impl Gap {
    /// Of all ids.
    pub fn of(slots: Vec<Slots>) -> Gap {
        Gap { first: 0, last: u64::MAX, slots }
    }

    /// Whether the document of this id may be missing.
    pub fn has(&self, id: u64) -> bool {
        let slot = slot_of(PointId::Num(id));
        (self.first..=self.last).contains(&id) && self.slots.iter().any(|(first, end)| (*first..*end).contains(&slot))
    }
}
