//! The log of all Raft groups of a node, in one space of its own database. Key: `group u64 BE | kind u8 | index u64 BE`, so
//! a group is one range and its entries are in order. Values (little-endian):
//! kind 1, index 0: format 1, compacted index u64, compacted term u64, CRC-32C u32 of group, index and term.
//! kind 2: format 1, term u64, CRC-32C u32 of group, index, term and data, data.
//! The checksums cover where a record belongs, so a record in a wrong place is as bad as a changed one.

use super::RecordError;
use super::reader::Reader;
use crate::mutants::mutant;
use std::ops::Range;

const FORMAT: u8 = 1;
const RECORD: &str = "log";
const KIND_STATE: u8 = 1;
const KIND_ENTRY: u8 = 2;
/// Length of every key.
pub const KEY_BYTES: usize = 17;
/// Bytes of an entry's value before its data.
pub const ENTRY_HEAD_BYTES: usize = 13;

/// Where the log of a group begins: everything up to here has been compacted away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// Last index that is no longer in the log; 0 for none.
    pub compacted_index: u64,
    /// Its term.
    pub compacted_term: u64,
}

/// The key of the entry of `group` at `index`.
pub fn entry_key(group: u64, index: u64) -> [u8; KEY_BYTES] {
    key(group, KIND_ENTRY, index)
}

/// The key of the state of `group`.
pub fn state_key(group: u64) -> [u8; KEY_BYTES] {
    key(group, KIND_STATE, 0)
}

/// The keys of the entries of `group` from `from` up to the end of its log.
pub fn entry_keys(group: u64, from: u64) -> Range<[u8; KEY_BYTES]> {
    entry_key(group, from)..key(group, KIND_ENTRY + 1, 0)
}

/// The group and index of an entry's key; `None` for another record's.
pub fn entry_of_key(key: &[u8]) -> Option<(u64, u64)> {
    parse(key).and_then(|(group, kind, index)| (kind == KIND_ENTRY).then_some((group, index)))
}

/// The group a key belongs to.
pub fn group_of_key(key: &[u8]) -> Option<u64> {
    parse(key).map(|(group, _, _)| group)
}

/// The value of an entry.
pub fn encode_entry(group: u64, index: u64, term: u64, data: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(ENTRY_HEAD_BYTES + data.len());
    value.push(FORMAT);
    value.extend_from_slice(&term.to_le_bytes());
    value.extend_from_slice(&checksum(group, index, term, data).to_le_bytes());
    value.extend_from_slice(data);
    value
}

/// Term and data of the entry of `group` at `index`. Costs one pass over the data.
pub fn decode_entry(group: u64, index: u64, value: &[u8]) -> Result<(u64, &[u8]), RecordError> {
    let mut reader = Reader::open(RECORD, FORMAT, value)?;
    let (term, expected) = (reader.u64()?, reader.u32()?);
    if !mutant!(11) && expected != checksum(group, index, term, reader.rest()) {
        return Err(reader.malformed("its checksum is wrong"));
    }
    Ok((term, reader.rest()))
}

impl GroupState {
    /// The bytes to store for `group`.
    pub fn encode(&self, group: u64) -> Vec<u8> {
        let mut value = vec![FORMAT];
        value.extend_from_slice(&self.compacted_index.to_le_bytes());
        value.extend_from_slice(&self.compacted_term.to_le_bytes());
        value.extend_from_slice(&self.checksum(group).to_le_bytes());
        value
    }

    /// The state of `group` in `value`.
    pub fn decode(group: u64, value: &[u8]) -> Result<GroupState, RecordError> {
        let mut reader = Reader::open(RECORD, FORMAT, value)?;
        let state = GroupState { compacted_index: reader.u64()?, compacted_term: reader.u64()? };
        if reader.u32()? != state.checksum(group) {
            return Err(reader.malformed("its checksum is wrong"));
        }
        reader.finish()?;
        Ok(state)
    }

    fn checksum(&self, group: u64) -> u32 {
        checksum(group, self.compacted_index, self.compacted_term, b"state")
    }
}

fn key(group: u64, kind: u8, index: u64) -> [u8; KEY_BYTES] {
    let mut key = [kind; KEY_BYTES];
    key[..8].copy_from_slice(&group.to_be_bytes());
    key[9..].copy_from_slice(&index.to_be_bytes());
    key
}

fn parse(key: &[u8]) -> Option<(u64, u8, u64)> {
    let key: &[u8; KEY_BYTES] = key.try_into().ok()?;
    let number = |at: usize| u64::from_be_bytes(key[at..at + 8].try_into().expect("eight bytes of the key"));
    Some((number(0), key[8], number(9)))
}

fn checksum(group: u64, index: u64, term: u64, data: &[u8]) -> u32 {
    let mut place = [0; 24];
    place[..8].copy_from_slice(&group.to_le_bytes());
    place[8..16].copy_from_slice(&index.to_le_bytes());
    place[16..].copy_from_slice(&term.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes() {
        assert_eq!(entry_key(1, 0x0203), [0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 2, 3]);
        assert_eq!(state_key(1), [0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        let checksum = checksum(1, 2, 3, b"data").to_le_bytes();
        let mut expected = vec![1, 3, 0, 0, 0, 0, 0, 0, 0];
        expected.extend(checksum);
        expected.extend(b"data");
        assert_eq!(encode_entry(1, 2, 3, b"data"), expected);
        assert_eq!(checksum, [97, 233, 118, 142]);
        let state = GroupState { compacted_index: 5, compacted_term: 6 }.encode(1);
        assert_eq!(state[..17], [1, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(state.len(), 21);
    }

    #[test]
    fn a_group_is_one_range() {
        let range = entry_keys(7, 3);
        assert!(range.contains(&entry_key(7, 3)) && range.contains(&entry_key(7, u64::MAX)));
        assert!(
            !range.contains(&entry_key(7, 2)) && !range.contains(&entry_key(8, 3)) && !range.contains(&state_key(7))
        );
        assert_eq!(entry_of_key(&entry_key(7, 3)), Some((7, 3)));
        assert_eq!(entry_of_key(&state_key(7)), None);
        assert_eq!(group_of_key(&state_key(7)), Some(7));
        assert_eq!(group_of_key(b"short"), None);
    }

    proptest! {
        #[test]
        fn a_changed_or_moved_entry_is_refused(data: Vec<u8>, at: prop::sample::Index, flip in 1u8..) {
            let value = encode_entry(1, 2, 3, &data);
            prop_assert_eq!(decode_entry(1, 2, &value), Ok((3, &data[..])));
            prop_assert!(decode_entry(2, 2, &value).is_err() && decode_entry(1, 3, &value).is_err());
            let mut changed = value.clone();
            let at = at.index(changed.len());
            changed[at] ^= flip;
            prop_assert!(decode_entry(1, 2, &changed).is_err());
        }

        #[test]
        fn state_round_trips_and_garbage_never_panics(index: u64, term: u64, bytes: Vec<u8>) {
            let state = GroupState { compacted_index: index, compacted_term: term };
            prop_assert_eq!(GroupState::decode(9, &state.encode(9)), Ok(state));
            prop_assert!(GroupState::decode(8, &state.encode(9)).is_err());
            let _ = (GroupState::decode(9, &bytes), decode_entry(1, 2, &bytes));
        }
    }
}
