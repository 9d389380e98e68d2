//! What a node does for its peers: the other side of every call and frame. Implemented by `node`'s glue over the rooms below.

use super::identity::{PeerInfo, Refusal};
use crate::raft::{CheckpointStream, FetchError, GroupId, GroupMessage, LogIndex, NodeId, ProposeError};
use crate::rt::time::Instant;
use crate::types::Ack;
use bytes::Bytes;
use futures_util::{future::BoxFuture, stream::BoxStream};

/// An entry on its way to the leader of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    pub group: GroupId,
    pub data: Bytes,
    pub ack: Ack,
    /// When nobody waits any more, by this node's clock.
    pub deadline: Instant,
}

/// A forwarded proposal that was committed and applied (or as `ack` asked).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    pub log_index: LogIndex,
    /// Encoded by the group's state machine.
    pub outcome: Bytes,
}

/// Why a call to a peer has no answer; all but the last say that nothing happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The node does not lead the group.
    #[error("the node does not lead the group")]
    NotLeader {
        /// Who does, as far as it knows.
        leader: Option<NodeId>,
    },
    /// Too much is under way: slow down.
    #[error("the node has too much to do: {0}")]
    Exhausted(String),
    /// It can never be done.
    #[error("the node refuses: {0}")]
    Refused(String),
    /// Not now: try again.
    #[error("the node cannot be asked: {0}")]
    Unavailable(String),
    /// It may or may not have happened.
    #[error("the outcome is not known: {0}")]
    Indeterminate(String),
}

impl From<ProposeError> for CallError {
    /// What a group's refusal means to the node that forwarded the proposal.
    fn from(error: ProposeError) -> CallError {
        let text = error.to_string();
        match error {
            ProposeError::NotLeader { leader } => CallError::NotLeader { leader },
            ProposeError::Exhausted => CallError::Exhausted(text),
            ProposeError::TooLarge { .. } => CallError::Refused(text),
            ProposeError::Indeterminate => CallError::Indeterminate(text),
            ProposeError::Unavailable
            | ProposeError::Unreachable(_)
            | ProposeError::Stopped
            | ProposeError::Failed(_) => CallError::Unavailable(text),
        }
    }
}

/// How a group stands on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupReport {
    pub group: GroupId,
    pub term: u64,
    pub leader: Option<NodeId>,
    pub last_index: LogIndex,
    pub committed: LogIndex,
    pub applied: LogIndex,
}

/// A node and its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReport {
    pub node: PeerInfo,
    pub groups: Vec<GroupReport>,
}

/// See the module. Every function returns at once; futures may be dropped half-way.
pub trait PeerService: Send + Sync + 'static {
    /// The cluster's identity, once its member set is fixed.
    fn cluster_id(&self) -> Option<u64>;

    /// Whether a node that belongs to the cluster may join in: [`Cause::Member`](super::Cause::Member) if not. Asked in every handshake.
    fn admit(&self, peer: &PeerInfo) -> Result<(), Refusal>;

    /// The link to a node stands; frames can be sent to it.
    fn peer_found(&self, peer: &PeerInfo);

    /// The link to a node broke; what was queued or on its way may be lost. Always after its `peer_found`.
    fn peer_lost(&self, node: NodeId);

    /// Messages from a node, in order. May be lost, repeated, or of any bytes. Must bound what it keeps, and drop rather than wait.
    fn receive(&self, from: NodeId, messages: Vec<GroupMessage>);

    /// Proposes an entry here for a node. Never forwards it further.
    fn propose(&self, from: NodeId, proposal: Proposal) -> BoxFuture<'static, Result<Proposed, CallError>>;

    /// The state of a group at `at_least` or later.
    fn serve_checkpoint(
        &self,
        from: NodeId,
        group: GroupId,
        at_least: LogIndex,
    ) -> BoxFuture<'static, Result<Box<dyn CheckpointStream>, FetchError>>;

    /// What the replica of a group holds, or the records of one bucket of it, computed again from what is stored.
    fn inspect(&self, group: GroupId, bucket: Option<u8>) -> BoxFuture<'static, Result<Bytes, CallError>>;

    /// Reads replicas of this node for another one: encoded answers as they come. Dropped when the caller's time is up.
    fn read(&self, from: NodeId, read: Bytes) -> Result<BoxStream<'static, Bytes>, CallError>;

    /// How this node's groups stand.
    fn groups(&self) -> Vec<GroupReport>;
}
