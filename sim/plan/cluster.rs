//! The plans of several nodes. Each seed draws its topology, how hurried its clients are, and which kinds of fault it has;
//! most runs end with a [`Finale`].
use super::{
    Audit, Broken, ClientPlan, Collapse, Face, Fault, Finale, IndexPlan, Plan, PlannedFault, Shape, Step, Way,
    Workload, action, node,
};
use rand::{
    Rng, SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};

/// Operations of a run before faults take their share; a run needs 100 that succeed.
const OPERATIONS: std::ops::Range<usize> = 300..500;
/// What each client of a finale asks.
const LAST_STEPS: usize = 8;
/// How long the longest partition, pause and outage last.
const LONG_MS: u64 = 30_000;
pub(super) const OUTAGE_MS: u64 = 60_000;
/// Of the coordinator's own group, in the largest cluster.
const VOTERS_MAX: usize = 5;

/// The plan of a seed.
pub fn generate(workload: Workload, seed: u64) -> Plan {
    let mut rng = StdRng::seed_from_u64(seed ^ 0xc1u64.rotate_left(56));
    let nodes = match rng.random_range(0..100) {
        0..6 => 1,
        6..72 => 3,
        72..94 => 5,
        _ => 7,
    };
    let mut values = 0;
    let clients = clients(workload, nodes, &mut values, &mut rng);
    let duration_ms = Plan::duration_ms(&clients);
    let size = Size { nodes, copies: if nodes > 3 && rng.random_bool(0.5) { 3 } else { nodes } };
    Plan {
        workload,
        nodes,
        // A batch is atomic within a shard.
        shards: if workload == Workload::Bank { 1 } else { shards(&mut rng) },
        copies: size.copies,
        index: IndexPlan::draw(&mut rng),
        log_bytes_max: rng.random_bool(0.6).then(|| 512 << rng.random_range(0..7)),
        first_start: rng.random_bool(0.2).then(|| {
            let operations = rng.random_range(0..node::FIRST_START_OPERATIONS);
            (operations, node::model(&mut rng))
        }),
        clients,
        faults: faults(size, duration_ms, &mut rng),
        audits: audits(nodes, duration_ms, &mut rng),
        finale: (nodes > 1).then(|| finale(workload, size, &mut values, &mut rng)),
        moves: None,
    }
}

#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) nodes: usize,
    /// Of each shard.
    pub(super) copies: usize,
}

impl Size {
    /// How many nodes every group can miss, the coordinator's own too.
    fn minority(self) -> usize {
        (self.nodes.min(VOTERS_MAX).min(self.copies) - 1) / 2
    }

    fn shuffled(self, rng: &mut StdRng) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.nodes).collect();
        order.shuffle(rng);
        order
    }
}

/// Few, mostly: with more shards each sees less of what happens.
fn shards(rng: &mut StdRng) -> usize {
    if rng.random_bool(0.5) { rng.random_range(1..=2) } else { rng.random_range(3..=8) }
}

pub(super) fn clients(workload: Workload, nodes: usize, values: &mut u64, rng: &mut StdRng) -> Vec<ClientPlan> {
    let clients = rng.random_range(1..=8);
    let operations = rng.random_range(OPERATIONS);
    // In a hurry, at leisure, or slow enough for the longest outages.
    let gap_ms_max = *[40, 150, 600].choose(rng).expect("not empty") * clients as u64 / 4 + 20;
    (0..clients)
        .map(|client| ClientPlan {
            face: if rng.random_bool(0.5) { Face::Rest } else { Face::Grpc },
            node: rng.random_range(0..nodes),
            steps: steps(workload, client as u64, operations / clients, gap_ms_max, values, rng),
        })
        .collect()
}

pub(super) fn steps(
    workload: Workload,
    client: u64,
    count: usize,
    gap_ms_max: u64,
    values: &mut u64,
    rng: &mut StdRng,
) -> Vec<Step> {
    let step =
        |_| Step { after_ms: rng.random_range(0..gap_ms_max), action: action::draw(workload, client, values, rng) };
    (0..count).map(step).collect()
}

/// Up to four, at any time and any node.
pub(super) fn audits(nodes: usize, duration_ms: u64, rng: &mut StdRng) -> Vec<Audit> {
    let mut at: Vec<u64> = (0..rng.random_range(0..=4)).map(|_| rng.random_range(0..=duration_ms)).collect();
    at.sort_unstable();
    at.into_iter().map(|at_ms| Audit { at_ms, node: rng.random_range(0..nodes) }).collect()
}

fn finale(workload: Workload, size: Size, values: &mut u64, rng: &mut StdRng) -> Finale {
    let mut core = size.shuffled(rng).split_off(size.minority());
    core.sort_unstable();
    let for_ms = duration_ms(LONG_MS, rng);
    let collapse = match rng.random_range(0..6) {
        0 => Collapse::None,
        1 | 2 => Collapse::Kill,
        3 => Collapse::PowerLoss(node::model(rng)),
        4 => Collapse::CutOff { for_ms },
        _ => Collapse::Pause { for_ms },
    };
    let rest = match rng.random_range(0..5) {
        0 => Broken::Down,
        1 => Broken::Dark(node::model(rng)),
        2 => Broken::Paused,
        3 => Broken::CutOff,
        _ => Broken::Deaf,
    };
    let clients = core.iter().map(|node| ClientPlan {
        face: if rng.random_bool(0.5) { Face::Rest } else { Face::Grpc },
        node: *node,
        steps: steps(workload, *node as u64, LAST_STEPS, 100, values, rng),
    });
    let clients = clients.collect();
    Finale { collapse, core, rest, clients }
}

