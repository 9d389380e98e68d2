//! The cluster: what every node tells of its own part in it, what only the master knows, and what the master does. Told by `service`
//! before each scrape; counted by `cluster` (the controller).

use super::requests::Seconds;
use super::table::{Column, Table, Told, counter, gauge, one_if};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::{counter::Counter, family::Family, histogram::Histogram};
use prometheus_client::registry::{Registry, Unit};
use std::time::Duration;

/// A node's own part.
#[derive(Clone, Debug, Default)]
pub struct NodeRow {
    pub is_ready: bool,
    pub is_master: bool,
    /// Checks of its health that failed.
    pub checks_failed: u64,
    /// Whether it obeys its coordinator.
    pub obeys: bool,
    /// Members it knows, and those it has no link to.
    pub members: u64,
    pub members_unreachable: u64,
    /// Collections and shards of the cluster, as it knows them, and how new that is.
    pub shards: u64,
    pub table_epoch: u64,
    /// Its replicas: all, those that lead, those given up; and shards that it should have and has not opened, or that have no leader.
    pub replicas: u64,
    pub replicas_leading: u64,
    pub replicas_given_up: u64,
    pub shards_missing: u64,
    pub shards_leaderless: u64,
    /// 0: enough; 1: only the reserve is left; 2: nothing is.
    pub disk_shortage: u8,
    /// Reads it asked of replicas (its own too), second ones because the first was slow, and those that failed.
    pub reads_asked: u64,
    pub reads_hedged: u64,
    pub reads_failed: u64,
}

const NODE: &[Column<NodeRow>] = &[
    gauge("node_ready", "Whether the node takes requests: 1 or 0", |row| one_if(row.is_ready)),
    gauge("node_checks_failed", "Checks of the node's health that fail", |row| row.checks_failed as f64),
    gauge("node_is_master", "Whether the node is the master: 1 or 0", |row| one_if(row.is_master)),
    gauge(
        "node_obeys_coordinator",
        "Whether what the coordinator says is obeyed: 1, or 0 if it lost what it had agreed to",
        |row| one_if(row.obeys),
    ),
    gauge("node_members", "Members of the cluster that the node knows, itself too", |row| row.members as f64),
    gauge("node_members_unreachable", "Members that the node has no link to", |row| row.members_unreachable as f64),
    gauge("node_shards_known", "Shards in the shard table that the node knows", |row| row.shards as f64),
    gauge("node_table_epoch", "Epoch of the shard table that the node knows", |row| row.table_epoch as f64),
    gauge("node_replicas", "Replicas that the node has open", |row| row.replicas as f64),
    gauge("node_replicas_leading", "Shards that the node leads", |row| row.replicas_leading as f64),
    gauge("node_replicas_given_up", "Replicas of the node that are damaged and wait to be rebuilt", |row| {
        row.replicas_given_up as f64
    }),
    gauge("node_shards_missing", "Shards that the node should have and has not opened", |row| {
        row.shards_missing as f64
    }),
    gauge("node_shards_leaderless", "Shards in which the node votes and nobody leads", |row| {
        row.shards_leaderless as f64
    }),
    gauge("node_disk_shortage", "Room on the disk: 0 enough, 1 only the reserve, 2 none", |row| {
        f64::from(row.disk_shortage)
    }),
    counter("reads_asked", "Reads asked of replicas, those of the node itself too", |row| row.reads_asked as f64),
    counter("reads_hedged", "Reads asked of a second replica because the first was slow", |row| {
        row.reads_hedged as f64
    }),
    counter("reads_failed", "Reads asked of a replica in vain", |row| row.reads_failed as f64),
];

/// The whole, as its master saw it in its last round.
#[derive(Clone, Debug, Default)]
pub struct WholeRow {
    pub collections: u64,
    pub shards: u64,
    /// Shards that nobody leads; that have fewer working copies than they should; whose members change; that give slots away.
    pub shards_leaderless: u64,
    pub shards_short: u64,
    pub shards_changing: u64,
    pub shards_giving: u64,
    pub replicas: u64,
    /// The greatest lag of a working replica.
    pub lag_max: u64,
    pub points: u64,
    pub data_bytes: u64,
    /// Changes under way, begun in the last round, and waiting for others.
    pub changes_in_flight: u64,
    pub changes_begun: u64,
    pub changes_waiting: u64,
    /// What goes over the network for those begun.
    pub begun_bytes: u64,
    pub findings: u64,
    pub is_paused: bool,
    pub protocol_version: u32,
}

