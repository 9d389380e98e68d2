//! What a round of the master costs of a core: `cargo bench --bench planner`. 100 nodes and 1,000 shards in three copies (or
//! `PLANNER_NODES`, `PLANNER_SHARDS`), everything known as after one round of reports; the processor time of this thread for the plan, and
//! for the table that a change writes. Not in it: asking nodes for their reports, and the coordinator.

use std::{
    collections::{BTreeMap, BTreeSet},
    hint::black_box,
    sync::Arc,
    time::Duration,
};
use vectorsphere::{
    cluster::{
        Candidate, MemberRecord, NodeId, SelfTold, ShardId, ShardTable,
        placement::place,
        plan::{Action, Limits, NodeView, Plan, View, plan},
        report::{NodeReport, ReplicaReport},
    },
    types::CollectionName,
};

const COPIES: u32 = 3;
const RUNS: usize = 200;
/// Of every shard.
const POINTS: u64 = 1_000_000;
const BYTES: u64 = 800_000_000;

fn main() {
    let (nodes, shards) = (size("PLANNER_NODES", 100), size("PLANNER_SHARDS", 1_000));
    let mut known = Known::new(nodes, shards as u32);
    let rounds = known.settle();
    println!("{nodes} nodes, {shards} shards, {COPIES} copies; at rest after {rounds} rounds");
    measure("at rest", &known.view());
    let mut broken = known.clone();
    let (shard, on) = broken.some_replica();
    broken.failed.insert((shard, on));
    measure("a replica has failed", &broken.view());
    let mut lost = known.clone();
    lost.gone.insert(1);
    measure("a node is gone for good", &lost.view());
    let mut grown = known.clone();
    grown.nodes.insert(nodes + 1);
    measure("a node has joined", &grown.view());
    let encode = || serde_json::to_vec(&known.table).expect("a table encodes");
    let bytes = encode();
    report("the table encoded", times(encode), &format!("{} bytes", bytes.len()));
    let decode = || serde_json::from_slice::<ShardTable>(&bytes).expect("a table that was encoded");
    report("the table decoded", times(decode), "by each node");
}

fn size(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: no number: {text}")))
}

/// A cluster on paper.
#[derive(Clone)]
struct Known {
    nodes: BTreeSet<NodeId>,
    table: ShardTable,
    leaders: BTreeMap<ShardId, NodeId>,
    failed: BTreeSet<(ShardId, NodeId)>,
    gone: BTreeSet<NodeId>,
}

impl Known {
    fn new(nodes: u64, shards: u32) -> Known {
        let nodes: BTreeSet<NodeId> = (1..=nodes).collect();
        let candidates: Vec<Candidate> = nodes.iter().map(|id| Candidate::active(*id)).collect();
        let mut table = ShardTable::default();
        let placement = place(&candidates, &table, 1, shards, Some(COPIES)).expect("more nodes than copies");
        table.add_collection(&CollectionName::new("things").expect("a name"), Some(COPIES), &placement);
        let leader = |(shard, on): (&ShardId, &Vec<NodeId>)| (*shard, on[*shard as usize % on.len()]);
        let leaders = table.shards.iter().map(|(shard, entry)| leader((shard, &entry.replicas))).collect();
        Known { nodes, table, leaders, failed: BTreeSet::new(), gone: BTreeSet::new() }
    }

    /// Carries out what is planned until nothing is left; how many rounds that took.
    fn settle(&mut self) -> usize {
        for round in 0.. {
            let planned = plan(&self.view(), &Limits::default());
            if planned.is_done() {
                return round;
            }
            for planned in planned.actions {
                match planned.action {
                    Action::Lead { shard, to, .. } => drop(self.leaders.insert(shard, to)),
                    Action::Replicas { shard, replicas, .. } => {
                        self.leaders.insert(shard, replicas[0]);
                        self.table.change_replicas(shard, replicas);
                    }
                    other => unreachable!("nothing else is to be done: {other:?}"),
                }
            }
        }
        unreachable!("rounds do not end")
    }

    /// A replica that does not lead.
    fn some_replica(&self) -> (ShardId, NodeId) {
        let (shard, entry) = self.table.shards.first_key_value().expect("shards");
        let follows = |node: &&NodeId| self.leaders[shard] != **node;
        (*shard, *entry.replicas.iter().find(follows).expect("copies"))
    }

    fn view(&self) -> View {
        let mut reports: BTreeMap<NodeId, NodeReport> = BTreeMap::new();
        for (shard, entry) in &self.table.shards {
            for node in &entry.replicas {
                let replica = self.replica(*shard, *node, &entry.replicas);
                reports.entry(*node).or_default().replicas.insert(*shard, replica);
            }
        }
        let nodes = self.nodes.iter().map(|node| {
            let record = MemberRecord::joined(SelfTold { zone: "z".to_owned(), ..SelfTold::default() }, 0, false);
            let away = if self.gone.contains(node) { Duration::from_secs(3_600) } else { Duration::ZERO };
            (*node, NodeView { record, away, report: Arc::new(reports.remove(node).unwrap_or_default()) })
        });
        let asked = self.table.shards.values().next().map(|entry| (entry.collection.clone(), u32::MAX));
        View {
            nodes: nodes.collect(),
            table: self.table.clone(),
            shards_asked: asked.into_iter().collect(),
            version: 0,
        }
    }

    /// Where a leader is gone the next replica leads.
    fn replica(&self, shard: ShardId, node: NodeId, on: &[NodeId]) -> ReplicaReport {
        let there = |leader: &NodeId| !self.gone.contains(leader);
        let leader = Some(self.leaders[&shard]).filter(there).or(on.iter().copied().find(there));
        ReplicaReport {
            term: 1,
            leader,
            leads: leader == Some(node),
            last_index: 50_000,
            committed: 50_000,
            applied: 50_000,
            voters: on.to_vec(),
            points: POINTS,
            bytes: BYTES,
            failure: self.failed.contains(&(shard, node)).then(|| "broken".to_owned()),
            ..ReplicaReport::default()
        }
    }
}

fn measure(what: &str, view: &View) {
    let Plan { actions, waiting, .. } = plan(view, &Limits::default());
    let told = format!("{} changes at once, {waiting} wait", actions.len());
    report(what, times(|| plan(view, &Limits::default())), &told);
}

fn report(what: &str, times: Vec<Duration>, told: &str) {
    println!("{what:<24} least {:>10.1?}  median {:>10.1?}  {told}", times[0], times[times.len() / 2]);
}

/// The processor time of each of some runs, the least first.
fn times<T>(run: impl Fn() -> T) -> Vec<Duration> {
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let begun = thread_time();
            black_box(run());
            thread_time() - begun
        })
        .collect();
    times.sort_unstable();
    times
}

/// What this thread has had of a core: a shared machine disturbs it less than it does the time of day.
fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on Linux, and the call writes only to `time`.
    let answer = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(answer, 0, "the clock can be read");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
