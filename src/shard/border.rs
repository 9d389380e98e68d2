//! Where a shard ends: the slots it owns, and what it knows of slots that moved between it and its neighbours. Replicated state,
//! changed by commands only, in the content hash and in checkpoints; the shard table is a hint beside it.
//!
//! Slots at an edge move in three commands, one step of few slots after the other:
//!
//! 1. `Release`, in the log of the shard that gives: from its entry on the shard owns the slots no more. Their points are taken out
//!    and kept as *cargo*, which nobody searches or counts, with the requests the other shard does not know yet. A release of no
//!    slots carries requests alone: the first step, so that the others, for which clients wait, have few.
//! 2. `Receive`, in the log of the neighbour, with that cargo: from its entry on the neighbour owns the slots, has the points and
//!    knows the requests.
//! 3. `Forget`, in the log of the first: the cargo has arrived and is deleted.
//!
//! At no moment do two shards own a slot, whoever crashes when: between 1 and 2 nobody does, for the time of one command. A shard
//! has one cargo at most; whoever leads it finds the cargo in its state and sends it again until it has arrived. `Receive` takes
//! each cargo once, known by the number (the log index) of its release.
//!
//! Before a collection is deleted its shards are closed: a closed shard owns nothing, gives and takes nothing, for ever. So whoever has
//! not heard of the deletion, and asks replicas that have not either, is refused by the shard itself.
//!
//! Versions that clients know go on growing: a point keeps its version over the move, and the shard it has come to gives out
//! greater ones than the other ever gave ([`Border::version_told`]). Called by `round`, `open`, `checkpoint` and `replica`.

use super::{outcome::Outcome, records::Records};
use crate::{
    mutants::mutant,
    store::keys::point::PointRecord,
    types::{Error, ErrorKind, PointId, Result, SlotRange, limits, slot_of},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Largest cargo: points and requests of one step, encoded. What one slot holds has to fit.
pub const CARGO_BYTES_MAX: usize = 64 << 20;

const _: () = assert!(CARGO_BYTES_MAX + 1024 < limits::COMMAND_BYTES_MAX, "a cargo fits the command that brings it");

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Border {
    /// The slots the shard had when it was made; never changes.
    pub born: SlotRange,
    /// The slots it has now.
    pub owned: SlotRange,
    /// What is added to a log index to have the version that clients are told.
    pub version_base: u64,
    /// What is on its way to another shard.
    pub leaving: Option<Leaving>,
    /// By the shard they came from: the number of the last cargo that has arrived.
    pub arrived: BTreeMap<u64, u64>,
    /// By shard: as many of the requests this one ever recorded, the first ones, are known there.
    pub told: BTreeMap<u64, u64>,
    /// Whether slots, or requests, were ever moved: until then nothing of this is stored.
    pub has_moved: bool,
    /// Whether its collection is being deleted.
    pub closed: bool,
}

/// Slots that are on their way to another shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    pub to: u64,
    pub slots: SlotRange,
    /// Log index of the release.
    pub number: u64,
    /// As many requests are known there when it has arrived.
    pub requests: u64,
}

/// The stored form: postcard. Fields keep their order for ever. Behind it stands [`CLOSED`] for a shard that is closed, and else nothing.
#[derive(Serialize, Deserialize)]
struct Stored {
    owned: SlotRange,
    version_base: u64,
    leaving: Option<Leaving>,
    arrived: BTreeMap<u64, u64>,
    told: BTreeMap<u64, u64>,
}

const CLOSED: &[u8] = &[1];

impl Border {
    /// That of a shard of which nothing has moved yet.
    pub fn born(born: SlotRange) -> Border {
        let (arrived, told) = Default::default();
        Border { born, owned: born, version_base: 0, leaving: None, arrived, told, has_moved: false, closed: false }
    }

    /// The bytes for the store.
    pub fn encode(&self) -> Vec<u8> {
        let Border { owned, version_base, leaving, arrived, told, .. } = self.clone();
        let stored = Stored { owned, version_base, leaving, arrived, told };
        let mut bytes = postcard::to_stdvec(&stored).expect("numbers can be encoded");
        if self.closed {
            bytes.extend_from_slice(CLOSED);
        }
        bytes
    }

    /// The inverse of [`Border::encode`], for a shard that had the slots `born` at first.
    ///
    /// # Errors
    /// `Corrupt` for bytes no version of this program wrote, or a newer one did.
    pub fn decode(born: SlotRange, bytes: &[u8]) -> Result<Border> {
        let (stored, rest) = postcard::take_from_bytes(bytes).map_err(Records::corrupt)?;
        let Stored { owned, version_base, leaving, arrived, told } = stored;
        let is_range = |range: SlotRange| SlotRange::new(range.first, range.end).is_some();
        let closed = rest == CLOSED;
        let is_whole = rest.is_empty() || closed && owned.is_empty();
        if !is_whole || !is_range(owned) || leaving.is_some_and(|leaving| !is_range(leaving.slots)) {
            return Err(Records::corrupt("a border is none"));
        }
        Ok(Border { born, owned, version_base, leaving, arrived, told, has_moved: true, closed })
    }

