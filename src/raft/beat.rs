//! Heartbeats, and the answers to them, as they go over the network: what all groups have to say to a node in a round goes
//! there in one message of fixed-size records, because a group at rest says nothing else and a node may have thousands of
//! those. A record means what the library's message means, and becomes that message again wherever it changes more than
//! a clock (see `replica::beats`). Heartbeats that carry a read's context stay messages of their own. Made by `member`,
//! gathered by `round`, taken apart by `driver`.

use super::{GroupId, LogIndex, NodeId};
use bytes::Bytes;
use raft::eraftpb::{Message, MessageType};

/// Stands in a frame where the group of a message does: the message is beats of many groups. No group has this identity.
pub(crate) const BEATS: GroupId = GroupId::MAX;
/// Records in one message, at most: some 100 KiB.
const BEATS_MAX: usize = 4096;
/// Group, term and commit index, 8 bytes each, and which of the two it is.
const RECORD_BYTES: usize = 25;

/// A heartbeat or an answer to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beat {
    pub(crate) group: GroupId,
    /// The sender's term, never 0.
    pub(crate) term: u64,
    /// A leader's: what the receiver has and is committed. A follower's: what it knows to be committed.
    pub(crate) commit: LogIndex,
    pub(crate) is_answer: bool,
}

impl Beat {
    /// What a message says, if a record can say it.
    pub(super) fn of(group: GroupId, message: &Message) -> Option<Beat> {
        let is_answer = match message.get_msg_type() {
            MessageType::MsgHeartbeat => false,
            MessageType::MsgHeartbeatResponse => true,
            _ => return None,
        };
        // Of the other fields the library sets none in these two.
        let is_plain = message.context.is_empty() && message.term != 0;
        is_plain.then_some(Beat { group, term: message.term, commit: message.commit, is_answer })
    }

    /// The message that says the same.
    pub(super) fn message(&self, from: NodeId, to: NodeId) -> Message {
        let mut message = Message { from, to, term: self.term, commit: self.commit, ..Message::default() };
        message.set_msg_type(if self.is_answer {
            MessageType::MsgHeartbeatResponse
        } else {
            MessageType::MsgHeartbeat
        });
        message
    }

    fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut record = [0; RECORD_BYTES];
        record[..8].copy_from_slice(&self.group.to_le_bytes());
        record[8..16].copy_from_slice(&self.term.to_le_bytes());
        record[16..24].copy_from_slice(&self.commit.to_le_bytes());
        record[24] = self.is_answer.into();
        record
    }

    fn decode(record: &[u8]) -> Option<Beat> {
        let number = |at: usize| record[at..at + 8].try_into().ok().map(u64::from_le_bytes);
        let (group, term, commit) = (number(0)?, number(8)?, number(16)?);
        let is_known = term != 0 && record[24] <= 1;
        is_known.then_some(Beat { group, term, commit, is_answer: record[24] == 1 })
    }
}

/// The messages that hold these beats, in order.
pub(crate) fn encode(beats: &[Beat]) -> impl Iterator<Item = Bytes> {
    beats.chunks(BEATS_MAX).map(|beats| beats.iter().flat_map(Beat::encode).collect())
}

/// The beats in a message from the network; `None` if the bytes are none.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<Beat>> {
    let is_whole = bytes.len().is_multiple_of(RECORD_BYTES) && bytes.len() <= BEATS_MAX * RECORD_BYTES;
    is_whole.then(|| bytes.chunks_exact(RECORD_BYTES).map(Beat::decode).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beats(count: usize) -> Vec<Beat> {
        let beat = |i| Beat { group: i << 40, term: i + 1, commit: u64::MAX - i, is_answer: i % 3 == 0 };
        (0..count as u64).map(beat).collect()
    }

    #[test]
    fn beats_come_back_from_as_few_messages_as_hold_them() {
        for (count, messages) in [(0, 0), (1, 1), (BEATS_MAX, 1), (BEATS_MAX + 1, 2)] {
            let encoded: Vec<Bytes> = encode(&beats(count)).collect();
            assert_eq!(encoded.len(), messages);
            let decoded: Vec<Beat> = encoded.iter().flat_map(|bytes| decode(bytes).unwrap()).collect();
            assert_eq!(decoded, beats(count));
        }
    }

    #[test]
    fn bytes_that_are_no_beats_are_refused() {
        let whole = encode(&beats(2)).next().unwrap();
        assert_eq!(decode(&whole[1..]), None);
        let changed = |at: usize, byte| {
            let mut bytes = whole.to_vec();
            bytes[at] = byte;
            decode(&bytes)
        };
        assert_eq!(changed(24, 2), None, "neither of the two");
        assert_eq!(changed(8, 0), None, "a term of 0");
        assert_eq!(decode(&[1; (BEATS_MAX + 1) * RECORD_BYTES]), None, "too many");
    }

    #[test]
    fn a_beat_is_the_librarys_message_unless_that_says_more() {
        for beat in beats(4) {
            let message = beat.message(2, 3);
            assert_eq!((message.from, message.to), (2, 3));
            assert_eq!(Beat::of(beat.group, &message), Some(beat));
            let reading = Message { context: Bytes::from_static(b"read"), ..message.clone() };
            assert_eq!(Beat::of(beat.group, &reading), None);
        }
        let mut append = Message { term: 1, ..Message::default() };
        append.set_msg_type(MessageType::MsgAppend);
        assert_eq!(Beat::of(1, &append), None);
    }
}
