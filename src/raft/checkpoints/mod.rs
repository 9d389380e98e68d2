//! A checkpoint's way from one node's state machine to another's. The giver's side ([`serve`]) reads chunks off the state, at no more
//! than a node's share of bytes a second and to few takers at once ([`Throttle`]); the taker's side ([`fetch`]) writes them to a file
//! that gets its name only when everything came, whole and in order; the state machine is then given the file to read ([`open`]).
//!
//! Promises: a file found by [`found`] is whole and survives a power loss; whatever else happens (a cut stream, a wrong checksum, a full
//! disk, a crash) leaves no file that could be taken for one. Memory: about two chunks for each checkpoint on its way. Called by
//! the driver of a node's groups.

mod fetch;
mod files;
mod serve;
#[cfg(test)]
mod tests;
mod throttle;

#[cfg(any(test, feature = "fuzz"))]
pub(crate) use files::create;

pub use fetch::{FetchLimits, Fetched, fetch};
pub use files::{FoundCheckpoint, OpenedCheckpoint, found, open, remove};
pub use serve::serve;
pub use throttle::{Throttle, Turn};
