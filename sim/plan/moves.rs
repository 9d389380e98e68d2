//! Plans of clusters that are rebuilt while clients use them: nodes come, are drained and removed, stay away for so long that others
//! take their replicas, and the master is struck at every step of it.
use super::{
    Blow, EtcdTrouble, Fault, IndexPlan, Plan, PlannedFault, Workload,
    cluster::{self, Size},
};
use rand::{
    Rng, SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};
use serde::{Deserialize, Serialize};

/// Who comes, goes and is moved.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Moves {
    /// The first so many nodes found the cluster; the others start when they join.
    pub founders: usize,
    /// `cluster.replace_after`.
    pub replace_after_ms: u64,
    /// `cluster.rebalance.bytes_per_second`, if not the usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// `cluster.shards.split_above`, if the master is to split and merge shards by itself; below half of it it merges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_above: Option<u64>,
    /// etcd is the coordinator, instead of the nodes themselves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub etcd: bool,
    /// One after the other; each is insisted on for a while.
    pub steps: Vec<Move>,
}

impl Moves {
    /// Whether nodes begin as the program before.
    pub fn has_upgrades(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.turn, Turn::Upgrade { .. }))
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Move {
    /// Since the one before was through.
    pub after_ms: u64,
    pub turn: Turn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Turn {
    /// The node starts for the first time.
    Join { node: usize },
    /// It is to give everything away.
    Drain { node: usize },
    /// It is to take part again.
    Keep { node: usize },
    /// It is taken out of the cluster for ever, as soon as that is allowed; it runs on for so long, then its power is taken.
    Remove { node: usize, runs_on_ms: u64 },
    /// Evening out is paused, or goes on.
    Pause { paused: bool },
    /// It is stopped in order and started again as this program, or as the one before.
    Upgrade { node: usize, back: bool },
    /// One of the table's shards is to be split, in the middle of its slots or, `off` so many of them, elsewhere.
    Split { pick: usize, off: Option<u16> },
    /// One is to be merged into the neighbour before it, or after.
    Merge { pick: usize, before: bool },
}

/// How long clients go on: the master does little more than one thing a second, and nodes have to be missed for long.
const DURATION_MS: std::ops::Range<u64> = 10_000..25_000;
/// Smaller clusters have nothing to move.
const NODES: std::ops::RangeInclusive<usize> = 4..=6;
/// Fewer nodes than that never take replicas: no shard has more copies.
pub const ACTIVE_MIN: usize = 3;

/// The plan of a seed, with the coordinator in the nodes.
pub fn generate(workload: Workload, seed: u64) -> Plan {
    draw(workload, seed, false)
}

/// The plan of a seed, with etcd as the coordinator.
pub fn generate_with_etcd(workload: Workload, seed: u64) -> Plan {
    draw(workload, seed, true)
}

fn draw(workload: Workload, seed: u64, etcd: bool) -> Plan {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x0e5u64.rotate_left(56));
    let nodes = rng.random_range(NODES);
    let founders = rng.random_range(ACTIVE_MIN..=nodes);
    // With one copy nothing decides but the node that has it: whatever moves too early shows at once.
    let copies = *[1, 2, 3, 3, 3].choose(&mut rng).expect("not empty");
    let mut values = 0;
    let mut clients = cluster::clients(workload, nodes, &mut values, &mut rng);
    let duration_ms = rng.random_range(DURATION_MS);
    let drawn_ms = Plan::duration_ms(&clients).max(1);
    for step in clients.iter_mut().flat_map(|client| &mut client.steps) {
        step.after_ms = step.after_ms * duration_ms / drawn_ms;
    }
    let steps = steps(nodes, founders, duration_ms, &mut rng);
    let size = Size { nodes, copies };
    Plan {
        workload,
        nodes,
        shards: if workload == Workload::Bank { 1 } else { rng.random_range(1..=8) },
        copies,
        index: IndexPlan::draw(&mut rng),
        log_bytes_max: rng.random_bool(0.6).then(|| 512 << rng.random_range(0..7)),
        first_start: None,
        clients,
        faults: faults(size, etcd, duration_ms, &mut rng),
        audits: cluster::audits(nodes, duration_ms, &mut rng),
        finale: None,
        moves: Some(Moves {
            founders,
            replace_after_ms: rng.random_range(3_000..12_000),
            bytes_per_second: None,
            split_above: None,
            etcd,
            steps,
        }),
    }
}

