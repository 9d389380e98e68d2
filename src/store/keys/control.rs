//! The embedded coordinator's keys and counters, in the space `control`.
//! `1 | key` → format 1, create revision u64, modification revision u64, version u64, lease u64 (0: none), value.
//! `2 | code` → format 1, u64.
//! `3 | lease, big-endian` → format 1, u64: time to live in milliseconds. All other integers little-endian.

use super::RecordError;
use super::reader::Reader;

/// First byte of the coordinator's keys.
pub const TAG: u8 = 1;
/// First byte of its own counters.
pub const COUNTER_TAG: u8 = 2;
/// First byte of its leases.
pub const LEASE_TAG: u8 = 3;
const FORMAT: u8 = 1;
const RECORD: &str = "control";
const HEAD_BYTES: usize = 33;

/// A value with its revisions, as etcd counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlRecord<'a> {
    /// Revision that created the key.
    pub create_revision: u64,
    /// Revision of the last change.
    pub mod_revision: u64,
    /// Changes since the key was created, from 1.
    pub version: u64,
    /// Lease the key is bound to; 0 for none.
    pub lease: u64,
    /// The value.
    pub value: &'a [u8],
}

/// The key in the space for a key of the coordinator.
pub fn key(name: &[u8]) -> Vec<u8> {
    [&[TAG], name].concat()
}

/// The coordinator's key of a key in the space; `None` for another record's.
pub fn name(key: &[u8]) -> Option<&[u8]> {
    key.strip_prefix(&[TAG])
}

/// The key in the space for a lease; its value is written and read as a [`Counter`]'s.
pub fn lease_key(lease: u64) -> [u8; 9] {
    let mut key = [LEASE_TAG; 9];
    key[1..].copy_from_slice(&lease.to_be_bytes());
    key
}

/// The lease of a key in the space; `None` for another record's.
pub fn lease(key: &[u8]) -> Option<u64> {
    let id = key.strip_prefix(&[LEASE_TAG])?;
    id.try_into().ok().map(u64::from_be_bytes)
}

impl<'a> ControlRecord<'a> {
    /// The bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.value.len());
        bytes.push(FORMAT);
        for number in [self.create_revision, self.mod_revision, self.version, self.lease] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(self.value);
        bytes
    }

    /// The record in `bytes`, borrowed.
    pub fn decode(bytes: &'a [u8]) -> Result<ControlRecord<'a>, RecordError> {
        let mut reader = Reader::open(RECORD, FORMAT, bytes)?;
        let mut number = || reader.u64();
        let (create_revision, mod_revision, version, lease) = (number()?, number()?, number()?, number()?);
        Ok(ControlRecord { create_revision, mod_revision, version, lease, value: reader.rest() })
    }
}

/// Counters of the coordinator. The codes are in stored data for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Counter {
    /// The last revision given out.
    Revision = 1,
    /// Revisions up to this one can no longer be watched.
    CompactedRevision = 2,
    /// The last lease given out.
    Lease = 3,
    /// Log index of the last entry whose effects are in the space.
    Applied = 4,
}

impl Counter {
    /// The key in the space.
    pub const fn key(self) -> [u8; 2] {
        [COUNTER_TAG, self as u8]
    }

    /// The value that stands for `number`.
    pub fn encode(number: u64) -> [u8; 9] {
        super::meta::encode(number)
    }

    /// The number a value stands for.
    pub fn decode(value: &[u8]) -> Result<u64, RecordError> {
        super::meta::decode(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes() {
        assert_eq!(key(b"ab"), [1, b'a', b'b']);
        let record = ControlRecord { create_revision: 1, mod_revision: 2, version: 3, lease: 4, value: b"v" };
        let mut expected = vec![1];
        for number in 1..=4u8 {
            expected.extend([number, 0, 0, 0, 0, 0, 0, 0]);
        }
        expected.push(b'v');
        assert_eq!(record.encode(), expected);
        assert_eq!(lease_key(258), [3, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!((lease(&lease_key(u64::MAX)), lease(b"\x03ab"), lease(b"ab")), (Some(u64::MAX), None, None));
        assert_eq!(Counter::Revision.key(), [2, 1]);
        assert_eq!(Counter::CompactedRevision.key(), [2, 2]);
        assert_eq!(Counter::Lease.key(), [2, 3]);
        assert_eq!(Counter::Applied.key(), [2, 4]);
        assert_eq!(Counter::encode(1), [1, 1, 0, 0, 0, 0, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn records_round_trip(numbers: [u64; 4], value: Vec<u8>, text: Vec<u8>) {
            let [create_revision, mod_revision, version, lease] = numbers;
            let record = ControlRecord { create_revision, mod_revision, version, lease, value: &value };
            let bytes = record.encode();
            prop_assert_eq!(ControlRecord::decode(&bytes), Ok(record));
            let stored = key(&text);
            prop_assert_eq!(name(&stored), Some(&text[..]));
            let _ = (ControlRecord::decode(&value), Counter::decode(&value));
        }
    }
}
