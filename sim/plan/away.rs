//! Plans of clusters that lose the whole of their etcd for eleven minutes. Meanwhile nodes that lead are struck, one after the other and
//! for longer than the master would wait for them, and further changes are asked for; afterwards clients go on for a while.
use super::{
    ClientPlan, EtcdTrouble, Face, Fault, IndexPlan, Moves, Plan, PlannedFault, Shape, Turn, Way, Workload, cluster,
    moves::Move, node,
};
use rand::{
    Rng, SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};

/// How long etcd is away: more than the ten minutes for which nodes must do without it.
pub const AWAY_MS: u64 = 660_000;
/// Clients begin when etcd goes, and end so long after it has come back.
const AFTERWARDS_MS: u64 = 40_000;
/// The first nodes found the cluster, the last one joins: one more than a shard has copies, so that a replica could be made anew.
const FOUNDERS: usize = 4;
const COPIES: usize = 3;
/// Operations of each client.
const STEPS: usize = 220;
/// So long a node is away when it is struck. The master would make its replicas anew after [`REPLACE_AFTER_MS`].
const STRIKE_MS: std::ops::Range<u64> = 30_000..80_000;
const REPLACE_AFTER_MS: u64 = 10_000;
/// Between the beginnings of two strikes there is time for the first to pass and for calm.
const STRIKE_EVERY_MS: u64 = 200_000;

/// The plan of a seed.
pub fn generate(workload: Workload, seed: u64) -> Plan {
    let mut rng = StdRng::seed_from_u64(seed ^ 0xa3au64.rotate_left(56));
    let clients = clients(workload, &mut rng);
    let mut faults = vec![PlannedFault { at_ms: 0, ..fault(Fault::Etcd { trouble: absence(&mut rng) }) }];
    faults.extend(strikes(&mut rng));
    Plan {
        workload,
        nodes: FOUNDERS + 1,
        shards: rng.random_range(2..=5),
        copies: COPIES,
        index: IndexPlan::draw(&mut rng),
        log_bytes_max: rng.random_bool(0.6).then(|| 512 << rng.random_range(0..7)),
        first_start: None,
        clients,
        faults,
        audits: Vec::new(),
        finale: None,
        moves: Some(Moves {
            founders: FOUNDERS,
            replace_after_ms: REPLACE_AFTER_MS,
            bytes_per_second: None,
            split_above: None,
            etcd: true,
            steps: steps(&mut rng),
        }),
    }
}

fn clients(workload: Workload, rng: &mut StdRng) -> Vec<ClientPlan> {
    let (mut values, clients) = (0, rng.random_range(2..=4));
    let mut client = |number| {
        let gap_ms_max = (AWAY_MS + AFTERWARDS_MS) * 2 / STEPS as u64;
        let mut steps = cluster::steps(workload, number, STEPS, gap_ms_max, &mut values, rng);
        let drawn_ms: u64 = steps.iter().map(|step| step.after_ms).sum::<u64>().max(1);
        for step in &mut steps {
            step.after_ms = step.after_ms * (AWAY_MS + AFTERWARDS_MS) / drawn_ms;
        }
        let face = if rng.random_bool(0.5) { Face::Rest } else { Face::Grpc };
        ClientPlan { face, node: rng.random_range(0..FOUNDERS), steps }
    };
    (0..clients).map(&mut client).collect()
}

/// It ends, says that it has no leader, or nothing that is sent to it arrives.
fn absence(rng: &mut StdRng) -> EtcdTrouble {
    match rng.random_range(0..3) {
        0 => EtcdTrouble::Kill { down_ms: AWAY_MS },
        1 => EtcdTrouble::Silent { for_ms: AWAY_MS },
        _ => EtcdTrouble::CutOffAll { for_ms: AWAY_MS },
    }
}

fn fault(fault: Fault) -> PlannedFault {
    PlannedFault { at_ms: 0, nodes: Vec::new(), leader: false, chance: None, fault }
}

/// One node each time, one that leads: first its process ends, then it falls silent, then either.
fn strikes(rng: &mut StdRng) -> Vec<PlannedFault> {
    let (ends, falls_silent) = ([0, 1], [2, 3]);
    let kinds = [*ends.choose(rng).expect("not empty"), *falls_silent.choose(rng).expect("not empty")];
    let kinds = kinds.into_iter().chain([rng.random_range(0..4)]);
    let kinds: Vec<u32> = kinds.collect();
    (0..).zip(kinds).map(|(place, kind)| strike(place, kind, rng)).collect()
}

fn strike(place: u64, kind: u32, rng: &mut StdRng) -> PlannedFault {
    let for_ms = rng.random_range(STRIKE_MS);
    let kind = match kind {
        0 => Fault::Kill { down_ms: for_ms },
        1 => Fault::PowerLoss { model: node::model(rng), down_ms: for_ms },
        2 => Fault::Pause { for_ms },
        _ => Fault::Partition { shape: Shape::AwayFromAll, way: Way::Both, for_ms },
    };
    PlannedFault {
        at_ms: 30_000 + place * STRIKE_EVERY_MS + rng.random_range(0..60_000),
        nodes: vec![rng.random_range(0..FOUNDERS)],
        leader: true,
        chance: Some(place + 1),
        fault: kind,
    }
}

/// A node is to be drained while etcd is away, another one comes; the last step is for when etcd is back: the same node is to be drained.
fn steps(rng: &mut StdRng) -> Vec<Move> {
    let mut founders: Vec<usize> = (0..FOUNDERS).collect();
    founders.shuffle(rng);
    let drain = Turn::Drain { node: founders[0] };
    let join = Turn::Join { node: FOUNDERS };
    let (first_ms, second_ms) = (rng.random_range(20_000..300_000), rng.random_range(20_000..200_000));
    vec![
        Move { after_ms: first_ms, turn: drain },
        Move { after_ms: second_ms, turn: join },
        Move { after_ms: rng.random_range(0..10_000), turn: drain },
    ]
}

/// How long a fault of such a plan lasts.
pub fn lasts_ms(fault: Fault) -> u64 {
    match fault {
        Fault::Kill { down_ms } | Fault::PowerLoss { down_ms, .. } => down_ms,
        Fault::Pause { for_ms } | Fault::Partition { for_ms, .. } => for_ms,
        _ => 0,
    }
}
