//! Placement: which nodes hold which shard. Pure: the same nodes and shards give the same answer everywhere, and nothing is
//! remembered. Called by `catalog` (new collections) and `plan` (replacing and balancing).
//!
//! New replicas go where weighted rendezvous hashing says (Thaler & Ravishankar 1998; weights as in Schindelhauer & Schomaker
//! 2005: the least `-log(u)/weight` wins), within bounds: no node holds two replicas of a shard, no zone more of them than it
//! must, and no node more than its share rounded up or than a node can hold at all. Shares are proportional to weight, cut to what those rules allow. What
//! hashing leaves uneven is evened out by single moves, each of which makes the squared deviation from the shares smaller: so
//! balancing ends, and moves no more than is in the wrong place.

mod rendezvous;
mod share;
#[cfg(test)]
mod tests;

use super::{
    members::WEIGHT_ORDINARY,
    table::{NodeId, ShardId, ShardTable},
};
use crate::types::{CollectionName, limits::SHARDS_PER_NODE_MAX};
use std::{cmp::Ordering, collections::BTreeMap};

/// What a node may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It takes replicas.
    Active,
    /// It cannot be reached just now: it keeps what it has and is given nothing.
    Away,
    /// It has been away for too long: its replicas are made anew elsewhere.
    Gone,
    /// It gives its replicas away.
    Draining,
}

/// A node that replicas may be placed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub id: NodeId,
    /// Nodes of one zone fail together.
    pub zone: String,
    /// Its share of the data, relative to other nodes; 0 counts as 1.
    pub weight: u32,
    pub standing: Standing,
}

impl Candidate {
    /// An active node of ordinary weight in the default zone.
    pub fn active(id: NodeId) -> Candidate {
        Candidate { id, zone: String::new(), weight: WEIGHT_ORDINARY, standing: Standing::Active }
    }
}

/// One replica goes from one node to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    pub shard: ShardId,
    pub from: NodeId,
    pub to: NodeId,
}

/// Too few nodes for as many replicas as were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFewNodes {
    pub asked: u32,
    pub nodes: u32,
}

/// Copies of each shard where none are asked for.
pub const COPIES_DEFAULT: u32 = 3;

/// How many copies a shard shall have in a cluster of these nodes: those that stay count, whether or not they can be reached.
pub fn copies_wanted(asked: Option<u32>, nodes: &[Candidate]) -> u32 {
    let staying = nodes.iter().filter(|node| node.standing != Standing::Draining).count() as u32;
    asked.unwrap_or(COPIES_DEFAULT.min(staying)).max(1)
}

/// The replicas of `shards` shards of a new collection, which will have the ids `first`, `first + 1` and so on; each set in the
/// order of node ids. Nodes that cannot be reached are used only where there are too few others.
///
/// # Errors
/// [`TooFewNodes`] if there are fewer nodes than copies asked for, or none.
pub fn place(
    nodes: &[Candidate],
    table: &ShardTable,
    first: ShardId,
    shards: u32,
    copies: Option<u32>,
) -> Result<Vec<Vec<NodeId>>, TooFewNodes> {
    let wanted = copies_wanted(copies, nodes) as usize;
    let mut nodes = nodes.to_vec();
    nodes.sort_by_key(|node| (node.standing, node.id));
    nodes.iter_mut().take(wanted).filter(|node| node.standing < Standing::Draining).for_each(|node| {
        node.standing = Standing::Active;
    });
    let active = nodes.iter().filter(|node| node.standing == Standing::Active).count();
    if wanted > active {
        return Err(TooFewNodes { asked: wanted as u32, nodes: active as u32 });
    }
    let mut layout = Layout::new(&nodes, table);
    let ids: Vec<ShardId> = (first..).take(shards as usize).collect();
    let group = layout.groups.len();
    layout.groups.push(Group::default());
    for shard in &ids {
        layout.add_shard(*shard, group, wanted, &[]);
    }
    layout.share_out();
    for shard in &ids {
        while layout.shards[shard].on.len() < wanted {
            let node = layout.by_rendezvous(*shard).expect("there are as many nodes as copies");
            layout.put(*shard, node);
        }
    }
    while let Some((_, change)) = layout.best_move_in(group, &|_| true) {
        layout.apply(change);
    }
    Ok(ids.iter().map(|shard| layout.replicas(*shard)).collect())
}

