//! What operations tell about collections, shards and nodes. Made by `service`, shown by `api` and the embedded library.

use crate::cluster::Labels;
use crate::types::{CollectionName, CollectionSpec, IndexType, PayloadIndexKind, VectorName, VectorSpec, path::Path};
use std::collections::BTreeSet;

/// A collection as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectionInfo {
    pub name: CollectionName,
    pub spec: CollectionSpec,
    /// How many there are now; splitting and merging changes it.
    pub shards: u32,
    /// Copies of each shard.
    pub replicas: u32,
    pub points: u64,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    pub indexes: Vec<VectorIndexInfo>,
    pub payload_indexes: Vec<PayloadIndexInfo>,
    /// What the user should know: what was asked for and is served by something else.
    pub notices: Vec<String>,
}

/// The index of one vector, over all shards.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorIndexInfo {
    pub vector: VectorName,
    /// What was asked for.
    pub spec: VectorSpec,
    /// What answers now: `flat` until the index is trained.
    pub served_by: IndexType,
    /// `exact`, `training` or `ready`.
    pub state: &'static str,
    pub rows: u64,
    pub tail_rows: u64,
    pub dead_rows: u64,
    pub lists: u64,
    pub memory_bytes: u64,
}

/// The index of one payload field, over all shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadIndexInfo {
    pub field: Path,
    pub kind: PayloadIndexKind,
    /// `building` until every shard has filled it, then `ready`. Filters use it where it is.
    pub state: &'static str,
    /// Points in it.
    pub points: u64,
    /// Different strings (or tokens) and numbers; those of different shards count each.
    pub distinct: u64,
    pub memory_bytes: u64,
}

/// A collection with its sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectionStats {
    pub info: CollectionInfo,
    pub shards: Vec<ShardStats>,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
}

/// One shard.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardStats {
    pub id: u64,
    /// First slot, and the one after the last.
    pub slots: (u16, u16),
    pub points: u64,
    pub applied_index: u64,
    /// `leader` or `follower`: what this node's replica is; `none` if it has none.
    pub role: &'static str,
    /// The node that leads the shard, as far as the one that gave the figures knows.
    pub leader: Option<String>,
    /// The nodes that hold a replica.
    pub replicas: Vec<String>,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
}

/// The cluster in one look.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterStatus {
    /// `healthy` or `degraded`.
    pub verdict: &'static str,
    pub reasons: Vec<String>,
    pub cluster_name: String,
    pub mode: &'static str,
    pub master: Option<String>,
    pub nodes: Vec<NodeInfo>,
    pub collections: u64,
    pub shards: u64,
    pub points: u64,
    pub version: &'static str,
}

/// One node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeInfo {
    pub id: String,
    /// Of other nodes only what their record says is known.
    pub zone: Option<String>,
    pub version: String,
    pub http: Vec<String>,
    pub grpc: String,
    /// `up`, `starting` or `stopping`; another node is `up` or `unreachable` from here.
    pub status: &'static str,
    pub roles: Vec<&'static str>,
    /// Its share of a gateway's requests, relative to others.
    pub weight: u32,
    pub labels: Labels,
    /// Whether its leaders and replicas are being moved to others.
    pub draining: bool,
    pub uptime_seconds: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub shards: Option<u64>,
}

/// Which nodes somebody looks for: those that pass every part that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFilter {
    /// All of these.
    pub tags: BTreeSet<String>,
    pub group: Option<String>,
    pub zone: Option<String>,
    pub version: Option<String>,
    pub status: Option<String>,
}

impl NodeFilter {
    /// Whether `node` passes.
    pub fn passes(&self, node: &NodeInfo) -> bool {
        let is = |wanted: &Option<String>, got: &str| wanted.as_ref().is_none_or(|wanted| wanted == got);
        self.tags.is_subset(&node.labels.tags)
            && is(&self.group, &node.labels.group)
            && is(&self.zone, node.zone.as_deref().unwrap_or_default())
            && is(&self.version, &node.version)
            && is(&self.status, node.status)
    }
}

/// Whether the node works, and what was looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthReport {
    /// It runs and can still write.
    pub live: bool,
    /// It takes requests.
    pub ready: bool,
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    pub name: &'static str,
    pub ok: bool,
    pub detail: String,
}
