//! Administering the cluster: placement, plans and history, as they are given out; requests, as they come in.

use crate::{
    service::{
        ChangeInfo, ClusterPlacement, NodePlacement, PlannedInfo, RebalanceForecast, ReplicaPlacement, ShardPlacement,
    },
    types::Error,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where everything is and what is to become of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct PlacementAnswer {
    /// Changes of replicas that are under way.
    pub in_flight: u32,
    /// Changes that wait for them, or for the throttle.
    pub waiting: u32,
    /// Whether evening out is paused.
    pub paused: bool,
    /// What is begun next.
    pub next: Vec<PlannedAnswer>,
    /// What no change mends.
    pub findings: Vec<String>,
    /// Shards that should be split or joined.
    pub advice: Vec<String>,
    pub nodes: Vec<NodePlacementAnswer>,
    pub shards: Vec<ShardPlacementAnswer>,
    /// Why restarting one node now would make something unusable. Empty: it would not.
    pub restart_risks: Vec<String>,
    /// The version of its protocols that the cluster speaks: raised once every node speaks a newer one.
    pub protocol_version: u32,
}

impl From<&ClusterPlacement> for PlacementAnswer {
    fn from(placement: &ClusterPlacement) -> PlacementAnswer {
        PlacementAnswer {
            in_flight: placement.in_flight,
            waiting: placement.waiting,
            paused: placement.paused,
            next: placement.next.iter().map(PlannedAnswer::from).collect(),
            findings: placement.findings.clone(),
            advice: placement.advice.clone(),
            nodes: placement.nodes.iter().map(NodePlacementAnswer::from).collect(),
            shards: placement.shards.iter().map(ShardPlacementAnswer::from).collect(),
            restart_risks: placement.restart_risks.clone(),
            protocol_version: placement.protocol_version,
        }
    }
}

/// A node and what it holds.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodePlacementAnswer {
    pub id: String,
    pub zone: String,
    pub version: String,
    /// The newest version of the cluster's protocols that it speaks; 0 if it has not told.
    pub speaks: u32,
    /// `active`, `draining` or `removed`.
    pub state: &'static str,
    /// Whether it answers.
    pub up: bool,
    /// Whether it votes on what the cluster agrees on about itself.
    pub votes: bool,
    pub replicas: u64,
    pub leads: u64,
    pub disk_bytes: u64,
}

impl From<&NodePlacement> for NodePlacementAnswer {
    fn from(node: &NodePlacement) -> NodePlacementAnswer {
        NodePlacementAnswer {
            id: node.id.clone(),
            zone: node.zone.clone(),
            version: node.version.clone(),
            speaks: node.speaks,
            state: node.state,
            up: node.up,
            votes: node.votes,
            replicas: node.replicas,
            leads: node.leads,
            disk_bytes: node.bytes,
        }
    }
}

/// A shard and its replicas.
#[derive(Debug, Serialize, ToSchema)]
pub struct ShardPlacementAnswer {
    pub id: u64,
    pub table_name: String,
    /// First slot, and the one after the last.
    #[schema(value_type = Vec<u16>)]
    pub slots: (u16, u16),
    /// The slots it is giving to a neighbour; left out when it gives none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub giving: Option<GivingAnswer>,
    pub leader: Option<String>,
    pub documents_count: u64,
    pub disk_bytes: u64,
    pub replicas: Vec<ReplicaPlacementAnswer>,
}

impl From<&ShardPlacement> for ShardPlacementAnswer {
    fn from(shard: &ShardPlacement) -> ShardPlacementAnswer {
        ShardPlacementAnswer {
            id: shard.id,
            table_name: shard.collection.clone(),
            slots: shard.slots,
            giving: shard.giving.map(|(to, slots)| GivingAnswer { to, slots }),
            leader: shard.leader.clone(),
            documents_count: shard.points,
            disk_bytes: shard.bytes,
            replicas: shard.replicas.iter().map(ReplicaPlacementAnswer::from).collect(),
        }
    }
}

/// Slots on their way from one shard to its neighbour: all of them, from the first step to the last.
#[derive(Debug, Serialize, ToSchema)]
pub struct GivingAnswer {
    pub to: u64,
    /// First slot, and the one after the last.
    #[schema(value_type = Vec<u16>)]
    pub slots: (u16, u16),
}

/// A replica.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReplicaPlacementAnswer {
    pub node: String,
    /// `leader`, `follower`, `arriving`, `leaving`, `failed` or `unreachable`.
    pub state: &'static str,
    /// Log entries it is behind; null where that is not known.
    pub lag: Option<u64>,
    pub disk_bytes: u64,
}

