//! The ids one command touched, kept until the index files have taken them in: `3 | log index u64 BE` → format 1, count
//! u32, ids of 17 bytes. After a restart the indexer reads the deltas behind its last file instead of every point.

use super::RecordError;
use super::reader::{Reader, length};
use crate::types::PointId;
use std::ops::Range;

/// First byte of the keys.
pub const TAG: u8 = 3;
const FORMAT: u8 = 1;
const RECORD: &str = "delta";
const HEAD_BYTES: usize = 5;

/// The key of the command at `log_index`.
pub fn key(log_index: u64) -> [u8; 9] {
    let mut key = [TAG; 9];
    key[1..].copy_from_slice(&log_index.to_be_bytes());
    key
}

/// The log index a key stands for; `None` for another record's key.
pub fn log_index(key: &[u8]) -> Option<u64> {
    let (tag, index) = key.split_first()?;
    (*tag == TAG).then_some(u64::from_be_bytes(index.try_into().ok()?))
}

/// The keys of all deltas from `log_index` on.
pub fn keys_from(log_index: u64) -> Range<Vec<u8>> {
    key(log_index).to_vec()..vec![TAG + 1]
}

/// The value for the ids a command touched.
pub fn encode(ids: &[PointId]) -> Result<Vec<u8>, RecordError> {
    let count: u32 = length(RECORD, "ids", ids.len(), u32::MAX as usize)?;
    let mut value = Vec::with_capacity(HEAD_BYTES + ids.len() * PointId::KEY_LEN);
    value.push(FORMAT);
    value.extend_from_slice(&count.to_le_bytes());
    ids.iter().for_each(|id| value.extend_from_slice(&id.to_key()));
    Ok(value)
}

/// The ids of a value, in the order they were given.
pub fn decode(value: &[u8]) -> Result<Vec<PointId>, RecordError> {
    let mut reader = Reader::open(RECORD, FORMAT, value)?;
    let count = reader.u32()? as usize;
    // Checked before anything is allocated.
    if reader.rest().len() != count.saturating_mul(PointId::KEY_LEN) {
        return Err(reader.malformed("its length does not fit its count"));
    }
    let ids = reader.rest().chunks_exact(PointId::KEY_LEN).map(PointId::from_key);
    ids.collect::<Option<_>>().ok_or_else(|| reader.malformed("not an id"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes() {
        assert_eq!(key(0x0102), [3, 0, 0, 0, 0, 0, 0, 1, 2]);
        let mut expected = vec![1, 1, 0, 0, 0, 0];
        expected.extend([0; 15]);
        expected.push(5);
        assert_eq!(encode(&[PointId::Num(5)]).unwrap(), expected);
    }

    #[test]
    fn keys_are_in_log_order_and_only_deltas() {
        let from = keys_from(256);
        assert!(from.start.as_slice() <= key(256).as_slice() && key(u64::MAX).as_slice() < from.end.as_slice());
        assert!(key(255).as_slice() < from.start.as_slice());
        assert_eq!(log_index(&key(77)), Some(77));
        assert_eq!(log_index(&[2; 9]), None);
        assert_eq!(log_index(&[3; 8]), None);
    }

    proptest! {
        #[test]
        fn ids_round_trip(ids in prop::collection::vec(any::<u64>().prop_map(PointId::Num), 0..50)) {
            prop_assert_eq!(decode(&encode(&ids).unwrap()).unwrap(), ids);
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let mut formed = vec![FORMAT];
            formed.extend(&bytes);
            let _ = (decode(&bytes), decode(&formed));
        }
    }
}
