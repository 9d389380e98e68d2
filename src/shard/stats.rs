//! Sizes and states of one replica, for people and metrics. Called by `replica`; shown by `service`.

use super::{payload::FieldState, state::State, upkeep::Work};
use crate::{index::IndexState, types::VectorName};

/// See the module.
#[derive(Clone, Debug)]
pub struct ReplicaStats {
    pub points: u64,
    pub applied: u64,
    pub disk_bytes: u64,
    /// By vector.
    pub index_memory_bytes: Vec<(VectorName, u64)>,
    /// What all vectors share: ids and versions by ordinal.
    pub points_memory_bytes: u64,
    pub payload_indexes: Vec<FieldState>,
    /// Whether lists are being built.
    pub training: bool,
    pub indexes: Vec<(VectorName, IndexState)>,
}

impl ReplicaStats {
    /// Looks now. Cost: one read lock.
    pub fn of(state: &State) -> ReplicaStats {
        let indexes = state.indexes();
        ReplicaStats {
            points: state.points(),
            applied: state.applied(),
            disk_bytes: state.records.disk_bytes(),
            index_memory_bytes: indexes
                .iter()
                .map(|(name, index)| (name.clone(), index.memory_bytes() as u64))
                .collect(),
            points_memory_bytes: indexes.points().memory_bytes() as u64,
            payload_indexes: indexes.payload().states(),
            training: state.keeper().job.as_ref().is_some_and(|job| job.work == Work::Train),
            indexes: indexes.iter().map(|(name, index)| (name.clone(), index.state())).collect(),
        }
    }

    /// Bytes of all indexes.
    pub fn memory_bytes(&self) -> u64 {
        let vectors: u64 = self.index_memory_bytes.iter().map(|(_, bytes)| bytes).sum();
        let payload: u64 = self.payload_indexes.iter().map(|field| field.memory_bytes).sum();
        self.points_memory_bytes + vectors + payload
    }
}
