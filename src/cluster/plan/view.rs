//! What a plan is made of: the table, the members and their reports; and what follows from them for one shard. Called by `plan`;
//! put together by `controller`.

use crate::cluster::{
    members::{MemberRecord, MemberState},
    placement::{Candidate, Standing},
    report::{NodeReport, ReplicaReport},
    table::{NodeId, ShardId, ShardTable},
};
use crate::{mutants::mutant, types::CollectionName};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Entries a replica may be behind its leader and still count as caught up: more than are under way at any moment.
const LAG_MAX: u64 = 10_000;

/// Everything that is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    pub table: ShardTable,
    /// Those that have a record: also those that were removed.
    pub nodes: BTreeMap<NodeId, NodeView>,
    /// How many shards each collection was made with.
    pub shards_asked: BTreeMap<CollectionName, u32>,
    /// The version that the cluster speaks; 0: not known.
    pub version: u32,
}

/// A member.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    pub record: MemberRecord,
    /// How long it has not answered; zero: it does.
    pub away: Duration,
    /// What it told last, if it ever did.
    pub report: Arc<NodeReport>,
}

impl NodeView {
    /// Whether it answers.
    pub fn answers(&self) -> bool {
        self.away.is_zero()
    }

    /// Whether it gives away what replicas it has: it is being drained, or was started to hold none.
    pub fn gives_away(&self) -> bool {
        self.record.state != MemberState::Active || !self.record.holds_shards()
    }

    /// What may be done with it.
    pub fn standing(&self, replace_after: Duration) -> Standing {
        match self.gives_away() {
            true => Standing::Draining,
            false if self.answers() => Standing::Active,
            false if self.away < replace_after => Standing::Away,
            false => Standing::Gone,
        }
    }
}

/// How a shard is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardState {
    /// Who leads it, if somebody does.
    pub leader: Option<NodeId>,
    /// By its leader: who votes.
    pub voters: Vec<NodeId>,
    /// By its leader: whether its members are not what the table wants.
    pub in_flight: bool,
    pub committed: u64,
    pub points: u64,
    pub bytes: u64,
    /// The wanted replicas that answer, work and have caught up.
    pub healthy: Vec<NodeId>,
}

impl View {
    /// Whether every node that shall hold a replica has a record. Before, nothing can be planned: founders come without one.
    pub fn is_whole(&self) -> bool {
        self.table.shards.values().flat_map(|entry| &entry.replicas).all(|node| self.nodes.contains_key(node))
    }

    /// The version that the cluster may speak from now on, if it is a newer one: every member answers, and every one speaks it. A member
    /// that is away, for however long, may come back as it was.
    pub fn newer_version(&self) -> Option<u32> {
        // Mutant 36: members that are away are not counted.
        let counts = |node: &&NodeView| node.record.is_member() && (node.answers() || !mutant!(36));
        let mut members = self.nodes.values().filter(counts);
        let speaks = |node: &NodeView| if node.answers() { node.report.speaks } else { 0 };
        let first = speaks(members.next()?);
        let all = members.fold(first, |least, node| least.min(speaks(node)));
        (all > self.version).then_some(all)
    }

    /// The nodes as placement sees them.
    pub fn candidates(&self, replace_after: Duration) -> Vec<Candidate> {
        let candidate = |(id, node): (&NodeId, &NodeView)| Candidate {
            id: *id,
            zone: node.record.zone.clone(),
            weight: node.record.weight,
            standing: node.standing(replace_after),
        };
        self.nodes.iter().map(candidate).collect()
    }

    /// The replica of a shard on a node that answers.
    pub fn replica(&self, shard: ShardId, node: NodeId) -> Option<&ReplicaReport> {
        self.nodes.get(&node).filter(|node| node.answers())?.report.replicas.get(&shard)
    }

