//! One machine of the group and the process on it: log, state machine and driver as the product's node puts them together. Its
//! disk may be replaced by an empty one; whoever then starts there is a new member with an identity of its own.
use super::{
    Identity,
    machine::{Machine, Registers, Witness},
    wire::{Port, Wire},
};
use crate::{
    disk::{self, Disk, LossModel},
    world::{log, sometimes},
};
use madsim::{
    runtime::Handle,
    task::{JoinHandle, NodeId},
    time,
};
use rand::rngs::StdRng;
use std::{
    cell::Cell,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};
use vectorsphere::{
    raft::{Group, GroupId, LogStore, MultiRaft, RaftOptions, log_options},
    rt,
    store::{StoreError, StoreOptions, directory},
};

pub const GROUP: GroupId = 7;
/// Destructors of a killed process's tasks run within this.
const BURIAL: Duration = Duration::from_millis(5);
/// How often a process looks whether its group has failed.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// What may be used from outside while a process is up.
#[derive(Clone)]
pub struct Inside {
    pub group: Group<crate::check::register::Answer>,
    pub registers: Registers,
}

/// What the present process is.
#[derive(Clone)]
struct Seat {
    identity: Identity,
    dir: PathBuf,
    /// Who founds the group, if this member is among them.
    founders: Vec<Identity>,
}

/// What the process and its keeper both see.
struct Shared {
    number: usize,
    seat: Mutex<Seat>,
    inside: Mutex<Option<Inside>>,
    /// Why the process ended, if it did by itself.
    ended: Mutex<Option<String>>,
    wire: Arc<Wire>,
    witness: Arc<Mutex<Witness>>,
    options: RaftOptions,
}

pub struct Member {
    pub number: usize,
    /// Held by the fault that is at work on its process or disk.
    pub busy: tokio::sync::Mutex<()>,
    pub disk: Rc<Disk>,
    pub node: NodeId,
    shared: Arc<Shared>,
    disks: Cell<u64>,
}

/// What all members share.
#[derive(Clone)]
pub struct Ground {
    pub disk: Rc<Disk>,
    pub wire: Arc<Wire>,
    pub witness: Arc<Mutex<Witness>>,
    pub options: RaftOptions,
}

/// The identity of who starts first on machine `number`.
pub fn first_identity(number: usize) -> Identity {
    number as Identity + 1
}

