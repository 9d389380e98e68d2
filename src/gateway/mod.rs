//! The gateway: a process without data that takes every request of a cluster on one port and passes it on to one of the nodes.
//! HTTP/1.1 and HTTP/2 (gRPC) on the same listener; bodies stream both ways; the answer is the node's own, byte for byte.
//!
//! What it adds: it finds the nodes (`discovery`, `registered`), balances over those that are well (`crate::traffic`), keeps away from those
//! that fail and comes back to them (`checks`), and repeats a request on another node where that can do no harm (`proxy`,
//! `replay`, `answer`). `/data/*` is passed on without that prefix; `/health`, `/healthz`, `/livez` and `/readyz` are its own; metrics
//! and the state of every node are on the operators' port (`monitoring`).
//!
//! Part of the roof, beside `node`: built by `cli::serve` in mode gateway.

mod answer;
mod checks;
mod discovery;
mod headers;
mod link;
mod monitoring;
mod proxy;
mod registered;
mod replay;
mod route;

use crate::{
    config::{Balance, Config, Name, Select},
    coordination::registry::Filter,
    node,
    rt::{
        self, Task,
        http::{self, HttpOptions},
        net::Listener,
        rng,
        rpc::RpcOptions,
        shutdown::Shutdown,
    },
    telemetry::metrics::Metrics,
    traffic::{
        Balancer, BalancerOptions, ConsistentHash, EjectionOptions, LeastConnections, Policy, PowerOfTwo, RoundRobin,
        Weighted,
    },
};
use discovery::Seeds;
use link::Link;
use registered::Registered;
use serde::Serialize;
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// How often a node is asked whether it is ready, and how long it may take to say so: one that falls silent is left within
/// two of each, 1.5 s.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
const CHECK_LIMIT: Duration = Duration::from_millis(500);
/// Requests, or checks, that fail in a row before a node is left.
const FAILURES_IN_A_ROW: u32 = 2;

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener could not be bound.
    #[error("cannot listen for {listener} on {address}: {source}")]
    Listen {
        /// Which.
        listener: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// How etcd is to be reached.
    #[error(transparent)]
    Etcd(#[from] node::StartError),
}

/// Where a gateway listens.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Addresses {
    /// For clients.
    pub gateway: SocketAddr,
    /// For operators.
    pub monitoring: SocketAddr,
}

/// A running gateway.
pub struct Gateway {
    addresses: Addresses,
    stop: Shutdown,
    tasks: Vec<Task<()>>,
    balancer: Balancer<Arc<Link>>,
}

impl Gateway {
    /// Starts a gateway: it listens at once and is ready as soon as it has found a node that is.
    ///
    /// # Errors
    /// A port is taken.
    pub async fn start(config: &Config) -> Result<Gateway, StartError> {
        let (public, gateway) = bind("gateway", config.listen.gateway).await?;
        let (operators, monitoring) = bind("monitoring", config.listen.monitoring).await?;
        let metrics = Metrics::new();
        if !rt::SIMULATED {
            metrics.watch_process(rt::time::wall().0);
        }
        let balancer = Balancer::new(balancer_options(), policy(config), Box::new(rng::stream("gateway.balancer")));
        let stop = Shutdown::new();
        let finding = finding(config, balancer.clone(), stop.clone())?;
        let checking = checks::run(balancer.clone(), stop.clone());
        let proxy = proxy::Proxy::new(balancer.clone(), config.gateway.affinity, metrics.clone());
        let (http, rpc) = (http_options(config), rpc_options(config));
        let shown = monitoring::router(balancer.clone(), metrics);
        let tasks = vec![
            finding,
            rt::spawn("gateway-checks", checking),
            rt::spawn("gateway", http::serve_both(public, proxy::router(proxy), http.clone(), rpc, stop.clone())),
            rt::spawn("monitoring", http::serve(operators, shown, http, stop.clone())),
        ];
        Ok(Gateway { addresses: Addresses { gateway, monitoring }, stop, tasks, balancer })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Whether it knows a node that takes requests.
    pub fn is_ready(&self) -> bool {
        monitoring::is_ready(&self.balancer)
    }

    /// Takes no new connections, lets requests under way end, closes.
    pub async fn stop(self) {
        self.stop.trigger();
        for task in self.tasks {
            let _ended = task.await;
        }
    }
}

/// Begins to look for the nodes, in etcd where it is used.
fn finding(config: &Config, balancer: Balancer<Arc<Link>>, stop: Shutdown) -> Result<Task<()>, StartError> {
    let seeds = config.gateway.nodes.iter().map(|seed| authority(seed.as_str()).to_owned()).collect();
    let (seeds, select) = (Seeds::new(seeds), selection(&config.gateway.select));
    Ok(match node::looked_at(config)? {
        Some(etcd) => {
            let registered = Registered::follow(etcd, seeds);
            rt::spawn("gateway-discovery", discovery::run(registered, select, balancer, stop))
        }
        None => rt::spawn("gateway-discovery", discovery::run(seeds, select, balancer, stop)),
    })
}

fn selection(select: &Select) -> Filter {
    let text = |name: &Name| name.as_str().to_owned();
    let Select { tags, group, zone, version } = select;
    let [group, zone, version] = [group, zone, version].map(|one| one.as_ref().map(text));
    Filter { tags: tags.iter().map(text).collect(), group, zone, version, ..Filter::default() }
}

/// `host:port` without a scheme.
fn authority(text: &str) -> &str {
    text.strip_prefix("http://").unwrap_or(text)
}

fn balancer_options() -> BalancerOptions {
    let ejection = EjectionOptions { failures_in_a_row: FAILURES_IN_A_ROW, ..EjectionOptions::default() };
    BalancerOptions { ejection, check_interval: CHECK_INTERVAL, ..BalancerOptions::default() }
}

fn policy(config: &Config) -> Box<dyn Policy> {
    match config.gateway.balance {
        Balance::TwoChoices => Box::new(PowerOfTwo),
        Balance::RoundRobin => Box::new(RoundRobin::default()),
        Balance::Weighted => Box::new(Weighted::default()),
        Balance::LeastConnections => Box::new(LeastConnections),
        Balance::ConsistentHash => Box::new(ConsistentHash),
    }
}

fn http_options(config: &Config) -> HttpOptions {
    HttpOptions {
        connections_max: config.limits.connections,
        head_read_timeout: config.limits.head_timeout,
        idle_timeout: config.limits.idle_timeout,
        // Nothing is held here; the node says what is too large.
        body_bytes_max: usize::MAX,
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
    let failed = |source| StartError::Listen { listener: name, address, source };
    let listener = Listener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}
