//! A cluster on paper, for tests: it does what the nodes do with the table, as fast or slowly as a test wants.

use super::super::*;
use crate::cluster::{
    members::{MemberRecord, MemberState, SelfTold, WEIGHT_ORDINARY},
    placement::{Candidate, place},
    report::{NodeReport, ReplicaReport, Reports},
    table::ShardTable,
};
use crate::types::{CollectionName, SlotRange};
use std::sync::Arc;

/// Of every shard.
pub const SHARD_BYTES: u64 = 1000;

/// A Raft group as it is.
#[derive(Clone, Debug, Default)]
pub struct Group {
    pub voters: Vec<NodeId>,
    pub leader: Option<NodeId>,
    pub term: u64,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct World {
    pub table: ShardTable,
    pub records: BTreeMap<NodeId, MemberRecord>,
    pub dead: BTreeSet<NodeId>,
    pub away: BTreeMap<NodeId, Duration>,
    pub groups: BTreeMap<ShardId, Group>,
    pub control: Group,
    /// Replicas of no use, until they are removed.
    pub failed: BTreeSet<(ShardId, NodeId)>,
    /// Of shards a test says nothing about: none.
    pub points: BTreeMap<ShardId, u64>,
    /// The version that the cluster speaks.
    pub version: u32,
    pub shards_asked: u32,
    /// The version each node speaks; those not named have not told.
    pub speaks: BTreeMap<NodeId, u32>,
    zones: u64,
    /// Changes of replicas that were accepted.
    pub changes: usize,
}

impl World {
    /// Nodes 1 to `nodes`, in so many zones; the first is the coordinator's only voter until plans are carried out.
    pub fn new(nodes: u64, zones: u64) -> World {
        let mut world = World {
            table: ShardTable::default(),
            records: BTreeMap::new(),
            dead: BTreeSet::new(),
            away: BTreeMap::new(),
            groups: BTreeMap::new(),
            control: Group { voters: vec![1], leader: Some(1), term: 1 },
            failed: BTreeSet::new(),
            points: BTreeMap::new(),
            version: 0,
            shards_asked: u32::MAX,
            speaks: BTreeMap::new(),
            zones,
            changes: 0,
        };
        (1..=nodes).for_each(|node| world.join(node));
        world.records.get_mut(&1).unwrap().votes = true;
        if nodes > 1 {
            world.run(3);
        }
        world
    }

    pub fn join(&mut self, node: NodeId) {
        let zone = format!("z{}", node % self.zones);
        let told = SelfTold { zone, weight: WEIGHT_ORDINARY, ..SelfTold::default() };
        self.records.insert(node, MemberRecord::joined(told, 0, false));
    }

    pub fn with_collection(mut self, name: &str, shards: u32, copies: Option<u32>) -> World {
        let record =
            |(id, record): (&NodeId, &MemberRecord)| Candidate { zone: record.zone.clone(), ..Candidate::active(*id) };
        let nodes: Vec<Candidate> = self.records.iter().map(record).collect();
        let placement = place(&nodes, &self.table, self.table.next_shard + 1, shards, copies).unwrap();
        for shard in self.table.add_collection(&CollectionName::new(name).unwrap(), copies, &placement) {
            let voters = self.table.shards[&shard].replicas.clone();
            self.groups.insert(shard, Group { voters, leader: None, term: 0 });
        }
        self.elect();
        // Leaders are spread from the start, so that tests see only what they ask for.
        while let actions @ [_, ..] = plan(&self.view(), &Limits::default()).actions.as_slice() {
            actions.iter().for_each(|planned| self.obey(&planned.action));
        }
        self
    }

    pub fn kill(&mut self, node: NodeId) {
        self.dead.insert(node);
        self.away.insert(node, Duration::from_secs(1));
        self.elect();
    }

    pub fn revive(&mut self, node: NodeId) {
        self.dead.remove(&node);
        self.away.remove(&node);
        self.elect();
    }

    pub fn set_state(&mut self, node: NodeId, state: MemberState) {
        self.records.get_mut(&node).unwrap().state = state;
    }

