//! Administering the cluster: how every replica of every shard is, what is being done and what would be, and the requests to drain,
//! remove and even out. A standalone node has nothing to administer. Called by `api`.

use super::{Service, status::node_name};
use crate::{
    cluster::{
        MemberState, NodeId, ShardEntry, ShardId,
        admin::{Admin, Outlook},
        plan::{Finding, NodeView, Planned, ShardState, View},
    },
    rt,
    types::{Error, ErrorKind, Result},
};
use std::collections::BTreeSet;

/// Where everything is and what is to become of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterPlacement {
    /// Changes under way, and changes that wait for them.
    pub in_flight: u32,
    pub waiting: u32,
    /// Whether evening out is paused.
    pub paused: bool,
    /// What is begun next.
    pub next: Vec<PlannedInfo>,
    /// What no change mends.
    pub findings: Vec<String>,
    /// Shards that are too large or too small.
    pub advice: Vec<String>,
    /// Shards that cannot be used just now.
    pub unusable_shards: u64,
    pub nodes: Vec<NodePlacement>,
    /// In the order of their ids.
    pub shards: Vec<ShardPlacement>,
    /// Why restarting one node now would make something unusable; nothing: it would not.
    pub restart_risks: Vec<String>,
    /// The version of its protocols that the cluster speaks.
    pub protocol_version: u32,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlacement {
    pub id: String,
    pub zone: String,
    pub version: String,
    /// The newest version of the cluster's protocols that it speaks; 0 if it has not told.
    pub speaks: u32,
    /// `active`, `draining` or `removed`.
    pub state: &'static str,
    /// Whether it answers.
    pub up: bool,
    /// Whether it votes in the coordinator's own group.
    pub votes: bool,
    /// Replicas it shall hold, shards it leads, and what it stores.
    pub replicas: u64,
    pub leads: u64,
    pub bytes: u64,
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardPlacement {
    pub id: ShardId,
    pub collection: String,
    /// First slot, and the one after the last.
    pub slots: (u16, u16),
    /// The shard that it gives slots to, and which these are, from the first step to the last.
    pub giving: Option<(ShardId, (u16, u16))>,
    pub leader: Option<String>,
    pub points: u64,
    pub bytes: u64,
    pub replicas: Vec<ReplicaPlacement>,
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaPlacement {
    pub node: String,
    /// `leader`, `follower`, `arriving`, `leaving`, `failed`, or `unreachable`.
    pub state: &'static str,
    /// Entries it has not applied yet of those that its leader has committed.
    pub lag: Option<u64>,
    pub bytes: u64,
}

/// A change that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedInfo {
    pub what: String,
    pub why: String,
    pub bytes: u64,
}

/// What would be done if nothing else happened.
#[derive(Clone, Debug, PartialEq)]
pub struct RebalanceForecast {
    pub steps: Vec<PlannedInfo>,
    pub findings: Vec<String>,
    pub bytes: u64,
    pub eta_seconds: f64,
    pub paused: bool,
}

/// A change that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeInfo {
    pub number: u64,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// The node that made it.
    pub by: String,
    pub what: String,
    pub why: String,
    pub bytes: u64,
}

impl Service {
    /// Makes this node one of a cluster that can be administered; once.
    pub fn administer(&self, admin: Admin) {
        let known_already = self.0.admin.set(admin).is_err();
        assert!(!known_already, "a node is administered by one cluster");
    }

    pub(super) fn admin(&self) -> Result<&Admin> {
        self.0.admin.get().ok_or_else(|| {
            Error::new(ErrorKind::Conflict, "not_in_cluster", "this node is alone: there is no cluster to administer")
        })
    }

    /// Where everything is; none on a standalone node.
    ///
    /// # Errors
    /// `Corrupt`, from the coordinator.
    pub async fn cluster_placement(&self) -> Result<Option<ClusterPlacement>> {
        let Some(admin) = self.0.admin.get() else { return Ok(None) };
        Ok(Some(placement(&admin.outlook().await?)))
    }

    /// What evening out, and everything else that is to be done, would come to. Changes nothing.
    ///
    /// # Errors
    /// `not_in_cluster`; `Corrupt`, from the coordinator.
    pub async fn rebalance_forecast(&self) -> Result<RebalanceForecast> {
        let admin = self.admin()?;
        let paused = admin.outlook().await?.rebalance.paused;
        let told = admin.forecast().await?;
        Ok(RebalanceForecast {
            steps: told.steps.iter().map(planned).collect(),
            findings: told.findings.iter().map(Finding::to_string).collect(),
            bytes: told.bytes,
            eta_seconds: told.eta.as_secs_f64(),
            paused,
        })
    }

    /// Stops evening out, or goes on with it.
    ///
    /// # Errors
    /// `not_in_cluster`; those of the coordinator.
    pub async fn pause_rebalance(&self, paused: bool) -> Result<()> {
        self.admin()?.pause(paused, rt::time::wall().0).await
    }

