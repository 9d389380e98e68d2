//! [`Config`]: the settings of one node as plain data, with their defaults.
//!
//! Promise: `Config::default()` is a complete, valid configuration of a standalone node on loopback; nothing here reads
//! a file, a variable or a flag (that is `config::load`). Read by `node.rs` and the command line; the simulator builds
//! one by hand. Each field is one key of `config::keys`, where its meaning and bounds are written.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::units::ByteSize;
use super::words::{Authority, Balance, LogFormat, Mode, Name, Secret, Sticky};
use crate::index::Memory;

/// Settings of one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What this process is.
    pub mode: Mode,
    /// Names the environment file beside the configuration file.
    pub environment: Option<Name>,
    /// Where everything durable lies.
    pub data_dir: PathBuf,
    /// Addresses bound.
    pub listen: Listen,
    /// Addresses told to others.
    pub advertise: Advertise,
    /// Who this node is among others.
    pub cluster: Cluster,
    /// How etcd is reached.
    pub etcd: Etcd,
    /// How a gateway finds and chooses nodes.
    pub gateway: Gateway,
    /// The store.
    pub storage: Storage,
    /// The vector index.
    pub index: Index,
    /// The replicated log.
    pub raft: Raft,
    /// Bounds on what clients may ask.
    pub limits: Limits,
    /// Who may.
    pub security: Security,
    /// What is logged, and how.
    pub log: Log,
    /// For development only.
    pub dev: Dev,
}

/// Addresses bound. Port 0 takes a free port.
#[derive(Clone, Debug, PartialEq)]
pub struct Listen {
    /// One router on each.
    pub http: Vec<SocketAddr>,
    /// gRPC.
    pub grpc: SocketAddr,
    /// Node to node.
    pub peer: SocketAddr,
    /// Metrics and health.
    pub monitoring: SocketAddr,
    /// The gateway's public address.
    pub gateway: SocketAddr,
}

/// Addresses told to others, where they differ from those bound.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Advertise {
    /// HTTP.
    pub http: Option<Authority>,
    /// gRPC.
    pub grpc: Option<Authority>,
    /// Node to node.
    pub peer: Option<Authority>,
}

/// Who this node is among others.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Nodes of one name form one cluster.
    pub name: Name,
    /// This node's name.
    pub node_id: Option<Name>,
    /// Failure domain.
    pub zone: Option<Name>,
    /// What it is looked for by.
    pub tags: Vec<Name>,
    /// The group of nodes that it is one of.
    pub group: Option<Name>,
    /// Peers known beforehand.
    pub peers: Vec<Authority>,
    /// Its share of the requests of a gateway, relative to other nodes.
    pub weight: u64,
    /// How long a node is waited for before its replicas are made anew elsewhere.
    pub replace_after: Duration,
    /// How the cluster evens itself out.
    pub rebalance: Rebalance,
    /// When shards are split and merged.
    pub shards: Shards,
}

/// When the master splits and merges shards by itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shards {
    /// Documents above which a shard is split; 0: none is.
    pub split_above: u64,
    /// Documents below which two neighbours are merged; 0: none are.
    pub merge_below: u64,
}

/// How the cluster evens itself out.
#[derive(Clone, Debug, PartialEq)]
pub struct Rebalance {
    /// What a node may receive or send for it, in the long run.
    pub bytes_per_second: ByteSize,
    /// Replicas a node may be receiving or sending at once.
    pub moves_max: u64,
}

/// How etcd is reached.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Etcd {
    /// Members of the etcd cluster.
    pub endpoints: Vec<Authority>,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// TLS material.
    pub tls: EtcdTls,
}

/// TLS material towards etcd.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EtcdTls {
    /// Authority that signed etcd's certificate.
    pub ca_file: Option<PathBuf>,
    /// This node's certificate.
    pub cert_file: Option<PathBuf>,
    /// This node's key.
    pub key_file: Option<PathBuf>,
}

/// How a gateway finds and chooses nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gateway {
    /// HTTP addresses of some nodes.
    pub nodes: Vec<Authority>,
    /// How one is chosen.
    pub balance: Balance,
    /// Whether a client stays on one.
    pub affinity: Sticky,
    /// Which are sent requests.
    pub select: Select,
}

