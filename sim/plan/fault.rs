//! What may go wrong: with a node's process, with its machine and disk, and with the network between nodes and clients.
use serde::{Deserialize, Serialize};

/// What a disk loses of the writes no fsync covered. Name changes are journalled by every file system in use, so of
/// those a prefix survives in the two milder models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossModel {
    /// All of them: the strictest reading.
    Everything,
    /// All but the first few of each file; the last of those may be torn at a sector.
    KeepPrefix,
    /// A random half, in any order, and of each of those a random half of its sectors.
    KeepSome,
}

/// What happens to nodes. Each ends with its nodes up again and its links whole.
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
    /// Bits of one file flip while the node is down.
    Rot {
        flips: u32,
        #[serde(default, skip_serializing_if = "Part::is_index")]
        part: Part,
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
    /// Every disk operation takes up to so long, twice, for a while.
    SlowDisk {
        max_ms: u64,
        for_ms: u64,
    },
    /// SIGSTOP: the nodes do nothing for a while, and know nothing of it.
    Pause {
        for_ms: u64,
    },
    /// Links are cut; what is sent over them is held back until they heal.
    Partition {
        shape: Shape,
        way: Way,
        for_ms: u64,
    },
    /// A short cut between two nodes, again and again.
    Flaky {
        times: u32,
        cut_ms: u64,
        pause_ms: u64,
    },
    /// Whoever leads is cut off from the other nodes, not from the clients, again and again: just long enough, or not quite,
    /// for the others to elect another.
    Hunt {
        times: u32,
        way: Way,
        cut_ms: u64,
        pause_ms: u64,
    },
    /// Of all packets everywhere so many get lost; TCP sends them again.
    Loss {
        percent: u32,
        for_ms: u64,
    },
    /// Every packet takes up to so long.
    Latency {
        ms_max: u64,
        for_ms: u64,
    },
    /// The nodes' wall clocks jump.
    ClockJump {
        by_ms: i64,
    },
    /// The nodes' clocks run fast (slow if negative) from now on.
    ClockDrift {
        ppm: i32,
    },
    /// The master is struck soon after it has changed the shard table, again and again.
    MasterAmbush {
        times: u32,
        blow: Blow,
        /// So long after the change was seen.
        after_ms: u64,
        for_ms: u64,
    },
    /// Of the etcd that holds the cluster together.
    Etcd {
        trouble: EtcdTrouble,
    },
}

/// How a node is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blow {
    Kill,
    Power,
    /// Away from all other nodes and from etcd, not from the clients.
    Cut,
    Pause,
}

/// How an etcd misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EtcdTrouble {
    /// It forgets the history of its keys.
    Compact,
    ExpireLeases,
    CancelWatches,
    Kill {
        down_ms: u64,
    },
    /// It says that it has no leader.
    Silent {
        for_ms: u64,
    },
    Slow {
        by_ms: u64,
        for_ms: u64,
    },
    /// Of the changes that happened so many are answered by an error.
    LostAnswers {
        percent: u64,
        for_ms: u64,
    },
    /// So many reads show an old state.
    StaleReads {
        percent: u64,
        for_ms: u64,
    },
    /// One node does not reach it.
    CutOff {
        node: usize,
        for_ms: u64,
    },
    /// No node but one reaches it; they all reach each other.
    CutOffAllBut {
        node: usize,
        for_ms: u64,
    },
    /// Nobody reaches it, whoever only looks at it neither; they all reach each other.
    CutOffAll {
        for_ms: u64,
    },
}

/// Which part of a data directory rots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Index files: made again from the points, at no cost but time.
    #[default]
    Index,
    /// The journal of the replicated log, where whole records follow the damage: the node must refuse to start.
    Log,
    /// That of the points' store, likewise.
    Store,
    /// The small files that say what the directory is and whose: the node must refuse to start.
    Identity,
}

impl Part {
    fn is_index(&self) -> bool {
        *self == Part::Index
    }
}

