//! What a node does for its peers: the other side of every call and frame. Implemented by `node`'s glue over the rooms below.

use super::identity::{PeerInfo, Refusal};
use crate::raft::{
    CheckpointStream, CheckpointWanted, FetchError, GroupId, GroupMessage, LogIndex, NodeId, ProposeError,
};
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupReport {
    pub group: GroupId,
    pub term: u64,
    pub leader: Option<NodeId>,
    pub last_index: LogIndex,
    pub committed: LogIndex,
    pub applied: LogIndex,
    /// Who votes, by the last change that is known to be committed here.
    pub voters: Vec<NodeId>,
    /// While old and new voters decide together: the old ones.
    pub voters_outgoing: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    /// Where in the log that change was.
    pub members_index: LogIndex,
    /// Whether the node leads and knows everything that was committed before it did: then the members are what the group has
    /// agreed on, and not an older state of it.
    pub is_settled: bool,
    pub points: u64,
    /// On the disk.
    pub bytes: u64,
    /// Why the replica is of no use, if it is not: it neither votes nor serves then.
    pub failure: Option<String>,
}

/// What a node that wants into a cluster says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joining {
    /// Where its peers reach it.
    pub address: String,
    pub zone: String,
    pub mode: String,
}

/// What a node that was taken into a cluster has to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    pub cluster_id: u64,
    /// The nodes that founded it.
    pub founders: Vec<NodeId>,
}

/// A node and its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReport {
    pub node: PeerInfo,
    pub groups: Vec<GroupReport>,
    /// How new the aliases are by which the node serves requests.
    pub aliases_epoch: u64,
}

/// See the module. Every function returns at once; futures may be dropped half-way.
pub trait PeerService: Send + Sync + 'static {
    /// The cluster's identity, once its member set is fixed.
    fn cluster_id(&self) -> Option<u64>;

    /// Whether a node that belongs to the cluster may join in: [`Cause::Member`](super::Cause::Member) if not. Asked in every handshake.
    fn admit(&self, peer: &PeerInfo) -> Result<(), Refusal>;

    /// A node that was admitted has opened its link to here.
    fn peer_seen(&self, peer: &PeerInfo);

    /// Takes a node, which was admitted, into the cluster.
    fn join(&self, from: NodeId, joining: Joining) -> BoxFuture<'static, Result<Joined, CallError>>;

    /// The link to a node stands; frames can be sent to it.
    fn peer_found(&self, peer: &PeerInfo);

    /// The link to a node broke; what was queued or on its way may be lost. Always after its `peer_found`.
    fn peer_lost(&self, node: NodeId);

    /// Messages from a node, in order. May be lost, repeated, or of any bytes. Must bound what it keeps, and drop rather than wait.
    fn receive(&self, from: NodeId, messages: Vec<GroupMessage>);

    /// Proposes an entry here for a node. Never forwards it further.
    fn propose(&self, from: NodeId, proposal: Proposal) -> BoxFuture<'static, Result<Proposed, CallError>>;

    /// The state of a group.
    fn serve_checkpoint(
        &self,
        from: NodeId,
        group: GroupId,
        wanted: CheckpointWanted,
    ) -> BoxFuture<'static, Result<Box<dyn CheckpointStream>, FetchError>>;

    /// What the replica of a group holds, or the records of one bucket of it, computed again from what is stored.
    fn inspect(&self, group: GroupId, bucket: Option<u8>) -> BoxFuture<'static, Result<Bytes, CallError>>;

    /// Reads replicas of this node for another one: encoded answers as they come. Dropped when the caller's time is up.
    fn read(&self, from: NodeId, read: Bytes) -> Result<BoxStream<'static, Bytes>, CallError>;

    /// Lets `to` lead a group that is led here.
    fn hand_over(&self, group: GroupId, to: NodeId) -> BoxFuture<'static, Result<(), CallError>>;

    /// How new the aliases are by which this node serves requests; 0 before it knows of any.
    fn aliases_epoch(&self) -> u64;

    /// How this node's groups stand: all, or only one.
    fn groups(&self, only: Option<GroupId>) -> BoxFuture<'static, Vec<GroupReport>>;
}
