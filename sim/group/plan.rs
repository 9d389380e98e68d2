//! What will happen to a group: its machines, what its clients ask, who are to be its members and when, and every fault, drawn
//! from the seed as data.
use crate::plan::{LossModel, node};
use rand::{
    Rng, SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};
use serde::{Deserialize, Serialize};

/// A run lasts about so long before everything is healed.
pub const DURATION_MS: u64 = 12_000;
/// Documents; few, so that they meet.
const KEYS: u64 = 4;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupPlan {
    pub machines: usize,
    /// The first so many found the group.
    pub founders: usize,
    pub message_bytes_max: usize,
    pub compact_after_bytes: usize,
    pub keep_bytes_max: usize,
    pub padding_max: usize,
    pub clients: Vec<Vec<Step>>,
    pub changes: Vec<Change>,
    pub troubles: Vec<Planned>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    Get { key: u64 },
    Put { key: u64, value: u64 },
    PutIf { key: u64, value: u64 },
    Delete { key: u64 },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    pub after_ms: u64,
    pub asked: Asked,
    /// The machine a read goes to.
    pub machine: usize,
    pub padding: usize,
}

/// What is done about the members, one after the other: the next begins when this one is through.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The members on these machines are to be the voters, and those on the others learners.
    Voters {
        after_ms: u64,
        machines: Vec<usize>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        learners: Vec<usize>,
    },
    /// A machine gets an empty disk; if its member had a vote, the new one gets it.
    NewDisk { after_ms: u64, machine: usize },
    /// The leader hands over to the member on this machine.
    Transfer { after_ms: u64, machine: usize },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Planned {
    pub at_ms: u64,
    /// Whom it hits; whoever leads instead, if `leader`.
    pub machine: usize,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leader: bool,
    /// Which chance decides what it leaves open; if none, that of its place in the plan, counted from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chance: Option<u64>,
    pub trouble: Trouble,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    Kill {
        down_ms: u64,
    },
    PowerLoss {
        model: LossModel,
        down_ms: u64,
    },
    /// The power of all machines fails at once; each comes back by itself.
    Blackout {
        model: LossModel,
        down_ms: u64,
    },
    /// The power fails between two disk operations.
    Crash {
        operations: u64,
        model: LossModel,
        down_ms: u64,
    },
    /// An fsync fails; then the power is cycled.
    SyncError {
        skip: u32,
        model: LossModel,
    },
    /// Files may grow by so much; a process that stops on it comes back when there is room.
    DiskFull {
        room_bytes: u64,
        for_ms: u64,
    },
    Pause {
        for_ms: u64,
    },
    SlowDisk {
        max_ms: u64,
        for_ms: u64,
    },
    Drift {
        ppm: i32,
    },
    /// These machines and all others do not reach each other.
    Cut {
        machines: Vec<usize>,
        to: bool,
        back: bool,
        for_ms: u64,
    },
    /// One directed link loses so much.
    LossyLink {
        to: usize,
        percent: u32,
        for_ms: u64,
    },
    Weather {
        loss_percent: u32,
        twice_percent: u32,
        late_percent: u32,
        delay_ms_max: u64,
        for_ms: u64,
    },
    /// Whoever is elected is at once cut off (or loses its power), so many times: logs end in entries that nobody else has.
    Ambush {
        times: u32,
        power: bool,
        after_ms: u64,
        cut_ms: u64,
    },
    /// Whoever gives a vote loses its power at that moment, so many times.
    VotePower {
        times: u32,
        down_ms: u64,
    },
    /// An entry of an old term comes to a majority in a newer one, and a shorter log of a term in between wins.
    Figure8 {
        times: u32,
    },
    /// A leader that is cut off is asked for what its successor has just changed.
    Deposed {
        times: u32,
    },
}

impl Trouble {
    /// For the totals.
    pub fn name(&self) -> &'static str {
        match self {
            Trouble::Kill { .. } => "fault.kill",
            Trouble::PowerLoss { .. } => "fault.power_loss",
            Trouble::Blackout { .. } => "fault.blackout",
            Trouble::Crash { .. } => "fault.crash_between_operations",
            Trouble::SyncError { .. } => "fault.sync_error",
            Trouble::DiskFull { .. } => "fault.disk_full",
            Trouble::Pause { .. } => "fault.pause",
            Trouble::SlowDisk { .. } => "fault.slow_disk",
            Trouble::Drift { .. } => "fault.clock_drift",
            Trouble::Cut { to: true, back: true, .. } => "fault.partition",
            Trouble::Cut { .. } => "fault.partition_one_way",
            Trouble::LossyLink { .. } => "fault.lossy_link",
            Trouble::Weather { .. } => "fault.frames_lost_late_or_twice",
            Trouble::Ambush { .. } => "fault.leader_ambush",
            Trouble::VotePower { .. } => "fault.power_loss_after_a_vote",
            Trouble::Figure8 { .. } => "fault.figure_8",
            Trouble::Deposed { .. } => "fault.deposed_leader_asked",
        }
    }
}

/// The plan of a seed.
pub fn generate(seed: u64) -> GroupPlan {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x6709_u64.rotate_left(40));
    let machines = rng.random_range(3..=6);
    let founders = *[1, 3, 3, 3, 5].map(|count: usize| count.min(machines)).choose(&mut rng).expect("not empty");
    let padding_max = *[0, 40, 300].choose(&mut rng).expect("not empty");
    let troubles = troubles(machines, &mut rng);
    let is_played = troubles.iter().any(|planned| matches!(planned.trouble, Trouble::Figure8 { .. }));
    GroupPlan {
        machines,
        founders,
        message_bytes_max: match rng.random_bool(0.5) {
            // There old entries must come without new ones: one in a message.
            _ if is_played => rng.random_range(1..40),
            true => rng.random_range(1..400),
            false => 1 << 20,
        },
        compact_after_bytes: 512 << rng.random_range(0..9),
        keep_bytes_max: 512 << rng.random_range(0..9),
        padding_max,
        clients: clients(machines, padding_max, &mut rng),
        changes: changes(machines, &mut rng),
        troubles,
    }
}