const WHOLE: &[Column<WholeRow>] = &[
    gauge("cluster_collections", "Collections of the cluster", |row| row.collections as f64),
    gauge("cluster_shards", "Shards of the cluster", |row| row.shards as f64),
    gauge("cluster_shards_leaderless", "Shards that nobody leads", |row| row.shards_leaderless as f64),
    gauge("cluster_shards_short", "Shards with fewer working, caught-up copies than they should have", |row| {
        row.shards_short as f64
    }),
    gauge("cluster_shards_changing", "Shards whose replicas are being moved, added or taken away", |row| {
        row.shards_changing as f64
    }),
    gauge("cluster_shards_giving", "Shards that give slots to another: splits and merges under way", |row| {
        row.shards_giving as f64
    }),
    gauge("cluster_replicas", "Replicas that the shard table wants", |row| row.replicas as f64),
    gauge(
        "cluster_replica_lag_entries_max",
        "The most entries that a replica which answers has not applied yet",
        |row| row.lag_max as f64,
    ),
    gauge("cluster_points", "Live points, each counted once", |row| row.points as f64),
    gauge("cluster_data", "What all nodes store, all copies", |row: &WholeRow| row.data_bytes as f64).in_bytes(),
    gauge("cluster_changes_in_flight", "Changes of the cluster under way", |row| row.changes_in_flight as f64),
    gauge("cluster_changes_begun", "Changes begun in the master's last round", |row| row.changes_begun as f64),
    gauge("cluster_changes_waiting", "Changes that wait for others, for a node or for the throttle", |row| {
        row.changes_waiting as f64
    }),
    gauge("cluster_changes_begun_data", "What goes over the network for the changes begun", |row: &WholeRow| {
        row.begun_bytes as f64
    })
    .in_bytes(),
    gauge("cluster_findings", "What the master found and cannot mend", |row| row.findings as f64),
    gauge("cluster_rebalance_paused", "Whether evening out is paused: 1 or 0", |row| one_if(row.is_paused)),
    gauge("cluster_protocol_version", "Version of its protocols that the cluster speaks", |row| {
        f64::from(row.protocol_version)
    }),
];

/// A member, as the master saw it in its last round.
#[derive(Clone, Debug, Default)]
pub struct MemberRow {
    pub node: String,
    pub zone: String,
    pub answers: bool,
    pub away: Duration,
    pub is_draining: bool,
    pub replicas: u64,
    pub leads: u64,
    pub data_bytes: u64,
}

