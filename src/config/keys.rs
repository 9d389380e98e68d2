//! The table of keys: for each its name, meaning, type, bounds, and how it is read from and written to [`Config`].
//!
//! Promise: a key exists exactly once, here; loading, `config show`, `config explain`, `conf/default.yaml` and the
//! suggestions for misspelt keys all go through this table, so none of them can forget one. Called by the rest of
//! `config` and by `cli::config_cmd`.

use std::fmt::{self, Write as _};
use std::time::Duration;

use super::model::Config;
use super::units::ByteSize;
use super::value::{Setting, Value};

/// Whether a key already does something in this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Read at start.
    Now,
    /// Accepted and checked; the text says what will read it. Setting it gives a start-up notice.
    Later(&'static str),
}

/// One key of the configuration.
pub struct Key {
    /// Dotted name.
    pub name: &'static str,
    /// Meaning, one or two sentences.
    pub help: &'static str,
    /// Whether it does something yet.
    pub effect: Effect,
    /// Whether its value is never shown.
    pub secret: bool,
    type_expected: &'static str,
    bounds: Option<fn() -> (Value, Value)>,
    read: fn(&Config) -> Value,
    write: fn(&mut Config, &Value) -> bool,
}

impl Key {
    /// The value in `config`; of a secret only whether it is set.
    pub fn value(&self, config: &Config) -> Value {
        (self.read)(config)
    }

    /// Puts `value` into `config`. `false`, and `config` unchanged, where it is of another type or out of bounds.
    pub(super) fn assign(&self, config: &mut Config, value: &Value) -> bool {
        (self.write)(config, value)
    }

    /// What the key accepts, in the words of an error text.
    pub fn expected(&self) -> String {
        let mut text = self.type_expected.to_owned();
        if let Some(bounds) = self.bounds {
            let (low, high) = bounds();
            // Writing to a String cannot fail.
            let _ = write!(text, ", from {} to {}", plain(&low), plain(&high));
        }
        text
    }

    /// The last part of the name.
    pub fn leaf(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.name).finish()
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The key of that exact name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Whether `name` is a section: a proper prefix of some key.
pub fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

const fn expected_by<T: Setting>(_field: fn(&Config) -> &T) -> &'static str {
    T::EXPECTED
}

const fn is_secret<T: Setting>(_field: fn(&Config) -> &T) -> bool {
    T::SECRET
}

fn write_within<T: Setting + PartialOrd>(field: &mut T, value: &Value, low: &T, high: &T) -> bool {
    match T::read(value) {
        Some(new) if *low <= new && new <= *high => {
            *field = new;
            true
        }
        _ => false,
    }
}

fn write_any<T: Setting>(field: &mut T, value: &Value) -> bool {
    match T::read(value) {
        Some(new) => {
            *field = new;
            true
        }
        None => false,
    }
}

macro_rules! key {
    ($first:ident $(. $rest:ident)*, $effect:expr, $help:expr) => {
        Key {
            bounds: None,
            write: |config, value| write_any(&mut config.$first $(.$rest)*, value),
            ..key!(@common $first $(. $rest)*, $effect, $help)
        }
    };
    ($first:ident $(. $rest:ident)*, $effect:expr, $low:expr => $high:expr, $help:expr) => {
        Key {
            bounds: Some(|| ($low.show(), $high.show())),
            write: |config, value| write_within(&mut config.$first $(.$rest)*, value, &$low, &$high),
            ..key!(@common $first $(. $rest)*, $effect, $help)
        }
    };
    (@common $first:ident $(. $rest:ident)*, $effect:expr, $help:expr) => {
        Key {
            name: concat!(stringify!($first) $(, ".", stringify!($rest))*),
            help: $help,
            effect: $effect,
            secret: is_secret(|config| &config.$first $(.$rest)*),
            type_expected: expected_by(|config| &config.$first $(.$rest)*),
            bounds: None,
            read: |config| config.$first $(.$rest)*.show(),
            write: |_, _| false,
        }
    };
}

const NOW: Effect = Effect::Now;
const DRAWN: Effect = Effect::Later("a node draws its id by chance and keeps it in data_dir");