fn clients(machines: usize, padding_max: usize, rng: &mut StdRng) -> Vec<Vec<Step>> {
    let clients = rng.random_range(2..=6);
    let mut value = 0;
    (0..clients)
        .map(|_| {
            // All clients together ask about 500 times.
            let gap_ms = DURATION_MS * clients / 250;
            let mut step = || {
                value += 1;
                let (key, dice) = (rng.random_range(0..KEYS), rng.random_range(0..100));
                let asked = match dice {
                    0..40 => Asked::Get { key },
                    40..75 => Asked::Put { key, value },
                    75..90 => Asked::PutIf { key, value },
                    _ => Asked::Delete { key },
                };
                Step {
                    after_ms: rng.random_range(0..gap_ms),
                    asked,
                    machine: rng.random_range(0..machines),
                    padding: rng.random_range(0..=padding_max),
                }
            };
            (0..500 / clients).map(|_| step()).collect()
        })
        .collect()
}

fn some(machines: usize, most: usize, rng: &mut StdRng) -> Vec<usize> {
    let mut all: Vec<usize> = (0..machines).collect();
    all.shuffle(rng);
    all.truncate(rng.random_range(1..=most));
    all
}

fn changes(machines: usize, rng: &mut StdRng) -> Vec<Change> {
    if rng.random_bool(0.25) {
        return Vec::new();
    }
    let hurry = *[200, 600, 2_000].choose(rng).expect("not empty");
    let change = |_| {
        let after_ms = rng.random_range(0..hurry);
        match rng.random_range(0..10) {
            0..6 => {
                let mut voters = some(machines, machines, rng);
                voters.sort_unstable();
                let mut learners: Vec<usize> = (0..machines).filter(|machine| !voters.contains(machine)).collect();
                learners.retain(|_| rng.random_bool(0.3));
                Change::Voters { after_ms, machines: voters, learners }
            }
            6 | 7 => Change::NewDisk { after_ms, machine: rng.random_range(0..machines) },
            _ => Change::Transfer { after_ms, machine: rng.random_range(0..machines) },
        }
    };
    (0..20).map(change).collect()
}

/// Each seed draws which kinds of trouble it has, then some of each.
fn troubles(machines: usize, rng: &mut StdRng) -> Vec<Planned> {
    const KINDS: u32 = 17;
    let kinds: Vec<u32> = (0..KINDS).filter(|_| rng.random_bool(0.5)).collect();
    if kinds.is_empty() {
        return Vec::new();
    }
    let mut at: Vec<u64> = (0..rng.random_range(1..=40)).map(|_| rng.random_range(0..DURATION_MS)).collect();
    at.sort_unstable();
    at.into_iter()
        .map(|at_ms| Planned {
            at_ms,
            machine: rng.random_range(0..machines),
            leader: rng.random_bool(0.4),
            chance: None,
            trouble: trouble(kinds[rng.random_range(0..kinds.len())], machines, rng),
        })
        .collect()
}

fn trouble(kind: u32, machines: usize, rng: &mut StdRng) -> Trouble {
    let (model, short) = (node::model(rng), 10u64 << rng.random_range(0..5));
    let (down_ms, for_ms) = (rng.random_range(0..=short * 3), 20 + rng.random_range(0..=short * 8));
    match kind {
        0 => Trouble::Kill { down_ms },
        1 => Trouble::PowerLoss { model, down_ms },
        2 => Trouble::Blackout { model, down_ms },
        3 => Trouble::Crash { operations: rng.random_range(0..60), model, down_ms },
        4 => Trouble::SyncError { skip: rng.random_range(0..6), model },
        5 => Trouble::DiskFull { room_bytes: rng.random_range(0..4_000), for_ms },
        6 => Trouble::Pause { for_ms },
        7 => Trouble::SlowDisk { max_ms: rng.random_range(1..=short), for_ms: for_ms * 4 },
        8 => Trouble::Drift { ppm: rng.random_range(-50_000..=50_000) },
        9 | 10 => {
            let (to, back) =
                *[(true, true), (true, true), (true, false), (false, true)].choose(rng).expect("not empty");
            Trouble::Cut { machines: some(machines, machines - 1, rng), to, back, for_ms: for_ms * 2 }
        }
        11 => Trouble::LossyLink {
            to: rng.random_range(0..machines),
            percent: rng.random_range(20..=100),
            for_ms: for_ms * 4,
        },
        12 => Trouble::Weather {
            loss_percent: rng.random_range(0..=30),
            twice_percent: rng.random_range(0..=20),
            late_percent: rng.random_range(0..=3),
            delay_ms_max: rng.random_range(2..=80),
            for_ms: for_ms * 4,
        },
        13 => Trouble::Ambush {
            times: rng.random_range(1..=6),
            power: rng.random_bool(0.4),
            after_ms: rng.random_range(0..8),
            cut_ms: 100 + for_ms,
        },
        14 => Trouble::VotePower { times: rng.random_range(1..=6), down_ms: rng.random_range(0..40) },
        15 => Trouble::Figure8 { times: rng.random_range(1..=3) },
        _ => Trouble::Deposed { times: rng.random_range(1..=4) },
    }
}
