//! The plan of a run: everything the clients will ask and everything that will go wrong, as data. It is made from the
//! seed, kept with the run's artifacts as JSON, can be replayed from that file (`SIM_PLAN`), and is what `SIM_SHRINK`
//! makes smaller.
use crate::disk::LossModel;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde::{Deserialize, Serialize};
use vectorsphere::config::{Config, Index};

/// Which histories are made and how they are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    Register,
    Set,
    Search,
}

/// Which of the node's faces a client speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Face {
    Rest,
    /// gRPC for the calls it has, REST for the others.
    Grpc,
}

/// What a client does next; each workload uses those it has a meaning for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Get {
        id: u64,
    },
    Put {
        id: u64,
        value: u64,
    },
    /// A put on the condition that the version is the last one this run has seen.
    PutIf {
        id: u64,
        value: u64,
    },
    /// A batch of new points with the ids `first..first + count`.
    Add {
        first: u64,
        count: u64,
    },
    Delete {
        id: u64,
    },
    List,
    Search {
        id: u64,
        exact: bool,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// How long the client waits before it.
    pub after_ms: u64,
    pub action: Action,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClientPlan {
    pub face: Face,
    pub steps: Vec<Step>,
}

/// What happens to the node. Each ends with the node up again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// SIGKILL.
    Kill {
        down_ms: u64,
    },
    /// SIGTERM.
    Stop {
        down_ms: u64,
    },
    PowerLoss {
        model: LossModel,
        down_ms: u64,
    },
    /// The power fails between two disk operations, after `operations` of them: while the node runs or, if `at_start`,
    /// when it starts again.
    Crash {
        operations: u64,
        model: LossModel,
        at_start: bool,
    },
    /// Bits of an index file flip while the node is down.
    Rot {
        flips: u32,
    },
    /// An fsync fails, after `skip` good ones: the node must stop; then its power is cycled.
    SyncError {
        skip: u32,
        model: LossModel,
    },
    /// `count` reads fail, after `skip` good ones: while the node runs or, if `at_start`, when it starts again.
    ReadError {
        skip: u32,
        count: u32,
        at_start: bool,
    },
    /// Files may only grow by `room_bytes` for a while.
    DiskFull {
        room_bytes: u64,
        for_ms: u64,
    },
}

