//! What moves with slots from a shard to its neighbour, as bytes. Called by `round` and `replica`.

use super::{outcome::Outcome, records::Records};
use crate::{
    store::keys::point::PointRecord,
    types::{Error, ErrorKind, PointId, Result, SlotRange, limits, slot_of},
};
use serde::{Deserialize, Serialize};

/// Largest cargo: points and requests of one step, encoded. What one slot holds has to fit.
pub const CARGO_BYTES_MAX: usize = 64 << 20;

const _: () = assert!(CARGO_BYTES_MAX + 1024 < limits::COMMAND_BYTES_MAX, "a cargo fits the command that brings it");

/// What one step moves, as it stands in the store of the shard that gives and in the log of the one that takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cargo<'a> {
    /// No version that the shard has told of anything is greater.
    pub version_floor: u64,
    /// Of the shard table by which it was released.
    pub epoch: u64,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{shard::outcome::Applied, store::keys::point, types::SLOTS};
    use proptest::prelude::*;

    #[test]
    fn golden_bytes() {
        let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let range = |first, end| SlotRange::new(first, end).unwrap();
        let outcome = Outcome::Applied(Applied::Deleted { count: 5 }).encode();
        let request = CarriedRequest { id: [7; 16], log_index: 8, covers: vec![range(0, 300)], outcome: &outcome };
        let record = point::encode(3, None, None, &[], b"").unwrap();
        let cargo =
            Cargo { version_floor: 300, epoch: 7, points: vec![(PointId::Num(5), &record)], requests: vec![request] };
        let expected = "ac02 07 010005 10 01000300000000000000000000000000 01 07070707070707070707070707070707 080100ac02 03010205";
        assert_eq!(hex(cargo.encode().unwrap()), expected.replace(' ', ""));
        let bytes = cargo.encode().unwrap();
        assert_eq!(Cargo::decode(&bytes, SlotRange::ALL).unwrap(), cargo);
        let other = SlotRange::new(slot_of(PointId::Num(5)) + 1, SLOTS).unwrap();
        assert_eq!(Cargo::decode(&bytes, other).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = Cargo::decode(&bytes, SlotRange::ALL).is_ok();
        }
    }
}