    pub fn fail(&mut self, shard: ShardId, node: NodeId) {
        self.failed.insert((shard, node));
        self.elect();
    }

    /// What the master sees.
    pub fn view(&self) -> View {
        let nodes = self.records.iter().map(|(id, record)| {
            let away = self.away.get(id).copied().unwrap_or_default();
            (*id, NodeView { record: record.clone(), away, report: Arc::new(self.report(*id)) })
        });
        let asked = self.table.shards.values().map(|entry| (entry.collection.clone(), self.shards_asked));
        View { table: self.table.clone(), nodes: nodes.collect(), shards_asked: asked.collect(), version: self.version }
    }

    /// The reports of the nodes that are alive.
    pub fn reports(&self) -> Reports {
        let alive = self.records.keys().filter(|node| !self.dead.contains(node));
        alive.map(|node| (*node, Arc::new(self.report(*node)))).collect()
    }

    fn report(&self, node: NodeId) -> NodeReport {
        let of = |group: &Group, points: u64, bytes: u64, failed: bool| ReplicaReport {
            term: group.term,
            leader: group.leader,
            leads: group.leader == Some(node),
            committed: 50_000,
            applied: 50_000,
            voters: group.voters.clone(),
            points,
            bytes,
            failure: failed.then(|| "broken".to_owned()),
            ..ReplicaReport::default()
        };
        let replicas = self.groups.iter().filter(|(_, group)| group.voters.contains(&node)).map(|(shard, group)| {
            let points = self.points.get(shard).copied().unwrap_or(0);
            (*shard, of(group, points, SHARD_BYTES, self.failed.contains(&(*shard, node))))
        });
        // What the table gives it and no group has sent anything yet knows of no group.
        let is_given = |shard: &ShardId| self.table.shards[shard].replicas.contains(&node);
        let waits = |shard: &ShardId| self.groups.get(shard).is_some_and(|group| !group.voters.contains(&node));
        let empty = self.table.shards.keys().filter(|shard| is_given(shard) && waits(shard));
        let replicas = replicas.chain(empty.map(|shard| (*shard, ReplicaReport::default())));
        let control = Some(of(&self.control, 0, 0, false));
        NodeReport {
            version: String::new(),
            speaks: self.speaks.get(&node).copied().unwrap_or(0),
            replicas: replicas.collect(),
            control,
        }
    }

    pub fn works(&self, shard: ShardId, node: NodeId) -> bool {
        !self.dead.contains(&node) && !self.failed.contains(&(shard, node))
    }

    fn majority(&self, shard: ShardId, nodes: &[NodeId]) -> bool {
        nodes.iter().filter(|node| self.works(shard, **node)).count() * 2 > nodes.len()
    }

    /// Groups without a leader that works get one, if there is a majority.
    fn elect(&mut self) {
        for shard in self.groups.keys().copied().collect::<Vec<_>>() {
            let group = self.groups[&shard].clone();
            let leader = group.leader.filter(|leader| self.works(shard, *leader) && group.voters.contains(leader));
            let first = shard as usize % group.voters.len();
            let in_turn = group.voters[first..].iter().chain(&group.voters[..first]);
            let next = in_turn.copied().find(|node| self.works(shard, *node));
            let group = self.groups.get_mut(&shard).unwrap();
            group.term += u64::from(leader.is_none());
            group.leader = leader.or(next);
            let voters = group.voters.clone();
            if !self.majority(shard, &voters) {
                self.groups.get_mut(&shard).unwrap().leader = None;
            }
        }
        let works = |node: &NodeId| !self.dead.contains(node);
        let majority = self.control.voters.iter().filter(|node| works(node)).count() * 2 > self.control.voters.len();
        let leader = self.control.leader.filter(|node| works(node) && self.control.voters.contains(node));
        self.control.leader = leader.or(self.control.voters.iter().copied().find(works)).filter(|_| majority);
        self.control.term += 1;
    }