/// The plan of a seed in which shards are split and merged while clients and faults go on, and some nodes come and go.
pub fn generate_splits(workload: Workload, seed: u64) -> Plan {
    let mut plan = draw(workload, seed ^ 0x591, false);
    let mut rng = StdRng::seed_from_u64(seed ^ 0x591u64.rotate_left(56));
    plan.shards = rng.random_range(1..=3);
    let duration_ms = Plan::duration_ms(&plan.clients);
    let moves = plan.moves.as_mut().expect("a plan of moves");
    moves.steps.truncate(rng.random_range(0..=2));
    // A few splits of the documents that the workload has.
    let most = match workload {
        Workload::Set | Workload::Search | Workload::Recreate => 60..=300,
        _ => 2..=4,
    };
    moves.split_above = rng.random_bool(0.4).then(|| rng.random_range(most));
    let count = rng.random_range(3..=8);
    for _ in 0..count {
        let pick = rng.random_range(0..8);
        let turn = match rng.random_bool(0.6) {
            true => Turn::Split { pick, off: rng.random_bool(0.3).then(|| rng.random_range(0..16_384)) },
            false => Turn::Merge { pick, before: rng.random_bool(0.5) },
        };
        let step = Move { after_ms: rng.random_range(0..=duration_ms / count), turn };
        moves.steps.insert(rng.random_range(0..=moves.steps.len()), step);
    }
    plan
}

/// The plan of a seed in which every node, begun as the program before, gets this one, one after the other, while clients and faults go on; some go back
/// to the one before in between.
pub fn generate_upgrade(workload: Workload, seed: u64) -> Plan {
    let mut plan = draw(workload, seed ^ 0x0e5, false);
    let mut rng = StdRng::seed_from_u64(seed ^ 0x09eu64.rotate_left(56));
    let mut order: Vec<usize> = (0..plan.nodes).collect();
    order.shuffle(&mut rng);
    let last = order.pop().expect("nodes");
    let mut turns = Vec::new();
    for node in order {
        turns.push(Turn::Upgrade { node, back: false });
        if rng.random_bool(0.3) {
            turns.push(Turn::Upgrade { node, back: true });
            turns.push(Turn::Upgrade { node, back: false });
        }
    }
    turns.push(Turn::Upgrade { node: last, back: false });
    let each_ms = Plan::duration_ms(&plan.clients) / turns.len() as u64;
    let moves = plan.moves.as_mut().expect("a plan of moves");
    moves.founders = plan.nodes;
    moves.steps = turns.into_iter().map(|turn| Move { after_ms: rng.random_range(0..=each_ms), turn }).collect();
    plan
}

/// What a node is while the plan is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Absent,
    Active,
    Draining,
    Removed,
}

fn steps(nodes: usize, founders: usize, duration_ms: u64, rng: &mut StdRng) -> Vec<Move> {
    let mut states = vec![State::Active; founders];
    states.resize(nodes, State::Absent);
    let count = rng.random_range(3..=8);
    let mut paused = false;
    (0..count)
        .filter_map(|_| {
            let turn = step(&mut states, &mut paused, rng)?;
            Some(Move { after_ms: rng.random_range(0..=duration_ms * 3 / 2 / count), turn })
        })
        .collect()
}