/// Nodes, shards and who holds what, to be changed step by step on paper.
#[derive(Clone, Debug)]
pub struct Layout {
    /// In the order of their ids, so that no answer depends on the order they were told in.
    nodes: Vec<Node>,
    at: BTreeMap<NodeId, usize>,
    groups: Vec<Group>,
    shards: BTreeMap<ShardId, Placed>,
    /// Over all groups.
    total: Load,
}

#[derive(Clone, Debug)]
struct Node {
    id: NodeId,
    /// Place in the list of zones; none of a node that is not told of.
    zone: usize,
    weight: u32,
    /// `Draining` where it is not told of.
    standing: Standing,
}

impl Node {
    /// Whether it has a share of the data.
    fn has_share(&self) -> bool {
        matches!(self.standing, Standing::Active | Standing::Away)
    }
}

/// Replicas on each node.
#[derive(Clone, Debug, Default)]
struct Load {
    held: Vec<f64>,
    share: Vec<f64>,
}

impl Load {
    /// What a node holds too much; negative: too little.
    fn excess(&self, node: usize) -> f64 {
        self.held[node] - self.share[node]
    }
}

/// The shards of one collection.
#[derive(Clone, Debug, Default)]
struct Group {
    shards: Vec<ShardId>,
    load: Load,
}

#[derive(Clone, Debug)]
struct Placed {
    group: usize,
    copies: usize,
    /// Most replicas in one zone.
    zone_max: usize,
    /// Places in `Layout::nodes`.
    on: Vec<usize>,
}

/// What a move must gain at least, so that rounding never makes two moves undo each other.
const GAIN_MIN: f64 = 1e-6;

impl Layout {
    /// The shards of `table` on `nodes`. Nodes that hold replicas and are not among `nodes` have no share.
    pub fn new(nodes: &[Candidate], table: &ShardTable) -> Layout {
        let mut layout = Layout::of_nodes(nodes, table);
        let mut groups: BTreeMap<&CollectionName, usize> = BTreeMap::new();
        for (id, entry) in &table.shards {
            let group = *groups.entry(&entry.collection).or_insert(layout.groups.len());
            if group == layout.groups.len() {
                layout.groups.push(Group::default());
            }
            layout.add_shard(*id, group, copies_wanted(entry.copies, nodes) as usize, &entry.replicas);
        }
        layout.share_out();
        layout
    }

    fn of_nodes(candidates: &[Candidate], table: &ShardTable) -> Layout {
        let mut zones: Vec<&str> = candidates.iter().map(|node| node.zone.as_str()).collect();
        zones.sort_unstable();
        zones.dedup();
        let zone_of = |zone: &str| zones.binary_search(&zone).expect("every zone is in the list");
        let mut nodes: BTreeMap<NodeId, Node> = BTreeMap::new();
        for id in table.shards.values().flat_map(|entry| &entry.replicas) {
            nodes.insert(*id, Node { id: *id, zone: usize::MAX, weight: 1, standing: Standing::Draining });
        }
        for Candidate { id, zone, weight, standing } in candidates {
            let node = Node { id: *id, zone: zone_of(zone), weight: (*weight).max(1), standing: *standing };
            nodes.insert(*id, node);
        }
        let at = nodes.keys().enumerate().map(|(place, id)| (*id, place)).collect();
        let nodes = nodes.into_values().collect();
        Layout { nodes, at, groups: Vec::new(), shards: BTreeMap::new(), total: Load::default() }
    }

    fn add_shard(&mut self, id: ShardId, group: usize, copies: usize, replicas: &[NodeId]) {
        let on = replicas.iter().map(|node| self.at[node]).collect();
        self.groups[group].shards.push(id);
        self.shards.insert(id, Placed { group, copies, zone_max: 0, on });
    }

    /// Works out what everybody holds and should hold.
    fn share_out(&mut self) {
        let count = self.nodes.len();
        self.total = Load { held: vec![0.0; count], share: vec![0.0; count] };
        for group in &mut self.groups {
            let copies_max = group.shards.iter().map(|id| self.shards[id].copies).max().unwrap_or(0);
            let replicas: usize = group.shards.iter().map(|id| self.shards[id].copies).sum();
            let zone_max = share::zone_max(&self.nodes, copies_max);
            let share = share::shares(&self.nodes, zone_max, group.shards.len(), replicas);
            group.load = Load { held: vec![0.0; count], share };
            for id in &group.shards {
                let placed = self.shards.get_mut(id).expect("the shards of a group are there");
                placed.zone_max = zone_max;
                placed.on.iter().for_each(|node| group.load.held[*node] += 1.0);
            }
            for node in 0..count {
                self.total.held[node] += group.load.held[node];
                self.total.share[node] += group.load.share[node];
            }
        }
    }

