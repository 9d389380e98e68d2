//! What the master would do now, and why. Pure: [`plan`] compares what the table and the records of members want with what the nodes
//! report, and names the changes that can be begun at once. Called by `controller`, which carries them out and asks again; what is
//! under way is seen in the reports, so nothing is remembered from one plan to the next.
//!
//! It promises: a shard has one change in flight at most, of at most one replica in and one out; a replica is only taken away when
//! what remains, with the one that comes, has a majority that is alive and caught up; what is not broken is moved only to even out
//! more than it costs; carried out, a plan leads to one that has nothing to do.
//!
//! - `view`: what is known, and what follows from it for a shard.
//! - `shards`: replacing, adding, draining and giving up replicas.
//! - `balance`: evening out replicas and leaders.
//! - `sizes`: splitting and merging shards.
//! - `votes`: who votes in the coordinator's own group.
//! - `forecast`: the whole way to the end, for a dry run.

mod balance;
mod forecast;
mod shards;
mod sizes;
#[cfg(test)]
pub(super) mod tests;
mod view;
mod votes;

pub use forecast::{Forecast, forecast};
pub use view::{NodeView, ShardState, View};

use super::{
    placement::{Candidate, Layout},
    table::{NodeId, ShardId},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

/// Bounds of what the master does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a node is waited for before its replicas are made anew elsewhere.
    pub replace_after: Duration,
    /// Replicas that one node may be receiving or sending at once.
    pub moves_max: u32,
    /// A shard with more points than this is split; 0: none is.
    pub split_above: u64,
    /// Neighbours that have fewer points than this together become one, of a collection with more shards than it was made with.
    pub merge_below: u64,
    /// Nothing is moved that is not broken or being drained.
    pub paused: bool,
    /// Nodes that have moved as many bytes as they may for now: they take no part in what can wait.
    pub throttled: BTreeSet<NodeId>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            replace_after: Duration::from_secs(300),
            moves_max: 2,
            split_above: 0,
            merge_below: 0,
            paused: false,
            throttled: BTreeSet::new(),
        }
    }
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A shard gets one replica more, one less, or one instead of another: `replicas` in all.
    Replicas { shard: ShardId, add: Option<NodeId>, remove: Option<NodeId>, replicas: Vec<NodeId> },
    /// Another replica is to lead.
    Lead { shard: ShardId, from: NodeId, to: NodeId },
    /// Nodes begin and cease to vote in the coordinator's own group.
    Votes { give: Vec<NodeId>, take: Vec<NodeId> },
    /// The slots of a shard from `at` on go to a new one, on the same nodes.
    Split { shard: ShardId, at: u16 },
    /// All slots of a shard go to its neighbour `to`.
    Merge { shard: ShardId, to: ShardId },
}

impl Action {
    /// What it is, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Action::Replicas { add: Some(_), remove: Some(_), .. } => "move",
            Action::Replicas { add: Some(_), .. } => "add",
            Action::Replicas { .. } => "remove",
            Action::Lead { .. } => "lead",
            Action::Votes { .. } => "votes",
            Action::Split { .. } => "split",
            Action::Merge { .. } => "merge",
        }
    }
}

/// Why a change is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A replica is of no use.
    Failed(NodeId),
    /// A node has been away for too long.
    Gone(NodeId),
    /// A node was removed.
    Removed(NodeId),
    /// A replica under way will not arrive.
    Stranded(NodeId),
    /// There are fewer copies than there should be.
    TooFew { have: u32, want: u32 },
    /// A node is being drained.
    Drain(NodeId),
    /// There are more copies than there should be.
    TooMany { have: u32, want: u32 },
    /// Replicas of one shard are crowded in a zone.
    Zone,
    /// Nodes hold more than their share, others less.
    Balance,
    /// Nodes lead more shards than their share, others fewer.
    Leaders,
    /// The coordinator's own group should have another number of voters, or others.
    Voters,
    /// A shard has more points than it should.
    TooLarge { points: u64, most: u64 },
    /// Two neighbours have few points together.
    TooSmall { points: u64 },
}

impl Reason {
    /// Whether it can wait: then the throttle counts.
    pub fn can_wait(self) -> bool {
        use Reason::{Balance, Drain, TooLarge, TooMany, TooSmall, Zone};
        matches!(self, Drain(_) | Zone | Balance | TooMany { .. } | TooLarge { .. } | TooSmall { .. })
    }
}

