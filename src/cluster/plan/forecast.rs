//! The whole way to the end: a plan, carried out on paper, and the plan after that, until nothing is left to do. Called for dry runs and
//! for the time that is left.

use super::{Action, Finding, Limits, Plan, Planned, View, plan};
use crate::cluster::{
    report::ReplicaReport,
    table::{EntryGiving, NodeId, ShardId},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Plans looked at, at most: each begins as many changes as can be begun at once.
const ROUNDS_MAX: usize = 1_000;

/// What will be done if nothing else happens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forecast {
    /// In the order in which they would be begun.
    pub steps: Vec<Planned>,
    /// What remains to be said when they are done.
    pub findings: Vec<Finding>,
    /// What goes over the network, for these and for what is under way.
    pub bytes: u64,
    /// At the rate of the throttle.
    pub eta: Duration,
}

/// The forecast for what is known. Cost: a plan for every few changes.
pub fn forecast(view: &View, limits: &Limits, bytes_per_second: u64) -> Forecast {
    let limits = Limits { throttled: Default::default(), ..limits.clone() };
    let mut view = view.clone();
    let mut received: BTreeMap<NodeId, u64> = BTreeMap::new();
    for (shard, to) in view.arrivals() {
        *received.entry(to).or_default() += view.shard(shard).bytes;
    }
    view.land();
    let mut forecast = Forecast::default();
    for _ in 0..ROUNDS_MAX {
        let Plan { actions, findings, .. } = plan(&view, &limits);
        forecast.findings = findings;
        if actions.is_empty() {
            break;
        }
        for planned in actions {
            let receivers = view.receivers(&planned.action);
            for node in &receivers {
                *received.entry(*node).or_default() += planned.bytes / receivers.len() as u64;
            }
            view.carry_out(&planned.action);
            forecast.steps.push(planned);
        }
        view.land();
    }
    forecast.bytes = received.values().sum();
    // Nodes receive at once, each at the throttle's rate.
    let most = received.values().copied().max().unwrap_or(0);
    forecast.eta = Duration::from_secs_f64(most as f64 / bytes_per_second.max(1) as f64);
    forecast
}

impl View {
    /// The replicas on their way, by shard and receiving node.
    fn arrivals(&self) -> Vec<(u64, NodeId)> {
        let shards = self.table.shards.iter().map(|(shard, entry)| (*shard, entry, self.shard(*shard)));
        let shards = shards.filter(|(.., state)| state.leader.is_some());
        shards
            .flat_map(|(shard, entry, state)| {
                let missing = entry.replicas.iter().copied().filter(move |node| !state.voters.contains(node));
                missing.map(move |node| (shard, node))
            })
            .collect()
    }

    /// The nodes that an action sends data to, as much to each.
    fn receivers(&self, action: &Action) -> Vec<NodeId> {
        match action {
            Action::Replicas { add: Some(to), .. } => vec![*to],
            Action::Split { shard, .. } | Action::Merge { to: shard, .. } => self.table.shards[shard].replicas.clone(),
            Action::Replicas { add: None, .. } | Action::Lead { .. } | Action::Votes { .. } => Vec::new(),
        }
    }

    /// Does on paper what an action asks for.
    pub(super) fn carry_out(&mut self, action: &Action) {
        match action {
            Action::Replicas { shard, replicas, .. } => {
                self.table.change_replicas(*shard, replicas.clone());
            }
            Action::Lead { shard, from, to } => {
                let Some(mut report) = self.replica(*shard, *from).cloned() else { return };
                report.term += 1;
                report.leader = Some(*to);
                self.tell(*from, *shard, ReplicaReport { leads: false, ..report.clone() });
                self.tell(*to, *shard, report);
            }
            Action::Votes { give, take } => {
                give.iter().chain(take).for_each(|node| {
                    if let Some(node) = self.nodes.get_mut(node) {
                        node.record.votes = !node.record.votes;
                    }
                });
            }
            Action::Split { shard, at } => drop(self.table.begin_split(*shard, *at)),
            Action::Merge { shard, to } => drop(self.table.begin_merge(*shard, *to)),
        }
    }

    /// Lets everything under way arrive, on paper.
    pub(super) fn land(&mut self) {
        let entries = self.table.shards.iter();
        let giving: Vec<(ShardId, EntryGiving)> =
            entries.filter_map(|(id, entry)| Some((*id, entry.giving?))).collect();
        giving.into_iter().for_each(|(shard, giving)| self.land_slots(shard, giving));
        for shard in self.table.shards.keys().copied().collect::<Vec<_>>() {
            let state = self.shard(shard);
            let Some(leader) = state.leader.filter(|_| state.in_flight) else { continue };
            let wanted = self.table.shards[&shard].replicas.clone();
            let Some(mut report) = self.replica(shard, leader).cloned() else { continue };
            report.voters = wanted.clone();
            report.voters_outgoing.clear();
            report.learners.clear();
            report.applied = report.committed;
            // One that is taken out hands over to one that stays.
            let next = if wanted.contains(&leader) { leader } else { wanted[0] };
            report.leader = Some(next);
            for node in state.voters.iter().filter(|node| !wanted.contains(node)) {
                if let Some(node) = self.nodes.get_mut(node) {
                    Arc::make_mut(&mut node.report).replicas.remove(&shard);
                }
            }
            for node in wanted {
                let leads = node == next;
                // One that cannot be reached stays as it is.
                if leads || !state.voters.contains(&node) {
                    self.tell(node, shard, ReplicaReport { leads, ..report.clone() });
                }
            }
        }
        self.land_votes();
    }

    /// Points are spread evenly over slots.
    fn land_slots(&mut self, shard: ShardId, giving: EntryGiving) {
        let slots = self.table.shards[&shard].slots;
        let share = f64::from(giving.slots.end - giving.slots.first) / f64::from((slots.end - slots.first).max(1));
        let state = self.shard(shard);
        let of = |all: u64| (all as f64 * share) as u64;
        let (points, bytes) = (of(state.points), of(state.bytes));
        let is_new = self.leading(giving.to).is_none();
        self.table.end_giving(shard);
        let is_gone = !self.table.shards.contains_key(&shard);
        for node in self.nodes.values_mut() {
            let replicas = &mut Arc::make_mut(&mut node.report).replicas;
            if let Some(from) = replicas.get(&shard).filter(|_| is_new).cloned() {
                replicas.insert(giving.to, ReplicaReport { points: 0, bytes: 0, ..from });
            }
            if let Some(to) = replicas.get_mut(&giving.to) {
                (to.points, to.bytes) = (to.points + points, to.bytes + bytes);
            }
            if let Some(from) = replicas.get_mut(&shard) {
                (from.points, from.bytes) = (from.points.saturating_sub(points), from.bytes.saturating_sub(bytes));
            }
            if is_gone {
                replicas.remove(&shard);
            }
        }
    }

    fn land_votes(&mut self) {
        let voters: Vec<NodeId> = self.nodes.iter().filter(|(_, node)| node.record.votes).map(|(id, _)| *id).collect();
        for node in self.nodes.values_mut() {
            if let Some(control) = &mut Arc::make_mut(&mut node.report).control {
                control.voters = voters.clone();
                control.voters_outgoing.clear();
            }
        }
    }

    fn tell(&mut self, node: NodeId, shard: u64, report: ReplicaReport) {
        if let Some(node) = self.nodes.get_mut(&node) {
            Arc::make_mut(&mut node.report).replicas.insert(shard, report);
        }
    }
}