    /// The replicas of a shard, in the order of node ids.
    pub fn replicas(&self, shard: ShardId) -> Vec<NodeId> {
        let mut on = self.shards[&shard].on.clone();
        on.sort_unstable();
        on.into_iter().map(|place| self.nodes[place].id).collect()
    }

    /// How many replicas a shard shall have.
    pub fn copies(&self, shard: ShardId) -> usize {
        self.shards[&shard].copies
    }

    /// The node that a new replica of the shard should be made on, if there is one for it: among those with the most room the
    /// one that rendezvous hashing says. `leaving` is a replica that the new one stands in for.
    pub fn target(&self, shard: ShardId, leaving: Option<NodeId>) -> Option<NodeId> {
        let placed = self.shards.get(&shard)?;
        let leaving = leaving.and_then(|id| self.at.get(&id).copied());
        let room = |node: &usize| -(self.groups[placed.group].load.excess(*node) + self.total.excess(*node));
        let fits = |node: &usize| self.fits(placed, *node, leaving);
        (0..self.nodes.len())
            .filter(fits)
            .max_by(|a, b| room(a).total_cmp(&room(b)).then_with(|| self.compare_cost(shard, *b, *a)))
            .map(|place| self.nodes[place].id)
    }

    /// The replica to give up where a shard has more than it shall: of those that can be spared the one on the fullest node.
    pub fn surplus(&self, shard: ShardId, can_go: &dyn Fn(NodeId) -> bool) -> Option<NodeId> {
        let placed = self.shards.get(&shard)?;
        let fullness = |node: usize| self.groups[placed.group].load.excess(node) + self.total.excess(node);
        let crowd = |node: usize| self.in_zone(placed, self.nodes[node].zone, None) > placed.zone_max;
        let fuller = |a: usize, b: usize| {
            crowd(a).cmp(&crowd(b)).then(fullness(a).total_cmp(&fullness(b))).then(self.compare_cost(shard, a, b))
        };
        let candidates = placed.on.iter().copied().filter(|node| can_go(self.nodes[*node].id));
        candidates.max_by(|a, b| fuller(*a, *b)).map(|place| self.nodes[place].id)
    }

    /// A replica that stands in a zone with too many of its shard, and where it should go.
    pub fn misplaced(&self, shard: ShardId) -> Option<Move> {
        let placed = self.shards.get(&shard)?;
        let crowded = |node: &&usize| self.in_zone(placed, self.nodes[**node].zone, None) > placed.zone_max;
        let open = |node: &&usize| self.nodes[**node].standing == Standing::Active;
        let from = *placed.on.iter().filter(open).filter(crowded).max_by(|a, b| {
            let excess = |node: usize| self.groups[placed.group].load.excess(node) + self.total.excess(node);
            excess(**a).total_cmp(&excess(**b)).then_with(|| self.compare_cost(shard, **a, **b))
        })?;
        let from = self.nodes[from].id;
        self.target(shard, Some(from)).map(|to| Move { shard, from, to })
    }

