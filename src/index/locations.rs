//! Where each point's live row is: 8 bytes an ordinal. Called by `vector_index` and `filing`.

use super::list::LiveList;
use super::pages::Pages;
use super::tail::TailSlot;

/// Where a live row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    Tail(TailSlot),
    List { list: u32, slot: u32 },
}

/// No row.
const NOWHERE: u64 = 0;
/// Set in the place of a row of a list.
const IN_LIST: u64 = 1 << 63;
/// Set in the place of a row of the tail.
const IN_TAIL: u64 = 1 << 62;
/// List numbers are below.
const LIST_MAX: u32 = 1 << 31;

impl Location {
    /// A list's row: bit 63, 31 bits of list, 32 of slot; a tail's: bit 62, 32 bits of chunk, 16 of slot.
    fn pack(self) -> u64 {
        match self {
            Location::Tail(at) => IN_TAIL | u64::from(at.chunk) << 16 | u64::from(at.slot),
            Location::List { list, slot } => {
                debug_assert!(list < LIST_MAX);
                IN_LIST | u64::from(list) << 32 | u64::from(slot)
            }
        }
    }

    fn unpack(packed: u64) -> Option<Location> {
        let slot = packed as u32;
        if packed & IN_LIST != 0 {
            return Some(Location::List { list: (packed >> 32) as u32 & (LIST_MAX - 1), slot });
        }
        let at = TailSlot { chunk: (packed >> 16) as u32, slot: slot & 0xffff };
        (packed != NOWHERE).then_some(Location::Tail(at))
    }
}

/// Places by ordinal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Locations {
    packed: Pages<u64>,
    len: usize,
}

impl Locations {
    /// The places of a file, `len` of which are no gaps.
    pub(crate) fn of_file(packed: Pages<u64>, len: usize) -> Locations {
        Locations { packed, len }
    }

    /// Where the live rows of lists are.
    pub(crate) fn of_lists(lists: &[LiveList]) -> Locations {
        let mut locations = Locations::default();
        for (number, live) in lists.iter().enumerate() {
            for slot in live.live_slots() {
                locations.set(live.list.ordinals[slot], Location::List { list: number as u32, slot: slot as u32 });
            }
        }
        locations
    }

    pub(crate) fn packed(&self) -> &Pages<u64> {
        &self.packed
    }

    /// Ordinals that have a row.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, ordinal: u32) -> Option<Location> {
        self.packed.get(ordinal as usize).and_then(Location::unpack)
    }

    /// Says where a row is; where the ordinal's row was before.
    pub(crate) fn set(&mut self, ordinal: u32, at: Location) -> Option<Location> {
        let index = ordinal as usize;
        self.packed.extend_to(index + 1);
        let before = self.get(ordinal);
        self.packed.set(index, at.pack());
        self.len += usize::from(before.is_none());
        before
    }

    /// Forgets where a row was.
    pub(crate) fn take(&mut self, ordinal: u32) -> Option<Location> {
        let before = self.get(ordinal)?;
        self.packed.set(ordinal as usize, NOWHERE);
        self.len = self.len.saturating_sub(1);
        Some(before)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.packed.memory_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_kept_to_the_bit() {
        let list = |list, slot| Location::List { list, slot };
        let tail = |chunk, slot| Location::Tail(TailSlot { chunk, slot });
        let places =
            [list(0, 0), list(LIST_MAX - 1, u32::MAX), tail(0, 0), tail(u32::MAX, 255), list(7, 0), tail(7, 1)];
        let mut locations = Locations::default();
        for (ordinal, &place) in (0..).step_by(3).zip(&places) {
            assert_eq!(locations.set(ordinal, place), None);
            assert_eq!(locations.get(ordinal), Some(place));
            assert_eq!((locations.get(ordinal + 1), locations.take(ordinal + 1)), (None, None));
        }
        assert_eq!(locations.len(), places.len());
        assert_eq!(locations.set(3, places[0]), Some(places[1]));
        assert_eq!((locations.take(3), locations.take(3), locations.len()), (Some(places[0]), None, places.len() - 1));
    }
}
