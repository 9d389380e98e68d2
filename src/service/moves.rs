//! Nodes that come into the cluster and go, and replicas that are moved by hand, with how far that is: steps that may be asked for
//! again, each of which begins or goes on with what the cluster then does by itself. Called by `api::grpc`.

use super::{Service, administration::PlannedInfo};
use crate::{
    cluster::{MemberState, NodeId, ShardId, plan::View},
    rt::time,
    types::{Error, ErrorKind, Result},
};
use std::time::Duration;

/// How long a node that is invited may take to come.
const COME_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks whether it has.
const COME_INTERVAL: Duration = Duration::from_millis(100);

/// Whom to let into the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Newcomer {
    /// A member: it takes replicas (again).
    Member(NodeId),
    /// A node without a cluster, where its peers reach it.
    At(String),
}

/// What has become of a node that leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Else it is being drained.
    pub is_removed: bool,
    /// Replicas it still has, or shall have.
    pub replicas: u64,
}

const REMOVED: Leaving = Leaving { is_removed: true, replicas: 0 };

/// How far a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferPhase {
    /// The receiving node has nothing yet.
    Begun,
    /// It has a replica without a vote.
    Copying,
    /// Its replica votes, and the other is being taken out.
    HandingOver,
    Done,
}

/// How far the move of a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferInfo {
    pub phase: TransferPhase,
    /// Of the shard's leader, and of the receiving replica.
    pub points: (u64, u64),
    pub bytes: (u64, u64),
    /// Entries that the receiving replica has not applied yet of those that are committed.
    pub entries_behind: Option<u64>,
}

/// What evening out has done and is to do.
#[derive(Clone, Debug, PartialEq)]
pub struct RebalanceProgress {
    /// The number of the last change.
    pub last_change: u64,
    pub paused: bool,
    pub in_flight: u32,
    pub steps: Vec<PlannedInfo>,
    pub bytes: u64,
    pub eta_seconds: f64,
    pub findings: Vec<String>,
    /// After the change that was asked for, oldest first.
    pub changes: Vec<PlannedInfo>,
}

impl Service {
    /// Lets a node take part: a member that is being drained takes replicas again, a node without a cluster is dialled, and taken in
    /// when it asks for it. Its id.
    ///
    /// # Errors
    /// `not_in_cluster`, `node_not_found`, `node_removed`; `node_did_not_come` if no node there has asked to be taken in within ten
    /// seconds; `found_in_etcd`, where nodes find the cluster themselves; `bad_address`, `invitations_full`; those of the coordinator.
    pub async fn join_node(&self, newcomer: Newcomer) -> Result<NodeId> {
        let address = match newcomer {
            Newcomer::Member(node) => return self.drain_node(node, false).await.map(|()| node),
            Newcomer::At(address) => address,
        };
        self.admin()?;
        let members = &self.0.members;
        if members.founded().is_some_and(|founded| founded.founders.is_empty()) {
            let message =
                "the nodes of this cluster find each other in etcd: start the node with the same etcd.endpoints";
            return Err(Error::new(ErrorKind::Conflict, "found_in_etcd", message));
        }
        let _until_it_has_come = members.invite(&address)?;
        let deadline = time::now() + COME_LIMIT;
        loop {
            let records = members.records().into_iter();
            if let Some((node, _)) = records.filter(|(_, record)| record.is_member()).find(|(_, at)| at.peer == address)
            {
                return Ok(node);
            }
            if time::now() >= deadline {
                let message = "no node that has no cluster has asked from there to be taken in";
                return Err(Error::new(ErrorKind::Unavailable, "node_did_not_come", message).got(address));
            }
            time::sleep(COME_INTERVAL).await;
        }
    }

    /// One step of taking a node out for ever: it is drained; once nothing is left on it, it is removed.
    ///
    /// # Errors
    /// `not_in_cluster`, `node_not_found`, `last_node`, `node_needed`; those of the coordinator.
    pub async fn leave_node(&self, node: NodeId) -> Result<Leaving> {
        match self.0.members.records().get(&node).map(|record| record.state) {
            Some(MemberState::Removed) => return Ok(REMOVED),
            Some(MemberState::Draining) => match self.remove_node(node).await {
                Ok(()) => return Ok(REMOVED),
                Err(error) if error.code() == "node_not_drained" => {}
                Err(error) => return Err(error),
            },
            // Also one that does not answer: it may only be restarting.
            Some(MemberState::Active) | None => self.drain_node(node, true).await?,
        }
        let view = self.admin()?.look_now().await?;
        let reported = view.nodes.get(&node).map(|known| &known.report.replicas);
        let is_on_it = |shard: &ShardId| reported.is_some_and(|replicas| replicas.contains_key(shard));
        let shards = view.table.shards.iter();
        let replicas = shards.filter(|(shard, entry)| entry.replicas.contains(&node) || is_on_it(shard)).count() as u64;
        Ok(Leaving { is_removed: false, replicas })
    }

    /// Begins to move a replica of a shard from a node to another: when this returns the cluster has agreed on it.
    ///
    /// # Errors
    /// `not_in_cluster`, and those of [`Admin::transfer`](crate::cluster::admin::Admin::transfer).
    pub async fn begin_transfer(&self, shard: ShardId, from: NodeId, to: NodeId) -> Result<()> {
        self.admin()?.transfer(shard, from, to, time::wall().0).await
    }