const MEMBERS: &[Column<MemberRow>] = &[
    gauge("cluster_node_up", "Whether a node answers the master: 1 or 0", |row| one_if(row.answers)),
    gauge("cluster_node_away", "How long a node has not answered the master", |row: &MemberRow| row.away.as_secs_f64())
        .in_seconds(),
    gauge("cluster_node_draining", "Whether a node's replicas are being moved to others: 1 or 0", |row| {
        one_if(row.is_draining)
    }),
    gauge("cluster_node_replicas", "Replicas that a node is to hold", |row| row.replicas as f64),
    gauge("cluster_node_leads", "Shards that a node leads", |row| row.leads as f64),
    gauge("cluster_node_data", "What a node stores", |row: &MemberRow| row.data_bytes as f64).in_bytes(),
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// What a master does. A default one counts for nobody.
#[derive(Clone, Debug)]
pub struct MasterMetrics {
    rounds: Counter,
    failures: Counter,
    duration: Histogram,
    changes: Family<Kind, Counter>,
    bytes: Family<Kind, Counter>,
}

impl Default for MasterMetrics {
    fn default() -> MasterMetrics {
        let (rounds, failures, changes, bytes) = Default::default();
        MasterMetrics { rounds, failures, duration: Seconds::histogram(), changes, bytes }
    }
}

impl MasterMetrics {
    fn new(registry: &mut Registry) -> MasterMetrics {
        let metrics = MasterMetrics::default();
        registry.register("master_rounds", "Rounds that the node did as master", metrics.rounds.clone());
        registry.register("master_round_failures", "Rounds that failed", metrics.failures.clone());
        let help = "Time of one round: seeing, planning, writing";
        registry.register_with_unit("master_round_duration", help, Unit::Seconds, metrics.duration.clone());
        registry.register("master_changes", "Changes that the node began as master, by kind", metrics.changes.clone());
        let help = "What goes over the network for these changes";
        registry.register_with_unit("master_changes_data", help, Unit::Bytes, metrics.bytes.clone());
        metrics
    }

    /// A round is over.
    pub fn did_round(&self, took: Duration, is_good: bool) {
        self.rounds.inc();
        self.failures.inc_by(u64::from(!is_good));
        self.duration.observe(took.as_secs_f64());
    }

    /// A change of this kind was begun, for which so many bytes go over the network.
    pub fn began(&self, kind: &'static str, bytes: u64) {
        self.changes.get_or_create(&Kind { kind }).inc();
        self.bytes.get_or_create(&Kind { kind }).inc_by(bytes);
    }
}

/// Told before each scrape.
#[derive(Clone, Debug)]
pub struct ClusterMetrics {
    /// One row.
    pub node: Told<NodeRow>,
    /// One row on the master, none elsewhere.
    pub whole: Told<WholeRow>,
    /// All members on the master, none elsewhere.
    pub members: Told<MemberRow>,
    pub master: MasterMetrics,
}

impl ClusterMetrics {
    pub(super) fn new(registry: &mut Registry) -> ClusterMetrics {
        let (node, whole, members) = (Told::default(), Told::default(), Told::<MemberRow>::default());
        let metrics = ClusterMetrics { node, whole, members, master: MasterMetrics::new(registry) };
        let (node, whole, members) = (metrics.node.clone(), metrics.whole.clone(), metrics.members.clone());
        let node = Table { columns: NODE, labels: |_| Vec::new(), rows: Box::new(move || node.rows()) };
        let whole = Table { columns: WHOLE, labels: |_| Vec::new(), rows: Box::new(move || whole.rows()) };
        let labels = |row: &MemberRow| vec![("node", row.node.clone()), ("zone", row.zone.clone())];
        let members = Table { columns: MEMBERS, labels, rows: Box::new(move || members.rows()) };
        registry.register_collector(Box::new(node));
        registry.register_collector(Box::new(whole));
        registry.register_collector(Box::new(members));
        metrics
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    #[test]
    fn the_whole_is_told_by_who_knows_it() {
        let metrics = Metrics::new();
        metrics.cluster.node.set(vec![NodeRow { replicas: 4, reads_hedged: 2, ..NodeRow::default() }]);
        let text = metrics.encode();
        for line in ["vectorsphere_node_replicas 4.0\n", "vectorsphere_reads_hedged_total 2.0\n"] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
        assert!(!text.contains("vectorsphere_cluster_"), "{text}");
        let member = MemberRow { node: "a".to_owned(), zone: "z".to_owned(), leads: 3, ..MemberRow::default() };
        metrics.cluster.members.set(vec![member]);
        metrics.cluster.whole.set(vec![WholeRow { shards_short: 1, data_bytes: 9, ..WholeRow::default() }]);
        metrics.cluster.master.did_round(Duration::from_millis(3), false);
        metrics.cluster.master.began("move", 512);
        let text = metrics.encode();
        for line in [
            "vectorsphere_cluster_node_leads{node=\"a\",zone=\"z\"} 3.0\n",
            "vectorsphere_cluster_shards_short 1.0\n",
            "vectorsphere_cluster_data_bytes 9.0\n",
            "vectorsphere_master_round_failures_total 1\n",
            "vectorsphere_master_changes_total{kind=\"move\"} 1\n",
            "vectorsphere_master_changes_data_bytes_total{kind=\"move\"} 512\n",
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
    }
}
