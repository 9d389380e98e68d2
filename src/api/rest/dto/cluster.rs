//! The cluster, its nodes, the limits and health, as they are given out.

use super::PlacementAnswer;
use crate::{
    service::{ClusterPlacement, ClusterStatus, HealthReport, NodeInfo, ReplicaVerdict, ShardVerdict, VerifyReport},
    types::Limits,
};
use serde::Serialize;
use std::collections::BTreeSet;
use utoipa::ToSchema;

/// One node.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeAnswer {
    pub id: String,
    /// Null where it has not told.
    pub zone: Option<String>,
    pub version: String,
    /// Addresses of its HTTP listeners.
    pub http: Vec<String>,
    /// Address of its gRPC listener.
    pub grpc: String,
    /// `up`, `starting`, `stopping`, or `unreachable` from the node that answers.
    pub status: &'static str,
    pub roles: Vec<&'static str>,
    /// Its share of what a gateway sends, relative to other nodes.
    pub weight: u32,
    /// What it can be looked for by: `cluster.tags` of its configuration.
    pub tags: BTreeSet<String>,
    /// `cluster.group` of its configuration; null: none.
    pub group: Option<String>,
    /// Whether its replicas are being moved to other nodes: a gateway sends it no new requests.
    pub draining: bool,
    /// Null for another node than the one that answers, like the next two.
    pub uptime_seconds: Option<u64>,
    pub memory_bytes: Option<u64>,
    /// Shards it holds.
    pub shards: Option<u64>,
}

impl From<&NodeInfo> for NodeAnswer {
    fn from(node: &NodeInfo) -> NodeAnswer {
        NodeAnswer {
            id: node.id.clone(),
            zone: node.zone.clone(),
            version: node.version.clone(),
            http: node.http.clone(),
            grpc: node.grpc.clone(),
            status: node.status,
            roles: node.roles.clone(),
            weight: node.weight,
            tags: node.labels.tags.clone(),
            group: Some(node.labels.group.clone()).filter(|group| !group.is_empty()),
            draining: node.draining,
            uptime_seconds: node.uptime_seconds,
            memory_bytes: node.memory_bytes,
            shards: node.shards,
        }
    }
}

/// All nodes.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodesAnswer {
    pub nodes: Vec<NodeAnswer>,
}

/// How the cluster is.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClusterAnswer {
    /// `healthy`, `degraded` (everything works, with less to spare than it should have) or `unavailable` (some of it does not).
    pub verdict: &'static str,
    /// Why it is not healthy.
    pub reasons: Vec<String>,
    pub cluster_name: String,
    /// `standalone` or the mode of the node that answers.
    pub mode: &'static str,
    /// The node that leads the cluster; null if there is none.
    pub master: Option<String>,
    pub nodes: Vec<NodeAnswer>,
    pub tables: u64,
    pub shards: u64,
    pub documents_count: u64,
    pub version: &'static str,
    /// Every node and every replica, and what is being done about them; null for a standalone node.
    pub placement: Option<PlacementAnswer>,
}

impl ClusterAnswer {
    /// The answer; `placement` where there is a cluster.
    pub fn new(status: &ClusterStatus, placement: Option<&ClusterPlacement>) -> ClusterAnswer {
        let findings = placement.map_or(&[][..], |placement| &placement.findings);
        let unusable = placement.is_some_and(|placement| placement.unusable_shards > 0);
        ClusterAnswer {
            verdict: match (unusable, findings.is_empty()) {
                (true, _) => "unavailable",
                (false, true) => status.verdict,
                (false, false) => "degraded",
            },
            reasons: status.reasons.iter().chain(findings).cloned().collect(),
            placement: placement.map(PlacementAnswer::from),
            cluster_name: status.cluster_name.clone(),
            mode: status.mode,
            master: status.master.clone(),
            nodes: status.nodes.iter().map(NodeAnswer::from).collect(),
            tables: status.collections,
            shards: status.shards,
            documents_count: status.points,
            version: status.version,
        }
    }
}

/// What came of comparing all replicas.
#[derive(Debug, Serialize, ToSchema)]
pub struct VerifyAnswer {
    /// Every replica was looked at, is sound, and holds what the others hold.
    pub equal: bool,
    pub shards: Vec<ShardVerdictAnswer>,
}

/// One shard's replicas, compared.
#[derive(Debug, Serialize, ToSchema)]
pub struct ShardVerdictAnswer {
    pub id: u64,
    pub table_name: String,
    /// `equal`, `different`, or `unknown` (a replica did not answer, or writes go on).
    pub verdict: &'static str,
    /// The first difference, in words.
    pub difference: Option<String>,
    pub replicas: Vec<ReplicaVerdictAnswer>,
}

/// One replica.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReplicaVerdictAnswer {
    pub node: String,
    /// Log index it has applied.
    pub applied_index: Option<u64>,
    /// Hash of what it holds, in hexadecimal.
    pub content_hash: Option<String>,
    /// Of all that approximate answers depend on; absent while the replica has lost its index and answers exactly, or writes go on.
    pub index_hash: Option<String>,
    pub documents_count: Option<u64>,
    /// Why it could not be asked.
    pub error: Option<String>,
}

impl From<&VerifyReport> for VerifyAnswer {
    fn from(report: &VerifyReport) -> VerifyAnswer {
        let replica = |replica: &ReplicaVerdict| {
            let found = replica.found.as_ref().ok();
            ReplicaVerdictAnswer {
                node: format!("{:016x}", replica.node),
                applied_index: found.map(|found| found.applied),
                content_hash: found.map(|found| format!("{:016x}", found.found)),
                index_hash: found.and_then(|found| found.index_hash).map(|hash| format!("{hash:016x}")),
                documents_count: found.map(|found| found.points_found),
                error: replica.found.as_ref().err().cloned(),
            }
        };
        let shard = |shard: &ShardVerdict| ShardVerdictAnswer {
            id: shard.id,
            table_name: shard.collection.clone(),
            verdict: shard.verdict,
            difference: shard.difference.clone(),
            replicas: shard.replicas.iter().map(replica).collect(),
        };
        VerifyAnswer { equal: report.equal, shards: report.shards.iter().map(shard).collect() }
    }
}

/// Every bound of this server; names end in `_max`, bytes in `_bytes_max`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = std::collections::BTreeMap<String, u64>, example = json!({"dimension_max": 65536, "top_k_max": 10000}))]
pub struct LimitsAnswer(pub Limits);

/// One health check.
#[derive(Debug, Serialize, ToSchema)]
pub struct CheckAnswer {
    pub name: &'static str,
    pub ok: bool,
    pub detail: String,
}

/// Health of this node.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"status": "ok"}))]
pub struct HealthAnswer {
    /// `ok` or `unavailable`.
    pub status: &'static str,
    /// Each check, with `?verbose`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checks: Option<Vec<CheckAnswer>>,
}

impl HealthAnswer {
    /// The answer for a node that is or is not `well` in the sense asked for.
    pub fn new(well: bool, report: HealthReport, verbose: bool) -> HealthAnswer {
        let checks =
            report.checks.into_iter().map(|check| CheckAnswer { name: check.name, ok: check.ok, detail: check.detail });
        HealthAnswer { status: if well { "ok" } else { "unavailable" }, checks: verbose.then(|| checks.collect()) }
    }
}
