//! Where each point's live row is: 8 bytes an ordinal. Called by `vector_index` and `filing`.

use super::tail::TailSlot;

/// Where a live row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    Tail(TailSlot),
    List { list: u32, slot: u32 },
}

/// No row. (No list has the number `LIST_MAX`.)
const NOWHERE: u64 = u64::MAX;
/// Set in the place of a row of a list.
const IN_LIST: u64 = 1 << 63;
/// List numbers are below.
const LIST_MAX: u32 = (1 << 31) - 1;

impl Location {
    /// A list's row: bit 63, 31 bits of list, 32 of slot; a tail's: 32 bits of chunk, 16 of slot.
    fn pack(self) -> u64 {
        match self {
            Location::Tail(at) => u64::from(at.chunk) << 16 | u64::from(at.slot),
            Location::List { list, slot } => {
                debug_assert!(list < LIST_MAX);
                IN_LIST | u64::from(list) << 32 | u64::from(slot)
            }
        }
    }

    fn unpack(packed: u64) -> Option<Location> {
        match packed {
            NOWHERE => None,
            at if at & IN_LIST == 0 => {
                Some(Location::Tail(TailSlot { chunk: (at >> 16) as u32, slot: at as u32 & 0xffff }))
            }
            at => Some(Location::List { list: ((at & !IN_LIST) >> 32) as u32, slot: at as u32 }),
        }
    }
}

/// Places by ordinal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Locations {
    packed: Vec<u64>,
    len: usize,
}

impl Locations {
    /// Ordinals that have a row.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, ordinal: u32) -> Option<Location> {
        self.packed.get(ordinal as usize).and_then(|&packed| Location::unpack(packed))
    }

    /// Says where a row is; where the ordinal's row was before.
    pub(crate) fn set(&mut self, ordinal: u32, at: Location) -> Option<Location> {
        let index = ordinal as usize;
        if index >= self.packed.len() {
            self.packed.resize(index + 1, NOWHERE);
        }
        let before = Location::unpack(std::mem::replace(&mut self.packed[index], at.pack()));
        self.len += usize::from(before.is_none());
        before
    }

    /// Forgets where a row was.
    pub(crate) fn take(&mut self, ordinal: u32) -> Option<Location> {
        let packed = self.packed.get_mut(ordinal as usize)?;
        let before = Location::unpack(std::mem::replace(packed, NOWHERE))?;
        self.len -= 1;
        Some(before)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        8 * self.packed.capacity()
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
