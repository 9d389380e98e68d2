//! A node under test on a machine of its own, run by the function that runs it in production, and the ways in which it can
//! end and begin.
use crate::{
    check::session::STALENESS_MAX,
    disk::{self, Disk, LossModel},
    etcd::SimEtcd,
    faults::upgrade,
    plan::{Moves, Plan},
    world::{log, sometimes},
};
use madsim::{
    runtime::{Handle, NodeHandle},
    task::NodeId,
    time,
};
use rand::rngs::StdRng;
use std::{
    cell::Cell,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};
use vectorsphere::{
    config::{Authority, ByteSize, Config, Mode},
    node::Node,
    rt::{self, Shutdown},
    service::Service,
};

const HTTP: u16 = 8080;
const GRPC: u16 = 6334;
const PEER: u16 = 6335;
const MONITORING: u16 = 9090;

/// A node must be up this soon after its start, in simulated time.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Destructors of a killed node's tasks run within this.
const BURIAL: Duration = Duration::from_millis(20);

/// What the node's process is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    Starting,
    Up,
    /// It stopped because its disk failed, as it must.
    Failed,
    /// It stopped because it was asked to.
    Stopped,
    /// It refused to start.
    Refused(String),
}

/// What the node's process and its keeper both see.
struct Shared {
    name: String,
    phase: Mutex<Phase>,
    /// Tells the present process to stop, as SIGTERM would.
    stop: Mutex<Shutdown>,
    /// The inside of the present process, while it is up: for looking only.
    inside: Mutex<Option<Service>>,
    /// The identity in its data directory, once a process has said so.
    node_id: Mutex<Option<u64>>,
    /// The machine is there; until then no process begins.
    bought: Shutdown,
}

impl Shared {
    fn enter(&self, phase: Phase) {
        log!("{}: {phase:?}", self.name);
        *self.phase.lock().expect("no panic while locked") = phase;
    }

    fn show(&self, inside: Option<Service>) {
        *self.inside.lock().expect("no panic while locked") = inside;
    }
}

/// One machine with its node.
pub struct Victim {
    /// Its number in the fleet, from 0.
    pub number: usize,
    pub disk: Rc<Disk>,
    pub dir: PathBuf,
    /// Held by the fault that is at work on its process or its disk.
    pub busy: tokio::sync::Mutex<()>,
    node: NodeHandle,
    shared: Arc<Shared>,
    power: Cell<bool>,
    /// It has run as this program, where nodes begin as the one before.
    pub was_upgraded: Cell<bool>,
    is_late: bool,
}

impl Victim {
    /// Starts the plan's node `number` on a machine of its own, unless it is one that joins later ([`Victim::buy`]); with `crash`, its disk stops
    /// after that many operations.
    pub fn start(disk: Rc<Disk>, number: usize, plan: &Plan, crash: Option<u64>) -> Victim {
        let name = format!("node-{}", number + 1);
        let dir = disk.root().join(&name);
        if let Some(operations) = crash {
            disk.crash_after(&dir, operations);
        }
        let config = config(dir.clone(), number, plan);
        let (phase, stop) = (Mutex::new(Phase::Starting), Mutex::new(Shutdown::new()));
        let (inside, node_id, bought) = (Mutex::default(), Mutex::default(), Shutdown::new());
        if number < plan.founders() {
            bought.trigger();
        }
        let shared = Arc::new(Shared { name: name.clone(), phase, stop, inside, node_id, bought });
        let process = shared.clone();
        let node = Handle::current()
            .create_node()
            .name(&name)
            .ip(address(number))
            .init(move || be(process.clone(), config.clone()))
            .build();
        rt::sim::register(node.id(), &name, address(number));
        if plan.moves.as_ref().is_some_and(Moves::has_upgrades) {
            rt::sim::set_versions(node.id(), upgrade::BEFORE);
        }
        let busy = tokio::sync::Mutex::new(());
        let (power, was_upgraded) = (Cell::new(true), Cell::new(false));
        Victim { number, disk, dir, busy, node, shared, power, was_upgraded, is_late: number >= plan.founders() }
    }

    pub fn name(&self) -> &str {
        &self.shared.name
    }

    pub fn id(&self) -> NodeId {
        self.node.id()
    }

    pub fn http(&self) -> String {
        SocketAddr::new(address(self.number), HTTP).to_string()
    }

    pub fn grpc(&self) -> String {
        SocketAddr::new(address(self.number), GRPC).to_string()
    }

    pub fn phase(&self) -> Phase {
        self.shared.phase.lock().expect("no panic while locked").clone()
    }

    /// The inside of its process, if that is up.
    pub fn inside(&self) -> Option<Service> {
        self.shared.inside.lock().expect("no panic while locked").clone()
    }

    /// Lets a node begin that joins later.
    pub fn buy(&self) {
        self.shared.bought.trigger();
    }

    /// Whether it was not there from the beginning.
    pub fn joined_late(&self) -> bool {
        self.is_late
    }

    /// Its identity in the cluster; none before its first process was up.
    pub fn node_id(&self) -> Option<u64> {
        *self.shared.node_id.lock().expect("no panic while locked")
    }

    /// Whether it leads a shard, as it believes itself.
    pub fn leads(&self) -> bool {
        let inside = self.inside();
        inside.is_some_and(|inside| inside.host().replicas().iter().any(|(_, replica)| replica.is_leader()))
    }

    /// Whether the process has ended by itself.
    pub fn has_ended(&self) -> bool {
        !matches!(self.phase(), Phase::Starting | Phase::Up)
    }

    /// SIGKILL.
    pub async fn kill(&self) {
        self.disk.kill(&self.dir);
        self.bury().await;
    }

