//! Several nodes in one process over loopback: joining, moving, leaving, being rebuilt. The nodes here are workers, none of which stands
//! for master: the controller's part, which is to decide, is played by the tests, that write the records and the table it would. In
//! `master` it decides.

mod aliases;
mod calls;
mod deletion;
mod leaderless;
mod master;
mod monitoring;
mod room;
mod rot;
mod sessions;
mod splits;

use super::*;
use crate::{
    cluster::{MemberRecord, MemberState, ShardTable},
    coordination::{Change, Committed, Compare, Coordinator, Transaction},
    shard::Replica,
    store::{Durability, Store, StoreOptions, keys},
    types::{
        CollectionName, CollectionSpec, DocumentId, IndexType, Metric, Payload, Point, Vector, VectorName, VectorSpec,
        WriteOptions, operation::ReadOptions,
    },
};
use std::{path::Path, sync::Arc, time::Duration};

const PATIENCE: Duration = Duration::from_secs(60);
const SHARD: u64 = 1;

fn config(directory: &Path, mode: Mode, peers: &[&Node]) -> Config {
    let mut config = Config { mode, data_dir: directory.to_owned(), ..Config::default() };
    let any = "127.0.0.1:0".parse().unwrap();
    config.listen.http = vec![any];
    (config.listen.grpc, config.listen.peer, config.listen.monitoring) = (any, any, any);
    let address = |node: &&Node| crate::config::Authority::from(node.addresses().peer.unwrap());
    config.cluster.peers = peers.iter().map(address).collect();
    config
}

