//! HTTP/1.1 by hand over [`net::Stream`](crate::rt::net::Stream): a server that bounds everything a client can hold
//! (connections, time, bytes), and a pooled client. The accept loop and the per-connection watchdog are shared with
//! gRPC. Called by `api` (server), `cli`, `telemetry` and the simulation's workloads (client).

pub(in crate::rt) mod accept;
mod body;
pub mod client;
pub(in crate::rt) mod connection;
pub(in crate::rt) mod hyper_rt;
pub mod server;

pub use accept::ConnectionStats;
pub use body::{BodyFailure, BodyTimedOut, body_failure};
pub use server::{HttpOptions, PeerAddr, serve};

#[cfg(all(test, not(madsim)))]
mod cost;
#[cfg(all(test, not(madsim)))]
mod tests;