    /// The power fails.
    pub async fn lose_power(&self, model: LossModel, rng: &mut StdRng) {
        let loss = self.disk.power_failure(&self.dir, model, rng);
        log!("{}: {model:?}: lost {} of {} writes and names: {:?}", self.name(), loss.lost, loss.unsynced, loss.names);
        sometimes!(loss.lost > 0, "a power failure took something");
        sometimes!(loss.lost < loss.unsynced, "something unsynced survived a power failure");
        rt::sim::set_dark(self.node.id(), true);
        self.power.set(false);
        self.bury().await;
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        Handle::current().pause(self.node.id());
    }

    /// SIGCONT; no harm if it was not paused.
    pub fn resume(&self) {
        Handle::current().resume(self.node.id());
    }

    async fn bury(&self) {
        self.shared.show(None);
        Handle::current().kill(self.node.id());
        time::sleep(BURIAL).await;
    }

    /// SIGTERM: waits for the process to end by itself. One that is still starting is killed.
    pub async fn stop(&self) {
        if self.phase() != Phase::Up {
            return self.kill().await;
        }
        self.shared.stop.lock().expect("no panic while locked").trigger();
        let stopped = self.wait_until(START_LIMIT, |phase| *phase != Phase::Up && *phase != Phase::Starting).await;
        assert!(stopped, "{} did not stop within {START_LIMIT:?}: {:?}", self.name(), self.phase());
        self.kill().await;
    }

    /// Begins a new process, after [`Victim::kill`], [`Victim::stop`] or [`Victim::lose_power`].
    pub fn restart(&self) {
        self.disk.restart(&self.dir);
        if !self.power.replace(true) {
            rt::sim::set_dark(self.node.id(), false);
        }
        *self.shared.phase.lock().expect("no panic while locked") = Phase::Starting;
        *self.shared.stop.lock().expect("no panic while locked") = Shutdown::new();
        Handle::current().restart(self.node.id());
    }

    /// Waits for the node to be up; a node that refuses to start, or takes too long, fails the run.
    pub async fn wait_until_up(&self) {
        self.wait_until(START_LIMIT, |phase| *phase != Phase::Starting).await;
        let phase = self.phase();
        assert!(phase == Phase::Up, "{} is not up {START_LIMIT:?} after its start: {phase:?}", self.name());
    }

    /// Whether `reached` holds within `limit`.
    pub async fn wait_until(&self, limit: Duration, reached: impl Fn(&Phase) -> bool) -> bool {
        let deadline = time::Instant::now() + limit;
        while time::Instant::now() < deadline {
            if reached(&self.phase()) {
                return true;
            }
            time::sleep(Duration::from_millis(10)).await;
        }
        reached(&self.phase())
    }
}

/// The node's process, from its start to its end: as `serve` does it in production.
async fn be(shared: Arc<Shared>, config: Config) {
    let phase = live(&shared, &config).await;
    shared.show(None);
    shared.enter(phase);
    // Tasks it leaves behind end with it.
    disk::kill(&config.data_dir);
    Handle::current().kill(madsim::plugin::node());
}

async fn live(shared: &Shared, config: &Config) -> Phase {
    let stop = shared.stop.lock().expect("no panic while locked").clone();
    shared.bought.wait().await;
    let node = match Node::start(config).await {
        Ok(node) => node,
        Err(error) => return Phase::Refused(format!("{error} ({error:?})")),
    };
    *shared.node_id.lock().expect("no panic while locked") = Some(node.service().identity().node_id);
    shared.show(Some(node.service().clone()));
    shared.enter(Phase::Up);
    let failed = node.failed().clone();
    let asked = tokio::select! {
        biased;
        () = failed.wait() => false,
        () = stop.wait() => true,
    };
    if !asked {
        shared.enter(Phase::Failed);
    }
    node.stop().await;
    if asked { Phase::Stopped } else { Phase::Failed }
}

fn address(number: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1 + number as u8))
}

fn config(data_dir: PathBuf, number: usize, plan: &Plan) -> Config {
    let mut config = Config { data_dir, ..Config::default() };
    let on = |port| SocketAddr::new(address(number), port);
    config.listen.http = vec![on(HTTP)];
    config.listen.grpc = on(GRPC);
    config.listen.peer = on(PEER);
    config.listen.monitoring = on(MONITORING);
    config.listen.gateway = on(9000);
    config.index.flat_points_max = plan.index.flat_points_max;
    config.index.tail_points_max = plan.index.tail_points_max;
    config.index.list_points = plan.index.list_points;
    if let Some(bytes) = plan.log_bytes_max {
        config.raft.log_bytes_max = ByteSize(bytes);
    }
    config.storage.cache = ByteSize::mib(4);
    config.storage.reserve = ByteSize(20_000);
    config.limits.shutdown_grace = Duration::from_secs(2);
    config.limits.staleness = STALENESS_MAX;
    // No gateway looks.
    config.limits.shutdown_notice = Duration::ZERO;
    if plan.nodes > 1 {
        config.mode = Mode::Auto;
        let others = (0..plan.founders()).filter(|other| *other != number);
        config.cluster.peers = others.map(|other| Authority::from(SocketAddr::new(address(other), PEER))).collect();
    }
    if let Some(moves) = &plan.moves {
        config.cluster.replace_after = Duration::from_millis(moves.replace_after_ms);
        if let Some(rate) = moves.bytes_per_second {
            config.cluster.rebalance.bytes_per_second = ByteSize(rate);
        }
        if let Some(most) = moves.split_above {
            (config.cluster.shards.split_above, config.cluster.shards.merge_below) = (most, most / 2);
        }
        if moves.etcd {
            config.etcd.endpoints = vec![Authority::from(SimEtcd::ADDRESS)];
            config.cluster.peers.clear();
        }
    }
    config
}