async fn start(directory: &Path, mode: Mode, peers: &[&Node]) -> Node {
    Node::start(&config(directory, mode, peers)).await.unwrap()
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begun = rt::time::now();
    while !condition().await {
        assert!(begun.elapsed() < PATIENCE, "still not: {what}");
        rt::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn ready(nodes: &[&Node]) {
    for node in nodes {
        until("ready", async || node.service().health().ready).await;
    }
}

fn table_name() -> CollectionName {
    CollectionName::new("t").unwrap()
}

fn spec() -> CollectionSpec {
    CollectionSpec::single(VectorSpec::new(2, Metric::Euclidean, IndexType::Flat).unwrap())
}

async fn create(node: &Node) {
    node.service().create_collection(table_name(), spec()).await.unwrap();
}

fn point(id: u64) -> Point {
    let vectors = vec![(VectorName::default(), Vector::new(vec![id as f32, 1.0]).unwrap())];
    Point { id: DocumentId::Num(id), vectors, payload: Payload::default(), if_version: None }
}

async fn write(node: &Node, ids: std::ops::Range<u64>) {
    let points: Vec<Point> = ids.map(point).collect();
    node.service().upsert(&table_name(), points, &WriteOptions::default()).await.unwrap();
}

async fn has(node: &Node, id: u64) -> bool {
    node.service().get(&table_name(), &DocumentId::Num(id), &ReadOptions::default()).await.is_ok()
}

fn id(node: &Node) -> u64 {
    node.service().identity().node_id
}

fn replica(node: &Node) -> Option<Arc<Replica>> {
    node.service().host().replica(SHARD).ok()
}

/// Writes a changed value under a key, as the controller does: compared, and tried again.
async fn change(node: &Node, key: &str, change: impl Fn(&[u8]) -> Vec<u8>) {
    let coordinator = node.engine.inside().coordinator.unwrap();
    until("the coordinator takes the change", async || {
        let Ok(Some(stored)) = coordinator.get(key).await else { return false };
        let transaction = Transaction {
            compares: vec![Compare::WrittenAt(key.to_owned(), stored.revision)],
            changes: vec![Change::Put(key.to_owned(), change(&stored.value))],
        };
        matches!(coordinator.commit(transaction).await, Ok(Committed::At(_)))
    })
    .await;
}

async fn set_replicas(node: &Node, replicas: &[&Node]) {
    set_holders(node, &replicas.iter().map(|node| id(node)).collect::<Vec<u64>>()).await;
}

/// The same by their ids: some of them may be stopped.
async fn set_holders(node: &Node, ids: &[u64]) {
    change(node, "table", |stored| {
        let mut table: ShardTable = serde_json::from_slice(stored).unwrap();
        assert!(table.change_replicas(SHARD, ids.to_vec()));
        serde_json::to_vec(&table).unwrap()
    })
    .await;
}

/// Says that the cluster speaks of splits; no node of these tests stands for master, who would.
async fn speak_of_splits(node: &Node) {
    let key = "settings/version".to_owned();
    let transaction = Transaction {
        compares: vec![Compare::Absent(key.clone())],
        changes: vec![Change::Put(key, crate::cluster::VERSION_OF_SPLITS.to_string().into_bytes())],
    };
    let committed = node.engine.inside().coordinator.unwrap().commit(transaction).await;
    assert!(matches!(committed, Ok(Committed::At(_))), "{committed:?}");
}

async fn set_record(node: &Node, member: u64, set: impl Fn(&mut MemberRecord)) {
    let key = MemberRecord::key(member);
    change(node, &key, |stored| {
        let mut record = MemberRecord::decode(&key, stored).unwrap();
        set(&mut record);
        record.encode()
    })
    .await;
}

/// The voters of a group, as a node that leads it says.
async fn voters(nodes: &[&Node], group: u64) -> Vec<u64> {
    for node in nodes {
        let inside = node.engine.inside();
        let reports = reports::of(inside.coordinator.as_ref(), inside.service.host(), None).await;
        if let Some(report) = reports.into_iter().find(|report| report.group == group && report.is_settled) {
            return if report.voters_outgoing.is_empty() { report.voters } else { Vec::new() };
        }
    }
    Vec::new()
}

async fn held_by(nodes: &[&Node], group: u64, wanted: &[&Node]) {
    let mut ids: Vec<u64> = wanted.iter().map(|node| id(node)).collect();
    ids.sort_unstable();
    until("the group has the members it should", async || voters(nodes, group).await == ids).await;
}

async fn equal(nodes: &[&Node]) {
    until("the replicas are equal", async || {
        let hashes: Vec<_> = nodes.iter().filter_map(|node| replica(node)?.content_hash().ok()).collect();
        hashes.len() == nodes.len() && hashes.windows(2).all(|pair| pair[0] == pair[1])
    })
    .await;
}

/// One node that was standalone, and two that have joined it.
async fn grown(directories: &[tempfile::TempDir; 3]) -> [Node; 3] {
    let first = start(directories[0].path(), Mode::Standalone, &[]).await;
    let first_id = id(&first);
    create(&first).await;
    write(&first, 0..50).await;
    first.stop().await;
    let first = start(directories[0].path(), Mode::Worker, &[]).await;
    assert_eq!(id(&first), first_id);
    let second = start(directories[1].path(), Mode::Worker, &[&first]).await;
    let third = start(directories[2].path(), Mode::Worker, &[&first]).await;
    ready(&[&first, &second, &third]).await;
    [first, second, third]
}

/// The same, each with a replica of the shard.
async fn replicated(directories: &[tempfile::TempDir; 3]) -> [Node; 3] {
    let [first, second, third] = grown(directories).await;
    set_replicas(&first, &[&first, &second, &third]).await;
    held_by(&[&first, &second, &third], SHARD, &[&first, &second, &third]).await;
    [first, second, third]
}

fn directories() -> [tempfile::TempDir; 3] {
    std::array::from_fn(|_| tempfile::tempdir().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standalone_directory_becomes_a_cluster_whose_shards_and_nodes_move() {
    let directories = directories();
    let [first, second, third] = grown(&directories).await;
    assert!(has(&first, 49).await, "the same data");
    until("those who joined know the table", async || {
        let got = second.service().get(&table_name(), &DocumentId::Num(1), &ReadOptions::default()).await;
        got.err().is_none_or(|error| error.code() != "table_not_found")
    })
    .await;
    assert!(replica(&second).is_none() && replica(&third).is_none(), "and hold nothing of it");
    // The shard gets replicas on all, then leaves the first.
    set_replicas(&first, &[&first, &second, &third]).await;
    held_by(&[&first, &second, &third], SHARD, &[&first, &second, &third]).await;
    write(&third, 50..100).await;
    equal(&[&first, &second, &third]).await;
    set_replicas(&third, &[&second, &third]).await;
    held_by(&[&first, &second, &third], SHARD, &[&second, &third]).await;
    until("the first let go", async || !first.service().host().stored().contains(&SHARD)).await;
    assert!(has(&second, 0).await && has(&third, 99).await);
    // So does the coordinator's group.
    for node in [&second, &third] {
        set_record(&first, id(node), |record| record.votes = true).await;
    }
    let all = [&first, &second, &third];
    held_by(&all, 0, &all).await;
    let first_id = id(&first);
    set_record(&second, first_id, |record| (record.state, record.votes) = (MemberState::Removed, false)).await;
    held_by(&[&second, &third], 0, &[&second, &third]).await;
    // It still runs, and the second was told to look for it: nobody is to be sent there, or to wait for it.
    let listed: Vec<String> = second.service().nodes().await.into_iter().map(|node| node.id).collect();
    assert_eq!(
        listed,
        [id(&second), id(&third)]
            .map(|id| format!("{id:016x}"))
            .into_iter()
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
    );
    first.stop().await;
    // Its data is no way back.
    let again = start(directories[0].path(), Mode::Worker, &[&second]).await;
    until("the removed node is refused", async || {
        let refusals = second_refusals(&second);
        refusals.iter().any(|refusal| refusal.contains("was removed from the cluster"))
    })
    .await;
    again.stop().await;
    write(&second, 100..110).await;
    equal(&[&second, &third]).await;
    for node in [second, third] {
        node.stop().await;
    }
}

fn second_refusals(node: &Node) -> Vec<String> {
    let wire = node.servers.wire().unwrap();
    wire.peers().refusals().into_iter().map(|refusal| refusal.refusal.detail).collect()
}

/// The master would have the others rebuild them, and until then the group would be one that the loss of a second node stops.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_fail_with_their_node_are_not_reported_as_broken() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path(), Mode::Standalone, &[]).await;
    create(&node).await;
    let inside = node.engine.inside();
    let reports = async || reports::of(inside.coordinator.as_ref(), inside.service.host(), None).await;
    assert!(reports().await.iter().any(|report| report.group == SHARD && report.failure.is_none()));
    let replica = replica(&node).unwrap();
    inside.raft.log().poison();
    let upsert = rt::spawn("write", {
        let service = node.service().clone();
        async move { service.upsert(&table_name(), vec![point(1)], &WriteOptions::default()).await }
    });
    while replica.failure().is_none() {
        assert_eq!(reports().await.iter().find(|report| report.failure.is_some()), None);
        tokio::task::yield_now().await;
    }
    assert_eq!(reports().await, [], "the node stops, and comes back with what it has");
    until("the node stops", async || node.failed().is_triggered()).await;
    node.stop().await;
    assert!(upsert.await.unwrap().is_err());
}

/// Only the next write would be told by the engine itself, and there may be none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_store_cannot_flush_stops_without_another_write() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path(), Mode::Standalone, &[]).await;
    create(&node).await;
    for space in std::fs::read_dir(directory.path().join("store/keyspaces")).unwrap() {
        let space = space.unwrap();
        if space.file_name() != "0" {
            std::fs::remove_dir_all(space.path().join("tables")).unwrap();
        }
    }
    let text = "x".repeat(64 << 10);
    let payload = serde_json::json!({ "text": text });
    let payload = Payload::new(payload.as_object().unwrap().clone()).unwrap();
    // In one write more than the store keeps in memory.
    let points = (0..350).map(|id| Point { payload: payload.clone(), ..point(id) }).collect();
    node.service().upsert(&table_name(), points, &WriteOptions::default()).await.unwrap();
    until("the node stops", async || node.failed().is_triggered()).await;
    rt::time::timeout(PATIENCE, node.stop()).await.expect("it does not wait for a flush");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_found_again_under_another_address_and_a_damaged_replica_is_rebuilt() {
    let directories = directories();
    let [first, second, third] = replicated(&directories).await;
    write(&first, 50..100).await;
    equal(&[&first, &second, &third]).await;
    // A node stops in order, its data is damaged, and it comes back on other ports; nobody is told where.
    let (second_id, before) = (id(&second), second.addresses().peer);
    second.stop().await;
    damage(directories[1].path());
    let second = start(directories[1].path(), Mode::Worker, &[]).await;
    assert!(id(&second) == second_id && second.addresses().peer != before);
    let host = second.service().host();
    assert!(host.failed().contains_key(&SHARD) && replica(&second).is_none(), "it neither votes nor serves");
    let report = reports::of(None, host, None).await;
    assert!(report.iter().any(|group| group.group == SHARD && group.failure.is_some()), "{report:?}");
    until("it is ready for the rest", async || second.service().health().ready).await;
    until("its record tells where it is", async || {
        let records = first.engine.members().records();
        records
            .get(&second_id)
            .is_some_and(|record| Some(record.peer.clone()) == second.addresses().peer.map(|a| a.to_string()))
    })
    .await;
    write(&first, 100..120).await;
    // The controller takes it out and in again.
    set_replicas(&first, &[&first, &third]).await;
    until("its data is gone", async || host.failed().is_empty() && !host.stored().contains(&SHARD)).await;
    set_replicas(&first, &[&first, &second, &third]).await;
    held_by(&[&first, &second, &third], SHARD, &[&first, &second, &third]).await;
    equal(&[&first, &second, &third]).await;
    for node in [first, second, third] {
        node.stop().await;
    }
}

/// Writes nonsense in the place of the shard's number of points.
fn damage(directory: &Path) {
    let store = Store::open(directory.join("store"), StoreOptions::default()).unwrap();
    let space = store.space(&keys::shard_space(SHARD)).unwrap();
    let mut batch = store.batch();
    batch.put(&space, &keys::meta::MetaKey::PointCount.key(), b"nonsense");
    batch.commit(Durability::Synced).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_hands_over_first() {
    let directories = directories();
    let [first, second, third] = grown(&directories).await;
    set_replicas(&first, &[&first, &second, &third]).await;
    let all = [&first, &second, &third];
    held_by(&all, SHARD, &all).await;
    for node in [&second, &third] {
        set_record(&first, id(node), |record| record.votes = true).await;
    }
    held_by(&all, 0, &all).await;
    until("the first leads the shard", async || {
        let leader = all.iter().find(|node| replica(node).is_some_and(|replica| replica.is_leader()));
        match leader {
            Some(leader) if id(leader) == id(&first) => true,
            Some(leader) => {
                // To whoever is best prepared: until it is the first.
                let _moved = replica(leader).unwrap().hand_over().await;
                false
            }
            None => false,
        }
    })
    .await;
    first.engine.hand_over().await;
    assert!(!replica(&first).unwrap().is_leader());
    assert!([&second, &third].iter().any(|node| replica(node).unwrap().is_leader()), "another leads already");
    first.stop().await;
    let begun = rt::time::now();
    write(&second, 50..60).await;
    assert!(begun.elapsed() < Duration::from_millis(900), "no election was waited for: {:?}", begun.elapsed());
    // Alone, the data of a cluster is of no use.
    let refused = Node::start(&config(directories[0].path(), Mode::Standalone, &[])).await.err().unwrap();
    assert!(matches!(refused, StartError::Mode { .. }) && refused.exit_code() == 2, "{refused}");
    for node in [second, third] {
        node.stop().await;
    }
}
