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
use engine::Engine;
use knobs::Shared;
use madsim::runtime::{Handle, NodeHandle};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};
use vectorsphere::{
    coordination::etcd::proto::{kv_server::KvServer, lease_server::LeaseServer, watch_server::WatchServer},
    rt::{self, Shutdown, net::Listener, rpc},
};

const PORT: u16 = 2379;
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1));

/// An etcd of one member.
pub struct SimEtcd {
    machine: NodeHandle,
    shared: Arc<Shared>,
}

impl SimEtcd {
    /// Starts it with its data below `dir`.
    pub fn start(dir: PathBuf) -> SimEtcd {
        let shared = Arc::new(Shared::new(dir));
        let process = shared.clone();
        let machine =
            Handle::current().create_node().name("etcd").ip(ADDRESS).init(move || serve(process.clone())).build();
        rt::sim::register(machine.id(), "etcd", ADDRESS);
        SimEtcd { machine, shared }
    }

    /// Where clients reach it.
    pub fn address(&self) -> String {
        SocketAddr::new(ADDRESS, PORT).to_string()
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

    /// Puts the state of the last backup in place of this one: revisions begin anew, leases are gone.
    pub async fn restore(&self) {
        log!("etcd: restored from its backup");
        self.on_its_machine(|shared| async move { shared.restore().await }).await;
    }

    /// SIGKILL, and a new start.
    pub fn restart(&self) {
        log!("etcd: killed and started");
        self.shared.set_engine(None);
        Handle::current().restart(self.machine.id());
    }

    async fn on_its_machine<F: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(Arc<Shared>) -> F) {
        let work = work(self.shared.clone());
        self.machine.spawn(work).await.expect("no panic at work");
    }
}

async fn serve(shared: Arc<Shared>) {
    let engine = Engine::open(shared.next_dir()).await;
    shared.set_engine(Some(engine));
    let listener = Listener::bind(SocketAddr::new(ADDRESS, PORT)).await.expect("the port is free");
    let service = service::Service(shared);
    let routes = tonic::service::Routes::new(KvServer::new(service.clone()))
        .add_service(LeaseServer::new(service.clone()))
        .add_service(WatchServer::new(service))
        .prepare();
    rpc::serve(listener, routes, rpc::RpcOptions::default(), Shutdown::new()).await;
}