    /// Lets a node's leaders and replicas move to others, or stops that.
    ///
    /// # Errors
    /// `not_in_cluster`, `node_not_found`, `node_removed`, `last_node`; those of the coordinator.
    pub async fn drain_node(&self, node: NodeId, drain: bool) -> Result<()> {
        self.admin()?.drain(node, drain, rt::time::wall().0).await
    }

    /// Removes a node for ever.
    ///
    /// # Errors
    /// `not_in_cluster`, `node_not_found`, `node_not_drained`, `node_needed`; those of the coordinator.
    pub async fn remove_node(&self, node: NodeId) -> Result<()> {
        self.admin()?.remove(node, rt::time::wall().0).await
    }

    /// The last changes, newest first.
    ///
    /// # Errors
    /// `not_in_cluster`; `Corrupt`, from the coordinator.
    pub fn cluster_history(&self) -> Result<Vec<ChangeInfo>> {
        let entries = self.admin()?.history()?.into_iter();
        let change = entries.map(|entry| ChangeInfo {
            number: entry.number,
            at_ms: entry.at_ms,
            by: node_name(entry.by),
            what: entry.what,
            why: entry.why,
            bytes: entry.bytes,
        });
        Ok(change.collect())
    }
}

fn placement(outlook: &Outlook) -> ClusterPlacement {
    let (view, plan) = (&outlook.seen.view, &outlook.seen.plan);
    let shards = shards_of(view);
    ClusterPlacement {
        in_flight: plan.in_flight,
        waiting: plan.waiting,
        paused: outlook.rebalance.paused,
        next: plan.actions.iter().map(planned).collect(),
        findings: told(&plan.findings, false),
        advice: told(&plan.findings, true),
        unusable_shards: shards.iter().filter(|(_, _, state)| state.leader.is_none()).count() as u64,
        nodes: view.nodes.iter().map(|(id, node)| node_placement(*id, node, &shards)).collect(),
        restart_risks: restart_risks(view, &shards),
        protocol_version: view.version,
        shards: shards.iter().map(|(id, entry, state)| shard_placement(view, *id, entry, state)).collect(),
    }
}

/// Findings in words: those about sizes, or all others.
fn told(findings: &[Finding], sizes: bool) -> Vec<String> {
    let about_size = |finding: &&Finding| matches!(finding, Finding::Split { .. } | Finding::Merge { .. });
    findings.iter().filter(|finding| about_size(finding) == sizes).map(Finding::to_string).collect()
}

fn planned(planned: &Planned) -> PlannedInfo {
    PlannedInfo { what: planned.action.to_string(), why: planned.reason.to_string(), bytes: planned.bytes }
}

/// A shard of the table, and how it is.
pub(super) type KnownShard<'a> = (ShardId, &'a ShardEntry, ShardState);

/// How every shard of the table is, in the order of their ids. Cost: linear in the reports.
pub(super) fn shards_of(view: &View) -> Vec<KnownShard<'_>> {
    let states = view.shards().into_values();
    view.table.shards.iter().zip(states).map(|((id, entry), state)| (*id, entry, state)).collect()
}

