//! HTTP/1.1 by hand over [`net::Stream`](crate::rt::net::Stream): a server that bounds everything a client can hold
//! (connections, time, bytes), also for HTTP/2 on the same port, a pooled client, and a pooled client that streams. The
//! accept loop and the per-connection watchdog are shared with gRPC. Called by `api` and `gateway` (servers and streaming
//! client), `cli`, `telemetry` and the simulation's workloads (client).

pub(in crate::rt) mod accept;
mod body;
mod both;
pub mod client;
pub(in crate::rt) mod connection;
pub(in crate::rt) mod hyper_rt;
pub mod server;
mod upstream;

pub use accept::ConnectionStats;
pub(in crate::rt) use body::limited;
pub use body::{BodyFailure, BodyTimedOut, body_failure};
pub use both::serve_both;
pub use server::{HttpOptions, PeerAddr, serve};
pub use upstream::{Upstream, UpstreamError, UpstreamOptions};

#[cfg(all(test, not(madsim)))]
mod cost;
#[cfg(all(test, not(madsim)))]
mod tests;