/// Kinds of fault: those of one node, then those of the network, the clocks and of everything at once.
const KINDS: u32 = node::KINDS + 10;

/// Each seed draws which kinds of fault it has, then some of each.
pub(super) fn faults(size: Size, duration_ms: u64, rng: &mut StdRng) -> Vec<PlannedFault> {
    let kinds: Vec<u32> = (0..KINDS).filter(|_| rng.random_bool(0.5)).collect();
    if kinds.is_empty() {
        return Vec::new();
    }
    let count = rng.random_range(1..=10);
    let mut at: Vec<u64> = (0..count).map(|_| rng.random_range(0..=duration_ms)).collect();
    at.sort_unstable();
    at.into_iter().map(|at_ms| planned(*kinds.choose(rng).expect("not empty"), at_ms, size, rng)).collect()
}

/// From 0.1 s to `max_ms`, as often short as long: an election takes one to two seconds.
pub(super) fn duration_ms(max_ms: u64, rng: &mut StdRng) -> u64 {
    let decades = (max_ms as f64 / 100.0).log10();
    (100.0 * 10f64.powf(rng.random_range(0.0..decades))) as u64
}

fn planned(kind: u32, at_ms: u64, size: Size, rng: &mut StdRng) -> PlannedFault {
    let leader = rng.random_bool(0.4);
    let (hit, fault) = match kind.checked_sub(node::KINDS) {
        None => (some(size, rng), lasting(node::fault(kind, rng), rng)),
        Some(0 | 1) => partition(size, rng),
        Some(2) => (some(size, rng), Fault::Pause { for_ms: duration_ms(LONG_MS, rng) }),
        Some(3) => (two(size, rng), flaky(rng)),
        Some(4) => {
            let percent = rng.random_range(1..=30);
            (Vec::new(), Fault::Loss { percent, for_ms: duration_ms(LONG_MS, rng) })
        }
        Some(5) => {
            let ms_max = rng.random_range(10..=100);
            (Vec::new(), Fault::Latency { ms_max, for_ms: duration_ms(LONG_MS, rng) })
        }
        Some(6) => (some(size, rng), Fault::ClockJump { by_ms: rng.random_range(-3_600_000..=3_600_000) }),
        Some(8) => (Vec::new(), hunt(rng)),
        Some(7) => (some(size, rng), Fault::ClockDrift { ppm: rng.random_range(-50_000..=50_000) }),
        Some(_) => ((0..size.nodes).collect(), everything(rng)),
    };
    PlannedFault { at_ms, nodes: hit, leader, chance: None, fault }
}

/// In a cluster a node may stay away for long.
fn lasting(fault: Fault, rng: &mut StdRng) -> Fault {
    let down_ms = duration_ms(OUTAGE_MS, rng);
    match fault {
        Fault::Kill { .. } => Fault::Kill { down_ms },
        Fault::Stop { .. } => Fault::Stop { down_ms },
        Fault::PowerLoss { model, .. } => Fault::PowerLoss { model, down_ms },
        Fault::DiskFull { room_bytes, .. } => Fault::DiskFull { room_bytes, for_ms: duration_ms(LONG_MS, rng) },
        other => other,
    }
}

/// All nodes at once.
fn everything(rng: &mut StdRng) -> Fault {
    let down_ms = duration_ms(5_000, rng);
    match rng.random_range(0..4) {
        0 => Fault::Kill { down_ms },
        1 => Fault::Pause { for_ms: down_ms },
        _ => Fault::PowerLoss { model: node::model(rng), down_ms },
    }
}

fn flaky(rng: &mut StdRng) -> Fault {
    let times = rng.random_range(1..=6);
    Fault::Flaky { times, cut_ms: duration_ms(5_000, rng), pause_ms: duration_ms(2_000, rng) }
}

/// Elections take one to two seconds, and a leader that hears nobody gives up after as long.
fn hunt(rng: &mut StdRng) -> Fault {
    Fault::Hunt {
        times: rng.random_range(1..=5),
        way: way(rng),
        cut_ms: rng.random_range(800..4_000),
        pause_ms: rng.random_range(200..1_500),
    }
}

fn way(rng: &mut StdRng) -> Way {
    *[Way::Both, Way::Both, Way::Both, Way::Out, Way::In].choose(rng).expect("not empty")
}

fn partition(size: Size, rng: &mut StdRng) -> (Vec<usize>, Fault) {
    let way = way(rng);
    let shape = match rng.random_range(0..8) {
        0..3 => Shape::Away,
        3..5 => Shape::AwayFromAll,
        5 => Shape::Clients,
        6 => Shape::Ring,
        _ => Shape::Bridge,
    };
    let order = size.shuffled(rng);
    let hit = match shape {
        Shape::Ring => order,
        Shape::Bridge => order[..1 + (size.nodes - 1) / 2].to_vec(),
        _ => some(size, rng),
    };
    (hit, Fault::Partition { shape, way, for_ms: duration_ms(LONG_MS, rng) })
}

/// One node, or a minority.
fn some(size: Size, rng: &mut StdRng) -> Vec<usize> {
    let most = if rng.random_bool(0.3) { size.minority().max(1) } else { 1 };
    let mut order = size.shuffled(rng);
    order.truncate(rng.random_range(1..=most));
    order
}

fn two(size: Size, rng: &mut StdRng) -> Vec<usize> {
    let mut order = size.shuffled(rng);
    order.truncate(2);
    order
}
