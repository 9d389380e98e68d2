//! The wire's messages as the types of the rooms, and back. What comes from outside is bounded before anything is made of it.

use super::proto::{self, checkpoint_part::Part, failure::Kind};
use super::service::{CallError, GroupReport, Joined, Proposed};
use crate::raft::{CheckpointHead, CheckpointPart, CheckpointPlace, CheckpointWanted, FetchError, GroupMessage};
use crate::types::Ack;
use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};

/// Most hashes in one answer, and groups in one report.
pub(super) const ITEMS_MAX: usize = 64 << 10;
/// Longest detail of a failure that is taken from outside, in bytes.
const DETAIL_BYTES_MAX: usize = 1024;
/// Field of the messages in a frame.
const MESSAGES: u32 = 1;

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadFrame {
    #[error("not an encoded frame")]
    Garbage,
    #[error("more than {0} messages in a frame")]
    TooMany(usize),
}

/// Encodes a frame.
pub(crate) fn encode_frame(messages: Vec<proto::GroupMessage>) -> Bytes {
    proto::Frame { messages }.encode_to_vec().into()
}

/// A frame of messages of these groups.
#[cfg(test)]
pub(crate) fn encode_frame_of(messages: impl IntoIterator<Item = (u64, Bytes)>) -> Bytes {
    encode_frame(messages.into_iter().map(|(group, message)| proto::GroupMessage { group, message }).collect())
}

/// Decodes a frame of at most `messages_max`. The messages share the frame's memory.
pub(crate) fn decode_frame(mut frame: Bytes, messages_max: usize) -> Result<Vec<GroupMessage>, BadFrame> {
    let mut messages = Vec::new();
    while frame.has_remaining() {
        let encoded = next_message(&mut frame).ok_or(BadFrame::Garbage)?;
        if messages.len() == messages_max {
            return Err(BadFrame::TooMany(messages_max));
        }
        let proto::GroupMessage { group, message } =
            proto::GroupMessage::decode(encoded).map_err(|_| BadFrame::Garbage)?;
        messages.push(GroupMessage { group, message });
    }
    Ok(messages)
}

fn next_message(frame: &mut Bytes) -> Option<Bytes> {
    let (field, WireType::LengthDelimited) = decode_key(frame).ok()? else { return None };
    let length = usize::try_from(decode_varint(frame).ok()?).ok()?;
    (field == MESSAGES && length <= frame.len()).then(|| frame.split_to(length))
}

/// Reads the acknowledgement asked for; `None` for one that this program does not know.
pub(super) fn ack(wire: proto::Ack) -> Option<Ack> {
    match wire {
        proto::Ack::Unspecified => None,
        proto::Ack::Quorum => Some(Ack::Quorum),
        proto::Ack::All => Some(Ack::All),
        proto::Ack::Async => Some(Ack::Async),
    }
}

pub(super) fn wire_ack(ack: Ack) -> proto::Ack {
    match ack {
        Ack::Quorum => proto::Ack::Quorum,
        Ack::All => proto::Ack::All,
        Ack::Async => proto::Ack::Async,
    }
}

impl From<CallError> for proto::Failure {
    fn from(error: CallError) -> proto::Failure {
        let (kind, detail, leader) = match error {
            CallError::NotLeader { leader } => (Kind::NotLeader, String::new(), leader),
            CallError::Exhausted(detail) => (Kind::Exhausted, detail, None),
            CallError::Refused(detail) => (Kind::Refused, detail, None),
            CallError::Unavailable(detail) => (Kind::Unavailable, detail, None),
            CallError::Indeterminate(detail) => (Kind::Indeterminate, detail, None),
        };
        proto::Failure { kind: kind as i32, detail: cut(detail), leader }
    }
}

impl From<proto::Failure> for CallError {
    /// Of a kind that this program does not know, nothing may be concluded.
    fn from(failure: proto::Failure) -> CallError {
        let kind = failure.kind();
        let detail = cut(failure.detail);
        match kind {
            Kind::NotLeader => CallError::NotLeader { leader: failure.leader },
            Kind::Exhausted => CallError::Exhausted(detail),
            Kind::Refused => CallError::Refused(detail),
            Kind::Unavailable => CallError::Unavailable(detail),
            Kind::Indeterminate | Kind::Unspecified => CallError::Indeterminate(detail),
        }
    }
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(DETAIL_BYTES_MAX));
    text
}

impl From<Result<Proposed, CallError>> for proto::ProposeReply {
    fn from(answer: Result<Proposed, CallError>) -> proto::ProposeReply {
        use proto::propose_reply::Answer;
        proto::ProposeReply {
            answer: Some(match answer {
                Ok(Proposed { log_index, outcome }) => Answer::Proposed(proto::Proposed { log_index, outcome }),
                Err(error) => Answer::Failure(error.into()),
            }),
        }
    }
}