/// Which nodes a gateway sends requests to: those that are all of this.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Select {
    /// They have all of these tags.
    pub tags: Vec<Name>,
    /// They are of this group.
    pub group: Option<Name>,
    /// They are in this zone.
    pub zone: Option<Name>,
    /// They run this version of the program.
    pub version: Option<Name>,
}

/// For development only.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dev {
    /// Whether the network to other nodes can be made to seem cut.
    pub partitions: bool,
}

/// The store.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// Block cache.
    pub cache: ByteSize,
    /// Journal size at which the oldest part is flushed away.
    pub journal_max: ByteSize,
    /// Bytes of the disk that are kept free; 0: none.
    pub reserve: ByteSize,
}

/// The vector index.
#[derive(Clone, Debug, PartialEq)]
pub struct Index {
    /// Collections up to this many points are searched exactly.
    pub flat_points_max: u64,
    /// Threads that compute while an index is built; 0: as many as there are cores.
    pub build_threads_max: u64,
    /// What of the index is kept in memory, and what in mapped files.
    pub memory: Memory,
    /// Fresh points compared one by one before they are filed into lists.
    pub tail_points_max: u64,
    /// Points a list aims at.
    pub list_points: u64,
}

/// The replicated log.
#[derive(Clone, Debug, PartialEq)]
pub struct Raft {
    /// Size at which applied entries are removed.
    pub log_bytes_max: ByteSize,
    /// Bytes a second of all checkpoints this node gives to others; 0: no bound.
    pub checkpoint_bytes_per_second: ByteSize,
}

/// Bounds on what clients may ask.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Largest request body, after decompression.
    pub request_body: ByteSize,
    /// Most requests served at once.
    pub concurrent_requests: usize,
    /// Most connections open at once, on each listener.
    pub connections: usize,
    /// Longest time for a request.
    pub request_timeout: Duration,
    /// How old what an `eventual` read shows may be.
    pub staleness: Duration,
    /// Longest time for a request's head.
    pub head_timeout: Duration,
    /// Longest time a connection stays open without a request.
    pub idle_timeout: Duration,
    /// How long a stopping node of a cluster says so before it closes its listeners.
    pub shutdown_notice: Duration,
    /// Longest time a stopping node waits for requests under way.
    pub shutdown_grace: Duration,
}

/// Who may.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Security {
    /// Whether unauthenticated listeners beyond loopback are allowed.
    pub insecure: bool,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// Level, or filter directives.
    pub level: String,
    /// Text or JSON.
    pub format: LogFormat,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Standalone,
            environment: None,
            data_dir: PathBuf::from("./data"),
            listen: Listen::default(),
            advertise: Advertise::default(),
            cluster: Cluster {
                name: Name::known("vectorsphere"),
                node_id: None,
                zone: None,
                tags: Vec::new(),
                group: None,
                peers: Vec::new(),
                weight: 100,
                replace_after: Duration::from_secs(300),
                rebalance: Rebalance { bytes_per_second: ByteSize::mib(50), moves_max: 2 },
                shards: Shards::default(),
            },
            etcd: Etcd::default(),
            gateway: Gateway::default(),
            storage: Storage { cache: ByteSize::mib(64), journal_max: ByteSize::mib(64), reserve: ByteSize::mib(256) },
            index: Index {
                flat_points_max: 20_000,
                build_threads_max: 0,
                memory: Memory::default(),
                tail_points_max: 2_048,
                list_points: 384,
            },
            raft: Raft { log_bytes_max: ByteSize::mib(16), checkpoint_bytes_per_second: ByteSize(0) },
            limits: Limits::default(),
            security: Security::default(),
            log: Log { level: "info".to_owned(), format: LogFormat::Auto },
            dev: Dev::default(),
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            http: vec![loopback(8080), loopback(6333)],
            grpc: loopback(6334),
            peer: loopback(6335),
            monitoring: loopback(9090),
            gateway: loopback(9000),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_body: ByteSize::mib(64),
            concurrent_requests: 1_024,
            connections: 10_000,
            request_timeout: Duration::from_secs(30),
            staleness: Duration::from_secs(5),
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            shutdown_notice: Duration::from_secs(1),
            shutdown_grace: Duration::from_secs(10),
        }
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
