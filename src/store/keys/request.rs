//! What the requests of clients led to, so that a retry is given the first outcome: `4 | request id, 16 bytes` → format 1,
//! sequence number u64, log index u64, the outcome's bytes (their meaning is `shard`'s); or, once slots have moved between shards,
//! format 2, sequence number, log index, count u16, so many times first slot u16 and slot after the last u16, the outcome's bytes.
//! And the same in the order they came, so that the oldest is found when it is to be forgotten: `5 | sequence number u64 BE` →
//! format 1, request id.

use super::RecordError;
use super::reader::Reader;
use crate::types::{RequestId, SlotRange};
use std::ops::Range;

/// First byte of the keys of requests.
pub const TAG: u8 = 4;
/// First byte of the keys by sequence number.
pub const ORDER_TAG: u8 = 5;
/// Length of the key of a request.
pub const KEY_BYTES: usize = 1 + RequestId::BYTES;
const FORMAT: u8 = 1;
/// Format of a record that says which slots it covers.
const FORMAT_COVERS: u8 = 2;
const RECORD: &str = "request";
const HEAD_BYTES: usize = 17;

/// The key of a request.
pub fn key(id: RequestId) -> [u8; KEY_BYTES] {
    let mut key = [TAG; KEY_BYTES];
    key[1..].copy_from_slice(id.as_bytes());
    key
}

/// The id a key stands for; `None` for another record's key.
pub fn id_of_key(key: &[u8]) -> Option<RequestId> {
    key.strip_prefix(&[TAG])?.try_into().ok().map(RequestId::from_bytes)
}

/// The keys of all requests.
pub fn keys() -> Range<[u8; 1]> {
    [TAG]..[TAG + 1]
}

/// The key of the request with this sequence number.
pub fn order_key(sequence: u64) -> [u8; 9] {
    let mut key = [ORDER_TAG; 9];
    key[1..].copy_from_slice(&sequence.to_be_bytes());
    key
}

/// The value by sequence number.
pub fn encode_order(id: RequestId) -> [u8; KEY_BYTES] {
    let mut value = [FORMAT; KEY_BYTES];
    value[1..].copy_from_slice(id.as_bytes());
    value
}

/// The request a value by sequence number names.
pub fn decode_order(value: &[u8]) -> Result<RequestId, RecordError> {
    let reader = Reader::open(RECORD, FORMAT, value)?;
    let id = reader.rest().try_into().map_err(|_| reader.malformed("not a request id"))?;
    Ok(RequestId::from_bytes(id))
}

/// A stored request, its outcome borrowed from its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRecord<'a> {
    /// Which of the shard's requests it was, from 1.
    pub sequence: u64,
    /// The log index of its first command.
    pub log_index: u64,
    /// The slots in which all that the request asks for is done; none said: those the shard had at first.
    pub covers: Vec<SlotRange>,
    /// What that command did, encoded by `shard`.
    pub outcome: &'a [u8],
}

impl<'a> RequestRecord<'a> {
    /// The bytes of a request. There are fewer ranges than slots.
    pub fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(HEAD_BYTES + 2 + 4 * self.covers.len() + self.outcome.len());
        value.push(if self.covers.is_empty() { FORMAT } else { FORMAT_COVERS });
        value.extend_from_slice(&self.sequence.to_le_bytes());
        value.extend_from_slice(&self.log_index.to_le_bytes());
        if !self.covers.is_empty() {
            let count = u16::try_from(self.covers.len()).expect("ranges that do not touch are fewer than slots");
            value.extend_from_slice(&count.to_le_bytes());
        }
        for range in &self.covers {
            value.extend_from_slice(&range.first.to_le_bytes());
            value.extend_from_slice(&range.end.to_le_bytes());
        }
        value.extend_from_slice(self.outcome);
        value
    }

    /// The record in `bytes`.
    pub fn decode(bytes: &'a [u8]) -> Result<RequestRecord<'a>, RecordError> {
        let says_slots = bytes.first().is_some_and(|format| *format != FORMAT);
        let mut reader = Reader::open(RECORD, if says_slots { FORMAT_COVERS } else { FORMAT }, bytes)?;
        let (sequence, log_index) = (reader.u64()?, reader.u64()?);
        let mut covers = Vec::new();
        if says_slots {
            for _ in 0..reader.u16()? {
                let range = SlotRange::new(reader.u16()?, reader.u16()?).filter(|range| !range.is_empty());
                covers.push(range.ok_or_else(|| reader.malformed("no range of slots"))?);
            }
            if covers.is_empty() {
                return Err(reader.malformed("it covers no slots"));
            }
        }
        Ok(RequestRecord { sequence, log_index, covers, outcome: reader.rest() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes() {
        let id = RequestId::from_bytes([0xab; 16]);
        assert_eq!(key(id).to_vec(), [&[4][..], &[0xab; 16]].concat());
        assert_eq!(order_key(0x0102), [5, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(encode_order(id).to_vec(), [&[1][..], &[0xab; 16]].concat());
        let record = RequestRecord { sequence: 3, log_index: 0x0102, covers: Vec::new(), outcome: b"out" };
        assert_eq!(record.encode(), [&[1, 3, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0][..], b"out"].concat());
        let covers = vec![SlotRange { first: 1, end: 0x0203 }];
        let numbers = [2, 3, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 3, 2];
        assert_eq!(RequestRecord { covers, ..record }.encode(), [&numbers[..], b"out"].concat());
    }

    #[test]
    fn keys_are_only_requests() {
        let id = RequestId::from_bytes([0xff; 16]);
        assert!(keys().start.as_slice() < key(id).as_slice() && key(id).as_slice() < keys().end.as_slice());
        assert_eq!(id_of_key(&key(id)), Some(id));
        assert_eq!((id_of_key(&order_key(1)), id_of_key(&[4; 16])), (None, None));
    }

    proptest! {
        #[test]
        fn records_round_trip(
            sequence: u64,
            log_index: u64,
            cuts in prop::collection::btree_set(0..=crate::types::SLOTS, 0..8),
            outcome: Vec<u8>,
            id: [u8; 16],
        ) {
            let cuts: Vec<u16> = cuts.into_iter().collect();
            let covers = cuts.chunks_exact(2).map(|cut| SlotRange { first: cut[0], end: cut[1] }).collect();
            let record = RequestRecord { sequence, log_index, covers, outcome: &outcome };
            let bytes = record.encode();
            prop_assert_eq!(RequestRecord::decode(&bytes).unwrap(), record);
            prop_assert!(RequestRecord::decode(&bytes[..HEAD_BYTES - 1]).is_err());
            let id = RequestId::from_bytes(id);
            prop_assert_eq!(decode_order(&encode_order(id)).unwrap(), id);
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            for format in [FORMAT, FORMAT_COVERS] {
                let mut formed = vec![format];
                formed.extend(&bytes);
                let _ = (RequestRecord::decode(&bytes), RequestRecord::decode(&formed), decode_order(&formed));
            }
        }
    }
}
