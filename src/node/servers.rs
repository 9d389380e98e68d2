//! The listeners of a node and the tasks that serve them. Called by [`super::Node`].

use super::{Engine, StartError, peers::Wire};
use crate::{
    api::{self, rest::RestOptions},
    config::{Config, Mode},
    rt::{
        self, Task,
        cuts::Cuts,
        http::{self, HttpOptions},
        net::Listener,
        rpc::{self, RpcOptions},
        shutdown::Shutdown,
    },
    telemetry::metrics::Metrics,
};
use serde::Serialize;
use std::net::SocketAddr;

/// Where a node listens.
#[derive(Clone, Debug, Serialize)]
pub struct Addresses {
    pub http: Vec<SocketAddr>,
    pub grpc: SocketAddr,
    pub monitoring: SocketAddr,
    /// For other nodes; none on a standalone node.
    pub peer: Option<SocketAddr>,
}

/// Listeners that are bound and not yet served: a node whose ports are taken fails before it opens its data.
pub struct Bound {
    http: Vec<Listener>,
    grpc: Listener,
    monitoring: Listener,
    peer: Option<Listener>,
    addresses: Addresses,
}

impl Bound {
    /// Binds every listener of the node's mode.
    pub async fn bind(config: &Config) -> Result<Bound, StartError> {
        let mut http = Vec::new();
        let mut addresses = Vec::new();
        for address in &config.listen.http {
            let (listener, address) = bind("http", *address).await?;
            http.push(listener);
            addresses.push(address);
        }
        let (grpc, grpc_address) = bind("grpc", config.listen.grpc).await?;
        let (monitoring, monitoring_address) = bind("monitoring", config.listen.monitoring).await?;
        let (peer, peer_address) = match config.mode {
            Mode::Standalone => (None, None),
            _ => {
                let (listener, address) = bind("peer", config.listen.peer).await?;
                (Some(listener), Some(address))
            }
        };
        let addresses =
            Addresses { http: addresses, grpc: grpc_address, monitoring: monitoring_address, peer: peer_address };
        Ok(Bound { http, grpc, monitoring, peer, addresses })
    }

    /// What was bound; ports that were 0 are known now.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Serves every face over the engine's service, and the peers over `wire`, whose network `cuts` can make seem cut.
    pub fn serve(
        self,
        config: &Config,
        engine: &Engine,
        wire: Option<Wire>,
        cuts: Option<Cuts>,
        metrics: Metrics,
    ) -> Servers {
        let stop = Shutdown::new();
        let mut tasks = Vec::new();
        let faces = api::Faces::new(engine.service().clone(), api_options(config, metrics));
        let http_options = http_options(config);
        for listener in self.http {
            let serving = http::serve(listener, faces.rest(), http_options.clone(), stop.clone());
            tasks.push(rt::spawn("http", serving));
        }
        let grpc = rpc::serve(self.grpc, faces.grpc(), rpc_options(config), stop.clone());
        tasks.push(rt::spawn("grpc", grpc));
        let operators = match cuts {
            Some(cuts) => faces.monitoring().merge(api::development::router(cuts)),
            None => faces.monitoring(),
        };
        let monitoring = http::serve(self.monitoring, operators, http_options, stop.clone());
        tasks.push(rt::spawn("monitoring", monitoring));
        if let (Some(listener), Some(wire)) = (self.peer, &wire) {
            let serving = rpc::serve(listener, wire.peers().routes(), wire.rpc_options(), stop.clone());
            tasks.push(rt::spawn("peer", serving));
        }
        Servers { stop, tasks, wire, addresses: self.addresses }
    }
}

fn api_options(config: &Config, metrics: Metrics) -> api::Options {
    let rest = RestOptions { body_bytes_max: config.limits.request_body.bytes() as usize, ..RestOptions::default() };
    api::Options { requests_max: config.limits.concurrent_requests, rest, metrics, ..api::Options::default() }
}

fn http_options(config: &Config) -> HttpOptions {
    HttpOptions {
        connections_max: config.limits.connections,
        head_read_timeout: config.limits.head_timeout,
        idle_timeout: config.limits.idle_timeout,
        body_bytes_max: config.limits.request_body.bytes() as usize,
        body_read_timeout: config.limits.request_timeout,
        drain_timeout: config.limits.shutdown_grace,
        ..HttpOptions::default()
    }
}

fn rpc_options(config: &Config) -> RpcOptions {
    RpcOptions {
        connections_max: config.limits.connections,
        drain_timeout: config.limits.shutdown_grace,
        ..RpcOptions::default()
    }
}

async fn bind(name: &'static str, address: SocketAddr) -> Result<(Listener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { listener: name, address: address.to_string(), source };
    let listener = Listener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Listeners being served.
pub struct Servers {
    stop: Shutdown,
    tasks: Vec<Task<()>>,
    wire: Option<Wire>,
    addresses: Addresses,
}

impl Servers {
    /// Where they listen.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The links to other nodes.
    #[cfg(test)]
    pub(super) fn wire(&self) -> Option<&Wire> {
        self.wire.as_ref()
    }

    /// Takes no new connections, waits for requests under way, closes.
    pub async fn stop(self) {
        self.stop.trigger();
        self.wire.iter().for_each(Wire::stop);
        for task in self.tasks {
            let _ended = task.await;
        }
    }
}