/// Which links a partition cuts, given the fault's nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Between the nodes and all others. Clients reach everyone.
    Away,
    /// As `Away`, and the clients are on the others' side.
    AwayFromAll,
    /// All nodes, in this order, in a ring: each reaches a majority, and no two the same one.
    Ring,
    /// Two halves that only the first of the nodes reaches both of; the others named are one half.
    Bridge,
    /// Between the nodes and the clients.
    Clients,
}

/// In which direction links are cut, seen from the fault's nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    Both,
    /// The nodes hear, but are not heard.
    Out,
    /// The nodes are heard, but do not hear.
    In,
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
            Fault::Rot { part: Part::Index, .. } => "fault.bit_rot_of_index",
            Fault::Rot { part: Part::Log, .. } => "fault.bit_rot_of_log",
            Fault::Rot { part: Part::Store, .. } => "fault.bit_rot_of_store",
            Fault::Rot { part: Part::Identity, .. } => "fault.bit_rot_of_identity",
            Fault::SlowDisk { .. } => "fault.slow_disk",
            Fault::SyncError { .. } => "fault.sync_error",
            Fault::ReadError { .. } => "fault.read_error",
            Fault::DiskFull { .. } => "fault.disk_full",
            Fault::Pause { .. } => "fault.pause",
            Fault::Partition { shape: Shape::Away, way: Way::Both, .. } => "fault.partition",
            Fault::Partition { shape: Shape::AwayFromAll, way: Way::Both, .. } => "fault.partition_with_clients",
            Fault::Partition { shape: Shape::Ring, .. } => "fault.partition_majority_ring",
            Fault::Partition { shape: Shape::Bridge, .. } => "fault.partition_bridge",
            Fault::Partition { shape: Shape::Clients, .. } => "fault.partition_from_clients",
            Fault::Partition { .. } => "fault.partition_one_way",
            Fault::Hunt { .. } => "fault.leader_hunt",
            Fault::Flaky { .. } => "fault.flaky_link",
            Fault::Loss { .. } => "fault.packet_loss",
            Fault::Latency { .. } => "fault.latency",
            Fault::ClockJump { .. } => "fault.clock_jump",
            Fault::ClockDrift { .. } => "fault.clock_drift",
            Fault::MasterAmbush { .. } => "fault.master_ambush",
            Fault::Etcd {
                trouble: EtcdTrouble::Kill { .. } | EtcdTrouble::Silent { .. } | EtcdTrouble::CutOffAll { .. },
            } => "fault.etcd_away",
            Fault::Etcd { .. } => "fault.etcd",
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlannedFault {
    /// Since the clients began; a fault of a node's process or disk waits for the one before it on that node to be over.
    pub at_ms: u64,
    /// Whom it hits, by number; if empty, the first node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<usize>,
    /// Whether the first of the nodes gives its place to the one that leads when the fault strikes, if any is known to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leader: bool,
    /// Which chance decides what it leaves open; if none, that of its place in the plan, counted from 1. A plan that was made smaller
    /// names it, or what is left would not be the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chance: Option<u64>,
    pub fault: Fault,
}

/// The end of a run of several nodes. Everything breaks once more; then the core, a majority, is healed while the rest stays
/// broken, and the core must soon carry out everything asked of it; then the rest is healed, and must soon be ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finale {
    pub collapse: Collapse,
    pub core: Vec<usize>,
    pub rest: Broken,
    /// What the core is asked, each by a client of its own that knows only the core.
    pub clients: Vec<super::ClientPlan>,
}

/// What happens to all nodes at once before the core is healed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Collapse {
    /// Nothing.
    None,
    Kill,
    PowerLoss(LossModel),
    /// Nobody reaches anybody.
    CutOff {
        for_ms: u64,
    },
    Pause {
        for_ms: u64,
    },
}

/// What the rest is while the core is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Broken {
    Down,
    /// Without power: it does not even refuse.
    Dark(LossModel),
    Paused,
    /// Cut off from the core, both ways.
    CutOff,
    /// The core hears it, but it does not hear the core.
    Deaf,
}
