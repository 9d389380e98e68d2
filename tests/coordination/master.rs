//! The master for real: controllers on three nodes stand for election over the embedded coordinator, and keep a table of shards whose
//! groups are on paper and do what the table says at once. Nodes die, the master among them.

use crate::embedded::Cluster;
use futures_util::future::BoxFuture;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};
use vectorsphere::{
    cluster::{
        Candidate, Catalog, MemberRecord, NodeId, SelfTold, ShardTable,
        admin::Admin,
        controller::{Controller, ControllerSettings},
        report::{NodeReport, Observer, ReplicaReport, Reports},
    },
    coordination::{
        Change, Coordinator, Transaction,
        election::{Election, ElectionSettings},
    },
    rt::time,
    types::{CollectionName, CollectionSpec, IndexType, Metric, VectorSpec},
};

/// Shards that are as the table wants them, on nodes that live or are dead.
#[derive(Clone)]
struct Paper {
    coordinator: Arc<dyn Coordinator>,
    nodes: u64,
    dead: Arc<Mutex<BTreeSet<NodeId>>>,
}

impl Paper {
    fn table(&self) -> ShardTable {
        let stored = self.coordinator.remembered("table").unwrap();
        stored.first().map_or_else(ShardTable::default, |kv| serde_json::from_slice(&kv.value).unwrap())
    }

    fn reports(&self) -> Reports {
        let (table, dead) = (self.table(), self.dead.lock().unwrap().clone());
        let lives = |node: &NodeId| !dead.contains(node);
        let report = |node: NodeId| {
            let held = table.shards.iter().filter(|(_, entry)| entry.replicas.contains(&node));
            let replica = held.map(|(shard, entry)| {
                let leads = entry.replicas.iter().find(|node| lives(node)) == Some(&node);
                (*shard, ReplicaReport { leads, voters: entry.replicas.clone(), bytes: 1, ..ReplicaReport::default() })
            });
            Arc::new(NodeReport { replicas: replica.collect(), ..NodeReport::default() })
        };
        (1..=self.nodes).filter(lives).map(|node| (node, report(node))).collect()
    }
}

impl Observer for Paper {
    fn observe(&self) -> BoxFuture<'_, Reports> {
        Box::pin(async { self.reports() })
    }

    fn hand_over(&self, _shard: u64, _from: NodeId, _to: NodeId) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

async fn until(what: &str, test: impl Fn() -> bool) {
    for _ in 0..600 {
        if test() {
            return;
        }
        time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not within 30 s: {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn masters_come_and_go_and_every_shard_gets_its_replicas() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let coordinator = leader.coordinator();
    let records = (1..=6).map(|node| {
        Change::Put(MemberRecord::key(node), MemberRecord::joined(SelfTold::default(), 0, node <= 3).encode())
    });
    coordinator.commit(Transaction { compares: Vec::new(), changes: records.collect() }).await.unwrap();
    let spec = VectorSpec::new(2, Metric::Dot, IndexType::Flat).unwrap();
    let spec = CollectionSpec { shards: 12, ..CollectionSpec::single(spec) };
    let nodes: Vec<Candidate> = (1..=6).map(Candidate::active).collect();
    let catalog = Catalog::load(coordinator.clone()).unwrap();
    catalog.create(&CollectionName::new("c").unwrap(), spec, 0, &nodes).await.unwrap();

    let dead = Arc::new(Mutex::new(BTreeSet::new()));
    let settings = ControllerSettings { replace_after: Duration::from_secs(1), ..ControllerSettings::default() };
    let standing = cluster.nodes.iter().map(|node| {
        let paper = Paper { coordinator: node.coordinator(), nodes: 6, dead: dead.clone() };
        let controller =
            Controller::new(node.id, node.coordinator(), Arc::new(paper.clone()), settings.clone(), Default::default());
        let of = ElectionSettings::of(node.id);
        let election = Election::stand(node.coordinator(), "master", of, Arc::new(controller.clone()));
        (node.id, (controller, election, paper))
    });
    let standing: BTreeMap<NodeId, _> = standing.collect();
    let master = || standing.iter().find(|(_, (controller, ..))| controller.last().is_some()).map(|(id, _)| *id);
    until("a master", || master().is_some()).await;
    let first = master().unwrap();

    dead.lock().unwrap().insert(6);
    let held = |by: NodeId, node: NodeId| {
        let table = standing[&by].2.table();
        table.shards.values().filter(|entry| entry.replicas.contains(&node)).count()
    };
    until("node 6 is replaced", || held(first, 6) == 0).await;

    // The master's node is lost to the coordinator; another reigns and goes on.
    cluster.cut(first);
    cluster.leader().await;
    let others: Vec<NodeId> = standing.keys().copied().filter(|id| *id != first).collect();
    let reigns = |id: &NodeId| standing[id].0.last().is_some();
    until("another master", || others.iter().any(reigns)).await;
    let second = *others.iter().find(|id| reigns(id)).unwrap();
    let asked = *others.iter().find(|id| **id != second).unwrap();
    let node = cluster.nodes.iter().find(|node| node.id == asked).unwrap();
    let admin = Admin::new(node.coordinator(), standing[&asked].0.clone());
    admin.drain(5, true, 7).await.unwrap();
    until("node 5 is drained", || held(asked, 5) == 0).await;
    assert!(standing[&first].0.last().is_none(), "who lost the coordinator reigns no more");
    admin.remove(5, 8).await.unwrap();

    let table = standing[&second].2.table();
    assert!(table.shards.values().all(|entry| entry.replicas.len() == 3), "{table:?}");
    let history = admin.history().unwrap();
    assert!(history.windows(2).all(|pair| pair[0].number == pair[1].number + 1), "told once each, in order");
    let masters: BTreeSet<NodeId> =
        history.iter().filter(|entry| entry.what.starts_with("shard")).map(|e| e.by).collect();
    assert_eq!(masters, [first, second].into());
    for (_, election, _) in standing.into_values() {
        drop(election);
    }
    cluster.stop().await;
}
