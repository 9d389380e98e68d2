//! The rules that hold between keys, after each was read by itself.
//!
//! Promise: a [`Config`] without problems here can be started as far as the configuration decides: its listeners do
//! not collide, none is open to other machines without being asked to be, and the log filter is well formed. Called by
//! `config::load`, and by whoever builds a [`Config`] by hand.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::error::{ConfigError, Origin, Problem};
use super::model::Config;
use super::units::ByteSize;
use super::words::Mode;
use crate::telemetry::logs;

const HTTP_ADDRESSES_MAX: usize = 16;
/// Nodes that found a cluster: at first all of them vote in the coordinator's group, and more would only make its writes dearer.
/// Any number may come later.
const FOUNDERS_MAX: usize = 7;
/// Nodes that a gateway asks for the others; more would only make its start slower.
const GATEWAY_NODES_MAX: usize = 64;
/// Each is told to everybody who asks for the nodes.
const TAGS_MAX: usize = 32;
/// A taker of checkpoints waits ten seconds for a chunk of up to 1 MiB, and several takers share this.
const CHECKPOINT_BYTES_PER_SECOND_MIN: ByteSize = ByteSize::mib(1);

/// Checks a configuration built by hand.
///
/// # Errors
/// Every rule broken, all with the origin "default".
pub fn validate(config: &Config) -> Result<(), ConfigError> {
    match problems(config, &BTreeMap::new()) {
        problems if problems.is_empty() => Ok(()),
        problems => Err(ConfigError { problems }),
    }
}

pub(super) fn problems(config: &Config, origins: &BTreeMap<&'static str, Origin>) -> Vec<Problem> {
    let mut check = Check { origins, problems: Vec::new() };
    check.http_addresses(config);
    let listeners = listeners(config);
    check.collisions(&listeners);
    if config.dev.partitions && listeners.iter().any(|(_, address)| !address.ip().to_canonical().is_loopback()) {
        check.refuse("dev.partitions", "for development only, with every listener on loopback".to_owned());
    }
    if !config.security.insecure {
        check.loopback_only(&listeners);
    }
    check.etcd(config);
    check.peers(config);
    check.tags("cluster.tags", config.cluster.tags.len());
    check.tags("gateway.select.tags", config.gateway.select.tags.len());
    check.shards(config);
    check.checkpoints(config);
    check.gateway(config);
    if let Err(reason) = logs::check_filter(&config.log.level) {
        check.refuse("log.level", format!("expected a level or filter directives: {reason}"));
    }
    check.problems
}