    /// Founders of shards that have no group open one; groups of shards that are no more are closed.
    fn found(&mut self) {
        self.groups.retain(|shard, _| self.table.shards.contains_key(shard));
        for (shard, entry) in &self.table.shards {
            let first = || Group { voters: entry.founders.clone(), leader: None, term: 0 };
            self.groups.entry(*shard).or_insert_with(first);
        }
        self.elect();
    }

    /// Does what the nodes do when they see an action.
    pub fn obey(&mut self, action: &Action) {
        match action {
            Action::Replicas { shard, replicas, .. } => {
                assert!(self.table.change_replicas(*shard, replicas.clone()), "a change changes something: {action}");
                self.changes += 1;
            }
            Action::Lead { shard, from, to } => {
                let able = self.works(*shard, *to);
                let group = self.groups.get_mut(shard).unwrap();
                if group.leader == Some(*from) && group.voters.contains(to) && able {
                    group.leader = Some(*to);
                    group.term += 1;
                }
            }
            Action::Votes { give, take } => {
                give.iter().for_each(|node| self.records.get_mut(node).unwrap().votes = true);
                take.iter().for_each(|node| self.records.get_mut(node).unwrap().votes = false);
            }
            Action::Split { shard, at } => {
                assert!(self.table.begin_split(*shard, *at).is_some(), "one that can be split");
                self.found();
            }
            Action::Merge { shard, to } => assert!(self.table.begin_merge(*shard, *to), "two that can be merged"),
        }
    }

    /// Accepts a whole plan.
    pub fn accept(&mut self, plan: &Plan) {
        plan.actions.iter().for_each(|planned| self.obey(&planned.action));
    }

    /// Brings a shard's group to what the table wants, if that can be done. A majority of the new voters works, or it is not.
    pub fn land(&mut self, shard: ShardId) {
        let (wanted, group) = (self.table.shards[&shard].replicas.clone(), &self.groups[&shard]);
        if group.voters == wanted || group.leader.is_none() {
            return;
        }
        let arrived = wanted.iter().all(|node| group.voters.contains(node) || self.works(shard, *node));
        if arrived && self.majority(shard, &wanted) {
            self.failed.retain(|(failed, node)| *failed != shard || wanted.contains(node));
            self.groups.get_mut(&shard).unwrap().voters = wanted;
            self.elect();
        }
    }

    /// Brings the slots that a shard gives to where they are to go, if both shards can do anything.
    pub fn land_slots(&mut self, shard: ShardId) {
        let entry = self.table.shards[&shard].clone();
        let works = |shard: ShardId| self.groups[&shard].leader.is_some();
        let Some(giving) = entry.giving.filter(|giving| works(shard) && works(giving.to)) else { return };
        let width = |slots: SlotRange| u64::from(slots.end - slots.first);
        let points = self.points.get(&shard).copied().unwrap_or(0);
        let moved = points * width(giving.slots) / width(entry.slots);
        *self.points.entry(shard).or_default() -= moved;
        *self.points.entry(giving.to).or_default() += moved;
        assert!(self.table.end_giving(shard));
        if !self.table.shards.contains_key(&shard) {
            self.points.remove(&shard);
        }
        self.found();
    }

    pub fn land_votes(&mut self) {
        let votes: Vec<NodeId> = self.records.iter().filter(|(_, record)| record.votes).map(|(id, _)| *id).collect();
        let work = votes.iter().filter(|node| !self.dead.contains(node)).count();
        if self.control.leader.is_some() && votes != self.control.voters && work * 2 > votes.len() {
            self.control.voters = votes;
            self.elect();
        }
    }

    /// Lets everything arrive that can.
    pub fn land_all(&mut self) {
        self.found();
        for shard in self.table.shards.keys().copied().collect::<Vec<_>>() {
            self.land(shard);
            self.land_slots(shard);
        }
        self.land_votes();
    }

    /// Plans and carries out, so many times.
    pub fn run(&mut self, rounds: usize) {
        self.run_within(&Limits::default(), rounds);
    }

    /// The same within other limits.
    pub fn run_within(&mut self, limits: &Limits, rounds: usize) {
        for _ in 0..rounds {
            let plan = plan(&self.view(), limits);
            self.accept(&plan);
            self.land_all();
        }
    }
}
