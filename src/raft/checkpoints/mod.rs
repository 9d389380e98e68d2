//! A checkpoint's way from one node's state machine to another's. The giver's side ([`serve`]) reads chunks off the state, at no more
//! than a node's share of bytes a second and to few takers at once ([`Throttle`]); the taker's side ([`fetch`]) writes them to a file
//! that gets its name only when everything came, whole and in order; the state machine is then given the file to read ([`open`]). When a
//! stream breaks the giver keeps what it gives for a while ([`Shelf`]) and the taker what it has ([`Partials`]), and the next stream goes
//! on behind the last whole chunk.
//!
//! Promises: a file found by [`found`] is whole and survives a power loss; whatever else happens (a cut stream, a wrong checksum, a full
//! disk, a crash) leaves no file that could be taken for one. Memory: about two chunks for each checkpoint on its way, and 8 MiB at the
//! giver's. Called by
//! the driver of a node's groups.

mod fetch;
mod files;
mod partials;
mod serve;
mod shelf;
#[cfg(test)]
mod tests;
mod throttle;

#[cfg(any(test, feature = "fuzz"))]
pub(crate) use files::create;

pub use fetch::{FetchLimits, Fetched, Wanted, fetch};
pub use files::{FoundCheckpoint, OpenedCheckpoint, found, open, partials, remove};
pub use partials::Partials;
pub use serve::{go_on, serve};
pub use shelf::{Kept, Shelf};
pub use throttle::{Throttle, Turn};

use std::time::Duration;

/// How long after a stream broke both ends keep what another one needs to go on: long enough for a node to start again, short enough
/// for a view of a state to be held open, and for a file that may be of no use.
const GONE_ON_WITHIN: Duration = Duration::from_secs(120);
