//! A point as it was before a later command wrote or removed it, kept while upkeep of the indexes may have to be done again with it:
//! `6 | id | version u64 BE` → format 1, log index of the command that replaced it u64, the point's record. In the order of ids, as
//! the points themselves, so that both are read together.

use super::RecordError;
use super::reader::Reader;
use crate::types::PointId;
use std::ops::Range;

/// First byte of the keys.
pub const TAG: u8 = 6;
const FORMAT: u8 = 1;
const RECORD: &str = "before";
const KEY_BYTES: usize = 1 + PointId::KEY_LEN + 8;

/// The key of a point's version.
pub fn key(id: PointId, version: u64) -> [u8; KEY_BYTES] {
    let mut key = [TAG; KEY_BYTES];
    key[1..1 + PointId::KEY_LEN].copy_from_slice(&id.to_key());
    key[1 + PointId::KEY_LEN..].copy_from_slice(&version.to_be_bytes());
    key
}

/// The point and version a key stands for; `None` for another record's key.
pub fn of_key(key: &[u8]) -> Option<(PointId, u64)> {
    let key: &[u8; KEY_BYTES] = key.try_into().ok()?;
    let (id, version) = key[1..].split_at(PointId::KEY_LEN);
    (key[0] == TAG).then_some((PointId::from_key(id)?, u64::from_be_bytes(version.try_into().ok()?)))
}

/// The keys of all.
pub fn keys() -> Range<Vec<u8>> {
    vec![TAG]..vec![TAG + 1]
}

/// The value for a record that the command at `replaced_at` replaced.
pub fn encode(replaced_at: u64, record: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(9 + record.len());
    value.push(FORMAT);
    value.extend_from_slice(&replaced_at.to_le_bytes());
    value.extend_from_slice(record);
    value
}

/// When it was replaced, and the record.
pub fn decode(value: &[u8]) -> Result<(u64, &[u8]), RecordError> {
    let mut reader = Reader::open(RECORD, FORMAT, value)?;
    Ok((reader.u64()?, reader.rest()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes() {
        let expected = [vec![6], vec![0; 16], vec![5], vec![0; 6], vec![1, 2]].concat();
        assert_eq!(key(PointId::Num(5), 0x0102), expected[..]);
        assert_eq!(encode(3, b"x"), [1, 3, 0, 0, 0, 0, 0, 0, 0, b'x']);
    }

    proptest! {
        #[test]
        fn round_trip(id: u64, version: u64, at: u64, record: Vec<u8>) {
            let id = PointId::Num(id);
            let key = key(id, version);
            prop_assert_eq!(of_key(&key), Some((id, version)));
            prop_assert!(keys().start.as_slice() <= &key[..] && &key[..] < keys().end.as_slice());
            let value = encode(at, &record);
            prop_assert_eq!(decode(&value).unwrap(), (at, &record[..]));
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = (decode(&bytes), of_key(&bytes));
        }
    }
}
