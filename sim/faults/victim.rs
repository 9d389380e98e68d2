//! The node under test, run by the function that runs it in production, and the ways in which it can end and begin.
use crate::{
    disk::{Disk, LossModel},
    world::{log, sometimes},
};
use madsim::{
    runtime::{Handle, NodeHandle},
    time,
};
use rand::rngs::StdRng;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};
use vectorsphere::{
    config::{ByteSize, Config, Index},
    node::Node,
    rt::{self, Shutdown},
};

/// Where the node lives.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
pub const HTTP: &str = "10.0.0.1:8080";
pub const GRPC: &str = "10.0.0.1:6334";

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
    phase: Mutex<Phase>,
    /// Tells the present process to stop, as SIGTERM would.
    stop: Mutex<Shutdown>,
}

impl Shared {
    fn enter(&self, phase: Phase) {
        log!("node: {phase:?}");
        *self.phase.lock().expect("no panic while locked") = phase;
    }
}

pub struct Victim {
    pub disk: Rc<Disk>,
    pub dir: PathBuf,
    node: NodeHandle,
    shared: Arc<Shared>,
}

impl Victim {
    /// Starts the node on a machine of its own; with `crash`, its disk stops after that many operations.
    pub fn start(disk: Rc<Disk>, index: Index, crash: Option<(u64, LossModel)>) -> Victim {
        let dir = disk.root().join("node");
        if let Some((operations, _)) = crash {
            disk.crash_after(&dir, operations);
        }
        let config = config(dir.clone(), index);
        let shared = Arc::new(Shared { phase: Mutex::new(Phase::Starting), stop: Mutex::new(Shutdown::new()) });
        let process = shared.clone();
        let node = Handle::current()
            .create_node()
            .name("node")
            .ip(ADDRESS)
            .init(move || be(process.clone(), config.clone()))
            .build();
        rt::sim::register(node.id(), "node", ADDRESS);
        Victim { disk, dir, node, shared }
    }

    pub fn phase(&self) -> Phase {
        self.shared.phase.lock().expect("no panic while locked").clone()
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
        log!("{model:?}: lost {} of {} writes and names: {:?}", loss.lost, loss.unsynced, loss.names);
        sometimes!(loss.lost > 0, "a power failure took something");
        sometimes!(loss.lost < loss.unsynced, "something unsynced survived a power failure");
        self.bury().await;
    }

    async fn bury(&self) {
        Handle::current().kill(self.node.id());
        time::sleep(BURIAL).await;
    }

    /// SIGTERM: waits for the process to end by itself.
    pub async fn stop(&self) {
        self.shared.stop.lock().expect("no panic while locked").trigger();
        let stopped = self.wait_until(START_LIMIT, |phase| *phase != Phase::Up && *phase != Phase::Starting).await;
        assert!(stopped, "the node did not stop within {START_LIMIT:?}: {:?}", self.phase());
        self.kill().await;
    }

    /// Begins a new process, after [`Victim::kill`], [`Victim::stop`] or [`Victim::lose_power`].
    pub fn restart(&self) {
        self.disk.restart(&self.dir);
        *self.shared.phase.lock().expect("no panic while locked") = Phase::Starting;
        *self.shared.stop.lock().expect("no panic while locked") = Shutdown::new();
        Handle::current().restart(self.node.id());
    }

    /// Waits for the node to be up; a node that refuses to start, or takes too long, fails the run.
    pub async fn wait_until_up(&self) {
        self.wait_until(START_LIMIT, |phase| *phase != Phase::Starting).await;
        let phase = self.phase();
        assert!(phase == Phase::Up, "the node is not up {START_LIMIT:?} after its start: {phase:?}");
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

/// The node's process.
async fn be(shared: Arc<Shared>, config: Config) {
    let stop = shared.stop.lock().expect("no panic while locked").clone();
    let node = match Node::start(&config).await {
        Ok(node) => node,
        Err(error) => return shared.enter(Phase::Refused(format!("{error} ({error:?})"))),
    };
    shared.enter(Phase::Up);
    let failed = node.failed().clone();
    let asked = tokio::select! {
        biased;
        () = failed.wait() => false,
        () = stop.wait() => true,
    };
    if asked {
        node.stop().await;
        shared.enter(Phase::Stopped);
    } else {
        shared.enter(Phase::Failed);
    }
}

fn config(data_dir: PathBuf, index: Index) -> Config {
    let mut config = Config { data_dir, ..Config::default() };
    let on = |port| SocketAddr::new(ADDRESS, port);
    config.listen.http = vec![on(8080)];
    config.listen.grpc = on(6334);
    config.listen.peer = on(6335);
    config.listen.monitoring = on(9090);
    config.listen.gateway = on(9000);
    config.index = index;
    config.storage.cache = ByteSize::mib(4);
    config.limits.shutdown_grace = Duration::from_secs(2);
    config
}