/// Every key, in the order of `conf/default.yaml`. Keys of one section stand together.
pub static KEYS: &[Key] = &[
    key!(
        mode,
        NOW,
        "What this process is: standalone (everything in one process, alone), auto (a node of a cluster: it holds shards and may be the master), master (as auto, but without shards), worker (as auto, but never the master), or gateway (holds nothing, routes requests to the nodes it finds in etcd, or to those of gateway.nodes and those they know)."
    ),
    key!(
        environment,
        NOW,
        "Name of an environment such as production: the file <environment>.yaml beside the configuration file is laid over it (conf/<environment>.yaml where there is no configuration file)."
    ),
    key!(data_dir, NOW, "Directory of everything durable. One process at a time may use it."),
    key!(listen.http, NOW, "Addresses of the HTTP interface; each serves the same. Port 0 takes a free port."),
    key!(listen.grpc, NOW, "Address of the gRPC interface."),
    key!(listen.peer, NOW, "Address for traffic from other nodes; not opened by a standalone node."),
    key!(listen.monitoring, NOW, "Address of /metrics and /health for monitoring."),
    key!(listen.gateway, NOW, "Address of the gateway's public interface; opened in that mode only."),
    key!(advertise.http, NOW, "HTTP address told to others, where it differs from the one bound."),
    key!(advertise.grpc, NOW, "gRPC address told to others, where it differs from the one bound."),
    key!(advertise.peer, NOW, "Peer address told to other nodes, where it differs from the one bound."),
    key!(cluster.name, NOW, "Name of the cluster; nodes of different names refuse each other."),
    key!(cluster.node_id, DRAWN, "Name of this node within the cluster."),
    key!(cluster.zone, NOW, "Failure domain (rack, zone) of this node; copies of a shard are spread over zones."),
    key!(
        cluster.tags,
        NOW,
        "What this node is looked for by, such as [\"ssd\", \"eu\"], at most 32: gateways choose nodes by it (gateway.select.tags), /api/v1/cluster/nodes?tags=ssd lists them. The cluster gives it no meaning of its own."
    ),
    key!(cluster.group, NOW, "Name of a group of nodes that this one belongs to, for the same use."),
    key!(
        cluster.peers,
        NOW,
        "Peer addresses of other nodes of the cluster, for the modes auto, master and worker without etcd. Nodes that all name each other found a cluster when they have all met once; a node that comes later names some that are there and is taken in by them. An odd number of founders survives the loss of a minority."
    ),
    key!(cluster.weight, NOW, 1u64 => 10_000u64, "This node's share, relative to the other nodes of the cluster: of the shards it holds, and of what a gateway with gateway.balance weighted or two_choices sends."),
    key!(cluster.replace_after, NOW, Duration::from_secs(1) => Duration::from_secs(86_400), "How long a node may be away before its replicas are made anew on others. Its leaders are replaced at once in any case."),
    key!(cluster.rebalance.bytes_per_second, NOW, ByteSize::kib(64) => ByteSize::gib(16), "What a node may receive or send, in the long run, to even the cluster out or to drain a node. Replacing what is lost is not held back."),
    key!(cluster.rebalance.moves_max, NOW, 1u64 => 64u64, "Replicas that one node may be receiving or sending at once."),
    key!(cluster.shards.split_above, NOW, 0u64 => 1_000_000_000_000u64, "Documents above which a shard is split in two, both on the same nodes at first. Reads and writes go on meanwhile; documents move a few hundred at a time, and those on their way wait until they have arrived. One split or merge at a time in a table; cluster.rebalance bounds those of a node, and what is paused there begins none. 0: shards are split only by `vectorsphere cluster split`."),
    key!(cluster.shards.merge_below, NOW, 0u64 => 1_000_000_000_000u64, "Documents below which two neighbouring shards become one, in a table that has more shards than it was made with. At most half of split_above, or what was merged would be split again. 0: shards are merged only by `vectorsphere cluster merge`."),
    key!(
        etcd.endpoints,
        NOW,
        "Addresses of the members of an etcd (3.4 is the version that is tested), as host:port or https://host:port. The nodes of the cluster then find each other there and keep there what they agree on, below /vectorsphere/<cluster.name>/; while it cannot be reached documents are read and written, and tables and nodes stay as they are. Chosen once: the data directory remembers whose etcd it belongs to. A gateway finds the nodes there. Not used by a standalone node."
    ),
    key!(etcd.username, NOW, "User name towards etcd."),
    key!(etcd.password, NOW, "Password towards etcd. Never shown."),
    key!(etcd.tls.ca_file, NOW, "File with the authority that signed etcd's certificate (PEM)."),
    key!(etcd.tls.cert_file, NOW, "File with this node's certificate towards etcd (PEM)."),
    key!(etcd.tls.key_file, NOW, "File with the key of that certificate (PEM)."),
    key!(
        gateway.nodes,
        NOW,
        "HTTP addresses of some nodes of the cluster, for mode gateway; the others are found by asking them. With etcd.endpoints the gateway finds the nodes in the registry that they keep there, and asks these only while etcd does not tell."
    ),
    key!(
        gateway.balance,
        NOW,
        "How the gateway chooses a node for a request: the better of two drawn by chance, by latency and load (two_choices), in turn (round_robin), in turn by weight (weighted), the least loaded (least_connections), or by the hash of the path (consistent_hash)."
    ),
    key!(
        gateway.affinity,
        NOW,
        "Whether a client's requests stay on one node: not (none), by its address (ip), or by a cookie that the gateway sets (cookie)."
    ),
    key!(
        gateway.select.tags,
        NOW,
        "The gateway sends requests only to nodes that have all of these tags (cluster.tags). Such nodes answer for the whole cluster, wherever its data lies."
    ),
    key!(gateway.select.group, NOW, "Only to nodes of this group (cluster.group)."),
    key!(
        gateway.select.zone,
        NOW,
        "Only to nodes in this zone (cluster.zone), so that requests do not leave it on their way to the first node."
    ),
    key!(gateway.select.version, NOW, "Only to nodes that run this version of the program, such as 0.1.0."),
    key!(storage.cache, NOW, ByteSize::mib(1) => ByteSize::gib(1024), "Memory for blocks read from the store; taken as needed, not at start."),
    key!(storage.journal_max, NOW, ByteSize::mib(64) => ByteSize::gib(1024), "Size of the store's journals at which their oldest part is flushed and removed (while much is written they may exceed it by 192MiB), and so a bound of the writes that all tables together keep in memory. Larger means fewer flushes, more memory and a longer start after a crash."),
    key!(storage.reserve, NOW, ByteSize(0) => ByteSize::gib(1024), "Room on the disk that is kept free: while there is less, writes are refused (429, disk_full) and reads go on; with a quarter of it left nothing is taken from other nodes either. 0B: none is kept, and a node whose disk is full stops."),
    key!(index.flat_points_max, NOW, 0u64 => 10_000_000u64, "A collection of up to this many points is searched exactly; above it the approximate index trains itself in the background."),
    key!(index.build_threads_max, NOW, 0u64 => 1024u64, "Most threads that compute while an index is built; 0 means as many as there are cores. The index is the same for any number."),
    key!(
        index.memory,
        NOW,
        "What a search finds in memory of its own: codes alone, with int8 rows in mapped files whose pages are given back (low) or kept while the system has room (balanced), or all but the f32 rows (fast)."
    ),
    key!(index.tail_points_max, NOW, 1u64 => 1_000_000u64, "Points written since, up to about this many, are compared one by one; then they are filed into the lists of the approximate index."),
    key!(index.list_points, NOW, 4u64 => 65_536u64, "Points a list of the approximate index aims at. Lists above 8/3 of it are split, lists below a sixth dissolved."),
    key!(raft.log_bytes_max, NOW, ByteSize::mib(1) => ByteSize::gib(64), "Size of a shard's log at which entries already applied are removed."),
    key!(raft.checkpoint_bytes_per_second, NOW, ByteSize(0) => ByteSize::gib(1024), "Most bytes a second this node gives to replicas that are rebuilt from its own (whole states of shards), all of them together: 0B, which means no bound, or at least 1MiB."),
    key!(limits.request_body, NOW, ByteSize::kib(1) => ByteSize::mib(64), "Largest request body, after decompression."),
    key!(limits.concurrent_requests, NOW, 1usize => 1_000_000usize, "Most requests served at once; further ones are told to slow down."),
    key!(limits.connections, NOW, 1usize => 1_000_000usize, "Most connections open at once on each listener; further ones are closed as they come."),
    key!(limits.request_timeout, NOW, Duration::from_millis(10) => Duration::from_secs(3600), "Longest time for one request, from its first byte to its answer."),
    key!(limits.staleness, NOW, Duration::from_millis(100) => Duration::from_secs(3600), "How old what a read with consistency eventual shows may be. A replica that has not heard for longer how far its shard is asks before it answers."),
    key!(limits.head_timeout, NOW, Duration::from_millis(10) => Duration::from_secs(3600), "Longest time a client may take to send the head of a request."),
    key!(limits.idle_timeout, NOW, Duration::from_millis(10) => Duration::from_secs(86_400), "Longest time a connection stays open without a request."),
    key!(limits.shutdown_notice, NOW, Duration::ZERO => Duration::from_secs(60), "How long a node of a cluster that is told to stop says that it is not ready before it closes its listeners, so that gateways and load balancers send it nothing more. Meanwhile it serves."),
    key!(limits.shutdown_grace, NOW, Duration::ZERO => Duration::from_secs(3600), "Longest time a stopping node waits for requests under way."),
    key!(
        security.insecure,
        NOW,
        "Allows listeners beyond loopback although nothing asks callers who they are. Anyone who reaches such an address may read and delete everything."
    ),
    key!(
        log.level,
        NOW,
        "Least level logged (error, warn, info, debug, trace), or directives such as info,vectorsphere::raft=debug."
    ),
    key!(
        log.format,
        NOW,
        "How log lines are written on standard error: text, json, or auto (text on a terminal, JSON otherwise)."
    ),
    key!(
        dev.partitions,
        NOW,
        "For development only (`cluster dev` sets it): PUT /dev/cuts on the monitoring address, with a JSON list of peer addresses, makes this node's network to them seem cut. Refused unless every listener is on loopback."
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_sections_stand_together() {
        let mut seen_sections: Vec<&str> = Vec::new();
        for (position, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..position].iter().all(|other| other.name != key.name), "{} stands twice", key.name);
            let section = key.name.split_once('.').map_or("", |(section, _)| section);
            if seen_sections.last() != Some(&section) {
                assert!(!seen_sections.contains(&section), "the keys of {section} are torn apart at {}", key.name);
                seen_sections.push(section);
            }
            assert!(find(key.name).is_some() && !is_section(key.name));
        }
    }

    #[test]
    fn every_key_reads_back_its_default_and_has_a_meaning() {
        let defaults = Config::default();
        for key in KEYS {
            let mut config = Config::default();
            assert!(key.assign(&mut config, &key.value(&defaults)), "{} refuses its own default", key.name);
            assert_eq!(config, defaults, "{}", key.name);
            assert!(key.help.len() > 20 && key.help.ends_with('.'), "{} has no proper meaning", key.name);
        }
    }

    #[test]
    fn bounds_hold_at_both_ends_and_leave_the_config_alone() {
        let mut checked = 0;
        for key in KEYS {
            let Some(bounds) = key.bounds else { continue };
            let (low, high) = bounds();
            let mut config = Config::default();
            assert!(key.assign(&mut config, &low) && key.assign(&mut config, &high), "{}", key.name);
            let before = config.clone();
            let beyond = match high {
                Value::Integer(number) => Value::Integer(number + 1),
                _ if key.type_expected.starts_with("a size") => Value::Text("1000000TiB".to_owned()),
                _ => Value::Text("400d".to_owned()),
            };
            assert!(!key.assign(&mut config, &beyond), "{} accepts {beyond:?}", key.name);
            assert_eq!(config, before);
            checked += 1;
        }
        assert!(checked >= 8);
    }

    #[test]
    fn expected_names_type_and_bounds() {
        let key = find("limits.connections").expect("a key");
        assert_eq!(key.expected(), "a whole number, from 1 to 1000000");
        let key = find("limits.request_body").expect("a key");
        assert!(key.expected().ends_with("from 1KiB to 64MiB"), "{}", key.expected());
    }

    #[test]
    fn sections_are_prefixes() {
        assert!(is_section("etcd") && is_section("etcd.tls") && is_section("listen"));
        assert!(!is_section("etcd.tls.ca_file") && !is_section("etc") && !is_section(""));
    }
}