/// The next step, if any is possible.
fn step(states: &mut [State], paused: &mut bool, rng: &mut StdRng) -> Option<Turn> {
    let mut order: Vec<usize> = (0..states.len()).collect();
    order.shuffle(rng);
    let first = |state: State| order.iter().copied().find(|node| states[*node] == state);
    let active = states.iter().filter(|state| **state == State::Active).count();
    let (absent, draining) = (first(State::Absent), first(State::Draining));
    let spare = first(State::Active).filter(|_| active > ACTIVE_MIN);
    let (node, state, turn) = match rng.random_range(0..10) {
        0..4 => absent.map(|node| (node, State::Active, Turn::Join { node })),
        4..6 => spare.map(|node| (node, State::Draining, Turn::Drain { node })),
        6 | 7 => draining.map(|node| {
            let runs_on_ms = *[0, 500, 8_000].choose(rng).expect("not empty");
            (node, State::Removed, Turn::Remove { node, runs_on_ms })
        }),
        8 => draining.map(|node| (node, State::Active, Turn::Keep { node })),
        _ => {
            *paused = !*paused;
            return Some(Turn::Pause { paused: *paused });
        }
    }
    .or(absent.map(|node| (node, State::Active, Turn::Join { node })))
    .or(spare.map(|node| (node, State::Draining, Turn::Drain { node })))?;
    states[node] = state;
    Some(turn)
}

/// Faults of any cluster, longer absences, and blows at the master.
fn faults(size: Size, etcd: bool, duration_ms: u64, rng: &mut StdRng) -> Vec<PlannedFault> {
    let mut faults = if rng.random_bool(0.7) { cluster::faults(size, duration_ms, rng) } else { Vec::new() };
    faults.truncate(5);
    for _ in 0..rng.random_range(0..=2) {
        let down_ms = rng.random_range(5_000..30_000);
        let model = super::node::model(rng);
        let fault = Fault::PowerLoss { model, down_ms };
        faults.push(PlannedFault { nodes: vec![rng.random_range(0..size.nodes)], ..at(duration_ms, fault, rng) });
    }
    if rng.random_bool(0.7) {
        let blow = *[Blow::Kill, Blow::Power, Blow::Cut, Blow::Pause].choose(rng).expect("not empty");
        let (times, after_ms) = (rng.random_range(1..=4), rng.random_range(0..1_500));
        let for_ms = rng.random_range(500..8_000);
        faults.push(at(duration_ms / 2, Fault::MasterAmbush { times, blow, after_ms, for_ms }, rng));
    }
    for _ in 0..rng.random_range(0..=4) * usize::from(etcd) {
        faults.push(at(duration_ms, Fault::Etcd { trouble: trouble(rng) }, rng));
    }
    faults.sort_by_key(|planned| planned.at_ms);
    faults
}

fn at(within_ms: u64, fault: Fault, rng: &mut StdRng) -> PlannedFault {
    PlannedFault { at_ms: rng.random_range(0..=within_ms), nodes: Vec::new(), leader: false, chance: None, fault }
}

fn trouble(rng: &mut StdRng) -> EtcdTrouble {
    let for_ms = cluster::duration_ms(cluster::OUTAGE_MS, rng);
    match rng.random_range(0..10) {
        0 => EtcdTrouble::Compact,
        1 => EtcdTrouble::ExpireLeases,
        2 => EtcdTrouble::CancelWatches,
        3 => EtcdTrouble::Kill { down_ms: for_ms },
        4 => EtcdTrouble::Silent { for_ms },
        5 => EtcdTrouble::Slow { by_ms: rng.random_range(10..3_000), for_ms },
        6 => EtcdTrouble::LostAnswers { percent: rng.random_range(10..80), for_ms },
        7 => EtcdTrouble::CutOff { node: rng.random_range(0..*NODES.start()), for_ms },
        8 => EtcdTrouble::CutOffAllBut { node: rng.random_range(0..*NODES.start()), for_ms },
        _ => EtcdTrouble::StaleReads { percent: rng.random_range(10..60), for_ms },
    }
}