    /// How every shard of the table is. Cost: linear in the reports.
    pub fn shards(&self) -> BTreeMap<ShardId, ShardState> {
        let mut leaders: BTreeMap<ShardId, (u64, NodeId)> = BTreeMap::new();
        for (node, known) in self.nodes.iter().filter(|(_, node)| node.answers()) {
            for (shard, report) in known.report.replicas.iter().filter(|(_, report)| leads(report)) {
                let leader = leaders.entry(*shard).or_default();
                *leader = (*leader).max((report.term, *node));
            }
        }
        let leader = |shard: &ShardId| leaders.get(shard).map(|(_, node)| *node);
        self.table.shards.keys().map(|shard| (*shard, self.shard_led_by(*shard, leader(shard)))).collect()
    }

    /// How a shard of the table is.
    pub fn shard(&self, shard: ShardId) -> ShardState {
        self.shard_led_by(shard, self.leading(shard))
    }

    /// Who leads a shard, if somebody does.
    pub fn leading(&self, shard: ShardId) -> Option<NodeId> {
        let reports = self.nodes.keys().filter_map(|node| Some((self.replica(shard, *node)?, *node)));
        let leading = reports.filter(|(report, _)| leads(report));
        leading.max_by_key(|(report, node)| (report.term, *node)).map(|(_, node)| node)
    }

    /// Those who know best which nodes decide in a shard's group: its leader, or while there is none all that answer and know of any. A
    /// replica that nobody has sent anything yet, or that has failed, knows of none, which does not mean that there are none.
    pub fn deciding(&self, shard: ShardId) -> Vec<&ReplicaReport> {
        match self.leading(shard).and_then(|leader| self.replica(shard, leader)) {
            Some(leading) => vec![leading],
            None => {
                let reports = self.nodes.keys().filter_map(|node| self.replica(shard, *node));
                reports.filter(|report| !report.voters.is_empty()).collect()
            }
        }
    }

    /// The coordinator's own group, as its leader tells it.
    pub fn control(&self) -> Option<&ReplicaReport> {
        let reports = self.nodes.values().filter(|node| node.answers()).filter_map(|node| node.report.control.as_ref());
        reports.filter(|report| report.leads).max_by_key(|report| report.term)
    }

    fn shard_led_by(&self, shard: ShardId, leader: Option<NodeId>) -> ShardState {
        let wanted = &self.table.shards[&shard].replicas;
        let Some((leader, report)) = leader.and_then(|node| Some((node, self.replica(shard, node)?))) else {
            return ShardState::default();
        };
        let mut voters = report.voters.clone();
        voters.sort_unstable();
        let caught_up = |node: &NodeId| {
            self.replica(shard, *node).is_some_and(|replica| {
                replica.failure.is_none()
                    && report.voters.contains(node)
                    && replica.applied.saturating_add(LAG_MAX) >= report.committed
            })
        };
        ShardState {
            leader: Some(leader),
            in_flight: voters != *wanted || !report.voters_outgoing.is_empty() || !report.learners.is_empty(),
            voters,
            committed: report.committed,
            points: report.points,
            bytes: report.bytes,
            healthy: wanted.iter().copied().filter(caught_up).collect(),
        }
    }

    /// Who should lead a shard when its leader goes: of those that are well and stay, the one that leads least.
    pub fn heir(&self, shard: ShardId, state: &ShardState) -> Option<NodeId> {
        let stays = |node: &NodeId| self.nodes.get(node).is_some_and(|node| !node.gives_away());
        let leads = |node: NodeId| {
            let replicas = self.nodes.get(&node).map(|node| node.report.replicas.values());
            replicas.into_iter().flatten().filter(|replica| replica.leads).count()
        };
        let heirs = state.healthy.iter().copied().filter(|node| Some(*node) != state.leader && stays(node));
        heirs.min_by_key(|node| (leads(*node), shard.wrapping_mul(0x9e37_79b9) ^ node))
    }
}

fn leads(report: &ReplicaReport) -> bool {
    report.leads && report.failure.is_none()
}