    /// The version that clients are told of a point written at log index `at`, where it is another number than that.
    pub fn version_told(&self, at: u64) -> Option<u64> {
        (self.version_base > 0).then(|| at + self.version_base)
    }

    /// Refuses points that the shard does not own.
    ///
    /// # Errors
    /// `shard_moved`: nothing happened; whoever owns the slot now is in the table, or will be in a moment.
    pub fn check(&self, mut ids: impl Iterator<Item = PointId>) -> Result<()> {
        match ids.find(|id| !self.owned.contains(slot_of(*id))) {
            None => Ok(()),
            Some(id) => Err(moved(self.owned, slot_of(id))),
        }
    }

    /// Refuses whatever a client asks of a closed shard.
    ///
    /// # Errors
    /// `shard_moved`: nothing happened; that its collection is gone is in the catalog, or will be in a moment.
    pub fn check_open(&self) -> Result<()> {
        match self.closed {
            false => Ok(()),
            true => Err(refusal(self.owned, "the shard is closed: its table is being deleted")),
        }
    }

    /// Closes the shard. It owns no slots any more, but keeps a cargo that is on its way.
    pub fn close(&mut self) {
        (self.owned, self.closed, self.has_moved) = (SlotRange::NONE, true, true);
    }

    /// Takes `slots`, which may be none, off the shard, to be sent to shard `to` as the cargo called `number`, with the requests behind
    /// those told there through the one with the number `requests`. From which request on that is.
    ///
    /// # Errors
    /// `slots_not_at_the_edge`, `slots_are_leaving`: nothing has changed.
    pub fn release(&mut self, slots: SlotRange, to: u64, (number, requests): (u64, u64)) -> Result<u64> {
        if self.leaving.is_some() {
            let message = "the slots released before have not arrived yet";
            return Err(Error::new(ErrorKind::Conflict, "slots_are_leaving", message));
        }
        check_range(self.owned, slots)?;
        if !slots.is_empty() {
            let left = self.owned.without(slots).ok_or_else(|| not_at_the_edge(self.owned, slots))?;
            // Mutant 38: it goes on to own what is on its way.
            if !mutant!(38) {
                self.owned = left;
            }
        }
        self.leaving = Some(Leaving { to, slots, number, requests });
        self.has_moved = true;
        Ok(self.told.get(&to).copied().unwrap_or(0))
    }

    /// The cargo called `number` has arrived; whether it was there still.
    pub fn forget(&mut self, number: u64) -> bool {
        let Some(arrived) = self.leaving.take_if(|leaving| leaving.number == number) else { return false };
        self.told.insert(arrived.to, arrived.requests);
        if mutant!(38) {
            self.owned = self.owned.without(arrived.slots).unwrap_or(self.owned);
        }
        true
    }

    /// Whether the cargo called `number` is still to be taken.
    pub fn awaits(&self, from: u64, number: u64) -> bool {
        self.arrived.get(&from).is_none_or(|last| *last < number)
    }

    /// Puts `slots`, which shard `from` has released as its cargo `number`, to those of the shard. From the entry at log index `at`
    /// on versions are greater than `version_floor`.
    ///
    /// # Errors
    /// `slots_not_at_the_edge`, `shard_moved`: nothing has changed.
    pub fn receive(&mut self, slots: SlotRange, (from, number): (u64, u64), version_floor: u64, at: u64) -> Result<()> {
        self.check_open()?;
        check_range(self.owned, slots)?;
        self.owned = self.owned.with(slots).ok_or_else(|| not_at_the_edge(self.owned, slots))?;
        self.arrived.insert(from, number);
        self.version_base = self.version_base.max(version_floor.saturating_sub(at));
        self.has_moved = true;
        Ok(())
    }
}

/// The error of whoever asks a shard for a slot that it does not own.
pub fn moved(owned: SlotRange, slot: u16) -> Error {
    refusal(owned, format!("slot {slot} is another shard's now")).got(slot)
}

fn refusal(owned: SlotRange, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unavailable, "shard_moved", message).expected(format!("slots {}..{}", owned.first, owned.end))
}