    /// The single move that evens out most, of shards that may move; none if no move evens out anything.
    pub fn best_move(&self, may_move: &dyn Fn(ShardId) -> bool) -> Option<Move> {
        let moves = (0..self.groups.len()).filter_map(|group| self.best_move_in(group, may_move));
        moves.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, change)| change)
    }

    /// The best move of a group's shards and its gain: half of what it takes from the squared deviations from the shares, of the
    /// group and of the whole.
    fn best_move_in(&self, group: usize, may_move: &dyn Fn(ShardId) -> bool) -> Option<(f64, Move)> {
        let load = &self.groups[group].load;
        let key = |node: usize| load.excess(node) + self.total.excess(node);
        let most = self.active().filter(|node| load.held[*node] > 0.0).map(key).reduce(f64::max)?;
        let least = self.active().map(key).reduce(f64::min)?;
        if most - least - 2.0 < GAIN_MIN {
            return None;
        }
        let mut from: Vec<usize> = self.active().filter(|node| load.held[*node] > 0.0).collect();
        let mut to: Vec<usize> = self.active().collect();
        from.sort_by(|a, b| key(*b).total_cmp(&key(*a)).then(a.cmp(b)));
        to.sort_by(|a, b| key(*a).total_cmp(&key(*b)).then(a.cmp(b)));
        let mut best: Option<(f64, Move)> = None;
        for a in from {
            for &b in &to {
                let gain = key(a) - key(b) - 2.0;
                if gain < best.as_ref().map_or(GAIN_MIN, |(most, _)| most + GAIN_MIN) {
                    break;
                }
                if let Some(shard) = self.movable(group, a, b, may_move) {
                    best = Some((gain, Move { shard, from: self.nodes[a].id, to: self.nodes[b].id }));
                    break;
                }
            }
        }
        best
    }

    /// The shard of a group that rendezvous hashing would most like to see go from `a` to `b`.
    fn movable(&self, group: usize, a: usize, b: usize, may_move: &dyn Fn(ShardId) -> bool) -> Option<ShardId> {
        let shards = self.groups[group].shards.iter().copied();
        shards
            .filter(|shard| {
                let placed = &self.shards[shard];
                placed.on.contains(&a) && self.fits(placed, b, Some(a)) && may_move(*shard)
            })
            .min_by_key(|shard| (self.cost(*shard, b), *shard))
    }

    /// Carries a move out on paper.
    pub fn apply(&mut self, change: Move) {
        self.take(change.shard, change.from);
        self.put(change.shard, change.to);
    }

    /// Adds a replica on paper.
    pub fn put(&mut self, shard: ShardId, node: NodeId) {
        let (place, placed) = (self.at[&node], self.shards.get_mut(&shard).expect("a known shard"));
        assert!(!placed.on.contains(&place), "no node holds two replicas of a shard");
        placed.on.push(place);
        self.groups[placed.group].load.held[place] += 1.0;
        self.total.held[place] += 1.0;
    }

    /// Removes a replica on paper.
    pub fn take(&mut self, shard: ShardId, node: NodeId) {
        let (place, placed) = (self.at[&node], self.shards.get_mut(&shard).expect("a known shard"));
        let before = placed.on.len();
        placed.on.retain(|on| *on != place);
        assert!(placed.on.len() + 1 == before, "only a replica that is there can go");
        self.groups[placed.group].load.held[place] -= 1.0;
        self.total.held[place] -= 1.0;
    }

    /// The node that hashing says for another replica of a shard, of those that have not got their share.
    fn by_rendezvous(&self, shard: ShardId) -> Option<NodeId> {
        let placed = &self.shards[&shard];
        let load = &self.groups[placed.group].load;
        let wants = |node: &usize| load.held[*node] < load.share[*node].ceil();
        let least = |nodes: &mut dyn Iterator<Item = usize>| nodes.min_by(|a, b| self.compare_cost(shard, *a, *b));
        let fits = || (0..self.nodes.len()).filter(|node| self.fits(placed, *node, None));
        // Towards the end those with room may all hold the shard already; balancing mends what this overfills.
        // A zone whose nodes are away counts and takes nothing: then the others hold more than they must, until they are back.
        let others = || self.active().filter(|node| !placed.on.contains(node));
        let node = least(&mut fits().filter(wants)).or_else(|| least(&mut fits())).or_else(|| least(&mut others()))?;
        Some(self.nodes[node].id)
    }

    /// Whether a node may take a replica of a shard, when the one on `leaving` goes.
    fn fits(&self, placed: &Placed, node: usize, leaving: Option<usize>) -> bool {
        let Node { zone, standing, .. } = self.nodes[node];
        standing == Standing::Active
            && self.total.held[node] < SHARDS_PER_NODE_MAX as f64
            && !placed.on.contains(&node)
            && self.in_zone(placed, zone, leaving) < placed.zone_max
    }

    /// Replicas of a shard in a zone.
    fn in_zone(&self, placed: &Placed, zone: usize, but: Option<usize>) -> usize {
        let counted = placed.on.iter().filter(|on| Some(**on) != but && self.nodes[**on].zone == zone);
        counted.count()
    }

    fn active(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].standing == Standing::Active)
    }

    fn cost(&self, shard: ShardId, node: usize) -> u64 {
        rendezvous::cost(shard, self.nodes[node].id, self.nodes[node].weight)
    }

    fn compare_cost(&self, shard: ShardId, a: usize, b: usize) -> Ordering {
        self.cost(shard, a).cmp(&self.cost(shard, b)).then(a.cmp(&b))
    }
}