impl From<proto::ProposeReply> for Result<Proposed, CallError> {
    fn from(reply: proto::ProposeReply) -> Result<Proposed, CallError> {
        use proto::propose_reply::Answer;
        match reply.answer {
            Some(Answer::Proposed(proto::Proposed { log_index, outcome })) => Ok(Proposed { log_index, outcome }),
            Some(Answer::Failure(failure)) => Err(failure.into()),
            None => Err(CallError::Indeterminate("an empty answer".to_owned())),
        }
    }
}

impl From<Result<Bytes, CallError>> for proto::InspectReply {
    fn from(answer: Result<Bytes, CallError>) -> proto::InspectReply {
        use proto::inspect_reply::Answer;
        let answer = match answer {
            Ok(report) => Answer::Report(report),
            Err(error) => Answer::Failure(error.into()),
        };
        proto::InspectReply { answer: Some(answer) }
    }
}

impl From<proto::InspectReply> for Result<Bytes, CallError> {
    fn from(reply: proto::InspectReply) -> Result<Bytes, CallError> {
        use proto::inspect_reply::Answer;
        match reply.answer {
            Some(Answer::Report(report)) => Ok(report),
            Some(Answer::Failure(failure)) => Err(failure.into()),
            None => Err(CallError::Unavailable("an empty answer".to_owned())),
        }
    }
}

impl From<Result<Bytes, CallError>> for proto::ReadPart {
    fn from(part: Result<Bytes, CallError>) -> proto::ReadPart {
        use proto::read_part::Part;
        let part = match part {
            Ok(answer) => Part::Answer(answer),
            Err(error) => Part::Failure(error.into()),
        };
        proto::ReadPart { part: Some(part) }
    }
}

impl From<proto::ReadPart> for Result<Bytes, CallError> {
    fn from(part: proto::ReadPart) -> Result<Bytes, CallError> {
        use proto::read_part::Part;
        match part.part {
            Some(Part::Answer(answer)) => Ok(answer),
            Some(Part::Failure(failure)) => Err(failure.into()),
            None => Err(CallError::Unavailable("a part of a kind this program does not know".to_owned())),
        }
    }
}

impl From<Result<Joined, CallError>> for proto::JoinReply {
    fn from(answer: Result<Joined, CallError>) -> proto::JoinReply {
        use proto::join_reply::Answer;
        let answer = match answer {
            Ok(Joined { cluster_id, founders }) => Answer::Joined(proto::Joined { cluster_id, founders }),
            Err(error) => Answer::Failure(error.into()),
        };
        proto::JoinReply { answer: Some(answer) }
    }
}

impl From<proto::JoinReply> for Result<Joined, CallError> {
    fn from(reply: proto::JoinReply) -> Result<Joined, CallError> {
        use proto::join_reply::Answer;
        match reply.answer {
            Some(Answer::Joined(proto::Joined { cluster_id, founders })) => Ok(Joined { cluster_id, founders }),
            Some(Answer::Failure(failure)) => Err(failure.into()),
            None => Err(CallError::Unavailable("an empty answer".to_owned())),
        }
    }
}

impl From<Result<(), CallError>> for proto::HandOverReply {
    fn from(answer: Result<(), CallError>) -> proto::HandOverReply {
        proto::HandOverReply { failure: answer.err().map(Into::into) }
    }
}

impl From<proto::HandOverReply> for Result<(), CallError> {
    fn from(reply: proto::HandOverReply) -> Result<(), CallError> {
        reply.failure.map_or(Ok(()), |failure| Err(failure.into()))
    }
}

impl From<GroupReport> for proto::GroupReport {
    fn from(report: GroupReport) -> proto::GroupReport {
        let GroupReport { group, term, leader, last_index, committed, applied, .. } = report;
        let GroupReport { voters, voters_outgoing, learners, members_index, is_settled, points, bytes, .. } = report;
        let failure = report.failure.map(cut);
        proto::GroupReport {
            group,
            term,
            leader,
            last_index,
            committed,
            applied,
            voters,
            voters_outgoing,
            learners,
            members_index,
            is_settled,
            points,
            bytes,
            failure,
        }
    }
}

impl From<proto::GroupReport> for GroupReport {
    fn from(report: proto::GroupReport) -> GroupReport {
        let proto::GroupReport { group, term, leader, last_index, committed, applied, .. } = report;
        let proto::GroupReport { voters, voters_outgoing, learners, members_index, is_settled, points, bytes, .. } =
            report;
        let failure = report.failure.map(cut);
        GroupReport {
            group,
            term,
            leader,
            last_index,
            committed,
            applied,
            voters,
            voters_outgoing,
            learners,
            members_index,
            is_settled,
            points,
            bytes,
            failure,
        }
    }
}

impl From<CheckpointPart> for proto::CheckpointPart {
    fn from(part: CheckpointPart) -> proto::CheckpointPart {
        let part = match part {
            CheckpointPart::Head(CheckpointHead { index, term, members }, CheckpointPlace { id, chunks }) => {
                Part::Head(proto::CheckpointHead { index, term, members, id, chunks })
            }
            CheckpointPart::Chunk(chunk) => Part::Chunk(chunk),
            CheckpointPart::End { chunks, hash } => Part::End(proto::CheckpointEnd { chunks, hash }),
        };
        proto::CheckpointPart { part: Some(part) }
    }
}

