//! The plan of a run: everything the clients will ask and everything that will go wrong, as data. It is made from the
//! seed, kept with the run's artifacts as JSON, can be replayed from that file (`SIM_PLAN`), and is what `SIM_SHRINK`
//! makes smaller. Pure: `tests/plan.rs` looks at thousands of plans without running them.
//!
//! [`fault`] is what may go wrong, [`action`] what clients ask; [`node`] draws the plans of one node, [`cluster`] those of
//! several, [`moves`] those of several that come and go, [`away`] those of several that must do without their etcd for long; [`shrink`] makes any of them smaller.
pub mod action;
pub mod away;
pub mod cluster;
pub mod fault;
pub mod moves;
pub mod node;
pub mod shrink;

pub use action::{Action, Workload};
pub use fault::{Blow, Broken, Collapse, EtcdTrouble, Fault, Finale, LossModel, Part, PlannedFault, Shape, Way};
pub use moves::{ACTIVE_MIN, Moves, Turn};
use rand::{Rng, rngs::StdRng};
use serde::{Deserialize, Serialize};

/// Which of the node's faces a client speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Face {
    Rest,
    /// gRPC for the calls it has, REST for the others.
    Grpc,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// How long the client waits before it.
    pub after_ms: u64,
    pub action: Action,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClientPlan {
    pub face: Face,
    /// The node it asks first; when that one refuses, the others in turn.
    #[serde(default)]
    pub node: usize,
    pub steps: Vec<Step>,
}

/// The table's vectors, and settings of its index so small that it is trained and changed during the run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IndexPlan {
    pub dimension: usize,
    pub index_type: String,
    pub metric: String,
    /// `index.flat_points_max`: from so many points on there is an index.
    pub flat_points_max: u64,
    /// `index.tail_points_max` and `index.list_points`: rows are filed, and lists split and dissolved.
    #[serde(default = "small")]
    pub tail_points_max: u64,
    #[serde(default = "small")]
    pub list_points: u64,
    /// Whether the metadata have an index, so that a filter need not read every document.
    #[serde(default)]
    pub indexed: bool,
}

impl IndexPlan {
    pub fn draw(rng: &mut StdRng) -> IndexPlan {
        IndexPlan {
            dimension: rng.random_range(8..=32),
            index_type: if rng.random_bool(0.75) { "ivf_pq" } else { "flat" }.to_string(),
            metric: if rng.random_bool(0.5) { "cosine" } else { "euclidean" }.to_string(),
            flat_points_max: rng.random_range(8..=40),
            tail_points_max: rng.random_range(2..=12),
            list_points: rng.random_range(4..=10),
            indexed: rng.random_bool(0.5),
        }
    }
}

/// Somebody asks a node whether all replicas are equal.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Audit {
    pub at_ms: u64,
    pub node: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub workload: Workload,
    #[serde(default = "one")]
    pub nodes: usize,
    /// Of the table.
    #[serde(default = "one")]
    pub shards: usize,
    /// Copies of each of its shards; 0: one on every node.
    #[serde(default)]
    pub copies: usize,
    #[serde(flatten)]
    pub index: IndexPlan,
    /// `raft.log_bytes_max`, if not the usual: so small that logs are compacted and nodes fetch checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_bytes_max: Option<u64>,
    /// The power fails during the first node's very first start, after that many disk operations.
    pub first_start: Option<(u64, LossModel)>,
    pub clients: Vec<ClientPlan>,
    pub faults: Vec<PlannedFault>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audits: Vec<Audit>,
    /// How the run ends, if there is a majority to speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finale: Option<Finale>,
    /// Who comes and goes meanwhile; none: all nodes are there from the first moment to the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moves: Option<Moves>,
}

fn one() -> usize {
    1
}

fn small() -> u64 {
    8
}

impl Plan {
    /// How many nodes begin the cluster.
    pub fn founders(&self) -> usize {
        self.moves.as_ref().map_or(self.nodes, |moves| moves.founders)
    }

    /// Copies of each shard.
    pub fn copies(&self) -> usize {
        if self.copies == 0 { self.nodes } else { self.copies }
    }

    /// Whether slots may go from shard to shard.
    pub fn splits(&self) -> bool {
        let asks = |step: &moves::Move| matches!(step.turn, Turn::Split { .. } | Turn::Merge { .. });
        self.moves.as_ref().is_some_and(|moves| moves.split_above.is_some() || moves.steps.iter().any(asks))
    }

    /// How long the clients would take if every answer came at once.
    pub fn duration_ms(clients: &[ClientPlan]) -> u64 {
        clients.iter().map(|client| client.steps.iter().map(|step| step.after_ms).sum()).max().unwrap_or(0)
    }
}
