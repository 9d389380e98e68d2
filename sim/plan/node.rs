//! The plans of one node: up to six clients, up to five faults.
use super::{ClientPlan, Face, Fault, IndexPlan, LossModel, Part, Plan, PlannedFault, Step, Workload, action};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

/// Operations of a run before faults take their share; a run needs 100 that succeed.
const OPERATIONS: std::ops::Range<usize> = 260..420;

/// The plan of a seed.
pub fn generate(workload: Workload, seed: u64) -> Plan {
    let mut rng = StdRng::seed_from_u64(seed);
    let clients = rng.random_range(1..=6);
    let operations = rng.random_range(OPERATIONS);
    let mut values = 0;
    let clients: Vec<ClientPlan> = (0..clients)
        .map(|client| ClientPlan {
            face: if rng.random_bool(0.5) { Face::Rest } else { Face::Grpc },
            node: 0,
            steps: (0..operations / clients)
                .map(|_| Step {
                    after_ms: rng.random_range(0..40),
                    action: action::draw(workload, client as u64, &mut values, &mut rng),
                })
                .collect(),
        })
        .collect();
    let duration_ms = Plan::duration_ms(&clients);
    Plan {
        workload,
        nodes: 1,
        shards: 1,
        copies: 1,
        index: IndexPlan::draw(&mut rng),
        first_start: rng.random_bool(0.5).then(|| (rng.random_range(0..FIRST_START_OPERATIONS), model(&mut rng))),
        log_bytes_max: None,
        clients,
        faults: faults(duration_ms, &mut rng),
        audits: Vec::new(),
        finale: None,
        moves: None,
    }
}

/// About as many disk operations as the first start of a node takes.
pub const FIRST_START_OPERATIONS: u64 = 160;

pub fn model(rng: &mut StdRng) -> LossModel {
    *[LossModel::Everything, LossModel::KeepPrefix, LossModel::KeepSome].choose(rng).expect("not empty")
}

/// Each seed draws which kinds of fault it has, then some of each.
fn faults(duration_ms: u64, rng: &mut StdRng) -> Vec<PlannedFault> {
    let kinds: Vec<u32> = (0..KINDS).filter(|_| rng.random_bool(0.5)).collect();
    if kinds.is_empty() {
        return Vec::new();
    }
    let mut at: Vec<u64> = (0..rng.random_range(1..=5)).map(|_| rng.random_range(0..=duration_ms)).collect();
    at.sort_unstable();
    at.into_iter()
        .map(|at_ms| PlannedFault {
            at_ms,
            nodes: Vec::new(),
            leader: false,
            chance: None,
            fault: fault(*kinds.choose(rng).expect("not empty"), rng),
        })
        .collect()
}

/// Kinds of fault that [`fault`] knows.
pub const KINDS: u32 = 9;

/// A fault of one of the [`KINDS`].
pub fn fault(kind: u32, rng: &mut StdRng) -> Fault {
    let model = model(rng);
    let down_ms = rng.random_range(1..2_000);
    match kind {
        0 => Fault::Kill { down_ms },
        1 => Fault::Stop { down_ms },
        2 => Fault::PowerLoss { model, down_ms },
        3 => Fault::SyncError { skip: rng.random_range(0..10), model },
        4 => {
            let (count, at_start) = (rng.random_range(1..5), rng.random());
            Fault::ReadError { skip: rng.random_range(0..30), count, at_start }
        }
        5 => Fault::Crash { operations: rng.random_range(0..120), model, at_start: rng.random() },
        6 => rot(rng),
        7 => Fault::SlowDisk { max_ms: rng.random_range(1..=60), for_ms: rng.random_range(100..4_000) },
        _ => Fault::DiskFull { room_bytes: rng.random_range(0..60_000), for_ms: rng.random_range(100..2_000) },
    }
}

/// Of an index file from one bit to much of it: what still decodes must be noticed, too. Or a few bits of what a start must not believe.
fn rot(rng: &mut StdRng) -> Fault {
    match rng.random_range(0..8) {
        0..3 => Fault::Rot { part: Part::Index, flips: 1 << rng.random_range(0..16) },
        3 => Fault::Rot { part: Part::Log, flips: rng.random_range(1..=8) },
        4 => Fault::Rot { part: Part::Store, flips: rng.random_range(1..=8) },
        _ => Fault::Rot { part: Part::Identity, flips: rng.random_range(1..=16) },
    }
}
