//! The cluster, its nodes, the limits and health, as they are given out.

use crate::{
    service::{ClusterStatus, HealthReport, NodeInfo},
    types::Limits,
};
use serde::Serialize;
use utoipa::ToSchema;

/// One node.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeAnswer {
    pub id: String,
    pub zone: String,
    pub version: &'static str,
    /// Addresses of its HTTP listeners.
    pub http: Vec<String>,
    /// Address of its gRPC listener.
    pub grpc: String,
    pub status: &'static str,
    pub roles: Vec<&'static str>,
    pub uptime_seconds: u64,
    pub memory_bytes: u64,
    /// Shards it holds.
    pub shards: u64,
}

impl From<&NodeInfo> for NodeAnswer {
    fn from(node: &NodeInfo) -> NodeAnswer {
        NodeAnswer {
            id: node.id.clone(),
            zone: node.zone.clone(),
            version: node.version,
            http: node.http.clone(),
            grpc: node.grpc.clone(),
            status: node.status,
            roles: node.roles.clone(),
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
    /// `healthy` or `degraded`.
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
}

impl From<&ClusterStatus> for ClusterAnswer {
    fn from(status: &ClusterStatus) -> ClusterAnswer {
        ClusterAnswer {
            verdict: status.verdict,
            reasons: status.reasons.clone(),
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
