//! The keys of the seeds' configuration files, each with what it means here.
//!
//! Promise: the files of the seed texts (`conf/app.yaml` of the integration guide, `c.yaml` of the distributed guide,
//! `conf/master.ini`, `slave.ini` and `gateway.ini` of the Kamaitachi guide) load as written. A key with a counterpart
//! becomes that key; one without is checked for its type and reported as having no effect yet, never dropped in
//! silence. Bare numbers are allowed here only, with the unit the seed gave them. Called by `config::load` for files
//! and for the seeds' flags; variables and `--set` speak the canonical names only.

use std::net::{IpAddr, SocketAddr};

use super::model::Config;
use super::units::{self, ByteSize};
use super::value::{Setting, Value};
use super::words::{Mode, Name};

/// A key of a seed.
pub(super) struct SeedKey {
    /// Dotted name as the seed's file has it.
    pub name: &'static str,
    meaning: Meaning,
}

/// What a seed's key means here.
enum Meaning {
    /// The value of this key, as it stands.
    Same(&'static str),
    /// A bare number of bytes for this key.
    Bytes(&'static str),
    /// The port of the public address: HTTP, or the gateway's in that mode. The host stays what it was.
    PublicPort,
    /// The port of the monitoring address.
    MonitoringPort,
    /// The cluster's name, written as a key prefix with slashes.
    ClusterPrefix,
    /// The file of a seed's snapshots: this program's data lies in a directory of that name, without `.dat`.
    DataDir,
    /// `true` lowers the log level to debug.
    DebugLog,
    /// Nothing yet; checked for its type, with the reason for the notice.
    Nothing(Kind, &'static str),
}

/// What type a key without effect has.
enum Kind {
    Text,
    Secret,
    Flag,
    Count,
    Bytes,
    /// A duration with a unit, or a bare number in the unit named.
    Time(&'static str),
}

/// What [`translate`] made of a value.
#[derive(Debug, PartialEq)]
pub(super) enum Translated {
    /// Set this key to this value.
    Set(&'static str, Value),
    /// No effect; the reason is for the notice, absent where the value asks for nothing.
    Nothing(Option<&'static str>),
}

/// A seed's value was of another type.
#[derive(Debug, PartialEq)]
pub(super) struct Refused {
    pub expected: String,
    pub secret: bool,
}

const LEASES: &str = "the program decides how long leases last and renews them on its own";
const ETCD_CLIENT: &str = "the etcd client has bounds of its own";
const RETRIES: &str = "retries are bounded by the request's deadline, not by a count";
const PATHS: &str = "everything in etcd lies under /vectorsphere/<cluster.name>/";
const HEARTBEATS: &str = "nodes of a cluster watch each other at intervals of their own";
const SCHEDULER: &str = "work is sized by the number of cores";
const GRPC_POOL: &str = "one gRPC connection carries many requests";
const AUTH: &str = "this version asks no caller who they are";
const TLS: &str = "this version serves without encryption";
const RATE: &str = "rate limits per caller come with authentication; limits.concurrent_requests bounds the node";
const PROFILING: &str = "the profiling endpoint is not part of this version";
const SNAPSHOTS: &str = "every acknowledged write is durable by itself; no periodic snapshot is needed";
const NODE_NAME: &str = "a node draws its id by chance, and its cluster is named by cluster.name";

/// How far an HTTP port may be from the default for others to follow it. Within this no two of them meet.
const BESIDE_MAX: i64 = 1_000;

macro_rules! seed {
    ($name:literal, $meaning:expr) => {
        SeedKey { name: $name, meaning: $meaning }
    };
}

use Kind::{Count, Flag, Secret, Text, Time};
use Meaning::{Bytes, ClusterPrefix, DataDir, DebugLog, MonitoringPort, Nothing, PublicPort, Same};

static SEED_KEYS: &[SeedKey] = &[
    // conf/app.yaml of the integration guide.
    seed!("etcdEndpoints", Same("etcd.endpoints")),
    seed!("serviceRegistryPath", Nothing(Text, PATHS)),
    seed!("serviceTTL", Nothing(Time("s"), LEASES)),
    seed!("configPathPrefix", Nothing(Text, PATHS)),
    seed!("electionPathPrefix", Nothing(Text, PATHS)),
    seed!("development.enabled", Nothing(Flag, "development.debugMode alone decides the log level")),
    seed!("development.debugMode", DebugLog),
    seed!("development.profileEnabled", Nothing(Flag, PROFILING)),
    seed!("development.profilePort", Nothing(Count, PROFILING)),
    seed!("security.tls.enabled", Nothing(Flag, TLS)),
    seed!("security.tls.certFile", Nothing(Text, TLS)),
    seed!("security.tls.keyFile", Nothing(Text, TLS)),
    seed!("security.auth.enabled", Nothing(Flag, AUTH)),
    seed!("security.auth.jwtSecret", Nothing(Secret, AUTH)),
    seed!("security.auth.tokenExpiry", Nothing(Time("s"), AUTH)),
    // c.yaml of the distributed guide; etcd.endpoints, etcd.username, etcd.password and data_dir are canonical.
    seed!("service_name", Same("cluster.name")),
    seed!("node_type", Same("mode")),
    seed!("http_port", PublicPort),
    seed!("default_port", MonitoringPort),
    seed!("task_timeout", Nothing(Time("s"), "limits.request_timeout bounds a request")),
    seed!("heartbeat", Nothing(Time("s"), HEARTBEATS)),
    seed!("health_check_interval", Nothing(Time("s"), HEARTBEATS)),
    seed!("scheduler_worker_count", Nothing(Count, SCHEDULER)),
    seed!("etcd.dial_timeout", Nothing(Time("s"), ETCD_CLIENT)),
    seed!("etcd.request_timeout", Nothing(Time("s"), ETCD_CLIENT)),
    seed!("etcd.max_call_send_msg_size", Nothing(Kind::Bytes, ETCD_CLIENT)),
    seed!("etcd.max_call_recv_msg_size", Nothing(Kind::Bytes, ETCD_CLIENT)),
    seed!("etcd.ca_file", Same("etcd.tls.ca_file")),
    seed!("etcd.cert_file", Same("etcd.tls.cert_file")),
    seed!("etcd.key_file", Same("etcd.tls.key_file")),
    seed!("master.election_timeout", Nothing(Time("s"), LEASES)),
    seed!("master.session_ttl", Nothing(Time("s"), LEASES)),
    seed!("master.max_retry_count", Nothing(Count, RETRIES)),
    seed!("master.retry_interval", Nothing(Time("s"), RETRIES)),
    seed!("slave.register_retry_count", Nothing(Count, RETRIES)),
    seed!("slave.register_retry_interval", Nothing(Time("s"), RETRIES)),
    seed!("slave.heartbeat_interval", Nothing(Time("s"), HEARTBEATS)),
    seed!("grpc_max_connections", Nothing(Count, GRPC_POOL)),
    seed!("grpc_keepalive_time", Nothing(Time("s"), GRPC_POOL)),
    seed!("grpc_keepalive_timeout", Nothing(Time("s"), GRPC_POOL)),
    seed!("auth.enabled", Nothing(Flag, AUTH)),
    seed!("auth.jwt_secret", Nothing(Secret, AUTH)),
    seed!("auth.token_expiry", Nothing(Time("s"), AUTH)),
    seed!("rate_limit.enabled", Nothing(Flag, RATE)),
    seed!("rate_limit.requests_per_second", Nothing(Count, RATE)),
    seed!("rate_limit.burst_size", Nothing(Count, RATE)),
    // conf/*.ini of the Kamaitachi guide.
    seed!("server.port", PublicPort),
    seed!("server.mode", Same("mode")),
    seed!("server.service_name", Nothing(Text, NODE_NAME)),
    seed!("server.service_addr", Same("advertise.http")),
    seed!("cache.max_bytes", Bytes("storage.cache")),
    seed!("cache.snapshot_path", DataDir),
    seed!("cache.snapshot_interval", Nothing(Time("m"), SNAPSHOTS)),
    seed!("etcd.prefix", ClusterPrefix),
    seed!("etcd.ttl", Nothing(Time("s"), LEASES)),
];

/// The seeds' key of that name.
pub(super) fn find(name: &str) -> Option<&'static SeedKey> {
    SEED_KEYS.iter().find(|key| key.name == name)
}

/// The names of all seeds' keys.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    SEED_KEYS.iter().map(|key| key.name)
}

/// Whether `name` is a section of a seed's file.
pub(super) fn is_section(name: &str) -> bool {
    names().any(|key| key.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

impl SeedKey {
    /// The canonical key, where it does not depend on the rest of the configuration.
    pub(super) fn same_as(&self) -> Option<&'static str> {
        match self.meaning {
            Same(key) => Some(key),
            _ => None,
        }
    }

    /// What `value` means under this key. `config` is what lies below, with its mode already final.
    ///
    /// # Errors
    /// [`Refused`] where the value is of another type than the seed's.
    pub(super) fn translate(&self, value: &Value, config: &Config) -> Result<Translated, Refused> {
        let refused = |expected: &str| Refused { expected: expected.to_owned(), secret: false };
        match self.meaning {
            Same(key) => Ok(Translated::Set(key, value.clone())),
            Bytes(key) => match bytes(value) {
                Some(size) => Ok(Translated::Set(key, size.show())),
                None => Err(refused("a number of bytes")),
            },
            PublicPort => {
                let port = port(value).ok_or_else(|| refused(PORT_EXPECTED))?;
                Ok(with_public_port(config, port))
            }
            MonitoringPort => {
                let port = port(value).ok_or_else(|| refused(PORT_EXPECTED))?;
                let address = SocketAddr::new(config.listen.monitoring.ip(), port);
                Ok(Translated::Set("listen.monitoring", address.show()))
            }
            ClusterPrefix => {
                let trimmed = String::read(value).map(|text| Value::Text(text.trim_matches('/').to_owned()));
                match trimmed.as_ref().and_then(Name::read) {
                    Some(name) => Ok(Translated::Set("cluster.name", name.show())),
                    None => Err(refused("a prefix such as /kamaitachi")),
                }
            }
            DataDir => match String::read(value) {
                Some(path) if path.is_empty() => Ok(Translated::Nothing(None)),
                Some(path) => {
                    let directory = path.strip_suffix(".dat").filter(|rest| !rest.is_empty() && !rest.ends_with('/'));
                    Ok(Translated::Set("data_dir", Value::Text(directory.unwrap_or(&path).to_owned())))
                }
                None => Err(refused(String::EXPECTED)),
            },
            DebugLog => match bool::read(value) {
                Some(true) => Ok(Translated::Set("log.level", Value::Text("debug".to_owned()))),
                Some(false) => Ok(Translated::Nothing(None)),
                None => Err(refused(bool::EXPECTED)),
            },
            Nothing(ref kind, why) => match kind.accepts(value) {
                true => Ok(Translated::Nothing((!asks_for_nothing(value)).then_some(why))),
                false => Err(Refused { expected: kind.expected(), secret: matches!(kind, Secret) }),
            },
        }
    }
}

const PORT_EXPECTED: &str = "a port from 0 to 65535";

impl Kind {
    fn accepts(&self, value: &Value) -> bool {
        match self {
            Text | Secret => String::read(value).is_some(),
            Flag => bool::read(value).is_some(),
            Count => u64::read(value).is_some(),
            Kind::Bytes => bytes(value).is_some(),
            Time(_) => u64::read(value).is_some() || std::time::Duration::read(value).is_some(),
        }
    }

    fn expected(&self) -> String {
        match self {
            Text | Secret => String::EXPECTED.to_owned(),
            Flag => bool::EXPECTED.to_owned(),
            Count => u64::EXPECTED.to_owned(),
            Kind::Bytes => "a number of bytes".to_owned(),
            Time("m") => format!("a number of minutes, or {}", units::DURATION_EXPECTED),
            Time(_) => format!("a number of seconds, or {}", units::DURATION_EXPECTED),
        }
    }
}

/// A seed's `enabled: false` or empty text is already fulfilled.
fn asks_for_nothing(value: &Value) -> bool {
    bool::read(value) == Some(false) || String::read(value).is_some_and(|text| text.is_empty())
}

fn bytes(value: &Value) -> Option<ByteSize> {
    u64::read(value).map(ByteSize).or_else(|| ByteSize::read(value))
}

fn port(value: &Value) -> Option<u16> {
    u64::read(value).and_then(|number| u16::try_from(number).ok())
}

fn with_public_port(config: &Config, port: u16) -> Translated {
    if config.mode == Mode::Gateway {
        return Translated::Set("listen.gateway", SocketAddr::new(config.listen.gateway.ip(), port).show());
    }
    let loopback = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    let host = config.listen.http.first().map_or(loopback, SocketAddr::ip);
    Translated::Set("listen.http", vec![SocketAddr::new(host, port)].show())
}

/// The addresses that a node of a cluster in etcd listens on beside HTTP: as far from the defaults as its HTTP port is (gRPC and peers: twice as
/// far). Nothing elsewhere, for the default port, for one more than [`BESIDE_MAX`] from it, and where others are told another address.
pub(super) fn ports_beside(config: &Config) -> Vec<(&'static str, Value)> {
    let usual = Config::default().listen;
    let is_one_of_several = matches!(config.mode, Mode::Auto | Mode::Master | Mode::Worker);
    let port = |addresses: &[SocketAddr]| addresses.first().map(|address| i64::from(address.port()));
    let (Some(http), Some(http_usual)) = (port(&config.listen.http), port(&usual.http)) else { return Vec::new() };
    // Without etcd others name its ports.
    let off = http - http_usual;
    if !is_one_of_several || config.etcd.endpoints.is_empty() || off == 0 || off.abs() > BESIDE_MAX {
        return Vec::new();
    }
    let beside = |address: SocketAddr, usual: SocketAddr, step: i64| {
        let port =
            u16::try_from(i64::from(usual.port()) + off * step).expect("invariant: BESIDE_MAX keeps it in range");
        SocketAddr::new(address.ip(), port).show()
    };
    let (listen, told) = (&config.listen, &config.advertise);
    let mut set = vec![("listen.monitoring", beside(listen.monitoring, usual.monitoring, 1))];
    if told.grpc.is_none() {
        set.push(("listen.grpc", beside(listen.grpc, usual.grpc, 2)));
    }
    if told.peer.is_none() {
        set.push(("listen.peer", beside(listen.peer, usual.peer, 2)));
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys;

    fn translate(name: &str, value: Value, config: &Config) -> Result<Translated, Refused> {
        find(name).expect("a seed's key").translate(&value, config)
    }

    #[test]
    fn every_target_is_a_key_and_no_name_is_canonical() {
        for seed in SEED_KEYS {
            assert!(keys::find(seed.name).is_none(), "{} is canonical", seed.name);
            assert_eq!(names().filter(|name| *name == seed.name).count(), 1, "{} stands twice", seed.name);
            if let Same(target) | Bytes(target) = seed.meaning {
                assert!(keys::find(target).is_some(), "{target} is no key");
            }
        }
    }

    #[test]
    fn a_port_keeps_the_host_and_follows_the_mode() {
        let mut config = Config::default();
        config.listen.http = vec!["[::1]:1".parse().expect("an address")];
        let set = translate("http_port", Value::Integer(8081), &config).expect("a port");
        assert_eq!(set, Translated::Set("listen.http", Value::List(vec![Value::Text("[::1]:8081".into())])));
        config.mode = Mode::Gateway;
        let set = translate("server.port", Value::Bare("9000".into()), &config).expect("a port");
        assert_eq!(set, Translated::Set("listen.gateway", Value::Text("127.0.0.1:9000".into())));
        let refused = translate("http_port", Value::Integer(70_000), &config).expect_err("no port");
        assert_eq!(refused.expected, "a port from 0 to 65535");
    }

    #[test]
    fn bare_numbers_have_the_unit_of_the_seed() {
        let config = Config::default();
        let set = translate("cache.max_bytes", Value::Bare("2147483648".into()), &config).expect("bytes");
        assert_eq!(set, Translated::Set("storage.cache", Value::Text("2GiB".into())));
        for (name, value) in
            [("serviceTTL", Value::Integer(30)), ("security.auth.tokenExpiry", Value::Text("24h".into()))]
        {
            assert!(matches!(translate(name, value, &config), Ok(Translated::Nothing(Some(_)))), "{name}");
        }
        let refused = translate("cache.snapshot_interval", Value::Bare("often".into()), &config).expect_err("no time");
        assert!(refused.expected.starts_with("a number of minutes"), "{}", refused.expected);
    }

    #[test]
    fn what_asks_for_nothing_gives_no_notice() {
        let config = Config::default();
        for name in ["security.tls.enabled", "auth.enabled", "development.debugMode"] {
            assert_eq!(translate(name, Value::Bool(false), &config), Ok(Translated::Nothing(None)), "{name}");
        }
        assert_eq!(
            translate("development.debugMode", Value::Bool(true), &config),
            Ok(Translated::Set("log.level", Value::Text("debug".into())))
        );
    }

    #[test]
    fn data_lies_where_snapshots_would() {
        let config = Config::default();
        for (path, directory) in [
            ("./data/slave2_snapshot.dat", "./data/slave2_snapshot"),
            ("/var/cache/one", "/var/cache/one"),
            (".dat", ".dat"),
            ("data/.dat", "data/.dat"),
        ] {
            let set = translate("cache.snapshot_path", Value::Bare(path.into()), &config);
            assert_eq!(set, Ok(Translated::Set("data_dir", Value::Text(directory.into()))), "{path}");
        }
        assert_eq!(translate("cache.snapshot_path", Value::Bare("".into()), &config), Ok(Translated::Nothing(None)));
        assert!(translate("cache.snapshot_path", Value::Bool(true), &config).is_err());
    }

    #[test]
    fn a_prefix_becomes_the_name_of_the_cluster() {
        let config = Config::default();
        assert_eq!(
            translate("etcd.prefix", Value::Bare("/kamaitachi".into()), &config),
            Ok(Translated::Set("cluster.name", Value::Text("kamaitachi".into())))
        );
        assert!(translate("etcd.prefix", Value::Bare("/a/b".into()), &config).is_err());
    }

    #[test]
    fn a_secret_of_the_wrong_type_is_marked_as_one() {
        let refused = translate("auth.jwt_secret", Value::Integer(5), &Config::default()).expect_err("no string");
        assert!(refused.secret);
    }
}
