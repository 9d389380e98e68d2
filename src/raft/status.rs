//! What a group looks like from one of its members, for people, metrics and those who move replicas. Made by `member`, shown
//! by whoever holds the group's handle.

use super::log::Members;
use super::{LogIndex, NodeId};

/// What a member is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// Takes proposals.
    Leader = 0,
    /// Takes what the leader sends.
    Follower = 1,
    /// Tries to become the leader.
    Candidate = 2,
    /// Takes what the leader sends, without a vote.
    Learner = 3,
}

impl Role {
    pub(super) fn from_code(code: u8) -> Role {
        match code {
            0 => Role::Leader,
            2 => Role::Candidate,
            3 => Role::Learner,
            _ => Role::Follower,
        }
    }
}

/// How the leader sends to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// Looking for where the logs agree.
    Probing,
    /// Entries as they come.
    Replicating,
    /// It lacks entries that the log no longer has; it is to fetch a checkpoint.
    AwaitingCheckpoint,
}

/// How far another member is, as its leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who.
    pub node: NodeId,
    /// The last index it is known to have on its disk.
    pub match_index: LogIndex,
    /// How the leader sends to it.
    pub state: PeerState,
    /// Whether it has answered within the last election timeout.
    pub active: bool,
}

/// A group as one member sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// What this member is.
    pub role: Role,
    /// The latest term it has seen.
    pub term: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// Last index it knows to be committed.
    pub committed: LogIndex,
    /// Last index in its state.
    pub applied: LogIndex,
    /// First index in its log.
    pub first_index: LogIndex,
    /// Last index in its log.
    pub last_index: LogIndex,
    /// Whether the state has to come from another member before anything can be read here.
    pub awaits_state: bool,
    /// Who belongs to the group, by the last change this member knows to be committed.
    pub members: Members,
    /// Whether this member leads and knows everything that was committed before it did: then `members` is what the group
    /// has agreed on, and not an older state of it.
    pub is_settled: bool,
    /// The others, if this member leads.
    pub peers: Vec<PeerStatus>,
}