impl Fault {
    /// For the totals.
    pub fn name(&self) -> &'static str {
        match self {
            Fault::Kill { .. } => "fault.kill",
            Fault::Stop { .. } => "fault.stop",
            Fault::PowerLoss { model: LossModel::Everything, .. } => "fault.power_loss_everything",
            Fault::PowerLoss { model: LossModel::KeepPrefix, .. } => "fault.power_loss_keep_prefix",
            Fault::PowerLoss { model: LossModel::KeepSome, .. } => "fault.power_loss_torn",
            Fault::Crash { .. } => "fault.crash_between_operations",
            Fault::Rot { .. } => "fault.bit_rot",
            Fault::SyncError { .. } => "fault.sync_error",
            Fault::ReadError { .. } => "fault.read_error",
            Fault::DiskFull { .. } => "fault.disk_full",
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlannedFault {
    /// Since the clients began; a fault waits for the one before it to be over.
    pub at_ms: u64,
    pub fault: Fault,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub workload: Workload,
    pub dimension: usize,
    pub index_type: String,
    pub metric: String,
    /// `index.flat_points_max`: small, so that indexes are trained during the run.
    pub flat_points_max: u64,
    /// `index.tail_points_max` and `index.list_points`: small, so that rows are filed and lists split and dissolved.
    pub tail_points_max: u64,
    pub list_points: u64,
    /// The power fails during the node's very first start, after that many disk operations.
    pub first_start: Option<(u64, LossModel)>,
    pub clients: Vec<ClientPlan>,
    pub faults: Vec<PlannedFault>,
}

/// Operations of a run before faults take their share; a run needs 100 that succeed.
const OPERATIONS: std::ops::Range<usize> = 260..420;

impl Plan {
    /// The plan of a seed.
    pub fn generate(workload: Workload, seed: u64) -> Plan {
        let mut rng = StdRng::seed_from_u64(seed);
        let clients = rng.random_range(1..=6);
        let operations = rng.random_range(OPERATIONS);
        let mut values = 0;
        let clients: Vec<ClientPlan> = (0..clients)
            .map(|client| ClientPlan {
                face: if rng.random_bool(0.5) { Face::Rest } else { Face::Grpc },
                steps: (0..operations / clients)
                    .map(|_| Step {
                        after_ms: rng.random_range(0..40),
                        action: action(workload, client as u64, &mut values, &mut rng),
                    })
                    .collect(),
            })
            .collect();
        let duration_ms = clients.iter().map(|client| client.steps.iter().map(|step| step.after_ms).sum()).max();
        Plan {
            workload,
            dimension: rng.random_range(8..=32),
            index_type: if rng.random_bool(0.75) { "ivf_pq" } else { "flat" }.to_string(),
            metric: ["cosine", "euclidean"].choose(&mut rng).expect("not empty").to_string(),
            flat_points_max: rng.random_range(8..=40),
            tail_points_max: rng.random_range(2..=12),
            list_points: rng.random_range(4..=10),
            first_start: rng.random_bool(0.5).then(|| (rng.random_range(0..FIRST_START_OPERATIONS), model(&mut rng))),
            clients,
            faults: faults(duration_ms.unwrap_or(0), &mut rng),
        }
    }
}

impl Plan {
    /// The index settings of the node.
    pub fn index(&self) -> Index {
        Index {
            flat_points_max: self.flat_points_max,
            tail_points_max: self.tail_points_max,
            list_points: self.list_points,
            ..Config::default().index
        }
    }
}

/// About as many disk operations as the first start of a node takes.
const FIRST_START_OPERATIONS: u64 = 160;

fn model(rng: &mut StdRng) -> LossModel {
    *[LossModel::Everything, LossModel::KeepPrefix, LossModel::KeepSome].choose(rng).expect("not empty")
}

/// Points of the set and search workloads that are written again and again.
const IDS: u64 = 60;

fn action(workload: Workload, client: u64, values: &mut u64, rng: &mut StdRng) -> Action {
    *values += 1;
    let (value, dice) = (*values, rng.random_range(0..100));
    match workload {
        Workload::Register => {
            let id = rng.random_range(0..6);
            match dice {
                0..40 => Action::Get { id },
                40..70 => Action::Put { id, value },
                70..88 => Action::PutIf { id, value },
                _ => Action::Delete { id },
            }
        }
        Workload::Set => match dice {
            // Every add has ids of its own, so that a list can tell them apart.
            0..55 => Action::Add { first: value * 10, count: rng.random_range(1..=5) },
            55..70 => Action::Delete { id: rng.random_range(1..=value) * 10 },
            _ => Action::List,
        },
        Workload::Search => {
            // Each client mostly writes points of its own, or nothing would ever be certain.
            let id =
                if rng.random_bool(0.8) { client * IDS + rng.random_range(0..IDS) } else { rng.random_range(0..IDS) };
            match dice {
                0..50 => Action::Put { id, value },
                50..60 => Action::Delete { id },
                _ => Action::Search { id, exact: dice >= 85 },
            }
        }
    }
}

/// Each seed draws which kinds of fault it has, then some of each.
fn faults(duration_ms: u64, rng: &mut StdRng) -> Vec<PlannedFault> {
    let kinds: Vec<u32> = (0..8).filter(|_| rng.random_bool(0.5)).collect();
    if kinds.is_empty() {
        return Vec::new();
    }
    let mut at: Vec<u64> = (0..rng.random_range(1..=5)).map(|_| rng.random_range(0..=duration_ms)).collect();
    at.sort_unstable();
    at.into_iter()
        .map(|at_ms| PlannedFault { at_ms, fault: fault(*kinds.choose(rng).expect("not empty"), rng) })
        .collect()
}

fn fault(kind: u32, rng: &mut StdRng) -> Fault {
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
        6 => Fault::Rot { flips: 16 << rng.random_range(0..7) },
        _ => Fault::DiskFull { room_bytes: rng.random_range(0..60_000), for_ms: rng.random_range(100..2_000) },
    }
}
