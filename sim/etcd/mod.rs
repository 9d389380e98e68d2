//! A simulated etcd: the embedded coordinator's engine (a group of one over real fjall) behind etcd's own gRPC services, on a machine of
//! its own. The client that talks to it is the production client, over the production transport.
//!
//! The faults that real etcds show are knobs: history compacted, leases ended early, watches cancelled, nothing answered, slow answers,
//! changes that happened though the answer is an error, reads of an old state (etcd 3.4 and 3.5 after a pause), and an etcd that was
//! restored from an old backup.

mod engine;
mod knobs;
mod service;

pub use knobs::Knobs;

use crate::world::log;
use axum::Router;
use engine::Engine;
use knobs::Shared;
use madsim::{
    runtime::{Handle, NodeHandle},
    task::NodeId,
    time,
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};
use vectorsphere::{
    coordination::etcd::proto::{kv_server::KvServer, lease_server::LeaseServer, watch_server::WatchServer},
    rt::{self, Shutdown, net::Listener, rpc},
};

/// Destructors of a killed machine's tasks run within this.
const BURIAL: Duration = Duration::from_millis(20);

const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 3, 1));

/// An etcd of one member.
pub struct SimEtcd {
    machine: NodeHandle,
    shared: Arc<Shared>,
    restarting: tokio::sync::Mutex<()>,
}

impl SimEtcd {
    /// Where clients reach it.
    pub const ADDRESS: SocketAddr = SocketAddr::new(IP, 2379);

    /// Starts it with its data below `dir`.
    pub fn start(dir: PathBuf) -> SimEtcd {
        let shared = Arc::new(Shared::new(dir));
        let process = shared.clone();
        let machine = Handle::current().create_node().name("etcd").ip(IP).init(move || serve(process.clone())).build();
        rt::sim::register(machine.id(), "etcd", IP);
        SimEtcd { machine, shared, restarting: tokio::sync::Mutex::default() }
    }

    /// Where clients reach it, as text.
    pub fn address(&self) -> String {
        SimEtcd::ADDRESS.to_string()
    }

    /// The machine it runs on.
    pub fn id(&self) -> NodeId {
        self.machine.id()
    }

    /// How it misbehaves from now on.
    pub fn set(&self, knobs: Knobs) {
        log!("etcd: {knobs:?}");
        self.shared.set(knobs);
    }

    /// Forgets the history up to now.
    pub fn compact(&self) {
        log!("etcd: compacted");
        if let Some(engine) = self.shared.engine() {
            engine.embedded.compact();
        }
    }

    /// Ends every lease there is.
    pub async fn expire_leases(&self) {
        log!("etcd: every lease ends");
        self.on_its_machine(|shared| async move { shared.expire_leases().await }).await;
    }

    /// Ends every watch, for no reason.
    pub fn cancel_watches(&self) {
        log!("etcd: every watch ends");
        self.shared.cancel_watches();
    }

    /// Keeps the state as it is now, for [`SimEtcd::restore`].
    pub async fn back_up(&self) {
        log!("etcd: backed up");
        self.on_its_machine(|shared| async move { shared.back_up().await }).await;
    }

    /// Whether [`SimEtcd::restore`] would lose something.
    pub async fn is_backup_past(&self) -> bool {
        let is_past = Arc::new(AtomicBool::new(false));
        let told = is_past.clone();
        self.on_its_machine(|shared| async move { told.store(shared.is_backup_past().await, SeqCst) }).await;
        is_past.load(SeqCst)
    }

    /// Puts the state of the last backup in place of this one: revisions begin anew, leases are gone.
    pub async fn restore(&self) {
        log!("etcd: restored from its backup");
        self.on_its_machine(|shared| async move { shared.restore().await }).await;
    }

    /// SIGKILL, and a new start when `pause` is over.
    pub async fn restart(&self, pause: impl Future<Output = ()>) {
        let _one_at_a_time = self.restarting.lock().await;
        log!("etcd: killed");
        self.shared.set_engine(None);
        Handle::current().kill(self.machine.id());
        // The store is opened again only when nobody has it open any more.
        time::sleep(BURIAL).await;
        pause.await;
        Handle::current().restart(self.machine.id());
        log!("etcd: begun again");
    }

    async fn on_its_machine<F: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(Arc<Shared>) -> F) {
        let work = work(self.shared.clone());
        // A handle made before a restart belongs to the process before it, and runs nothing.
        let present = Handle::current().get_node(self.machine.id()).expect("machines are never taken away");
        // A machine that was killed meanwhile has done what it has done.
        match present.spawn(work).await {
            Err(error) if error.is_panic() => panic!("no panic at work: {error:?}"),
            _ => {}
        }
    }
}

async fn serve(shared: Arc<Shared>) {
    let engine = Engine::open(shared.next_dir()).await;
    shared.set_engine(Some(engine));
    let listener = Listener::bind(SimEtcd::ADDRESS).await.expect("the port is free");
    let service = service::Service(shared);
    let routes = Router::new()
        .route_service("/etcdserverpb.KV/{*method}", KvServer::new(service.clone()))
        .route_service("/etcdserverpb.Lease/{*method}", LeaseServer::new(service.clone()))
        .route_service("/etcdserverpb.Watch/{*method}", WatchServer::new(service));
    rpc::serve(listener, routes, rpc::RpcOptions::default(), Shutdown::new()).await;
}