pub(super) fn node_placement(id: NodeId, node: &NodeView, shards: &[KnownShard<'_>]) -> NodePlacement {
    NodePlacement {
        id: node_name(id),
        zone: node.record.zone.clone(),
        version: node.report.version.clone(),
        speaks: node.report.speaks,
        state: match node.record.state {
            MemberState::Active => "active",
            MemberState::Draining => "draining",
            MemberState::Removed => "removed",
        },
        up: node.answers(),
        votes: node.record.votes,
        replicas: shards.iter().filter(|(_, entry, _)| entry.replicas.contains(&id)).count() as u64,
        leads: shards.iter().filter(|(.., state)| state.leader == Some(id)).count() as u64,
        bytes: node.report.replicas.values().map(|replica| replica.bytes).sum(),
    }
}

fn shard_placement(view: &View, id: ShardId, entry: &ShardEntry, state: &ShardState) -> ShardPlacement {
    let nodes: BTreeSet<NodeId> = entry.replicas.iter().chain(&state.voters).copied().collect();
    let replicas = nodes.into_iter().map(|node| replica_placement(view, id, entry, state, node));
    ShardPlacement {
        id,
        collection: entry.collection.as_str().to_owned(),
        slots: (entry.slots.first, entry.slots.end),
        giving: entry.giving.map(|giving| (giving.to, (giving.slots.first, giving.slots.end))),
        leader: state.leader.map(node_name),
        points: state.points,
        bytes: state.bytes,
        replicas: replicas.collect(),
    }
}

fn replica_placement(
    view: &View,
    id: ShardId,
    entry: &ShardEntry,
    state: &ShardState,
    node: NodeId,
) -> ReplicaPlacement {
    let report = view.replica(id, node);
    let up = view.nodes.get(&node).is_some_and(NodeView::answers);
    let failed = report.is_some_and(|report| report.failure.is_some());
    let state_word = match report {
        _ if !up => "unreachable",
        _ if failed => "failed",
        _ if state.leader == Some(node) => "leader",
        _ if !entry.replicas.contains(&node) => "leaving",
        Some(_) if state.voters.contains(&node) => "follower",
        _ => "arriving",
    };
    let lag = report.filter(|_| state.leader.is_some()).map(|report| state.committed.saturating_sub(report.applied));
    ReplicaPlacement { node: node_name(node), state: state_word, lag, bytes: report.map_or(0, |report| report.bytes) }
}

/// What would be unusable if one node were restarted now.
fn restart_risks(view: &View, shards: &[KnownShard<'_>]) -> Vec<String> {
    let mut risks = Vec::new();
    for (id, node) in view.nodes.iter().filter(|(_, node)| node.record.state != MemberState::Removed) {
        if !node.answers() {
            risks.push(format!("node {} does not answer", node_name(*id)));
        }
    }
    for (id, entry, state) in shards {
        let (copies, well) = (entry.replicas.len(), state.healthy.len());
        if state.in_flight {
            risks.push(format!("shard {id} is being moved"));
        } else if copies < 3 {
            risks.push(format!("shard {id} of {} has {copies} copies; three are needed", entry.collection));
        } else if well < copies {
            risks.push(format!("shard {id} of {}: only {well} of {copies} replicas are up to date", entry.collection));
        }
    }
    let members = view.nodes.values().filter(|node| node.record.state != MemberState::Removed);
    let votes = members.clone().filter(|node| node.record.votes).count();
    let embedded = members.clone().any(|node| node.report.control.is_some());
    if embedded && votes < 3 {
        risks.push(format!("{votes} nodes vote in the coordinator's group; three are needed"));
    }
    let versions: BTreeSet<&str> =
        members.filter(|node| node.answers()).map(|node| node.report.version.as_str()).collect();
    if versions.len() > 2 {
        let versions: Vec<&str> = versions.into_iter().collect();
        risks.push(format!("the nodes are of {} versions: {}", versions.len(), versions.join(", ")));
    }
    risks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{
        MemberRecord, SelfTold, ShardTable,
        controller::Seen,
        plan::Plan,
        report::{NodeReport, ReplicaReport},
    };
    use crate::types::CollectionName;
    use std::{sync::Arc, time::Duration};

    /// Shard 1 on nodes 1 to 3: 1 leads, 2 follows 40 entries behind, 3 does not answer.
    fn outlook() -> Outlook {
        let mut table = ShardTable::default();
        table.add_collection(&CollectionName::new("t").unwrap(), None, &[vec![1, 2, 3]]);
        let replica = |node: NodeId| ReplicaReport {
            leads: node == 1,
            committed: 100,
            applied: if node == 1 { 100 } else { 60 },
            voters: vec![1, 2, 3],
            points: 7,
            bytes: 5,
            ..ReplicaReport::default()
        };
        let node = |id: NodeId| {
            let report = NodeReport { replicas: [(1, replica(id))].into(), ..NodeReport::default() };
            let away = Duration::from_secs(if id == 3 { 9 } else { 0 });
            (
                id,
                NodeView { record: MemberRecord::joined(SelfTold::default(), 0, true), away, report: Arc::new(report) },
            )
        };
        let view = View { table, nodes: (1..=3).map(node).collect(), ..View::default() };
        Outlook { seen: Arc::new(Seen { view, plan: Plan::default() }), rebalance: Default::default() }
    }

    #[test]
    fn every_replica_is_told_as_it_is() {
        let told = placement(&outlook());
        let shard = &told.shards[0];
        let replicas: Vec<_> = shard.replicas.iter().map(|replica| (replica.state, replica.lag)).collect();
        assert_eq!(replicas, [("leader", Some(0)), ("follower", Some(40)), ("unreachable", None)]);
        assert_eq!((shard.leader.as_deref(), shard.points), (Some("0000000000000001"), 7));
        let nodes: Vec<_> = told.nodes.iter().map(|node| (node.up, node.replicas, node.leads)).collect();
        assert_eq!(nodes, [(true, 1, 1), (true, 1, 0), (false, 1, 0)]);
        assert_eq!(told.unusable_shards, 0);
    }

    #[test]
    fn risks_of_a_restart_are_named() {
        let risks = placement(&outlook()).restart_risks;
        assert_eq!(risks.len(), 2, "{risks:?}");
        assert!(risks[0].ends_with("does not answer") && risks[1].contains("only 2 of 3"), "{risks:?}");
        let mut well = outlook();
        let seen = Arc::make_mut(&mut well.seen);
        seen.view.nodes.get_mut(&3).unwrap().away = Duration::ZERO;
        assert!(placement(&well).restart_risks.is_empty());
    }
}
