//! A cluster of a hundred nodes and a thousand shards, to be measured rather than broken: how long it takes to form, to choose its
//! leaders, to get over the loss of a node, to even itself out over one that joins, and what all of that asks of etcd. Run by hand;
//! sim/README.md has the command, the figures and what is concluded from them.
//!
//! It promises that what it measures is right: every document is there in the end, on as many replicas as it should be. The
//! runner prints the figures.
use super::Run;
use crate::{
    faults::{fleet::Fleet, operator},
    plan::{IndexPlan, Moves, Plan, Workload as Kind},
    workload::answer,
    world::{self, figure},
};
use http::{Method, StatusCode};
use madsim::time::{self, Instant};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use vectorsphere::{
    cluster::ShardTable,
    rt::http::client::{Client, ClientOptions},
};

/// Everything that is waited for must come within this, in simulated time.
const LIMIT: Duration = Duration::from_secs(600);
/// How exactly times are measured.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// For how long a cluster at rest is watched.
const REST: Duration = Duration::from_secs(30);
const TABLE: &str = "things";
const DIMENSION: usize = 8;
const BATCH: u64 = 100;

/// How large the cluster is. `SIM_PLAN` may name a file with another one.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scale {
    nodes: usize,
    shards: usize,
    copies: usize,
    documents: u64,
    /// Bytes of each document, about.
    document_bytes: usize,
    /// `cluster.rebalance.bytes_per_second`.
    bytes_per_second: u64,
    /// `cluster.replace_after`.
    replace_after_ms: u64,
}

const SCALE: Scale = Scale {
    nodes: 100,
    shards: 1_000,
    copies: 3,
    documents: 10_000,
    document_bytes: 10_000,
    bytes_per_second: 128 << 10,
    replace_after_ms: 10_000,
};

/// See the module.
pub async fn run(run: Run) {
    let scale = match &run.plan {
        Some(text) => serde_json::from_str(text).expect("SIM_PLAN holds a size"),
        None => SCALE,
    };
    figure!("the cluster: {}", serde_json::to_string(&scale).expect("plain data"));
    let fleet = Fleet::start(run.disk, &plan(scale));
    let course = Course { fleet, scale };
    course.form().await;
    course.create().await;
    course.load().await;
    course.rest().await;
    course.lose_a_node().await;
    course.grow().await;
    course.check().await;
}

/// The plan of nodes that found the cluster and one more that joins.
fn plan(scale: Scale) -> Plan {
    Plan {
        workload: Kind::Set,
        nodes: scale.nodes + 1,
        shards: scale.shards,
        copies: scale.copies,
        index: IndexPlan {
            indexed: false,
            dimension: DIMENSION,
            index_type: "flat".to_string(),
            metric: "euclidean".to_string(),
            flat_points_max: 1_000_000,
            tail_points_max: 1_000,
            list_points: 100,
        },
        log_bytes_max: None,
        first_start: None,
        clients: Vec::new(),
        faults: Vec::new(),
        audits: Vec::new(),
        finale: None,
        moves: Some(Moves {
            founders: scale.nodes,
            replace_after_ms: scale.replace_after_ms,
            bytes_per_second: Some(scale.bytes_per_second),
            split_above: None,
            etcd: true,
            steps: Vec::new(),
        }),
    }
}

struct Course {
    fleet: Fleet,
    scale: Scale,
}

/// What nodes had asked etcd, and what it had sent, by when.
#[derive(Clone, Copy)]
struct Traffic {
    at: Instant,
    calls: u64,
    changes: u64,
    events: u64,
    bytes: u64,
}

impl Traffic {
    fn now() -> Traffic {
        let counted = |name: &str| world::counted(&format!("etcd.{name}"));
        let (changes, events) = (counted("changes"), counted("events"));
        Traffic { at: Instant::now(), calls: counted("calls"), changes, events, bytes: counted("bytes") }
    }

    /// What has come since, in words.
    fn since(self) -> String {
        let now = Traffic::now();
        format!(
            "{} calls to etcd, {} of them changes; {} events to watchers; {:.2} MB from and to it; in {:.2} s",
            now.calls - self.calls,
            now.changes - self.changes,
            now.events - self.events,
            (now.bytes - self.bytes) as f64 / 1e6,
            self.at.elapsed().as_secs_f64()
        )
    }
}

impl Course {
    async fn form(&self) {
        let before = Traffic::now();
        self.fleet.wait_until_ready(&self.fleet.present_numbers(), LIMIT).await;
        figure!("formed: every node ready; {}", before.since());
    }