type Listener = (&'static str, SocketAddr);

/// The listeners this mode opens.
fn listeners(config: &Config) -> Vec<Listener> {
    let listen = &config.listen;
    if config.mode == Mode::Gateway {
        return vec![("listen.gateway", listen.gateway), ("listen.monitoring", listen.monitoring)];
    }
    let mut all: Vec<Listener> = listen.http.iter().map(|address| ("listen.http", *address)).collect();
    all.push(("listen.grpc", listen.grpc));
    all.push(("listen.monitoring", listen.monitoring));
    if config.mode != Mode::Standalone {
        all.push(("listen.peer", listen.peer));
    }
    all
}

struct Check<'a> {
    origins: &'a BTreeMap<&'static str, Origin>,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn refuse(&mut self, key: &'static str, reason: String) {
        let origin = self.origins.get(key).cloned().unwrap_or(Origin::Default);
        self.problems.push(Problem::Refused { key: key.to_owned(), origin, reason });
    }

    fn tags(&mut self, key: &'static str, count: usize) {
        if count > TAGS_MAX {
            self.refuse(key, format!("expected at most {TAGS_MAX} tags, got {count}"));
        }
    }

    fn http_addresses(&mut self, config: &Config) {
        let count = config.listen.http.len();
        if !(1..=HTTP_ADDRESSES_MAX).contains(&count) {
            self.refuse("listen.http", format!("expected 1 to {HTTP_ADDRESSES_MAX} addresses, got {count}"));
        }
    }

    fn collisions(&mut self, listeners: &[Listener]) {
        for (position, (key, address)) in listeners.iter().enumerate() {
            let earlier = listeners[..position].iter().find(|(_, other)| collide(*other, *address));
            if let Some((other_key, other)) = earlier {
                // Blame the one that was set: the default is only in its way.
                let (blamed, blamed_address, by, by_address) = match self.origins.contains_key(key) {
                    true => (key, address, other_key, other),
                    false => (other_key, other, key, address),
                };
                let reason = format!("{blamed_address} is taken by `{by}` ({by_address})");
                self.refuse(blamed, reason);
            }
        }
    }

    /// What was merged must not be split again at once.
    fn shards(&mut self, config: &Config) {
        let shards = &config.cluster.shards;
        if shards.split_above > 0 && shards.merge_below > shards.split_above / 2 {
            let most = shards.split_above / 2;
            let reason =
                format!("expected at most half of cluster.shards.split_above ({most}), got {}", shards.merge_below);
            self.refuse("cluster.shards.merge_below", reason);
        }
    }

    /// Slower, a taker would not wait for the next chunk.
    fn checkpoints(&mut self, config: &Config) {
        let given = config.raft.checkpoint_bytes_per_second;
        if given.bytes() > 0 && given < CHECKPOINT_BYTES_PER_SECOND_MIN {
            let reason = format!("expected 0B (no bound) or at least {CHECKPOINT_BYTES_PER_SECOND_MIN}, got {given}");
            self.refuse("raft.checkpoint_bytes_per_second", reason);
        }
    }

    fn loopback_only(&mut self, listeners: &[Listener]) {
        for (key, address) in listeners.iter().filter(|(_, address)| !address.ip().to_canonical().is_loopback()) {
            let reason = format!(
                "{address} can be reached from other machines and nothing asks callers who they are; listen on \
                 127.0.0.1, or accept that with `security.insecure: true` (--insecure)"
            );
            self.refuse(key, reason);
        }
    }

    fn peers(&mut self, config: &Config) {
        let peers = &config.cluster.peers;
        if config.mode == Mode::Standalone && !peers.is_empty() {
            self.refuse("cluster.peers", "a standalone node is alone; needs `mode: auto` (--mode auto)".to_owned());
        }
        if peers.len() >= FOUNDERS_MAX {
            let reason = format!("expected at most {} other nodes, got {}", FOUNDERS_MAX - 1, peers.len());
            self.refuse("cluster.peers", reason);
        }
    }

    fn gateway(&mut self, config: &Config) {
        let nodes = &config.gateway.nodes;
        if nodes.len() > GATEWAY_NODES_MAX {
            let reason = format!("expected at most {GATEWAY_NODES_MAX} addresses to begin with, got {}", nodes.len());
            self.refuse("gateway.nodes", reason);
        }
    }

    fn etcd(&mut self, config: &Config) {
        let etcd = &config.etcd;
        if etcd.password.is_some() && etcd.username.is_none() {
            self.refuse("etcd.password", "needs `etcd.username` beside it".to_owned());
        }
        let encrypted = etcd.endpoints.iter().any(|endpoint| endpoint.as_str().starts_with("https://"));
        if etcd.tls.ca_file.is_none() && (encrypted || etcd.tls.cert_file.is_some()) {
            let key = if encrypted { "etcd.endpoints" } else { "etcd.tls.cert_file" };
            self.refuse(key, "needs `etcd.tls.ca_file`: the authority that signed etcd's certificate".to_owned());
        }
        if etcd.tls.cert_file.is_some() != etcd.tls.key_file.is_some() {
            let (present, absent) = match etcd.tls.cert_file {
                Some(_) => ("etcd.tls.cert_file", "etcd.tls.key_file"),
                None => ("etcd.tls.key_file", "etcd.tls.cert_file"),
            };
            self.refuse(present, format!("needs `{absent}` beside it"));
        }
    }
}

/// Whether both cannot be bound at once. Port 0 is a free one each time.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let (a_ip, b_ip) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() != 0 && a.port() == b.port() && (a_ip == b_ip || a_ip.is_unspecified() || b_ip.is_unspecified())
}