/// The slots that a shard owns, by its refusal of another; `None` for any other error. Errors travel between nodes as texts.
pub fn owned_by_refusal(error: &Error) -> Option<SlotRange> {
    let slots = error.detail().expected.as_ref().filter(|_| error.code() == "shard_moved")?;
    let (first, end) = slots.strip_prefix("slots ")?.split_once("..")?;
    SlotRange::new(first.parse().ok()?, end.parse().ok()?)
}

/// Commands come from peers. A shard that took slots that there are not could not be opened again.
fn check_range(owned: SlotRange, slots: SlotRange) -> Result<()> {
    SlotRange::new(slots.first, slots.end).map(|_| ()).ok_or_else(|| not_at_the_edge(owned, slots))
}

fn not_at_the_edge(owned: SlotRange, slots: SlotRange) -> Error {
    let message = "only slots at the edge of two neighbours can move";
    Error::new(ErrorKind::Conflict, "slots_not_at_the_edge", message)
        .expected(format!("at an end of {}..{}", owned.first, owned.end))
        .got(format!("{}..{}", slots.first, slots.end))
}

/// What one step moves, as it stands in the store of the shard that gives and in the log of the one that takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cargo<'a> {
    /// No version that the shard has told of anything is greater.
    pub version_floor: u64,
    /// Records, as the shard had them.
    #[serde(borrow)]
    pub points: Vec<(PointId, &'a [u8])>,
    #[serde(borrow)]
    pub requests: Vec<CarriedRequest<'a>>,
}

/// A request that the shard remembers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CarriedRequest<'a> {
    pub id: [u8; 16],
    pub log_index: u64,
    /// In which slots all of it is done; never none.
    pub covers: Vec<SlotRange>,
    pub outcome: &'a [u8],
}

impl<'a> Cargo<'a> {
    /// The bytes.
    ///
    /// # Errors
    /// `slots_too_large` over [`CARGO_BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>> {
        let bytes = postcard::to_stdvec(self).map_err(|error| Error::internal(format!("encoding: {error}")))?;
        if bytes.len() > CARGO_BYTES_MAX {
            return Err(Error::new(ErrorKind::Conflict, "slots_too_large", "too much is in these slots for one step")
                .expected(format!("at most {CARGO_BYTES_MAX} bytes"))
                .got(format!("{} bytes", bytes.len())));
        }
        Ok(bytes)
    }

    /// The inverse of [`Cargo::encode`], for a cargo of `slots`. Every record in it can be decoded.
    ///
    /// # Errors
    /// `Corrupt` for bytes no version of this program wrote, or a newer one did, and for a point of other slots.
    pub fn decode(bytes: &'a [u8], slots: SlotRange) -> Result<Cargo<'a>> {
        let (cargo, rest) = postcard::take_from_bytes::<Cargo<'a>>(bytes).map_err(Records::corrupt)?;
        let is_range =
            |range: &SlotRange| SlotRange::new(range.first, range.end).is_some_and(|range| !range.is_empty());
        let are_ranges =
            |request: &CarriedRequest<'_>| !request.covers.is_empty() && request.covers.iter().all(is_range);
        if !rest.is_empty() || !cargo.requests.iter().all(are_ranges) {
            return Err(Records::corrupt("a cargo is none"));
        }
        for (id, record) in &cargo.points {
            PointRecord::decode(record).map_err(Records::corrupt)?;
            if !slots.contains(slot_of(*id)) {
                return Err(Records::corrupt(format!("point {id} of a cargo is in none of its slots")));
            }
        }
        for request in &cargo.requests {
            Outcome::decode(request.outcome)?;
        }
        Ok(cargo)
    }
}