    /// A table whose shards all have leaders.
    async fn create(&self) {
        let before = Traffic::now();
        let Scale { shards, copies, .. } = self.scale;
        let body = json!({ "table_name": TABLE, "dimension": DIMENSION, "index_type": "flat", "metric": "euclidean",
            "shards": shards, "replicas": copies });
        let (status, answer) = self.ask(0, Method::POST, "/api/v1/tables".to_string(), Some(body)).await;
        assert!(status.is_success(), "{status}: {answer}");
        let answered = before.at.elapsed();
        self.until("every shard has a leader", || self.led().len() == shards).await;
        figure!("table made: answered after {:.2} s, all shards led; {}", answered.as_secs_f64(), before.since());
        let placed = self.shares().values().copied().collect::<Vec<usize>>();
        let (fewest, most) = (placed.iter().min().expect("nodes"), placed.iter().max().expect("nodes"));
        figure!("placed: {fewest} to {most} replicas a node, {} on average", shards * copies / self.scale.nodes);
    }

    async fn load(&self) {
        let begun = Instant::now();
        let padding = "x".repeat(self.scale.document_bytes);
        for first in (0..self.scale.documents).step_by(BATCH as usize) {
            let last = (first + BATCH).min(self.scale.documents);
            let vector = |id: u64| vec![id as f32; DIMENSION];
            let document =
                |id: u64| json!({ "document_id": id, "vector": vector(id), "metadata": { "padding": padding } });
            let body = json!({ "documents": (first..last).map(document).collect::<Vec<_>>() });
            let node = (first / BATCH) as usize % self.scale.nodes;
            let path = format!("/api/v1/tables/{TABLE}/documents");
            let (status, answer) = self.ask(node, Method::POST, path, Some(body)).await;
            assert!(status.is_success(), "{status}: {answer}");
        }
        let bytes: u64 = self.stored().values().sum();
        figure!("loaded: {:.0} MB on all nodes, in {:.1} s", bytes as f64 / 1e6, begun.elapsed().as_secs_f64());
    }

    async fn rest(&self) {
        let before = Traffic::now();
        time::sleep(REST).await;
        figure!("at rest: {}", before.since());
    }

    /// A node that led its share loses its power, and never comes back.
    async fn lose_a_node(&self) {
        let before = Traffic::now();
        let lost = &self.fleet.victims[self.scale.nodes / 2];
        let lost_id = lost.node_id().expect("it was up");
        let replicas = self.shares()[&lost_id];
        let bytes = self.stored()[&lost_id];
        let leaderless: BTreeSet<u64> =
            self.led().into_iter().filter(|(_, node)| *node == lost.number).map(|(shard, _)| shard).collect();
        self.fleet.leave(lost.number);
        lost.kill().await;
        let mut waited = Vec::new();
        self.until("every shard is led again", || {
            let led = self.led();
            let now = led.keys().filter(|shard| leaderless.contains(shard)).count();
            waited.resize(now.max(waited.len()), before.at.elapsed().as_secs_f64());
            led.len() == self.scale.shards
        })
        .await;
        let middle = waited.get(waited.len() / 2).copied().unwrap_or(0.0);
        figure!(
            "a node of {replicas} replicas, {} of them leaders, lost: half of these led again after {middle:.2} s, all after {:.2} s",
            leaderless.len(),
            waited.last().copied().unwrap_or(0.0)
        );
        self.until_whole("what was lost is made anew", |table| {
            table.shards.values().all(|entry| !entry.replicas.contains(&lost_id))
        })
        .await;
        figure!("its {:.1} MB made anew elsewhere after `replace_after`; {}", bytes as f64 / 1e6, before.since());
    }

    /// A node joins and gets its share.
    async fn grow(&self) {
        let before = Traffic::now();
        let new = self.scale.nodes;
        self.fleet.join(new);
        self.fleet.wait_until_ready(&[new], LIMIT).await;
        let ready = before.at.elapsed();
        let id = self.fleet.victims[new].node_id().expect("it is up");
        self.until_whole("shares are even", |table| {
            let held = |node: u64| table.shards.values().filter(|entry| entry.replicas.contains(&node)).count();
            let counts: Vec<usize> = self.fleet.present().filter_map(|victim| victim.node_id()).map(held).collect();
            held(id) > 0 && counts.iter().max() <= counts.iter().min().map(|fewest| fewest + 1).as_ref()
        })
        .await;
        let (took, bytes) = ((before.at.elapsed() - ready).as_secs_f64(), self.stored()[&id]);
        figure!(
            "a node joined: ready after {:.2} s; {} replicas, {:.2} MB, came in {took:.1} s: {:.0} % of what the throttle lets it receive",
            ready.as_secs_f64(),
            self.shares()[&id],
            bytes as f64 / 1e6,
            bytes as f64 / took / self.scale.bytes_per_second as f64 * 100.0
        );
        figure!("meanwhile: {}", before.since());
    }