/// A change with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    pub action: Action,
    pub reason: Reason,
    /// What goes over the network for it.
    pub bytes: u64,
}

/// Something that no change of the master's mends, or that it leaves to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A shard has no leader; its nodes that answer are too few for one.
    NoQuorum { shard: ShardId, answering: u32, voters: u32 },
    /// A shard has no leader yet, though enough nodes answer.
    NoLeader { shard: ShardId },
    /// A replica should be elsewhere, and there is no node for it.
    NoRoom { shard: ShardId, node: NodeId },
    /// A shard has too few copies, and there is no node for another.
    TooFewNodes { shard: ShardId, have: u32, want: u32 },
    /// A shard should be split, and is not: evening out is paused, a node does not know how, or there are too many shards.
    Split { shard: ShardId, points: u64 },
    /// Two neighbours should become one, and do not, likewise.
    Merge { shard: ShardId, to: ShardId, points: u64 },
}

/// What there is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What can be begun at once, most urgent first.
    pub actions: Vec<Planned>,
    pub findings: Vec<Finding>,
    /// Changes that must wait: for others, for a node's attention or for the throttle.
    pub waiting: u32,
    /// Changes under way.
    pub in_flight: u32,
}

impl Plan {
    /// Whether nothing is to be done, nothing under way, and nothing waits.
    pub fn is_done(&self) -> bool {
        self.actions.is_empty() && self.waiting == 0 && self.in_flight == 0
    }
}

/// The plan for what is known.
pub fn plan(view: &View, limits: &Limits) -> Plan {
    let mut planner = Planner::new(view, limits);
    planner.mend_shards();
    planner.resize();
    if !limits.paused {
        planner.even_out();
    }
    planner.seat_voters();
    planner.plan
}

/// A plan in the making.
struct Planner<'a> {
    view: &'a View,
    limits: &'a Limits,
    states: BTreeMap<ShardId, ShardState>,
    /// What every node would hold if all were done.
    layout: Layout,
    /// Shards that something is done about.
    touched: BTreeSet<ShardId>,
    /// Replicas each node is receiving or sending.
    busy: BTreeMap<NodeId, u32>,
    plan: Plan,
}

impl<'a> Planner<'a> {
    fn new(view: &'a View, limits: &'a Limits) -> Planner<'a> {
        let candidates: Vec<Candidate> = view.candidates(limits.replace_after);
        let layout = Layout::new(&candidates, &view.table);
        let states = view.shards();
        let mut planner = Planner {
            view,
            limits,
            states,
            layout,
            touched: BTreeSet::new(),
            busy: BTreeMap::new(),
            plan: Plan::default(),
        };
        planner.count_flights();
        planner.count_transfers();
        planner
    }

    fn count_flights(&mut self) {
        for (shard, state) in &self.states {
            if state.leader.is_some() && state.in_flight {
                self.plan.in_flight += 1;
                let receiving = self.view.table.shards[shard].replicas.iter().filter(|id| !state.voters.contains(id));
                for node in receiving.copied().chain(state.leader) {
                    *self.busy.entry(node).or_default() += 1;
                }
            }
        }
    }

    /// Puts a change of a shard's replicas on paper, and into the plan if it can be begun.
    fn change(&mut self, shard: ShardId, add: Option<NodeId>, remove: Option<NodeId>, reason: Reason) {
        if let Some(node) = remove {
            self.layout.take(shard, node);
        }
        if let Some(node) = add {
            self.layout.put(shard, node);
        }
        self.touched.insert(shard);
        let state = &self.states[&shard];
        let others = state.voters.iter().any(|node| Some(*node) != remove);
        let hand_over = (remove.is_some() && remove == state.leader && others).then(|| self.view.heir(shard, state));
        // Who is taken out should not be leading: that would leave the shard without a leader for a moment.
        if let (Some(Some(to)), Some(from)) = (hand_over, state.leader) {
            if self.may_begin(add, None, reason) {
                self.plan.actions.push(Planned { action: Action::Lead { shard, from, to }, reason, bytes: 0 });
            }
            self.plan.waiting += 1;
            return;
        }
        // Who votes already needs nothing sent.
        let receiver = add.filter(|node| !state.voters.contains(node));
        if !self.may_begin(receiver, state.leader, reason) {
            self.plan.waiting += 1;
            return;
        }
        let bytes = if receiver.is_some() { state.bytes } else { 0 };
        if receiver.is_some() {
            for node in receiver.into_iter().chain(state.leader) {
                *self.busy.entry(node).or_default() += 1;
            }
        }
        let replicas = self.layout.replicas(shard);
        self.plan.actions.push(Planned { action: Action::Replicas { shard, add, remove, replicas }, reason, bytes });
    }

    /// Whether the nodes that would receive and send have attention left.
    fn may_begin(&self, to: Option<NodeId>, from: Option<NodeId>, reason: Reason) -> bool {
        let Some(to) = to else { return true };
        [Some(to), from].into_iter().flatten().all(|node| {
            let busy = self.busy.get(&node).copied().unwrap_or(0);
            busy < self.limits.moves_max && !(reason.can_wait() && self.limits.throttled.contains(&node))
        })
    }
}

