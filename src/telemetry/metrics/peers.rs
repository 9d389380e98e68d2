//! Peers: the links to other nodes and what goes over them, by node id.
//!
//! Promise: a peer's series appear with its handle, which `peer` makes only for nodes it has accepted; recording is a few atomic
//! additions. Called by `peer`.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    peer: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct By {
    cause: &'static str,
}

/// The peers of a node.
#[derive(Clone, Debug)]
pub struct PeersMetrics {
    connected: Family<Of, Gauge>,
    connections: Family<Of, Counter>,
    round_trip_seconds: Family<Of, Gauge<f64, AtomicU64>>,
    sent: Traffic,
    received: Traffic,
    dropped: Family<Of, Counter>,
    refusals: Family<By, Counter>,
}

/// One direction.
#[derive(Clone, Debug, Default)]
struct Traffic {
    frames: Family<Of, Counter>,
    messages: Family<Of, Counter>,
    bytes: Family<Of, Counter>,
}

/// The counters of one direction of one peer.
#[derive(Clone, Debug)]
struct PeerTraffic {
    frames: Counter,
    messages: Counter,
    bytes: Counter,
}

impl Traffic {
    fn of(&self, of: &Of) -> PeerTraffic {
        PeerTraffic {
            frames: self.frames.get_or_create_owned(of),
            messages: self.messages.get_or_create_owned(of),
            bytes: self.bytes.get_or_create_owned(of),
        }
    }
}

impl PeerTraffic {
    fn count(&self, messages: usize, bytes: usize) {
        self.frames.inc();
        self.messages.inc_by(messages as u64);
        self.bytes.inc_by(bytes as u64);
    }
}

impl PeersMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            connected: Family::default(),
            connections: Family::default(),
            round_trip_seconds: Family::default(),
            sent: Traffic::default(),
            received: Traffic::default(),
            dropped: Family::default(),
            refusals: Family::default(),
        };
        registry.register("peer_connected", "Whether the link to a peer stands (0 or 1)", metrics.connected.clone());
        let help = "Links to a peer that were established; all but the first are reconnections";
        registry.register("peer_connections", help, metrics.connections.clone());
        let help = "Time of the last ping over the link to a peer and back";
        registry.register_with_unit("peer_round_trip", help, Unit::Seconds, metrics.round_trip_seconds.clone());
        registry.register("peer_frames_sent", "Frames sent to a peer", metrics.sent.frames.clone());
        registry.register("peer_messages_sent", "Messages sent to a peer", metrics.sent.messages.clone());
        let help = "Bytes of messages sent to a peer";
        registry.register_with_unit("peer_sent", help, Unit::Bytes, metrics.sent.bytes.clone());
        registry.register("peer_frames_received", "Frames from a peer", metrics.received.frames.clone());
        registry.register("peer_messages_received", "Messages from a peer", metrics.received.messages.clone());
        let help = "Bytes of messages from a peer";
        registry.register_with_unit("peer_received", help, Unit::Bytes, metrics.received.bytes.clone());
        let help = "Messages to a peer that were dropped: its queue was full or its link broke";
        registry.register("peer_messages_dropped", help, metrics.dropped.clone());
        registry.register("peer_refusals", "Handshakes with other nodes that failed", metrics.refusals.clone());
        metrics
    }

    /// The handle of one peer; its series exist from now on. Keep it: getting it again is a locked look-up.
    pub fn peer(&self, node: &str) -> PeerMetrics {
        let of = Of { peer: node.to_owned() };
        PeerMetrics {
            connected: self.connected.get_or_create_owned(&of),
            connections: self.connections.get_or_create_owned(&of),
            round_trip_seconds: self.round_trip_seconds.get_or_create_owned(&of),
            sent: self.sent.of(&of),
            received: self.received.of(&of),
            dropped: self.dropped.get_or_create_owned(&of),
        }
    }

    /// Counts a handshake that failed, on either side.
    pub fn refused(&self, cause: &'static str) {
        self.refusals.get_or_create(&By { cause }).inc();
    }
}

/// One peer.
#[derive(Clone, Debug)]
pub struct PeerMetrics {
    connected: Gauge,
    connections: Counter,
    round_trip_seconds: Gauge<f64, AtomicU64>,
    sent: PeerTraffic,
    received: PeerTraffic,
    dropped: Counter,
}

impl PeerMetrics {
    /// The link to it stands now.
    pub fn found(&self) {
        self.connected.set(1);
        self.connections.inc();
    }

    /// The link to it broke.
    pub fn lost(&self) {
        self.connected.set(0);
    }

    /// Counts a frame sent.
    pub fn sent(&self, messages: usize, bytes: usize) {
        self.sent.count(messages, bytes);
    }

    /// Counts a frame that came.
    pub fn received(&self, messages: usize, bytes: usize) {
        self.received.count(messages, bytes);
    }

    /// Counts messages that were not sent.
    pub fn dropped(&self, messages: usize) {
        self.dropped.inc_by(messages as u64);
    }

    /// Notes how long a ping took there and back.
    pub fn round_trip(&self, took: Duration) {
        self.round_trip_seconds.set(took.as_secs_f64());
    }
}