impl From<&ReplicaPlacement> for ReplicaPlacementAnswer {
    fn from(replica: &ReplicaPlacement) -> ReplicaPlacementAnswer {
        ReplicaPlacementAnswer {
            node: replica.node.clone(),
            state: replica.state,
            lag: replica.lag,
            disk_bytes: replica.bytes,
        }
    }
}

/// A change that is to be made.
#[derive(Debug, Serialize, ToSchema)]
pub struct PlannedAnswer {
    pub what: String,
    pub why: String,
    /// What goes over the network for it.
    pub bytes: u64,
}

impl From<&PlannedInfo> for PlannedAnswer {
    fn from(planned: &PlannedInfo) -> PlannedAnswer {
        PlannedAnswer { what: planned.what.clone(), why: planned.why.clone(), bytes: planned.bytes }
    }
}

/// What to do about evening out.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RebalanceWord {
    /// Tell what would be done; change nothing.
    DryRun,
    /// Begin no move that can wait.
    Pause,
    /// Go on.
    Resume,
}

/// A request about evening out.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"action": "dry_run"}))]
pub struct RebalanceBody {
    pub action: RebalanceWord,
}

/// What will be done if nothing else happens.
#[derive(Debug, Serialize, ToSchema)]
pub struct RebalanceAnswer {
    /// Whether evening out is paused.
    pub paused: bool,
    /// In the order in which they would be begun.
    pub steps: Vec<PlannedAnswer>,
    /// What no change mends.
    pub findings: Vec<String>,
    /// What goes over the network for all of it.
    pub bytes: u64,
    /// How long that takes at the rate of the throttle.
    pub eta_seconds: f64,
}

impl From<&RebalanceForecast> for RebalanceAnswer {
    fn from(forecast: &RebalanceForecast) -> RebalanceAnswer {
        RebalanceAnswer {
            paused: forecast.paused,
            steps: forecast.steps.iter().map(PlannedAnswer::from).collect(),
            findings: forecast.findings.clone(),
            bytes: forecast.bytes,
            eta_seconds: forecast.eta_seconds,
        }
    }
}

/// A shard to be split in two.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"table_name": "films", "shard": 1}))]
pub struct SplitBody {
    pub table_name: String,
    pub shard: u64,
    /// The first slot of the new shard; the upper half of the slots if nothing is said.
    #[serde(default)]
    pub at: Option<u16>,
}

/// A shard to be merged into its neighbour.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"table_name": "films", "shard": 1, "into": 2}))]
pub struct MergeBody {
    pub table_name: String,
    pub shard: u64,
    /// Has all documents in the end; the other shard is no more.
    pub into: u64,
}

/// A transfer that has begun.
#[derive(Debug, Serialize, ToSchema)]
pub struct SlotsMove {
    pub from: u64,
    pub to: u64,
}

/// What a node was told.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeChanged {
    pub id: String,
    /// `draining`, `active` or `removed`.
    pub state: &'static str,
}

/// The last changes.
#[derive(Debug, Serialize, ToSchema)]
pub struct HistoryAnswer {
    /// Newest first.
    pub changes: Vec<ChangeAnswer>,
}

/// A change that was made.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChangeAnswer {
    /// Counted from 1.
    pub number: u64,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// The node that made it.
    pub by: String,
    pub what: String,
    pub why: String,
    pub bytes: u64,
}

impl From<&ChangeInfo> for ChangeAnswer {
    fn from(change: &ChangeInfo) -> ChangeAnswer {
        ChangeAnswer {
            number: change.number,
            at_ms: change.at_ms,
            by: change.by.clone(),
            what: change.what.clone(),
            why: change.why.clone(),
            bytes: change.bytes,
        }
    }
}

/// A node's id as it is given out: 16 hexadecimal digits.
///
/// # Errors
/// `bad_node_id`.
pub fn node_id(text: &str) -> Result<u64, Error> {
    let hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = hex.then(|| u64::from_str_radix(text, 16).ok()).flatten();
    id.ok_or_else(|| {
        let shown: String = text.chars().take(64).collect();
        let error = Error::invalid("bad_node_id", "this is not the id of a node");
        error.expected("16 hexadecimal digits, as in /api/v1/cluster/nodes").got(shown)
    })
}

#[cfg(test)]
mod tests {
    use super::node_id;

    #[test]
    fn node_ids_are_sixteen_digits() {
        assert_eq!(node_id("00000000000000ff").unwrap(), 255);
        assert_eq!(node_id(&format!("{:016x}", u64::MAX)).unwrap(), u64::MAX);
        for bad in ["", "ff", "+0000000000000ff", "00000000000000fg", "00000000000000ff0"] {
            assert_eq!(node_id(bad).unwrap_err().code(), "bad_node_id", "{bad:?}");
        }
    }
}
