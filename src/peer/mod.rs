//! The node-to-node wire: frames of Raft messages, forwarded proposals, checkpoints, and the questions of `verify`.
//!
//! Every node dials every other one. On that connection it opens one long-lived stream, the *link*: Hello first, which must be
//! accepted by both sides, then frames from the dialler to the other, in order. So a pair has two links, one for each direction, and
//! neither waits for the other. Calls beside the link share its connection and are taken only while it stands.
//!
//! ```text
//! Transport::send → Queue (bounded) → link: frames → socket ⇒ server: decode → PeerService::receive
//! Peers::read → Reads: one stream for all ⇒ Answering: a task each → PeerService::read
//! Peers::propose, inspect, status, fetch_checkpoint, large reads → unary or streamed call ⇒ server → PeerService
//! ```
//!
//! Promises: nothing waits but who asks; queues, frames, streams and names are bounded; what comes from outside never panics; a broken
//! link is told at once ([`PeerService::peer_lost`]) and dialled again with back-off; a call that was never sent is `Unavailable`, one
//! whose answer was lost `Indeterminate`. Built and wired by `node`, which implements [`PeerService`] over the rooms below.

mod answering;
mod back_off;
mod calls;
mod identity;
mod incoming;
mod link;
mod peers;
mod queue;
mod reads;
mod server;
mod service;
#[cfg(test)]
mod tests;
mod wire;

/// Messages, server and client, generated from `proto/vectorsphere/peer/v1/peer.proto`.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
mod proto {
    tonic::include_proto!("vectorsphere.peer.v1");
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) use wire::decode_frame;
#[cfg(test)]
pub(crate) use wire::encode_frame_of;

pub use identity::{Addresses, Cause, Identity, PeerInfo, Refusal, peer_set_hash, protocol_versions};
pub use peers::{IncomingRefusal, PeerOptions, PeerState, PeerStatus, Peers};
pub use queue::QueueLimits;
pub use service::{CallError, GroupReport, Joined, Joining, NodeReport, PeerService, Proposal, Proposed};
