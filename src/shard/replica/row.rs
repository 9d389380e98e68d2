//! What `/metrics` tells of a replica. Called by `service` before each scrape.

use super::Replica;
use crate::{
    index::IndexState,
    raft::{GroupStatus, PeerState, Role},
    rt::time,
    telemetry::metrics::{GroupRow, OtherRow, ReplicaRow},
};
use std::time::Duration;

/// How long a group is waited for: what it tells late is told by the next scrape.
const STATUS_LIMIT: Duration = Duration::from_secs(1);

impl Replica {
    /// How this replica of a `shard` of `collection` is. Cost: a message to its group; what a group would tell that does not answer within a
    /// second is left out.
    pub async fn row(&self, collection: String, shard: u64) -> ReplicaRow {
        let status = time::timeout(STATUS_LIMIT, self.status()).await;
        let stats = self.stats();
        let rows = |of: fn(&IndexState) -> usize| stats.indexes.iter().map(|(_, state)| of(state) as u64).sum();
        let row = ReplicaRow {
            collection,
            shard,
            leads: self.is_leader(),
            has_leader: self.leader().is_some(),
            votes: self.votes(),
            applied: stats.applied,
            points: stats.points,
            data_bytes: self.stored_bytes(),
            memory_bytes: stats.memory_bytes(),
            index_rows: rows(|state| state.rows),
            tail_rows: rows(|state| state.tail_rows),
            is_training: stats.training,
            is_given_up: self.aside().is_some() || self.failure().is_some(),
            ..ReplicaRow::default()
        };
        match status {
            Ok(Ok(status)) => in_group(row, status),
            // It says of itself what it can.
            Ok(Err(_)) | Err(_) => row,
        }
    }
}

/// What its group tells of a replica.
fn in_group(row: ReplicaRow, status: GroupStatus) -> ReplicaRow {
    let GroupStatus { role, term, committed, applied, first_index, last_index, peers, .. } = status;
    let leads = role == Role::Leader;
    let others = peers.into_iter().filter(|_| leads).map(|peer| OtherRow {
        node: format!("{:016x}", peer.node),
        behind: last_index.saturating_sub(peer.match_index),
        awaits_state: peer.state == PeerState::AwaitingCheckpoint,
    });
    let log_entries = (last_index + 1).saturating_sub(first_index);
    let group = GroupRow { term, behind: committed.saturating_sub(applied), log_entries };
    ReplicaRow { leads, group: Some(group), others: others.collect(), ..row }
}
