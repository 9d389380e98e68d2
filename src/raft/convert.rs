//! Between this room's records and the library's messages. The only other files that name the library are `storage` and
//! `replica`.

use super::LogIndex;
use super::log::{EntryKind, HardState, LogEntry, Members};
use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb;

/// An entry for the library.
pub(super) fn entry_out(entry: LogEntry) -> eraftpb::Entry {
    let LogEntry { index, term, data, .. } = entry;
    let mut out = eraftpb::Entry { index, term, data, ..eraftpb::Entry::default() };
    out.set_entry_type(match entry.kind {
        EntryKind::Command => eraftpb::EntryType::EntryNormal,
        EntryKind::Members => eraftpb::EntryType::EntryConfChangeV2,
    });
    out
}

/// An entry of the library.
///
/// # Panics
/// If it is of a kind that this program never proposes.
pub(super) fn entry_in(entry: &eraftpb::Entry) -> LogEntry {
    let kind = match entry.get_entry_type() {
        eraftpb::EntryType::EntryNormal => EntryKind::Command,
        eraftpb::EntryType::EntryConfChangeV2 => EntryKind::Members,
        eraftpb::EntryType::EntryConfChange => panic!("entry {}: a member change of the old kind", entry.index),
    };
    LogEntry { index: entry.index, term: entry.term, kind, data: entry.data.clone() }
}

/// Term, vote and commit index for the library.
pub(super) fn hard_out(hard: &HardState) -> eraftpb::HardState {
    let mut out = eraftpb::HardState::default();
    (out.term, out.vote, out.commit) = (hard.term, hard.vote, hard.commit);
    out
}

/// Term, vote and commit index of the library.
pub(super) fn hard_in(hard: &eraftpb::HardState) -> HardState {
    HardState { term: hard.term, vote: hard.vote, commit: hard.commit }
}

/// The members for the library.
pub(super) fn members_out(members: &Members) -> eraftpb::ConfState {
    eraftpb::ConfState {
        voters: members.voters.clone(),
        learners: members.learners.clone(),
        voters_outgoing: members.voters_outgoing.clone(),
        learners_next: members.learners_next.clone(),
        auto_leave: members.auto_leave,
        ..eraftpb::ConfState::default()
    }
}

/// The members of the library as of `index`, in order.
pub(super) fn members_in(index: LogIndex, state: &eraftpb::ConfState) -> Members {
    let sorted = |nodes: &[u64]| {
        let mut nodes = nodes.to_vec();
        nodes.sort_unstable();
        nodes
    };
    Members {
        index,
        voters: sorted(&state.voters),
        learners: sorted(&state.learners),
        voters_outgoing: sorted(&state.voters_outgoing),
        learners_next: sorted(&state.learners_next),
        auto_leave: state.auto_leave,
    }
}

/// What stands for the state at `index`: a descriptor, the state itself goes its own way.
pub(super) fn snapshot(index: LogIndex, term: u64, members: &Members) -> eraftpb::Snapshot {
    let mut snapshot = eraftpb::Snapshot::default();
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (index, term);
    metadata.set_conf_state(members_out(members));
    snapshot
}

/// A message as bytes for the network.
pub(super) fn encode(message: &eraftpb::Message) -> Bytes {
    // Only a message with unset required fields fails, and this format has none.
    message.write_to_bytes().map(Bytes::from).unwrap_or_default()
}

/// A message from the network. `None` if the bytes are none.
pub(crate) fn decode(bytes: &Bytes) -> Option<eraftpb::Message> {
    eraftpb::Message::parse_from_carllerche_bytes(bytes).ok()
}
