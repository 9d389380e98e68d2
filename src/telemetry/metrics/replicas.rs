//! The replicas of a node, and how far the others of their shards are: one series a replica. Told by `service` before each scrape.

use super::table::{Column, Labels, Table, Told, UNKNOWN, counter, gauge, one_if};
use prometheus_client::registry::Registry;

/// A replica of this node.
#[derive(Clone, Debug, Default)]
pub struct ReplicaRow {
    pub collection: String,
    pub shard: u64,
    /// Whether it leads, knows who does, and votes.
    pub leads: bool,
    pub has_leader: bool,
    pub votes: bool,
    /// Entries it has applied since the shard began.
    pub applied: u64,
    /// None if its group did not answer.
    pub group: Option<GroupRow>,
    pub points: u64,
    pub data_bytes: u64,
    pub memory_bytes: u64,
    /// Of all its indexes: rows, and those not yet filed in lists. Told for collections.
    pub index_rows: u64,
    pub tail_rows: u64,
    /// Whether an index is being trained.
    pub is_training: bool,
    /// Whether it was given up, and waits to be rebuilt.
    pub is_given_up: bool,
    /// Of a leader: the others.
    pub others: Vec<OtherRow>,
}

/// What a replica's group tells of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct GroupRow {
    pub term: u64,
    /// Entries that it knows to be agreed on and has not applied.
    pub behind: u64,
    /// Entries its log holds.
    pub log_entries: u64,
}

/// Another replica of a shard, as its leader knows it.
#[derive(Clone, Debug)]
pub struct OtherRow {
    pub node: String,
    /// Entries that its disk lacks.
    pub behind: u64,
    /// Whether it lacks so much that it waits for a whole state.
    pub awaits_state: bool,
}

/// Told before each scrape.
#[derive(Clone, Debug, Default)]
pub struct ReplicasMetrics {
    /// The replicas of this node.
    pub rows: Told<ReplicaRow>,
}

const COLUMNS: &[Column<ReplicaRow>] = &[
    gauge("shard_leads", "Whether this node leads a shard: 1 or 0", |row| one_if(row.leads)),
    gauge("shard_has_leader", "Whether a replica knows who leads its shard: 1 or 0", |row| one_if(row.has_leader)),
    gauge("shard_votes", "Whether a replica votes in its shard: 1 or 0", |row| one_if(row.votes)),
    gauge("shard_silent", "Whether a replica's group did not answer: 1 or 0", |row| one_if(row.group.is_none())),
    gauge("shard_term", "Term of a shard's log; it grows with each election", |row| in_group(row, |group| group.term)),
    gauge("shard_unapplied_entries", "Entries of a shard agreed on that a replica has not applied yet", |row| {
        in_group(row, |group| group.behind)
    }),
    counter("shard_applied_entries", "Entries a replica has applied, since its shard began", |row| row.applied as f64),
    gauge("shard_log_entries", "Entries that a replica's log holds", |row| in_group(row, |group| group.log_entries)),
    gauge("shard_points", "Live points of a replica", |row| row.points as f64),
    gauge("shard_data", "What a replica stores", |row: &ReplicaRow| row.data_bytes as f64).in_bytes(),
    gauge("shard_index_memory", "Memory of a replica's indexes", |row: &ReplicaRow| row.memory_bytes as f64).in_bytes(),
    gauge("shard_training", "Whether a replica's index is being trained: 1 or 0", |row| one_if(row.is_training)),
    gauge("shard_given_up", "Whether a replica is damaged and waits to be rebuilt: 1 or 0", |row| {
        one_if(row.is_given_up)
    }),
];

fn in_group(row: &ReplicaRow, of: fn(&GroupRow) -> u64) -> f64 {
    row.group.as_ref().map_or(UNKNOWN, |group| of(group) as f64)
}

/// A replica with one of the others of its shard.
#[derive(Clone, Debug)]
struct Pair {
    collection: String,
    shard: u64,
    other: OtherRow,
}

const PAIR_COLUMNS: &[Column<Pair>] = &[
    gauge(
        "shard_replica_lag_entries",
        "Entries that another replica's disk lacks, by the leader of its shard",
        |row| row.other.behind as f64,
    ),
    gauge(
        "shard_replica_awaits_state",
        "Whether another replica waits for a whole state of its shard: 1 or 0",
        |row| one_if(row.other.awaits_state),
    ),
];

fn labels(collection: &str, shard: u64) -> Labels {
    vec![("collection", collection.to_owned()), ("shard", shard.to_string())]
}

impl ReplicasMetrics {
    pub(super) fn new(registry: &mut Registry) -> ReplicasMetrics {
        let metrics = ReplicasMetrics::default();
        let (own, others) = (metrics.rows.clone(), metrics.rows.clone());
        let rows = move || own.rows();
        let of = |row: &ReplicaRow| labels(&row.collection, row.shard);
        registry.register_collector(Box::new(Table { columns: COLUMNS, labels: of, rows: Box::new(rows) }));
        let pairs = move || others.rows().into_iter().flat_map(pairs).collect();
        let of = |row: &Pair| {
            let mut labels = labels(&row.collection, row.shard);
            labels.push(("node", row.other.node.clone()));
            labels
        };
        registry.register_collector(Box::new(Table { columns: PAIR_COLUMNS, labels: of, rows: Box::new(pairs) }));
        metrics
    }
}

fn pairs(row: ReplicaRow) -> Vec<Pair> {
    let pair = |other| Pair { collection: row.collection.clone(), shard: row.shard, other };
    row.others.into_iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    #[test]
    fn a_replica_and_those_it_leads_have_their_series_while_they_are_there() {
        let metrics = Metrics::new();
        assert!(!metrics.encode().contains("vectorsphere_shard_points"));
        let other = OtherRow { node: "b".to_owned(), behind: 40, awaits_state: false };
        let of = |shard, others| ReplicaRow {
            collection: "t".to_owned(),
            shard,
            leads: shard == 3,
            data_bytes: 512,
            points: 9,
            group: (shard == 3).then(|| GroupRow { term: 7, ..GroupRow::default() }),
            others,
            ..ReplicaRow::default()
        };
        metrics.replicas.rows.set(vec![of(3, vec![other]), of(4, Vec::new())]);
        let text = metrics.encode();
        for line in [
            "vectorsphere_shard_leads{collection=\"t\",shard=\"3\"} 1.0",
            "vectorsphere_shard_leads{collection=\"t\",shard=\"4\"} 0.0",
            "vectorsphere_shard_term{collection=\"t\",shard=\"3\"} 7.0",
            "vectorsphere_shard_silent{collection=\"t\",shard=\"4\"} 1.0",
            "vectorsphere_shard_data_bytes{collection=\"t\",shard=\"3\"} 512.0",
            "vectorsphere_shard_replica_lag_entries{collection=\"t\",shard=\"3\",node=\"b\"} 40.0",
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
        assert!(
            !text.contains("vectorsphere_shard_term{collection=\"t\",shard=\"4\"}"),
            "what is not known is not told"
        );
        metrics.replicas.rows.set(Vec::new());
        assert!(!metrics.encode().contains("vectorsphere_shard_"));
    }
}
