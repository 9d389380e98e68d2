//! Looking at the node and its cluster: status, nodes, health.

use super::{Check, ClusterStatus, HealthReport, NodeInfo, Service};
use crate::rt::{self, time::Instant};
use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering::SeqCst},
};

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    Starting = 0,
    Up = 1,
    Stopping = 2,
}

/// What a node tells about itself. Cheap to clone; clones share the phase.
#[derive(Clone)]
pub struct Identity {
    pub node_id: u64,
    pub zone: String,
    pub cluster_name: String,
    pub mode: &'static str,
    pub http: Vec<String>,
    pub grpc: String,
    pub started: Instant,
    /// Whether the node can still write: false once its log or store has failed.
    pub can_write: Arc<dyn Fn() -> bool + Send + Sync>,
    phase: Arc<AtomicU8>,
}

impl Identity {
    /// A node that is starting.
    pub fn new(node_id: u64, cluster_name: String, zone: String, mode: &'static str) -> Identity {
        Identity {
            node_id,
            zone,
            cluster_name,
            mode,
            http: Vec::new(),
            grpc: String::new(),
            started: rt::time::now(),
            can_write: Arc::new(|| true),
            phase: Arc::new(AtomicU8::new(Phase::Starting as u8)),
        }
    }

    /// Moves the node on.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, SeqCst);
    }

    /// Where the node is.
    pub fn phase(&self) -> Phase {
        match self.phase.load(SeqCst) {
            0 => Phase::Starting,
            1 => Phase::Up,
            _ => Phase::Stopping,
        }
    }

    /// The node id as text.
    pub fn node_name(&self) -> String {
        format!("{:016x}", self.node_id)
    }
}

impl Service {
    /// The node this service runs on.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// The cluster in one look.
    pub async fn cluster_status(&self) -> ClusterStatus {
        let identity = &self.0.identity;
        let bad: Vec<String> =
            self.health().checks.into_iter().filter(|check| !check.ok).map(|check| check.detail).collect();
        let replicas = self.0.host.replicas();
        ClusterStatus {
            verdict: if bad.is_empty() { "healthy" } else { "degraded" },
            reasons: bad,
            cluster_name: identity.cluster_name.clone(),
            mode: identity.mode,
            master: Some(identity.node_name()),
            nodes: self.nodes().await,
            collections: self.0.catalog.collections().len() as u64,
            shards: replicas.len() as u64,
            points: replicas.iter().map(|(_, replica)| replica.points()).sum(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// Every node of the cluster: this one.
    pub async fn nodes(&self) -> Vec<NodeInfo> {
        let identity = &self.0.identity;
        let replicas = self.0.host.replicas();
        vec![NodeInfo {
            id: identity.node_name(),
            zone: identity.zone.clone(),
            version: env!("CARGO_PKG_VERSION"),
            http: identity.http.clone(),
            grpc: identity.grpc.clone(),
            status: match identity.phase() {
                Phase::Starting => "starting",
                Phase::Up => "up",
                Phase::Stopping => "stopping",
            },
            roles: vec!["master", "worker"],
            uptime_seconds: identity.started.elapsed().as_secs(),
            memory_bytes: replicas.iter().map(|(_, replica)| replica.stats().memory_bytes()).sum(),
            shards: replicas.len() as u64,
        }]
    }

    /// Whether the node works. Cost: no I/O.
    pub fn health(&self) -> HealthReport {
        let phase = self.0.identity.phase();
        let writable = (self.0.identity.can_write)();
        let missing = self.missing_shards();
        let check =
            |name, ok, good: &str, bad: String| Check { name, ok, detail: if ok { good.to_owned() } else { bad } };
        let checks = vec![
            check("phase", phase == Phase::Up, "the node is up", format!("the node is {phase:?}").to_lowercase()),
            check("store", writable, "the store takes writes", "the store has failed; restart the node".to_owned()),
            check("shards", missing == 0, "every shard is open", format!("{missing} shards are not open")),
        ];
        HealthReport { live: writable, ready: checks.iter().all(|check| check.ok), checks }
    }

    fn missing_shards(&self) -> usize {
        let collections = self.0.catalog.collections();
        let shards = collections.values().flat_map(|collection| &collection.shards);
        shards.filter(|(id, _)| self.0.host.replica(*id).is_err()).count()
    }
}
