//! gRPC over hyper's HTTP/2: the transport under tonic's generated servers and clients. One deadline, sent as
//! `grpc-timeout`, covers connecting, the head and the whole stream of an answer, on both sides; a connection that breaks
//! or drains becomes the status Unavailable, here and nowhere else. tonic's own transport is not used in either build.
//!
//! Called by `api` and `cluster` (servers), and by every client of another node or of etcd.

mod channel;
mod deadline;
pub(in crate::rt) mod server;
#[cfg(all(test, not(madsim)))]
mod tests;
mod tls;

pub use channel::{Channel, InvalidAddress, connect, was_not_sent};
pub use server::serve;
pub use tls::{InvalidTls, Tls, TlsIdentity};

use super::{cuts::Cuts, http::ConnectionStats};
use std::time::Duration;

/// The bounds of a gRPC server and of a channel.
#[derive(Clone, Debug)]
pub struct RpcOptions {
    /// Client: addresses that must seem unreachable; for development, see [`Cuts`].
    pub cuts: Option<Cuts>,
    /// Client: how long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// Both: how often to ping a silent peer.
    pub keepalive_interval: Duration,
    /// Both: how long a ping may stay unanswered before the connection is given up.
    pub keepalive_timeout: Duration,
    /// Both: how much one stream may send before it is read.
    pub stream_window_bytes: u32,
    /// Both: how much all streams of a connection may send before they are read.
    pub connection_window_bytes: u32,
    /// Server: connections open at once; more are closed as they come.
    pub connections_max: usize,
    /// Server: requests open at once on one connection.
    pub streams_max: u32,
    /// Both: the headers of a request or an answer.
    pub head_bytes_max: u32,
    /// Server: how long a client may take to begin to speak HTTP/2.
    pub handshake_timeout: Duration,
    /// Server: how long a client may refuse to take the next byte.
    pub write_timeout: Duration,
    /// Server: how long requests in flight may go on after the shutdown signal.
    pub drain_timeout: Duration,
    /// Server: where connections are counted.
    pub stats: ConnectionStats,
    /// Client: how the connection is encrypted, if it is.
    pub tls: Option<Tls>,
}

impl Default for RpcOptions {
    fn default() -> RpcOptions {
        RpcOptions {
            cuts: None,
            connect_timeout: Duration::from_secs(2),
            keepalive_interval: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(2),
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 4 << 20,
            connections_max: 10_000,
            streams_max: 1_024,
            head_bytes_max: 32 * 1024,
            handshake_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
            stats: ConnectionStats::default(),
            tls: None,
        }
    }
}
