//! The content hash of a shard: one number for everything its replicas must agree on, whatever the order in which it came
//! to be. Two replicas that have applied the same log index hold the same if, and but for a chance of 2^-64 only if, their
//! hashes are equal.
//!
//! It is the wrapping sum of one hash for every point (xxh3-64 of its record, seeded by that of its key) and every request
//! remembered (its key, numbers and what was settled; not the words of a refusal, see `outcome`), and of the records of its
//! border, if slots have moved. A sum can be kept up:
//! what a write replaces is subtracted, what it puts is added. Called by `round`, `requests`, `checkpoint`, `install` and
//! `verify`.

use super::{
    outcome::Outcome,
    records::{Records, View},
};
use crate::{
    mutants::mutant,
    store::keys::{
        border, point,
        request::{self, RequestRecord},
    },
    types::{PointId, RequestId, Result},
};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// See the module. Zero for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentHash(pub u64);

impl ContentHash {
    /// Takes in a record of this hash.
    pub fn add(&mut self, record: u64) {
        self.0 = self.0.wrapping_add(record);
    }

    /// Takes a record of this hash out again.
    pub fn remove(&mut self, record: u64) {
        self.0 = self.0.wrapping_sub(record);
    }
}

/// The hash of a point's record.
pub fn of_point(id: PointId, record: &[u8]) -> u64 {
    xxh3_64_with_seed(record, xxh3_64(&point::key(id)))
}

/// The hash of a request's record.
///
/// # Errors
/// `Corrupt` if it is none.
pub fn of_request(id: RequestId, record: &[u8]) -> Result<u64> {
    if mutant!(14) {
        return Ok(0);
    }
    let record = RequestRecord::decode(record).map_err(Records::corrupt)?;
    let settled = RequestRecord { outcome: Outcome::settled_bytes(record.outcome)?, ..record };
    Ok(xxh3_64_with_seed(&settled.encode(), xxh3_64(&request::key(id))))
}

/// The hash of a record of the shard's border, by its key: of what it owns, or of what is on its way to another shard.
pub fn of_border(key: [u8; 2], record: &[u8]) -> u64 {
    xxh3_64_with_seed(record, xxh3_64(&key))
}

/// The hash of everything in a view. Cost: reading all of it.
///
/// # Errors
/// `Corrupt` if it cannot be read.
pub fn of_view(view: &View) -> Result<ContentHash> {
    let mut hash = ContentHash::default();
    for point in view.points() {
        let (id, record) = point?;
        hash.add(of_point(id, &record));
    }
    for request in view.requests() {
        let (id, record) = request?;
        hash.add(of_request(id, &record)?);
    }
    for key in [border::KEY, border::CARGO_KEY] {
        if let Some(record) = view.border(key)? {
            hash.add(of_border(key, &record));
        }
    }
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Error;

    #[test]
    fn the_hash_never_changes() {
        // In stored data, and compared between nodes of two versions.
        let id = RequestId::from_bytes([7; 16]);
        let record = |message: &str| {
            let outcome = Outcome::Refused(Error::invalid("no", message)).encode();
            RequestRecord { sequence: 1, log_index: 2, covers: Vec::new(), outcome: &outcome }.encode()
        };
        assert_eq!(of_point(PointId::Num(1), b"record"), 12433925917577085787);
        assert_eq!(of_request(id, &record("a")).unwrap(), 5026662295278966225);
        assert_eq!(of_request(id, &record("a")), of_request(id, &record("b")), "words are left out");
    }

    #[test]
    fn what_was_added_can_be_removed_in_any_order() {
        let hashes: Vec<u64> = (0..10).map(|n| of_point(PointId::Num(n), b"x")).collect();
        let mut sum = ContentHash::default();
        hashes.iter().for_each(|hash| sum.add(*hash));
        assert_ne!(sum, ContentHash::default());
        hashes.iter().rev().for_each(|hash| sum.remove(*hash));
        assert_eq!(sum, ContentHash::default());
    }
}