    /// How far a move that was begun is. Cost: every node is asked.
    ///
    /// # Errors
    /// `transfer_superseded` if the replica shall no longer be there, `shard_not_found` if the shard was dropped; `Corrupt`.
    pub async fn transfer_progress(&self, shard: ShardId, from: NodeId, to: NodeId) -> Result<TransferInfo> {
        progress(&self.admin()?.look_now().await?, shard, from, to)
    }

    /// Pauses evening out or goes on with it, if asked; what is to be done, and what was done after change number `since` (0:
    /// nothing of that).
    ///
    /// # Errors
    /// As [`Service::rebalance_forecast`].
    pub async fn rebalance(&self, pause: Option<bool>, since: u64) -> Result<RebalanceProgress> {
        if let Some(paused) = pause {
            self.pause_rebalance(paused).await?;
        }
        let forecast = self.rebalance_forecast().await?;
        let in_flight = self.cluster_placement().await?.map_or(0, |placement| placement.in_flight);
        let history = self.cluster_history()?;
        let last_change = history.first().map_or(0, |change| change.number);
        let since = if since == 0 { u64::MAX } else { since };
        let changes = history.into_iter().rev().filter(|change| change.number > since);
        let changes = changes.map(|change| PlannedInfo { what: change.what, why: change.why, bytes: change.bytes });
        Ok(RebalanceProgress {
            last_change,
            paused: forecast.paused,
            in_flight,
            steps: forecast.steps,
            bytes: forecast.bytes,
            eta_seconds: forecast.eta_seconds,
            findings: forecast.findings,
            changes: changes.collect(),
        })
    }
}

fn progress(view: &View, shard: ShardId, from: NodeId, to: NodeId) -> Result<TransferInfo> {
    let refused = |kind, code, message| Err(Error::new(kind, code, message).at("shard").got(shard.to_string()));
    let Some(entry) = view.table.shards.get(&shard) else {
        return refused(ErrorKind::NotFound, "shard_not_found", "the shard is no more");
    };
    if !entry.replicas.contains(&to) {
        return refused(ErrorKind::Conflict, "transfer_superseded", "the replica was sent elsewhere since");
    }
    let (state, arriving) = (view.shard(shard), view.replica(shard, to));
    let votes = state.voters.contains(&to);
    let phase = match arriving {
        _ if votes && !state.in_flight && !state.voters.contains(&from) => TransferPhase::Done,
        _ if votes => TransferPhase::HandingOver,
        Some(_) => TransferPhase::Copying,
        None => TransferPhase::Begun,
    };
    let led = state.leader.is_some();
    Ok(TransferInfo {
        phase,
        points: (state.points, arriving.map_or(0, |replica| replica.points)),
        bytes: (state.bytes, arriving.map_or(0, |replica| replica.bytes)),
        entries_behind: arriving.filter(|_| led).map(|replica| state.committed.saturating_sub(replica.applied)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster::{
            MemberRecord, SelfTold, ShardTable,
            plan::NodeView,
            report::{NodeReport, ReplicaReport},
        },
        types::CollectionName,
    };
    use std::sync::Arc;

    /// Shard 1, on its way from node 3 to node 4: node 1 leads, these vote, and node 4 has applied so much, if it has a replica.
    fn on_its_way(voters: &[NodeId], applied: Option<u64>) -> View {
        let mut table = ShardTable::default();
        table.add_collection(&CollectionName::new("t").unwrap(), None, &[vec![1, 2, 3]]);
        table.change_replicas(1, vec![1, 2, 4]);
        let replica = |id: NodeId| ReplicaReport {
            leads: id == 1,
            committed: 100,
            applied: if id == 4 { applied.unwrap_or_default() } else { 100 },
            voters: voters.to_vec(),
            points: if id == 4 { applied.unwrap_or_default() } else { 100 },
            ..ReplicaReport::default()
        };
        let node = |id: NodeId| {
            let has = id != 4 || applied.is_some();
            let replicas = has.then(|| (1, replica(id))).into_iter().collect();
            let record = MemberRecord::joined(SelfTold::default(), 0, true);
            let report = Arc::new(NodeReport { replicas, ..NodeReport::default() });
            (id, NodeView { record, away: Duration::ZERO, report })
        };
        View { table, nodes: (1..=4).map(node).collect(), ..View::default() }
    }

    #[test]
    fn a_move_is_told_from_its_beginning_to_its_end() {
        let told = |voters: &[NodeId], applied| {
            let told = progress(&on_its_way(voters, applied), 1, 3, 4).unwrap();
            (told.phase, told.points, told.entries_behind)
        };
        assert_eq!(told(&[1, 2, 3], None), (TransferPhase::Begun, (100, 0), None));
        assert_eq!(told(&[1, 2, 3], Some(40)), (TransferPhase::Copying, (100, 40), Some(60)));
        assert_eq!(told(&[1, 2, 3, 4], Some(100)), (TransferPhase::HandingOver, (100, 100), Some(0)));
        assert_eq!(told(&[1, 2, 4], Some(100)), (TransferPhase::Done, (100, 100), Some(0)));
        let mut view = on_its_way(&[1, 2, 3], None);
        view.table.change_replicas(1, vec![1, 2, 3]);
        assert_eq!(progress(&view, 1, 3, 4).unwrap_err().code(), "transfer_superseded");
        assert_eq!(progress(&view, 9, 3, 4).unwrap_err().code(), "shard_not_found");
    }
}
