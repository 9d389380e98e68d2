//! What the raft room needs of the network, and what it offers to it: frames of messages between nodes, and checkpoints. `peer`
//! implements it over its streams; tests and the simulation over what they like.

use super::{GroupId, LogIndex};
use bytes::Bytes;
use futures_util::future::BoxFuture;

/// Identity of a node, unique in the cluster, from its data directory.
pub type NodeId = u64;

/// One message of one group, encoded by the raft library; other rooms never look inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMessage {
    pub group: GroupId,
    pub message: Bytes,
}

/// Why a frame was not taken. Nothing of it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The queue to that node is full.
    #[error("the queue to the node is full")]
    Full,
    /// There is no connection to that node now.
    #[error("the node is not connected")]
    Disconnected,
    /// There is no such node.
    #[error("there is no such node")]
    Unknown,
}

/// What a checkpoint stream begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointHead {
    /// The applied index of the state.
    pub index: LogIndex,
    /// The term of the entry at `index`.
    pub term: u64,
    /// The group's members then, encoded by the raft room.
    pub members: Bytes,
}

/// How far a checkpoint that is given has come: what lets a taker go on with it after the stream broke.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointPlace {
    /// What the giver calls this one giving out of its state, which no other has the chunks of; 0 if it cannot be gone on with.
    pub id: u64,
    /// Its first chunks, which the taker has.
    pub chunks: u64,
}

/// What a taker asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointWanted {
    /// The state at this index or later, if it begins anew.
    pub at_least: LogIndex,
    /// The one it has the beginning of, and would rather go on with.
    pub goes_on: Option<CheckpointPlace>,
}

/// A part of a checkpoint on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointPart {
    /// First, once; with the chunks that are left out because the taker has them.
    Head(CheckpointHead, CheckpointPlace),
    /// Then any number, in order.
    Chunk(Bytes),
    /// Last, once: how many chunks there are and the xxh3-64 of all their bytes, with those that were left out.
    End { chunks: u64, hash: u64 },
}

/// Why a checkpoint did not come whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The node cannot be reached, or the stream broke.
    #[error("the node cannot be reached: {0}")]
    Unreachable(String),
    /// The node has no such group, or cannot give its state now.
    #[error("the node gives no checkpoint: {0}")]
    Refused(String),
    /// What came is not a whole checkpoint.
    #[error("the checkpoint did not come whole: {0}")]
    Damaged(String),
    /// The disk here did not take it.
    #[error("the checkpoint cannot be kept: {0}")]
    Disk(String),
}

/// The parts of a checkpoint as they come. Slow reading slows the sender.
pub trait CheckpointStream: Send {
    /// The next part; `None` at the end of the stream, which is an error unless [`CheckpointPart::End`] came.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<CheckpointPart>, FetchError>>;
}

/// The network, as the driver of a node's groups sees it.
pub trait Transport: Send + Sync + 'static {
    /// Queues messages for a node, in order, without waiting. They may be lost, never changed; they may come twice, and later than
    /// newer ones after a reconnection.
    ///
    /// # Errors
    /// [`SendError`]; the driver then tells the groups that the node is unreachable.
    fn send(&self, to: NodeId, messages: Vec<GroupMessage>) -> Result<(), SendError>;

    /// Asks a node for the state of a group.
    fn fetch_checkpoint(
        &self,
        from: NodeId,
        group: GroupId,
        wanted: CheckpointWanted,
    ) -> BoxFuture<'static, Result<Box<dyn CheckpointStream>, FetchError>>;
}

/// The network of a node that is alone.
pub struct Nobody;

impl Transport for Nobody {
    fn send(&self, _to: NodeId, _messages: Vec<GroupMessage>) -> Result<(), SendError> {
        Err(SendError::Unknown)
    }

    fn fetch_checkpoint(
        &self,
        _from: NodeId,
        _group: GroupId,
        _wanted: CheckpointWanted,
    ) -> BoxFuture<'static, Result<Box<dyn CheckpointStream>, FetchError>> {
        Box::pin(async { Err(FetchError::Unreachable("this node is alone".to_owned())) })
    }
}