/// Adds a range to ranges that are in order and do not touch each other, and stay so.
pub fn add_range(ranges: &mut Vec<SlotRange>, new: SlotRange) {
    if new.is_empty() {
        return;
    }
    ranges.push(new);
    ranges.sort_unstable();
    let mut merged: Vec<SlotRange> = Vec::with_capacity(ranges.len());
    for range in ranges.drain(..) {
        match merged.last_mut() {
            Some(last) if range.first <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    *ranges = merged;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{shard::outcome::Applied, store::keys::point, types::SLOTS};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn range(first: u16, end: u16) -> SlotRange {
        SlotRange::new(first, end).unwrap()
    }

    #[test]
    fn golden_bytes() {
        let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut border = Border::born(range(0, 300));
        border.release(range(200, 300), 9, (70_000, 6)).unwrap();
        border.version_base = 5;
        border.arrived.insert(4, 3);
        border.told.insert(2, 1);
        assert_eq!(hex(border.encode()), "00c8010501 09c801ac02f0a20406 010403 010201".replace(' ', ""));
        assert_eq!(Border::decode(range(0, 300), &border.encode()).unwrap(), border);
        border.close();
        assert_eq!(hex(border.encode()), "00000501 09c801ac02f0a20406 010403 010201 01".replace(' ', ""));
        assert_eq!(Border::decode(range(0, 300), &border.encode()).unwrap(), border);
        let outcome = Outcome::Applied(Applied::Deleted { count: 5 }).encode();
        let request = CarriedRequest { id: [7; 16], log_index: 8, covers: vec![range(0, 300)], outcome: &outcome };
        let record = point::encode(3, None, None, &[], b"").unwrap();
        let cargo = Cargo { version_floor: 300, points: vec![(PointId::Num(5), &record)], requests: vec![request] };
        let expected =
            "ac02 010005 10 01000300000000000000000000000000 01 07070707070707070707070707070707 080100ac02 03010205";
        assert_eq!(hex(cargo.encode().unwrap()), expected.replace(' ', ""));
        let bytes = cargo.encode().unwrap();
        assert_eq!(Cargo::decode(&bytes, SlotRange::ALL).unwrap(), cargo);
        let other = SlotRange::new(slot_of(PointId::Num(5)) + 1, SLOTS).unwrap();
        assert_eq!(Cargo::decode(&bytes, other).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_shard_gives_slots_at_its_edges_one_cargo_at_a_time() {
        let mut border = Border::born(range(100, 200));
        assert_eq!(border.release(range(120, 130), 2, (7, 0)).unwrap_err().code(), "slots_not_at_the_edge");
        assert_eq!(border, Border::born(range(100, 200)));
        assert_eq!(border.release(range(100, 110), 2, (7, 30)), Ok(0));
        assert_eq!(border.owned, range(110, 200));
        assert_eq!(border.release(range(110, 120), 2, (8, 0)).unwrap_err().code(), "slots_are_leaving");
        assert!(!border.forget(6) && border.forget(7) && !border.forget(7));
        assert_eq!(border.release(SlotRange::NONE, 2, (9, 40)), Ok(30), "requests that are told already");
        assert_eq!((border.owned, border.forget(9)), (range(110, 200), true));
        assert_eq!(border.release(range(110, 200), 2, (10, 40)), Ok(40));
        assert_eq!((border.owned, border.born), (SlotRange::NONE, range(100, 200)));
    }

    #[test]
    fn a_shard_takes_what_lies_beside_it_once_and_tells_greater_versions() {
        let mut border = Border::born(SlotRange::NONE);
        assert_eq!(border.version_told(3), None);
        border.receive(range(50, 60), (1, 900), 900, 4).unwrap();
        assert!(!border.awaits(1, 900) && border.awaits(1, 901) && border.awaits(2, 1));
        assert_eq!(border.version_told(5), Some(901));
        assert_eq!(border.receive(range(70, 80), (1, 950), 950, 5).unwrap_err().code(), "slots_not_at_the_edge");
        assert_eq!((border.owned, border.awaits(1, 950)), (range(50, 60), true));
        border.receive(range(40, 50), (2, 3), 3, 6).unwrap();
        assert_eq!((border.owned, border.version_told(7)), (range(40, 60), Some(903)));
    }

    #[test]
    fn a_closed_shard_gives_and_takes_nothing_for_ever() {
        let mut border = Border::born(range(100, 200));
        border.release(range(100, 110), 2, (7, 30)).unwrap();
        assert!(border.check_open().is_ok());
        border.close();
        let one = PointId::Num(1);
        assert_eq!(border.check([one].into_iter()).unwrap_err().code(), "shard_moved");
        assert_eq!(owned_by_refusal(&border.check_open().unwrap_err()), Some(SlotRange::NONE));
        assert!(border.forget(7), "what was on its way may have arrived");
        let closed = border.clone();
        assert_eq!(border.receive(range(50, 60), (1, 9), 9, 10).unwrap_err().code(), "shard_moved");
        assert_eq!(border.release(range(110, 200), 2, (11, 30)).unwrap_err().code(), "slots_not_at_the_edge");
        assert_eq!(border, closed);
    }

    proptest! {
        #[test]
        fn ranges_hold_the_slots_of_all_that_were_added(added in prop::collection::vec((0..60u16, 0..10u16), 0..12)) {
            let mut ranges = Vec::new();
            let mut slots = BTreeSet::new();
            for (first, length) in added {
                add_range(&mut ranges, range(first, first + length));
                slots.extend(first..first + length);
            }
            let held: Vec<u16> = ranges.iter().flat_map(|range| range.first..range.end).collect();
            prop_assert_eq!(held, slots.into_iter().collect::<Vec<_>>());
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].first));
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = (Border::decode(SlotRange::ALL, &bytes).is_ok(), Cargo::decode(&bytes, SlotRange::ALL).is_ok());
        }
    }
}
