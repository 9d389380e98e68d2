//! A state on its way from one replica to another: what a state machine gives out and takes in when the log no longer has what a
//! replica lacks. Promises nothing itself; `raft` moves the chunks, checksummed and in order, and installs only what came
//! whole. Implemented by `shard` and `coordination`.

use super::{ApplyError, LogIndex};
use bytes::Bytes;

/// Bytes of a chunk, about: large enough to stream well, small enough for a frame.
pub const CHUNK_BYTES: usize = 256 << 10;
/// No chunk is longer.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;

/// The state at one applied index, to be read in chunks while the machine goes on applying.
pub trait Checkpoint: Send + 'static {
    /// The applied index whose state this is.
    fn index(&self) -> LogIndex;

    /// The next chunk, at most [`CHUNK_BYTES_MAX`]; `None` after the last. Equal states may give different chunks. Blocking.
    fn next_chunk(&mut self) -> Result<Option<Bytes>, ApplyError>;
}

/// The chunks of a checkpoint that came whole, in order.
pub trait CheckpointReader {
    /// The next chunk; `None` after the last. Blocking.
    fn next_chunk(&mut self) -> Result<Option<Bytes>, ApplyError>;
}
