//! The log of all Raft groups of a node, in one space of its own database. Key: `group u64 BE | kind u8 | index u64 BE`, so
//! a group is one range and its entries are in order. Values begin with format 2; numbers are little-endian, and a CRC-32C
//! covers where the record belongs and all of its content, so a record in a wrong place is as bad as a changed one.
//!
//! | kind | index | value behind the format byte |
//! |---|---|---|
//! | 1 | 0 | bounds: compacted index u64, compacted term u64, CRC |
//! | 1 | 1 | hard state: term u64, vote u64, commit index u64, CRC |
//! | 1 | 2 | members: index u64, CRC, auto leave u8, four lists of u16 count and u64 each |
//! | 1 | 3 | reached, of a group left: term u64, index u64, CRC |
//! | 2 | its own | entry: term u64, kind u8, CRC, data |

use super::RecordError;
use super::reader::{Reader, length};
use crate::mutants::mutant;
use std::ops::Range;

const FORMAT: u8 = 2;
const RECORD: &str = "log";
const KIND_STATE: u8 = 1;
const KIND_ENTRY: u8 = 2;
/// Length of every key.
pub const KEY_BYTES: usize = 17;
/// Bytes of an entry's value before its data.
pub const ENTRY_HEAD_BYTES: usize = 14;
/// Members of a group, at most, in each of its lists.
pub const MEMBERS_MAX: usize = u16::MAX as usize;

/// What an entry is to the group. The codes are in stored data for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// A command of the state machine; without data, a leader's first entry.
    #[default]
    Command = 0,
    /// A change of the members.
    Members = 1,
}

/// Where the log of a group begins: everything up to here has been compacted away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// Last index that is no longer in the log; 0 for none.
    pub compacted_index: u64,
    /// Its term.
    pub compacted_term: u64,
}

/// What a member of a group must never forget (Ongaro & Ousterhout, "In Search of an Understandable Consensus Algorithm", 2014,
/// figure 2). The commit index may be behind the truth, never ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term it has seen.
    pub term: u64,
    /// Whom it voted for in that term; 0 for nobody.
    pub vote: u64,
    /// The last index it knows to be committed.
    pub commit: u64,
}

/// How far the log of a member had come when it left its group and its data was removed. What it acknowledged up to there may have
/// been counted, so it votes for nobody until its log has come as far again. A later term is further (section 5.4.1 of the same paper).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reached {
    /// Term of the last entry; 0 for a member that never left.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

/// Who belongs to a group, as of one index. While a joint change is under way both sets of voters decide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// The entry that made it so.
    pub index: u64,
    /// Who votes.
    pub voters: Vec<u64>,
    /// Who only learns.
    pub learners: Vec<u64>,
    /// Who voted before the joint change that is under way.
    pub voters_outgoing: Vec<u64>,
    /// Who will only learn after it.
    pub learners_next: Vec<u64>,
    /// Whether the leader ends the joint change by itself.
    pub auto_leave: bool,
}

/// The key of the entry of `group` at `index`.
pub fn entry_key(group: u64, index: u64) -> [u8; KEY_BYTES] {
    key(group, KIND_ENTRY, index)
}

/// The key of the state of `group`.
pub fn state_key(group: u64) -> [u8; KEY_BYTES] {
    key(group, KIND_STATE, 0)
}

/// The key of the hard state of `group`.
pub fn hard_state_key(group: u64) -> [u8; KEY_BYTES] {
    key(group, KIND_STATE, 1)
}

/// The key of the members of `group`.
pub fn members_key(group: u64) -> [u8; KEY_BYTES] {
    key(group, KIND_STATE, 2)
}