/// A node's id as people see it.
fn name(node: NodeId) -> String {
    format!("{node:016x}")
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |nodes: &[NodeId]| nodes.iter().map(|node| name(*node)).collect::<Vec<_>>().join(", ");
        match self {
            Action::Replicas { shard, add: Some(to), remove: Some(from), .. } => {
                write!(f, "shard {shard}: a replica goes from {} to {}", name(*from), name(*to))
            }
            Action::Replicas { shard, add: Some(to), .. } => {
                write!(f, "shard {shard}: a replica more, on {}", name(*to))
            }
            Action::Replicas { shard, remove: Some(from), .. } => {
                write!(f, "shard {shard}: a replica less, on {}", name(*from))
            }
            Action::Replicas { shard, replicas, .. } => write!(f, "shard {shard}: replicas on {}", names(replicas)),
            Action::Lead { shard, from, to } => {
                write!(f, "shard {shard}: {} hands over to {}", name(*from), name(*to))
            }
            Action::Votes { give, take } => {
                write!(f, "the coordinator's group: {} vote, {} no longer", or_none(names(give)), or_none(names(take)))
            }
            Action::Split { shard, at } => write!(f, "shard {shard}: a new one gets its slots from {at} on"),
            Action::Merge { shard, to } => write!(f, "shard {shard}: all its slots go to shard {to}"),
        }
    }
}

fn or_none(names: String) -> String {
    if names.is_empty() { "none more".to_owned() } else { names }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Failed(node) => write!(f, "the replica on {} is of no use", name(*node)),
            Reason::Gone(node) => write!(f, "{} has been away for too long", name(*node)),
            Reason::Removed(node) => write!(f, "{} was removed", name(*node)),
            Reason::Stranded(node) => write!(f, "the replica on its way to {} will not arrive", name(*node)),
            Reason::TooFew { have, want } => write!(f, "there are {have} copies, there should be {want}"),
            Reason::Drain(node) => write!(f, "{} is being drained", name(*node)),
            Reason::TooMany { have, want } => write!(f, "there are {have} copies, there need only be {want}"),
            Reason::Zone => f.write_str("its replicas are crowded in a zone"),
            Reason::Balance => f.write_str("the nodes hold unequal shares"),
            Reason::Leaders => f.write_str("the nodes lead unequal shares"),
            Reason::Voters => f.write_str("an odd number of nodes that answer, in different zones, should vote"),
            Reason::TooLarge { points, most } => write!(f, "it has {points} documents, more than {most}"),
            Reason::TooSmall { points } => write!(f, "both together have {points} documents"),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::NoQuorum { shard, answering, voters } => {
                write!(f, "shard {shard} cannot be used: {answering} of its {voters} replicas answer")
            }
            Finding::NoLeader { shard } => write!(f, "shard {shard} has no leader just now"),
            Finding::NoRoom { shard, node } => {
                write!(f, "shard {shard}: no node can take over the replica on {}", name(*node))
            }
            Finding::TooFewNodes { shard, have, want } => {
                write!(f, "shard {shard} has {have} copies of {want}, and no node can take another")
            }
            Finding::Split { shard, points } => write!(f, "shard {shard} has {points} documents and should be split"),
            Finding::Merge { shard, to, points } => {
                write!(f, "shards {shard} and {to} have {points} documents together and should be one")
            }
        }
    }
}
