//! A node: the only place that builds components. `Node::start(config)` opens the engine, then the listeners;
//! `Node::stop` goes the other way. Production and simulation call the same function. Called by `main`, `cli` and the
//! simulation.

mod coordination;
mod engine;
mod etcd;
mod gate;
mod join;
mod mastership;
mod membership;
mod network;
mod observer;
mod peers;
mod registration;
mod reports;
mod room;
mod servers;
mod stores;
#[cfg(test)]
mod tests;
mod verify;
mod version;

pub use engine::Engine;
pub use etcd::{etcd_options, looked_at};
pub use network::Network;
pub use servers::Addresses;

use crate::{
    config::{Config, Mode},
    raft::LogError,
    rt::{self, shutdown::Shutdown},
    service::Phase,
    store::StoreError,
    telemetry::metrics::Metrics,
    types::Error,
};
use peers::Wire;
use servers::{Bound, Servers};
use std::time::Duration;
use stores::Stores;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A node cannot be started so.
    #[error("mode {}: {why}", mode.name())]
    Mode { mode: Mode, why: &'static str },
    /// A listener could not be bound.
    #[error("cannot listen for {listener} on {address}: {source}")]
    Listen { listener: &'static str, address: String, source: std::io::Error },
    /// The address of a peer.
    #[error("cluster.peers: {0}")]
    Peer(String),
    /// How etcd is to be reached.
    #[error("{0}")]
    Etcd(String),
    /// The program is too old or too new for the cluster.
    #[error("{0}")]
    Version(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A group of the log.
    #[error(transparent)]
    Group(#[from] crate::raft::StartError),
    /// The catalog or a shard.
    #[error(transparent)]
    Data(#[from] Error),
    /// The whole data of a node that has others beside it.
    #[error(
        "{0}. The other nodes of the cluster have its data, too: keep this directory for whoever wants to look, start the node with \
         an empty one, and it joins as a new node that is given replicas"
    )]
    Unusable(Box<StartError>),
}

/// Exit code where the data cannot be used.
const DATA_UNUSABLE: u8 = 4;

impl StartError {
    /// What a node of a cluster is told to do where its data cannot be used.
    fn in_cluster(self) -> StartError {
        match self.exit_code() {
            DATA_UNUSABLE => StartError::Unusable(Box::new(self)),
            _ => self,
        }
    }

    /// The exit code that says so (API.md, "Exit codes").
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::Mode { .. } | StartError::Listen { .. } | StartError::Peer(_) => 2,
            StartError::Etcd(_) | StartError::Version(_) => 2,
            StartError::Store(StoreError::InUse { .. }) => 3,
            StartError::Store(_) | StartError::Log(_) | StartError::Group(_) | StartError::Data(_) => DATA_UNUSABLE,
            StartError::Unusable(_) => DATA_UNUSABLE,
        }
    }
}

/// A running node.
pub struct Node {
    engine: Engine,
    servers: Servers,
    /// How long it says that it stops before it does. Nobody could take over from one that is alone.
    notice: Duration,
}

impl Node {
    /// Starts a node: when this returns a standalone node takes requests; a node of a cluster answers that it is not ready until
    /// the cluster has formed.
    ///
    /// # Errors
    /// See [`StartError`]; whatever was opened is closed again.
    pub async fn start(config: &Config) -> Result<Node, StartError> {
        let started = Node::open(config).await;
        if config.mode == Mode::Standalone { started } else { started.map_err(StartError::in_cluster) }
    }

    async fn open(config: &Config) -> Result<Node, StartError> {
        if config.mode == Mode::Gateway {
            let why = "a gateway holds no data and is not started as a node";
            return Err(StartError::Mode { mode: config.mode, why });
        }
        let bound = Bound::bind(config).await?;
        let addresses = bound.addresses().clone();
        let metrics = Metrics::new();
        if !rt::SIMULATED {
            // What the process uses is chance; a simulated node leaves it out.
            metrics.watch_process(rt::time::wall().0);
        }
        let stores = Stores::open(config).await?;
        let cuts = config.dev.partitions.then(rt::cuts::Cuts::default);
        let wire = match config.mode {
            Mode::Standalone => {
                stores.check_alone()?;
                None
            }
            _ => Some(Wire::new(config, &stores, &addresses, cuts.clone(), metrics.peers.clone()).await?),
        };
        let network = wire.as_ref().map_or_else(|| Network::alone(stores.node_id()), Wire::network);
        let engine = Engine::start(config, &metrics, stores, network, |mut identity| {
            let told = peers::advertised(config, &addresses);
            (identity.http, identity.grpc) = (told.http, told.grpc);
            identity
        })
        .await?;
        wire.iter().for_each(|wire| wire.start(&engine));
        let servers = bound.serve(config, &engine, wire, cuts, metrics);
        let is_alone = config.mode == Mode::Standalone;
        let notice = if is_alone { Duration::ZERO } else { config.limits.shutdown_notice };
        Ok(Node { engine, servers, notice })
    }

    /// The addresses it listens on.
    pub fn addresses(&self) -> &Addresses {
        self.servers.addresses()
    }

    /// Its operations, without the wire.
    pub fn service(&self) -> &crate::service::Service {
        self.engine.service()
    }

    /// Fires when the node's disk has failed, or it cannot take part in its cluster, and the process must end.
    pub fn failed(&self) -> &Shutdown {
        self.engine.failed()
    }

    /// Why the node cannot take part in its cluster, if that is why it [failed](Node::failed).
    pub fn refused(&self) -> Option<&StartError> {
        self.engine.refused()
    }

    /// Not ready, for a while that lets gateways notice → others lead, unless its disk has failed → no new connections → requests
    /// under way end → shards close → sync.
    pub async fn stop(self) {
        self.engine.service().identity().enter(Phase::Stopping);
        // Who cannot write can hand nothing over, and must be gone soon.
        if !self.failed().is_triggered() {
            let noticed = async {
                if !self.notice.is_zero() {
                    rt::time::sleep(self.notice).await;
                }
            };
            futures_util::future::join(self.engine.hand_over(), noticed).await;
        }
        self.servers.stop().await;
        self.engine.close().await;
    }
}
