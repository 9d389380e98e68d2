//! Agree. One consensus group is a log of entries and a state machine that applies them on each of its members; this room
//! keeps the logs of all groups of a node in one synced store, commits many groups with one sync, and hands the rest of the
//! program a [`Group`]: propose, read index, members, stop. The protocol is the library `raft`'s, which only this room
//! names; a node that stands alone is a group of one. Called by `shard` and `coordination` (which bring the state machines),
//! `peer` (which brings the network) and the roof. Knows nothing of points or vectors.
//!
//! ```text
//! Group, MultiRaft ──inputs──▶ driver: members ▶ replica ▶ library
//!                                 │ frames ▶ Transport      ▲
//!                                 │ writes ▶ writer ▶ log ──┤ written
//!                                 └ tasks  ▶ lanes ▶ apply ─┘ applied
//! ```

mod apply;
mod beat;
mod cache;
mod checkpoint;
pub mod checkpoints;
mod convert;
mod driver;
mod error;
mod group;
mod incoming;
mod lanes;
mod log;
mod log_size;
mod member;
mod multi;
mod open;
mod options;
mod reads;
mod replica;
mod round;
mod route;
mod shared;
mod stats;
mod status;
mod storage;
mod transport;
mod waiting;
mod writer;

#[cfg(test)]
mod tests;

pub use checkpoint::{CHUNK_BYTES, CHUNK_BYTES_MAX, Checkpoint, CheckpointReader};
pub use error::{ApplyError, LogError, ProposeError, StartError};
pub use group::Group;
pub use log::{EntryKind, GroupLog, HardState, LogBounds, LogEntry, LogStore, LogWrite, Members, Reached, log_options};
pub use multi::MultiRaft;
pub use options::RaftOptions;
pub use route::{DecodeOutcome, Forward, Route};
pub use stats::{LogStats, LogTotals};
pub use status::{GroupStatus, PeerState, PeerStatus, Role};
pub use transport::{
    CheckpointHead, CheckpointPart, CheckpointPlace, CheckpointStream, CheckpointWanted, FetchError, GroupMessage,
    Nobody, NodeId, SendError, Transport,
};

#[cfg(test)]
pub(crate) use beat::Beat;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use beat::{BEATS, decode as decode_beats, encode as encode_beats};
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use convert::decode as decode_message;

use crate::rt::compute;
use bytes::Bytes;

/// Identity of a consensus group, unique in the cluster.
pub type GroupId = u64;
/// Position in a group's log, from 1.
pub type LogIndex = u64;

/// One position of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Position, from 1, without gaps.
    pub index: LogIndex,
    /// Election term it was proposed in.
    pub term: u64,
    /// What the state machine is given.
    pub data: Bytes,
}

/// What a group's entries are applied to. Applying is deterministic: equal logs give equal states.
pub trait StateMachine: Send + 'static {
    /// What applying one entry answers to its proposer.
    type Outcome: Send + 'static;

    /// Index of the last entry whose effects are in the state; survives a restart together with those effects.
    fn applied(&self) -> LogIndex;

    /// Applies consecutive entries, the first one at `applied() + 1`, and answers one outcome for each. Runs where it may
    /// block. An error means the state can no longer follow the log: the group stops.
    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Self::Outcome>, ApplyError>;

    /// Makes the state survive a power loss; answers the applied index it survives with. The log may then be compacted up
    /// to there.
    fn sync(&mut self) -> Result<LogIndex, ApplyError>;

    /// The state as it is now, to be read while applying goes on. Cheap: a view, not a copy.
    fn checkpoint(&mut self) -> Result<Box<dyn Checkpoint>, ApplyError>;

    /// Puts the state of a checkpoint taken at applied index `at` in place of this one. Power-safe when it returns; torn by a
    /// crash, the machine opens again as one that has applied nothing, and the same checkpoint is installed again.
    fn install(&mut self, at: LogIndex, chunks: &mut dyn CheckpointReader) -> Result<(), ApplyError>;
}
