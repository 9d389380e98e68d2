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
//! A release says by which epoch of the shard table it was decided, and a cargo carries that on. A shard refuses the release of an
//! older table than it has seen: its leader may not have heard that the slots were all moved since, and moved back again, and that
//! the shard they shall go to is no more.
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

use super::{cargo::Cargo, records::Records};
use crate::{
    mutants::mutant,
    types::{Error, ErrorKind, PointId, Result, SlotRange, slot_of},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
    /// The newest epoch of the shard table by which slots were moved from or to it.
    pub epoch: u64,
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

/// The stored form: postcard. Fields keep their order for ever.
#[derive(Serialize, Deserialize)]
struct Stored {
    owned: SlotRange,
    version_base: u64,
    leaving: Option<Leaving>,
    arrived: BTreeMap<u64, u64>,
    told: BTreeMap<u64, u64>,
    closed: bool,
    epoch: u64,
}

impl Border {
    /// That of a shard of which nothing has moved yet.
    pub fn born(born: SlotRange) -> Border {
        let (arrived, told) = Default::default();
        let (has_moved, closed) = (false, false);
        Border { born, owned: born, version_base: 0, leaving: None, arrived, told, has_moved, closed, epoch: 0 }
    }

    /// The bytes for the store.
    pub fn encode(&self) -> Vec<u8> {
        let Border { owned, version_base, leaving, arrived, told, closed, epoch, born: _, has_moved: _ } = self.clone();
        let stored = Stored { owned, version_base, leaving, arrived, told, closed, epoch };
        postcard::to_stdvec(&stored).expect("numbers can be encoded")
    }

    /// The inverse of [`Border::encode`], for a shard that had the slots `born` at first.
    ///
    /// # Errors
    /// `Corrupt` for bytes no version of this program wrote, or a newer one did.
    pub fn decode(born: SlotRange, bytes: &[u8]) -> Result<Border> {
        let (stored, rest) = postcard::take_from_bytes(bytes).map_err(Records::corrupt)?;
        let Stored { owned, version_base, leaving, arrived, told, closed, epoch } = stored;
        let is_range = |range: SlotRange| SlotRange::new(range.first, range.end).is_some();
        let is_whole = rest.is_empty() && (owned.is_empty() || !closed);
        if !is_whole || !is_range(owned) || leaving.is_some_and(|leaving| !is_range(leaving.slots)) {
            return Err(Records::corrupt("a border is none"));
        }
        Ok(Border { born, owned, version_base, leaving, arrived, told, has_moved: true, closed, epoch })
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
    /// those told there through the one with the number `requests`. From which request on that is. Was decided by the shard table of
    /// `epoch`.
    ///
    /// # Errors
    /// `slots_not_at_the_edge`, `slots_are_leaving`, `shard_table_old`: nothing has changed.
    pub fn release(&mut self, slots: SlotRange, to: u64, epoch: u64, (number, requests): (u64, u64)) -> Result<u64> {
        if epoch < self.epoch {
            let message = "slots were moved by a newer shard table than the one that this was decided by";
            return Err(Error::new(ErrorKind::Conflict, "shard_table_old", message)
                .expected(format!("epoch {} or later", self.epoch))
                .got(epoch));
        }
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
        (self.has_moved, self.epoch) = (true, epoch);
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

    /// More is remembered of the request with this number than the neighbours were told, or will be by the cargo on its way: they are to
    /// be told again. Whether any had been.
    pub fn tell_again(&mut self, request: u64) -> bool {
        let known = request.saturating_sub(1);
        let mut had_been = false;
        for told in self.told.values_mut().chain(self.leaving.iter_mut().map(|leaving| &mut leaving.requests)) {
            had_been |= *told > known;
            *told = known.min(*told);
        }
        had_been
    }

    /// Whether the cargo called `number` is still to be taken.
    pub fn awaits(&self, from: u64, number: u64) -> bool {
        self.arrived.get(&from).is_none_or(|last| *last < number)
    }

    /// Puts `slots`, which shard `from` has released as its `cargo` called `number`, to those of the shard. From the entry at log index
    /// `at` on versions are greater than the cargo's floor.
    ///
    /// # Errors
    /// `slots_not_at_the_edge`, `shard_moved`: nothing has changed.
    pub fn receive(&mut self, slots: SlotRange, (from, number): (u64, u64), cargo: &Cargo<'_>, at: u64) -> Result<()> {
        self.check_open()?;
        check_range(self.owned, slots)?;
        self.owned = self.owned.with(slots).ok_or_else(|| not_at_the_edge(self.owned, slots))?;
        self.arrived.insert(from, number);
        self.version_base = self.version_base.max(cargo.version_floor.saturating_sub(at));
        (self.has_moved, self.epoch) = (true, self.epoch.max(cargo.epoch));
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
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn range(first: u16, end: u16) -> SlotRange {
        SlotRange::new(first, end).unwrap()
    }

    fn cargo(version_floor: u64, epoch: u64) -> Cargo<'static> {
        Cargo { version_floor, epoch, ..Cargo::default() }
    }

    #[test]
    fn golden_bytes() {
        let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut border = Border::born(range(0, 300));
        border.release(range(200, 300), 9, 7, (70_000, 6)).unwrap();
        border.version_base = 5;
        border.arrived.insert(4, 3);
        border.told.insert(2, 1);
        assert_eq!(hex(border.encode()), "00c8010501 09c801ac02f0a20406 010403 010201 0007".replace(' ', ""));
        assert_eq!(Border::decode(range(0, 300), &border.encode()).unwrap(), border);
        border.close();
        assert_eq!(hex(border.encode()), "00000501 09c801ac02f0a20406 010403 010201 0107".replace(' ', ""));
        assert_eq!(Border::decode(range(0, 300), &border.encode()).unwrap(), border);
    }

    #[test]
    fn a_shard_gives_slots_at_its_edges_one_cargo_at_a_time() {
        let mut border = Border::born(range(100, 200));
        assert_eq!(border.release(range(120, 130), 2, 1, (7, 0)).unwrap_err().code(), "slots_not_at_the_edge");
        assert_eq!(border, Border::born(range(100, 200)));
        assert_eq!(border.release(range(100, 110), 2, 1, (7, 30)), Ok(0));
        assert_eq!(border.owned, range(110, 200));
        assert_eq!(border.release(range(110, 120), 2, 1, (8, 0)).unwrap_err().code(), "slots_are_leaving");
        assert!(!border.forget(6) && border.forget(7) && !border.forget(7));
        assert_eq!(border.release(SlotRange::NONE, 2, 1, (9, 40)), Ok(30), "requests that are told already");
        assert_eq!((border.owned, border.forget(9)), (range(110, 200), true));
        assert_eq!(border.release(range(110, 200), 2, 1, (10, 40)), Ok(40));
        assert_eq!((border.owned, border.born), (SlotRange::NONE, range(100, 200)));
    }

    #[test]
    fn a_shard_takes_what_lies_beside_it_once_and_tells_greater_versions() {
        let mut border = Border::born(SlotRange::NONE);
        assert_eq!(border.version_told(3), None);
        border.receive(range(50, 60), (1, 900), &cargo(900, 1), 4).unwrap();
        assert!(!border.awaits(1, 900) && border.awaits(1, 901) && border.awaits(2, 1));
        assert_eq!(border.version_told(5), Some(901));
        assert_eq!(
            border.receive(range(70, 80), (1, 950), &cargo(950, 1), 5).unwrap_err().code(),
            "slots_not_at_the_edge"
        );
        assert_eq!((border.owned, border.awaits(1, 950)), (range(50, 60), true));
        border.receive(range(40, 50), (2, 3), &cargo(3, 1), 6).unwrap();
        assert_eq!((border.owned, border.version_told(7)), (range(40, 60), Some(903)));
    }

    #[test]
    fn what_an_older_table_says_is_refused() {
        let mut border = Border::born(range(100, 200));
        border.release(range(150, 200), 2, 10, (7, 0)).unwrap();
        assert!(border.forget(7));
        border.receive(range(150, 200), (2, 3), &cargo(3, 15), 9).unwrap();
        let merged = border.clone();
        for slots in [range(150, 200), SlotRange::NONE] {
            assert_eq!(border.release(slots, 2, 10, (12, 0)).unwrap_err().code(), "shard_table_old");
        }
        assert_eq!(border, merged, "nothing is on its way to a shard that may be no more");
        border.release(range(180, 200), 3, 15, (13, 0)).unwrap();
        let mut next = Border::born(range(200, 300));
        next.receive(range(180, 200), (1, 13), &cargo(13, 15), 4).unwrap();
        next.receive(range(300, 310), (4, 1), &cargo(1, 12), 5).unwrap();
        assert_eq!(next.epoch, 15, "what was sent is taken, and makes nothing older");
    }

    #[test]
    fn a_closed_shard_gives_and_takes_nothing_for_ever() {
        let mut border = Border::born(range(100, 200));
        border.release(range(100, 110), 2, 1, (7, 30)).unwrap();
        assert!(border.check_open().is_ok());
        border.close();
        let one = PointId::Num(1);
        assert_eq!(border.check([one].into_iter()).unwrap_err().code(), "shard_moved");
        assert_eq!(owned_by_refusal(&border.check_open().unwrap_err()), Some(SlotRange::NONE));
        assert!(border.forget(7), "what was on its way may have arrived");
        let closed = border.clone();
        assert_eq!(border.receive(range(50, 60), (1, 9), &cargo(9, 1), 10).unwrap_err().code(), "shard_moved");
        assert_eq!(border.release(range(110, 200), 2, 1, (11, 30)).unwrap_err().code(), "slots_not_at_the_edge");
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
            let _ = Border::decode(SlotRange::ALL, &bytes).is_ok();
        }
    }
}
