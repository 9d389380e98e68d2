//! What can go wrong in the log and in a group, told apart by what the caller may conclude: nothing happened, it may have
//! happened, or the node must stop.

use super::{GroupId, LogIndex, NodeId};
use crate::store::StoreError;
use std::path::PathBuf;

/// A failure of the log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log of a group is not what was written. A person must look.
    #[error("{}: log of group {group} is corrupt at index {index}: {problem}", path.display())]
    Corrupt {
        /// The log's database.
        path: PathBuf,
        /// The group.
        group: GroupId,
        /// The first index that is wrong or missing.
        index: LogIndex,
        /// What is wrong.
        problem: String,
    },
    /// Entries or an index that do not join the log. Nothing was written.
    #[error("log of group {group}: got index {got}, expected {first} to {last}")]
    OutOfRange {
        /// The group.
        group: GroupId,
        /// The index asked for.
        got: LogIndex,
        /// The smallest index that would have done.
        first: LogIndex,
        /// The largest index that would have done.
        last: LogIndex,
    },
    /// A write that would break a promise of Raft: a defect of this program. Nothing was written.
    #[error("log of group {group}: {problem}")]
    Broken {
        /// The group.
        group: GroupId,
        /// What would be broken.
        problem: String,
    },
}

/// Why entries could not be applied. The group stops.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An entry that no state machine of this program can have proposed.
    #[error("entry {index}: {problem}")]
    Entry {
        /// Its index.
        index: LogIndex,
        /// What is wrong with it.
        problem: String,
    },
    /// A checkpoint that could not be given out whole, or not be taken in.
    #[error("checkpoint of index {at}: {problem}")]
    Checkpoint {
        /// The applied index it is of.
        at: LogIndex,
        /// What is wrong.
        problem: String,
    },
}

/// Why a group could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log failed or is corrupt.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The state machine cannot apply what is in the log.
    #[error("group {group}: cannot replay the log: {source}")]
    Apply {
        /// The group.
        group: GroupId,
        /// What the state machine said.
        source: ApplyError,
    },
    /// It is open already, the driver has stopped, or it failed on the way.
    #[error("group {group}: {problem}")]
    Refused {
        /// The group.
        group: GroupId,
        /// Why.
        problem: String,
    },
}

/// Why a proposal or a read has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Too much is under way; nothing happened. Slow down and retry.
    #[error("too many proposals are under way")]
    Exhausted,
    /// The entry can never be taken; nothing happened.
    #[error("an entry of {got} bytes, expected at most {limit}")]
    TooLarge {
        /// Length of the entry.
        got: usize,
        /// The largest length.
        limit: usize,
    },
    /// This replica does not lead; nothing happened. Ask the leader, where one is known.
    #[error("this replica is not the leader")]
    NotLeader {
        /// Who leads, as far as is known here.
        leader: Option<NodeId>,
    },
    /// No leader answered in time; nothing happened.
    #[error("no leader answered in time")]
    Unavailable,
    /// The node that leads the group cannot be reached; nothing happened.
    #[error("the leader of the group cannot be reached: {0}")]
    Unreachable(String),
    /// The group no longer takes proposals here; nothing happened.
    #[error("the group has stopped")]
    Stopped,
    /// The proposal may or may not happen.
    #[error("the outcome is not known")]
    Indeterminate,
    /// The disk or the state machine failed earlier; nothing happened. The node must stop.
    #[error("the group failed: {0}")]
    Failed(String),
}