    /// Every document is there, and every replica equal to its leader's.
    async fn check(&self) {
        let (status, table) = self.ask(1, Method::GET, format!("/api/v1/tables/{TABLE}"), None).await;
        assert!(status.is_success(), "{status}: {table}");
        assert_eq!(table["documents_count"].as_u64(), Some(self.scale.documents), "{table}");
        let mut points: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for victim in self.fleet.present() {
            for (shard, replica) in victim.inside().expect("every node is up").host().replicas() {
                points.entry(shard).or_default().push(replica.points());
            }
        }
        let total: u64 = points.values().flatten().sum();
        assert_eq!(total, self.scale.documents * self.scale.copies as u64, "{points:?}");
    }

    /// Which node leads each shard that has a leader.
    fn led(&self) -> BTreeMap<u64, usize> {
        let leads = |(node, inside): (usize, vectorsphere::service::Service)| {
            let replicas = inside.host().replicas().into_iter();
            replicas.filter(|(_, replica)| replica.is_leader()).map(move |(shard, _)| (shard, node)).collect::<Vec<_>>()
        };
        let up = self.fleet.present().filter_map(|victim| Some((victim.number, victim.inside()?)));
        up.flat_map(leads).collect()
    }

    /// How many replicas the table gives each node.
    fn shares(&self) -> BTreeMap<u64, usize> {
        let nodes = self.fleet.present().filter_map(|victim| victim.node_id());
        let mut shares: BTreeMap<u64, usize> = nodes.map(|node| (node, 0)).collect();
        let table = self.table();
        table.shards.values().flat_map(|entry| &entry.replicas).for_each(|node| *shares.entry(*node).or_default() += 1);
        shares
    }

    /// Bytes of the replicas each node holds.
    fn stored(&self) -> BTreeMap<u64, u64> {
        let held = |inside: vectorsphere::service::Service| {
            inside.host().replicas().iter().map(|(_, replica)| replica.stored_bytes()).sum::<u64>()
        };
        self.fleet.present().filter_map(|victim| Some((victim.node_id()?, held(victim.inside()?)))).collect()
    }

    /// The newest table that a node knows.
    fn table(&self) -> Arc<ShardTable> {
        let tables = self.fleet.present().filter_map(|victim| Some(victim.inside()?.shard_table()));
        tables.max_by_key(|table| table.epoch).expect("a node is up")
    }

    async fn until(&self, what: &str, mut reached: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !reached() {
            assert!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
            time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Waits until the table is as it should be, every replica is where the table says, and the master has nothing left to do.
    async fn until_whole(&self, what: &str, holds: impl Fn(&ShardTable) -> bool) {
        let begun = Instant::now();
        loop {
            let status = match self.fleet.master() {
                Some(master) => operator::status(&self.fleet, master).await.unwrap_or(Value::Null),
                None => Value::Null,
            };
            let placement = &status["placement"];
            let done = placement["in_flight"] == 0 && placement["next"].as_array().is_some_and(Vec::is_empty);
            if done && holds(&self.table()) && self.is_in_place() {
                return;
            }
            assert!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {what}; the master says {placement}");
            time::sleep(LOOK_INTERVAL * 10).await;
        }
    }

    fn is_in_place(&self) -> bool {
        let table = self.table();
        self.fleet.present().all(|victim| {
            let (Some(inside), Some(node)) = (victim.inside(), victim.node_id()) else { return false };
            let given = table.shards.iter().filter(|(_, entry)| entry.replicas.contains(&node));
            inside.host().stored() == given.map(|(shard, _)| *shard).collect()
        })
    }

    /// Asks a node over its REST face.
    async fn ask(&self, node: usize, method: Method, path: String, body: Option<Value>) -> (StatusCode, Value) {
        let address = self.fleet.victims[node].http();
        let asked = self.fleet.clients.spawn(async move {
            let client = Client::with_options(&address, ClientOptions { timeout: LIMIT, ..ClientOptions::default() });
            answer::send(&client, answer::request(method, &path, body, None)).await
        });
        asked.await.expect("no client panics").expect("a node that is well answers")
    }
}