impl Member {
    pub fn start(ground: &Ground, number: usize, founders: &[Identity]) -> Rc<Member> {
        let identity = first_identity(number);
        let founders = if founders.contains(&identity) { founders.to_vec() } else { Vec::new() };
        let dir = ground.disk.root().join(format!("member-{identity}"));
        let Ground { disk, wire, witness, options } = ground.clone();
        let seat = Mutex::new(Seat { identity, dir, founders });
        let (inside, ended) = Default::default();
        let shared = Arc::new(Shared { number, seat, inside, ended, wire, witness, options });
        let (process, address) = (shared.clone(), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1 + number as u8)));
        let name = format!("machine-{}", number + 1);
        let handle = Handle::current();
        let node = handle.create_node().name(&name).ip(address).init(move || be(process.clone())).build().id();
        rt::sim::register(node, &name, address);
        Rc::new(Member { number, busy: tokio::sync::Mutex::new(()), disk, node, shared, disks: Cell::new(1) })
    }

    fn seat(&self) -> Seat {
        self.shared.seat.lock().expect("no panic while locked").clone()
    }

    /// Who is a member here now.
    pub fn identity(&self) -> Identity {
        self.seat().identity
    }

    pub fn dir(&self) -> PathBuf {
        self.seat().dir
    }

    /// Its inside, if it is up.
    pub fn inside(&self) -> Option<Inside> {
        self.shared.inside.lock().expect("no panic while locked").clone()
    }

    /// Why its process ended by itself, if it did.
    pub fn ended(&self) -> Option<String> {
        self.shared.ended.lock().expect("no panic while locked").clone()
    }

    /// Runs `work` on this machine, for as long as the present process lives.
    pub fn spawn<F: Future<Output: Send> + Send + 'static>(&self, work: F) -> JoinHandle<F::Output> {
        // A handle made before a restart belongs to the process before it.
        let present = Handle::current().get_node(self.node).expect("machines are never taken away");
        present.spawn(work)
    }

    /// SIGKILL.
    pub async fn kill(&self) {
        self.disk.kill(&self.dir());
        self.bury(false).await;
    }

    /// The power fails.
    pub async fn lose_power(&self, model: LossModel, rng: &mut StdRng) {
        let loss = self.disk.power_failure(&self.dir(), model, rng);
        log!("member {}: {model:?}: lost {} of {}", self.identity(), loss.lost, loss.unsynced);
        sometimes!(loss.lost > 0, "a power failure took something of a member");
        self.bury(true).await;
    }

    async fn bury(&self, dark: bool) {
        *self.shared.inside.lock().expect("no panic while locked") = None;
        self.shared.wire.left(self.identity(), dark);
        Handle::current().kill(self.node);
        time::sleep(BURIAL).await;
    }

    /// Begins a new process, after [`Member::kill`] or [`Member::lose_power`].
    pub fn restart(&self) {
        self.disk.restart(&self.dir());
        *self.shared.ended.lock().expect("no panic while locked") = None;
        Handle::current().restart(self.node);
    }

    /// Puts an empty disk in place of the one there is, while the process is down. Returns who was here and who is now.
    pub fn replace_disk(&self) -> (Identity, Identity) {
        let before = self.identity();
        let disks = self.disks.get();
        self.disks.set(disks + 1);
        let identity = first_identity(self.number) + 100 * disks;
        let dir = self.disk.root().join(format!("member-{identity}"));
        *self.shared.seat.lock().expect("no panic while locked") = Seat { identity, dir, founders: Vec::new() };
        (before, identity)
    }
}

/// The process, from its start to its end.
async fn be(shared: Arc<Shared>) {
    let seat = shared.seat.lock().expect("no panic while locked").clone();
    let ended = match live(&shared, &seat).await {
        Ok(failure) | Err(failure) => failure,
    };
    log!("member {} on machine {} ended: {ended}", seat.identity, shared.number + 1);
    *shared.inside.lock().expect("no panic while locked") = None;
    *shared.ended.lock().expect("no panic while locked") = Some(ended);
    shared.wire.left(seat.identity, false);
    disk::kill(&seat.dir);
    Handle::current().kill(madsim::plugin::node());
}

/// Lives until the group fails; why. `Err`: it could not even start.
async fn live(shared: &Shared, seat: &Seat) -> Result<String, String> {
    let name = format!("member {}", seat.identity);
    let (checkpoints, log) = open(&seat.dir).map_err(|error| format!("refused: {error}"))?;
    let options = StoreOptions { memtable_bytes_max: 30_000, ..log_options() };
    let log = LogStore::open(log, options).map_err(|error| format!("refused: {error}"))?;
    let machine = Machine::open(&seat.dir.join("data"), &name, shared.witness.clone());
    let machine = machine.map_err(|error| format!("refused: {error}"))?;
    let registers = machine.registers();
    let port = Arc::new(Port { wire: shared.wire.clone(), member: seat.identity });
    let raft = MultiRaft::start(seat.identity, log, None, port, checkpoints, shared.options);
    // Before the group runs: what it says first must have a way back.
    shared.wire.joined(seat.identity, raft.clone());
    let group = raft.open(GROUP, &seat.founders, machine).await.map_err(|error| format!("refused: {error}"))?;
    log!("{name} is up at {}", group.applied());
    *shared.inside.lock().expect("no panic while locked") = Some(Inside { group: group.clone(), registers });
    loop {
        if let Some(failure) = group.failure() {
            return Ok(failure);
        }
        time::sleep(LOOK_INTERVAL).await;
    }
}

/// Makes the directories of a member.
fn open(dir: &Path) -> Result<(Arc<Path>, PathBuf), StoreError> {
    let checkpoints = dir.join("checkpoint");
    directory::make_directory(dir)?;
    directory::make_directory(&checkpoints)?;
    Ok((Arc::from(checkpoints), dir.join("log")))
}
