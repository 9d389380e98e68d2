//! The figures of one replica as they travel between nodes and are summed over shards. Called by `read` (making them), `collections`
//! and `payload_indexes` (summing them).

use crate::{
    cluster::NodeId,
    shard::{Replica, ReplicaStats},
    types::{PayloadIndexKind, VectorName, path::Path},
};
use serde::{Deserialize, Serialize};

/// Sizes and states of the replica that answered. In the wire format: fields are only ever added at the end, under a new format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardFigures {
    /// The node whose replica this is.
    pub node: NodeId,
    /// Who leads the shard, as far as that node knows.
    pub leader: Option<NodeId>,
    pub points: u64,
    pub applied: u64,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    /// Whether an index is being trained.
    pub training: bool,
    pub vectors: Vec<VectorFigures>,
    pub fields: Vec<FieldFigures>,
}

/// The index of one vector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VectorFigures {
    pub name: VectorName,
    pub trained: bool,
    pub rows: u64,
    pub tail_rows: u64,
    pub dead_rows: u64,
    pub lists: u64,
    pub memory_bytes: u64,
}

/// The index of one payload field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FieldFigures {
    pub field: Path,
    pub kind: PayloadIndexKind,
    pub ready: bool,
    pub points: u64,
    pub distinct: u64,
    pub memory_bytes: u64,
}

impl ShardFigures {
    /// Looks at a replica of this node.
    pub fn of(node: NodeId, replica: &Replica) -> ShardFigures {
        let stats = replica.stats();
        let leader = if replica.is_leader() { Some(node) } else { replica.leader() };
        ShardFigures {
            node,
            leader,
            points: stats.points,
            applied: stats.applied,
            memory_bytes: stats.memory_bytes(),
            disk_bytes: stats.disk_bytes,
            training: stats.training,
            vectors: vectors(&stats),
            fields: fields(&stats),
        }
    }
}

fn vectors(stats: &ReplicaStats) -> Vec<VectorFigures> {
    let memory = |name: &VectorName| {
        stats.index_memory_bytes.iter().find(|(other, _)| other == name).map_or(0, |(_, bytes)| *bytes)
    };
    let figures = stats.indexes.iter().map(|(name, state)| VectorFigures {
        name: name.clone(),
        trained: state.trained,
        rows: state.rows as u64,
        tail_rows: state.tail_rows as u64,
        dead_rows: state.dead_rows as u64,
        lists: state.lists as u64,
        memory_bytes: memory(name),
    });
    figures.collect()
}

fn fields(stats: &ReplicaStats) -> Vec<FieldFigures> {
    let figures = stats.payload_indexes.iter().map(|state| FieldFigures {
        field: state.field.clone(),
        kind: state.kind,
        ready: state.ready,
        points: state.points,
        distinct: state.distinct,
        memory_bytes: state.memory_bytes,
    });
    figures.collect()
}