/// The key of how far the log of `group` had come when this node left it.
pub fn reached_key(group: u64) -> [u8; KEY_BYTES] {
    key(group, KIND_STATE, 3)
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
pub fn encode_entry(group: u64, index: u64, term: u64, kind: EntryKind, data: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(ENTRY_HEAD_BYTES + data.len());
    value.push(FORMAT);
    value.extend_from_slice(&term.to_le_bytes());
    value.push(kind as u8);
    value.extend_from_slice(&checksum(group, index, term, kind as u8, data).to_le_bytes());
    value.extend_from_slice(data);
    value
}

/// Term, kind and data of the entry of `group` at `index`. Costs one pass over the data.
pub fn decode_entry(group: u64, index: u64, value: &[u8]) -> Result<(u64, EntryKind, &[u8]), RecordError> {
    let mut reader = Reader::open(RECORD, FORMAT, value)?;
    let (term, code, expected) = (reader.u64()?, reader.u8()?, reader.u32()?);
    if !mutant!(11) && expected != checksum(group, index, term, code, reader.rest()) {
        return Err(reader.malformed("its checksum is wrong"));
    }
    let kind = match code {
        0 => EntryKind::Command,
        1 => EntryKind::Members,
        _ => return Err(reader.malformed("an entry of an unknown kind")),
    };
    Ok((term, kind, reader.rest()))
}

impl GroupState {
    /// The bytes to store for `group`.
    pub fn encode(&self, group: u64) -> Vec<u8> {
        encode_numbers([self.compacted_index, self.compacted_term], self.checksum(group))
    }

    /// The state of `group` in `value`.
    pub fn decode(group: u64, value: &[u8]) -> Result<GroupState, RecordError> {
        let of = |[compacted_index, compacted_term]: [u64; 2]| GroupState { compacted_index, compacted_term };
        decode_numbers(value, of, |state| state.checksum(group))
    }

    fn checksum(&self, group: u64) -> u32 {
        checksum(group, self.compacted_index, self.compacted_term, 0, b"state")
    }
}

impl HardState {
    /// The bytes to store for `group`.
    pub fn encode(&self, group: u64) -> Vec<u8> {
        encode_numbers([self.term, self.vote, self.commit], self.checksum(group))
    }

    /// The hard state of `group` in `value`.
    pub fn decode(group: u64, value: &[u8]) -> Result<HardState, RecordError> {
        decode_numbers(value, |[term, vote, commit]| HardState { term, vote, commit }, |state| state.checksum(group))
    }

    fn checksum(&self, group: u64) -> u32 {
        checksum(group, self.commit, self.term, 1, &self.vote.to_le_bytes())
    }
}

impl Reached {
    /// The bytes to store for `group`.
    pub fn encode(&self, group: u64) -> Vec<u8> {
        encode_numbers([self.term, self.index], self.checksum(group))
    }

    /// How far the log of `group` had come, in `value`.
    pub fn decode(group: u64, value: &[u8]) -> Result<Reached, RecordError> {
        decode_numbers(value, |[term, index]| Reached { term, index }, |reached| reached.checksum(group))
    }

    fn checksum(&self, group: u64) -> u32 {
        checksum(group, self.index, self.term, 3, b"reached")
    }
}

impl Members {
    /// Whether a node belongs to the group, in whatever way.
    pub fn contains(&self, node: u64) -> bool {
        [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next]
            .iter()
            .any(|list| list.contains(&node))
    }

    /// The bytes to store for `group`. Lists longer than [`MEMBERS_MAX`] are a caller's error and refused.
    pub fn encode(&self, group: u64) -> Result<Vec<u8>, RecordError> {
        let lists = self.encode_lists()?;
        let mut value = vec![FORMAT];
        value.extend_from_slice(&self.index.to_le_bytes());
        value.extend_from_slice(&checksum(group, self.index, 0, 2, &lists).to_le_bytes());
        value.extend_from_slice(&lists);
        Ok(value)
    }

    /// The members of `group` in `value`.
    pub fn decode(group: u64, value: &[u8]) -> Result<Members, RecordError> {
        let mut reader = Reader::open(RECORD, FORMAT, value)?;
        let (index, expected) = (reader.u64()?, reader.u32()?);
        if expected != checksum(group, index, 0, 2, reader.rest()) {
            return Err(reader.malformed("its checksum is wrong"));
        }
        let auto_leave = reader.u8()? != 0;
        let mut list = || -> Result<Vec<u64>, RecordError> {
            let count = reader.u16()?;
            (0..count).map(|_| reader.u64()).collect()
        };
        let (voters, learners, voters_outgoing, learners_next) = (list()?, list()?, list()?, list()?);
        reader.finish()?;
        Ok(Members { index, voters, learners, voters_outgoing, learners_next, auto_leave })
    }

    fn encode_lists(&self) -> Result<Vec<u8>, RecordError> {
        let mut bytes = vec![u8::from(self.auto_leave)];
        for list in [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next] {
            let count: u16 = length(RECORD, "a list of members", list.len(), MEMBERS_MAX)?;
            bytes.extend_from_slice(&count.to_le_bytes());
            list.iter().for_each(|node| bytes.extend_from_slice(&node.to_le_bytes()));
        }
        Ok(bytes)
    }
}

/// The value of a record that is numbers and their checksum.
fn encode_numbers<const N: usize>(numbers: [u64; N], checksum: u32) -> Vec<u8> {
    let mut value = vec![FORMAT];
    numbers.iter().for_each(|number| value.extend_from_slice(&number.to_le_bytes()));
    value.extend_from_slice(&checksum.to_le_bytes());
    value
}

/// What a record of numbers is of, if it has the checksum that it should.
fn decode_numbers<T, const N: usize>(
    value: &[u8],
    of: impl FnOnce([u64; N]) -> T,
    checksum: impl FnOnce(&T) -> u32,
) -> Result<T, RecordError> {
    let mut reader = Reader::open(RECORD, FORMAT, value)?;
    let mut numbers = [0; N];
    for number in &mut numbers {
        *number = reader.u64()?;
    }
    let (record, expected) = (of(numbers), reader.u32()?);
    if expected != checksum(&record) {
        return Err(reader.malformed("its checksum is wrong"));
    }
    reader.finish()?;
    Ok(record)
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

fn checksum(group: u64, index: u64, term: u64, kind: u8, data: &[u8]) -> u32 {
    let mut place = [kind; 25];
    place[..8].copy_from_slice(&group.to_le_bytes());
    place[8..16].copy_from_slice(&index.to_le_bytes());
    place[16..24].copy_from_slice(&term.to_le_bytes());
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
        assert_eq!(hard_state_key(1)[8..], [1, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(members_key(1)[8..], [1, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(reached_key(1)[8..], [1, 0, 0, 0, 0, 0, 0, 0, 3]);
        let entry = encode_entry(1, 2, 3, EntryKind::Members, b"data");
        assert_eq!(entry[..10], [2, 3, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(entry[10..], [210, 243, 233, 41, b'd', b'a', b't', b'a']);
        let state = GroupState { compacted_index: 5, compacted_term: 6 }.encode(1);
        assert_eq!(state[..17], [2, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(state.len(), 21);
        let hard = HardState { term: 7, vote: 8, commit: 9 }.encode(1);
        assert_eq!(hard[..17], [2, 7, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((hard[17..25].to_vec(), hard.len()), (9u64.to_le_bytes().to_vec(), 29));
        let reached = Reached { term: 5, index: 6 }.encode(1);
        assert_eq!(reached[..17], [2, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(reached.len(), 21);
        let members =
            Members { index: 4, voters: vec![1, 2], learners: vec![3], auto_leave: true, ..Members::default() };
        let members = members.encode(1).unwrap();
        assert_eq!(members[..9], [2, 4, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(members[13..18], [1, 2, 0, 1, 0]);
        assert_eq!(members.len(), 13 + 1 + 4 * 2 + 3 * 8);
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
            let value = encode_entry(1, 2, 3, EntryKind::Command, &data);
            prop_assert_eq!(decode_entry(1, 2, &value), Ok((3, EntryKind::Command, &data[..])));
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
            let reached = Reached { term, index };
            prop_assert_eq!(Reached::decode(9, &reached.encode(9)), Ok(reached));
            prop_assert!(Reached::decode(8, &reached.encode(9)).is_err() && Reached::decode(9, &state.encode(9)).is_err());
            let _ = (GroupState::decode(9, &bytes), decode_entry(1, 2, &bytes));
            let _ = (HardState::decode(9, &bytes), Members::decode(9, &bytes), Reached::decode(9, &bytes));
        }

        #[test]
        fn hard_state_and_members_round_trip_and_a_changed_byte_is_refused(
            numbers: [u64; 4], lists: [Vec<u64>; 4], auto_leave: bool, at: prop::sample::Index, flip in 1u8..
        ) {
            let hard = HardState { term: numbers[0], vote: numbers[1], commit: numbers[2] };
            let [voters, learners, voters_outgoing, learners_next] = lists;
            let members = Members { index: numbers[3], voters, learners, voters_outgoing, learners_next, auto_leave };
            let (mut hard_bytes, mut bytes) = (hard.encode(9), members.encode(9).unwrap());
            prop_assert_eq!(HardState::decode(9, &hard_bytes), Ok(hard));
            prop_assert_eq!(Members::decode(9, &bytes), Ok(members));
            prop_assert!(HardState::decode(8, &hard_bytes).is_err() && Members::decode(8, &bytes).is_err());
            let (hard_at, members_at) = (at.index(hard_bytes.len()), at.index(bytes.len()));
            hard_bytes[hard_at] ^= flip;
            bytes[members_at] ^= flip;
            prop_assert!(HardState::decode(9, &hard_bytes).is_err() && Members::decode(9, &bytes).is_err());
        }
    }
}