/// What a taker asks for, as it came.
pub(super) fn wanted(request: &proto::FetchCheckpointRequest) -> CheckpointWanted {
    let place = CheckpointPlace { id: request.goes_on_id, chunks: request.goes_on_chunks };
    CheckpointWanted { at_least: request.at_least, goes_on: Some(place).filter(|place| place.id != 0) }
}

/// A giver's error as the last part of its stream.
pub(super) fn refused_part(error: &FetchError) -> proto::CheckpointPart {
    proto::CheckpointPart { part: Some(Part::Refused(cut(error.to_string()))) }
}

/// A part as it came.
pub(super) fn checkpoint_part(part: proto::CheckpointPart) -> Result<CheckpointPart, FetchError> {
    match part.part {
        Some(Part::Head(proto::CheckpointHead { index, term, members, id, chunks })) => {
            Ok(CheckpointPart::Head(CheckpointHead { index, term, members }, CheckpointPlace { id, chunks }))
        }
        Some(Part::Chunk(chunk)) => Ok(CheckpointPart::Chunk(chunk)),
        Some(Part::End(proto::CheckpointEnd { chunks, hash })) => Ok(CheckpointPart::End { chunks, hash }),
        Some(Part::Refused(reason)) => Err(FetchError::Refused(cut(reason))),
        None => Err(FetchError::Damaged("a part of a kind this program does not know".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wire_message((group, message): (u64, Vec<u8>)) -> proto::GroupMessage {
        proto::GroupMessage { group, message: message.into() }
    }

    fn messages() -> impl Strategy<Value = Vec<(u64, Vec<u8>)>> {
        prop::collection::vec((any::<u64>(), prop::collection::vec(any::<u8>(), 0..40)), 0..12)
    }

    proptest! {
        #[test]
        fn frames_round_trip_and_are_what_protobuf_says(messages in messages()) {
            let encoded = encode_frame(messages.iter().cloned().map(wire_message).collect());
            let decoded = decode_frame(encoded.clone(), 12).unwrap();
            let back: Vec<_> = decoded.into_iter().map(|m| (m.group, m.message.to_vec())).collect();
            prop_assert_eq!(&back, &messages);
            let plain = proto::Frame::decode(encoded.clone()).unwrap();
            prop_assert_eq!(plain.messages, messages.iter().cloned().map(wire_message).collect::<Vec<_>>());
            if let Some(fewer) = messages.len().checked_sub(1) {
                prop_assert_eq!(decode_frame(encoded, fewer), Err(BadFrame::TooMany(fewer)));
            }
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let bytes = Bytes::from(bytes);
            let _ = decode_frame(bytes.clone(), 100);
            if let Ok(request) = proto::LinkRequest::decode(bytes.clone())
                && let Some(proto::link_request::Kind::Hello(hello)) = request.kind
            {
                let _ = crate::peer::PeerInfo::try_from(hello);
            }
            if let Ok(reply) = proto::ProposeReply::decode(bytes.clone()) {
                let _ = Result::from(reply);
            }
            if let Ok(part) = proto::CheckpointPart::decode(bytes) {
                let _ = checkpoint_part(part);
            }
        }

        #[test]
        fn a_changed_frame_is_another_frame_or_refused(messages in messages(), at: prop::sample::Index, flip in 1u8..) {
            let mut encoded = encode_frame(messages.into_iter().map(wire_message).collect()).to_vec();
            prop_assume!(!encoded.is_empty());
            let at = at.index(encoded.len());
            encoded[at] ^= flip;
            if let Ok(decoded) = decode_frame(encoded.into(), 12) {
                prop_assert!(decoded.len() <= 12);
            }
        }
    }

    #[test]
    fn answers_cross_the_wire() {
        let errors = [
            CallError::NotLeader { leader: Some(3) },
            CallError::NotLeader { leader: None },
            CallError::Exhausted("e".to_owned()),
            CallError::Refused("r".to_owned()),
            CallError::Unavailable("u".to_owned()),
            CallError::Indeterminate("i".to_owned()),
        ];
        for error in errors {
            assert_eq!(CallError::from(proto::Failure::from(error.clone())), error);
        }
        let unknown = proto::Failure { kind: 77, ..proto::Failure::default() };
        assert!(matches!(CallError::from(unknown), CallError::Indeterminate(_)));
        let proposed = Proposed { log_index: 4, outcome: Bytes::from_static(b"done") };
        assert_eq!(Result::from(proto::ProposeReply::from(Ok(proposed.clone()))), Ok(proposed));
        let empty = Result::<Proposed, CallError>::from(proto::ProposeReply::default());
        assert!(matches!(empty, Err(CallError::Indeterminate(_))));
        for level in [Ack::Quorum, Ack::All, Ack::Async] {
            assert_eq!(ack(wire_ack(level)), Some(level));
        }
    }
}
