//! Real nodes whose coordinator is a real etcd: they find each other there, go on without it, obey only their own, and a node that was
//! alone brings its tables.
//!
//! - `gateway`: they register there, and a gateway finds them.

#![allow(clippy::disallowed_methods)] // real processes under a real clock, from outside

#[path = "etcd/gateway.rs"]
mod gateway;
#[path = "coordination/members.rs"]
#[allow(dead_code)]
mod members;

use members::{Members, has, has_etcd};
use std::{path::Path, time::Duration};
use vectorsphere::{
    config::{Authority, Config, Mode},
    coordination::{Change, Coordinator, Etcd, Transaction, etcd::EtcdOptions},
    node::Node,
    rt::time,
    service::Service,
    types::{
        AliasChange, CollectionName, CollectionSpec, DocumentId, ErrorKind, IndexType, Metric, Payload,
        PayloadIndexKind, Point, Vector, VectorName, VectorSpec, WriteOptions, operation::ReadOptions,
    },
};

const PATIENCE: Duration = Duration::from_secs(90);
/// Long enough that a node which is only slow is not taken for gone.
const REPLACE_AFTER: Duration = Duration::from_secs(3);

fn config(directory: &Path, mode: Mode, etcd: &[String]) -> Config {
    let mut config = Config { mode, data_dir: directory.to_owned(), ..Config::default() };
    let any = "127.0.0.1:0".parse().expect("an address");
    config.listen.http = vec![any];
    (config.listen.grpc, config.listen.peer, config.listen.monitoring) = (any, any, any);
    config.cluster.replace_after = REPLACE_AFTER;
    let endpoint = |one: &String| Authority::from(one.parse::<std::net::SocketAddr>().expect("an address"));
    config.etcd.endpoints = etcd.iter().map(endpoint).collect();
    config
}

async fn start(directory: &Path, etcd: &Members) -> Node {
    Node::start(&config(directory, Mode::Auto, &etcd.clients)).await.expect("it starts")
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begun = time::now();
    while !condition().await {
        assert!(begun.elapsed() < PATIENCE, "still not: {what}");
        time::sleep(Duration::from_millis(20)).await;
    }
}

async fn ready(nodes: &[Node]) {
    for node in nodes {
        until("ready", async || node.service().health().ready).await;
    }
}

fn name(table: &str) -> CollectionName {
    CollectionName::new(table).expect("a name")
}

fn spec(replicas: Option<u32>) -> CollectionSpec {
    let spec = VectorSpec::new(2, Metric::Euclidean, IndexType::Flat).expect("a spec");
    CollectionSpec { replicas, ..CollectionSpec::single(spec) }
}

async fn write(node: &Node, table: &str, ids: std::ops::Range<u64>) {
    let point = |id: u64| {
        let vector = Vector::new(vec![id as f32, 1.0]).expect("a vector");
        let vectors = vec![(VectorName::default(), vector)];
        Point { id: DocumentId::Num(id), vectors, payload: Payload::default(), if_version: None }
    };
    let points: Vec<Point> = ids.map(point).collect();
    node.service().upsert(&name(table), points, &WriteOptions::default()).await.expect("a write");
}

/// Every one of these documents is read from every node, and not one more.
async fn all_read(nodes: &[Node], table: &str, count: u64) {
    for node in nodes {
        for id in 0..=count {
            let found = node.service().get(&name(table), &DocumentId::Num(id), &ReadOptions::default()).await;
            let expected = if id < count { None } else { Some("document_not_found") };
            let id_found = found.err().map(|error| error.code());
            assert_eq!(id_found, expected, "document {id} from {}", node.service().identity().node_name());
        }
    }
}

/// The table's shard is held by these nodes, all of which answer, and nothing is under way.
async fn held_by(asked: &Node, table: &str, wanted: &[&Node]) {
    let mut names: Vec<String> = wanted.iter().map(|node| node.service().identity().node_name()).collect();
    names.sort();
    until("the shard is where it should be", async || {
        let Ok(Some(placement)) = asked.service().cluster_placement().await else { return false };
        let Ok(stats) = asked.service().stats(&name(table)).await else { return false };
        let mut replicas = stats.shards[0].replicas.clone();
        replicas.sort();
        placement.in_flight == 0 && placement.unusable_shards == 0 && replicas == names
    })
    .await;
}

/// What a node says of its coordinator.
fn coordinator(service: &Service) -> (bool, String) {
    let health = service.health();
    let check = health.checks.into_iter().find(|check| check.name == "coordinator").expect("it is checked");
    (check.ok, check.detail)
}

fn directories<const N: usize>() -> [tempfile::TempDir; N] {
    std::array::from_fn(|_| tempfile::tempdir().expect("a directory"))
}

async fn stop(nodes: Vec<Node>) {
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_lives_in_etcd_and_goes_on_without_it() {
    if !has_etcd("a_cluster_lives_in_etcd_and_goes_on_without_it") {
        return;
    }
    let (mut etcd, directories) = (Members::start(1), directories::<4>());
    // All at once: one of them begins the cluster.
    let starting = directories[..3].iter().map(|directory| start(directory.path(), &etcd));
    let mut nodes = futures_util::future::join_all(starting).await;
    ready(&nodes).await;
    until("all know of all", async || {
        let mut counts = Vec::new();
        for node in &nodes {
            let up = node.service().nodes().await.into_iter().filter(|node| node.status == "up");
            counts.push(up.count());
        }
        counts == [3, 3, 3]
    })
    .await;
    let created = nodes[0].service().create_collection(name("t"), spec(Some(3))).await;
    created.expect("a table with three copies");
    write(&nodes[0], "t", 0..20).await;
    all_read(&nodes, "t", 20).await;
    until("a master is agreed on", async || {
        let masters: Vec<_> = nodes.iter().map(|node| (node.service().identity().leader)()).collect();
        masters[0].is_some() && masters.windows(2).all(|pair| pair[0] == pair[1])
    })
    .await;

    // Without etcd documents come and go, and tables stay as they are; also for a node that starts now.
    etcd.kill(0);
    for (i, node) in nodes.iter().enumerate() {
        let first = 20 + 10 * i as u64;
        write(node, "t", first..first + 10).await;
    }
    all_read(&nodes, "t", 50).await;
    let refused = nodes[1].service().create_collection(name("u"), spec(None)).await.expect_err("nobody to agree with");
    assert!(refused.kind() == ErrorKind::Unavailable && refused.code() == "coordinator", "{refused}");
    nodes.remove(2).stop().await;
    write(&nodes[0], "t", 50..60).await;
    nodes.push(start(directories[2].path(), &etcd).await);
    ready(&nodes).await;
    all_read(&nodes, "t", 60).await;
    until("its silence is told", async || {
        let (ok, detail) = coordinator(nodes[0].service());
        !ok && detail.contains("etcd has not answered for")
    })
    .await;
    assert!(nodes[0].service().health().ready, "and is no reason to turn requests away");

    etcd.run(0);
    until("a table can be made again", async || {
        match nodes[1].service().create_collection(name("u"), spec(None)).await {
            Ok(_) => true,
            Err(error) => {
                eprintln!("not yet: {error}");
                assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Indeterminate), "{error}");
                false
            }
        }
    })
    .await;
    write(&nodes[0], "u", 0..5).await;
    all_read(&nodes, "u", 5).await;
    until("etcd is heard again", async || coordinator(nodes[0].service()).0).await;

    // A fourth comes by itself, and takes the place of one that is lost; nothing else is moved.
    nodes[1].service().pause_rebalance(true).await.expect("etcd is there");
    nodes.push(start(directories[3].path(), &etcd).await);
    ready(&nodes).await;
    until("the fourth knows the table", async || {
        nodes[3].service().get(&name("t"), &DocumentId::Num(0), &ReadOptions::default()).await.is_ok()
    })
    .await;
    all_read(&nodes, "t", 60).await;
    let lost = nodes.remove(0);
    lost.stop().await;
    held_by(&nodes[0], "t", &nodes.iter().collect::<Vec<_>>()).await;
    write(&nodes[2], "t", 60..70).await;
    all_read(&nodes, "t", 70).await;
    let told = nodes[1].service().cluster_history().expect("a history");
    assert!(told.iter().any(|change| change.why.contains("has been away for too long")), "{told:?}");
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_alone_brings_its_tables_into_etcd_once() {
    if !has_etcd("a_node_that_was_alone_brings_its_tables_into_etcd_once") {
        return;
    }
    let (etcd, directories) = (Members::start(1), directories::<3>());
    let alone = async |directory: &Path, table: &str| {
        let node = Node::start(&config(directory, Mode::Standalone, &[])).await.expect("it starts");
        node.service().create_collection(name(table), spec(None)).await.expect("a table");
        write(&node, table, 0..30).await;
        let alias = AliasChange::Create { alias: name(&format!("also_{table}")), table: name(table) };
        node.service().change_aliases(vec![alias]).await.expect("an alias");
        node.stop().await;
    };
    alone(directories[0].path(), "mine").await;
    // A start that came no further than to hear something of etcd has changed nothing.
    let name = config(directories[0].path(), Mode::Auto, &[]).cluster.name;
    let options = EtcdOptions::new(etcd.clients.clone(), name.as_str());
    let early = Etcd::open(&options, directories[0].path().join("etcd")).expect("it is begun with");
    until("it is known that there is something", async || {
        let change = Change::Put("something".to_owned(), Vec::new());
        let _again = early.commit(Transaction { compares: Vec::new(), changes: vec![change] }).await;
        early.remembered("something").is_ok_and(|known| known.len() == 1)
    })
    .await;
    early.close().await;
    assert!(directories[0].path().join("etcd").exists());
    let again =
        Node::start(&config(directories[0].path(), Mode::Standalone, &[])).await.expect("it is alone as before");
    again.stop().await;

    let mut nodes = vec![start(directories[0].path(), &etcd).await];
    // Before the other, which would begin a cluster without them.
    ready(&nodes).await;
    nodes.push(start(directories[1].path(), &etcd).await);
    ready(&nodes).await;
    all_read(&nodes, "mine", 30).await;
    all_read(&nodes, "also_mine", 30).await;
    write(&nodes[1], "also_mine", 30..40).await;
    stop(nodes).await;

    // There is no way back to being alone, or to another coordinator.
    for mode in [Mode::Standalone, Mode::Auto] {
        let refused = Node::start(&config(directories[0].path(), mode, &[])).await.err().expect("it belongs to etcd");
        assert!(refused.exit_code() == 2 && refused.to_string().contains("--etcd"), "{refused}");
    }
    // And who has tables of its own cannot come into a cluster that has an identity already: it stops, and has lost nothing.
    alone(directories[2].path(), "other").await;
    let stranger = start(directories[2].path(), &etcd).await;
    time::timeout(PATIENCE, stranger.failed().wait()).await.expect("it stops");
    let (ok, detail) = coordinator(stranger.service());
    assert!(!ok && detail.contains("has tables of its own, but etcd holds cluster"), "{detail}");
    let refused = stranger.refused().expect("that is why");
    assert!(refused.exit_code() == 2 && refused.to_string() == detail, "{refused}");
    stranger.stop().await;
    let again = Node::start(&config(directories[2].path(), Mode::Standalone, &[])).await.expect("it is as it was");
    let nodes = vec![again];
    all_read(&nodes, "other", 30).await;
    stop(nodes).await;

    let nodes = vec![start(directories[0].path(), &etcd).await, start(directories[1].path(), &etcd).await];
    ready(&nodes).await;
    all_read(&nodes, "mine", 40).await;
    stop(nodes).await;
}

/// Copies a directory with all that is in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("it is there").flatten() {
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("a copy")),
        }
    }
}

/// Copies what the only member has, which is away meanwhile.
fn back_up(etcd: &mut Members, member: &Path, to: &Path) {
    etcd.kill(0);
    copy(member, to);
    etcd.run(0);
}

async fn the_past_is_noticed(node: &Node) {
    until("the older state is noticed", async || {
        let (ok, detail) = coordinator(node.service());
        !ok && detail.contains("was etcd restored from an old backup?")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_lost_a_change_of_anything_is_not_obeyed() {
    if !has_etcd("an_etcd_that_lost_a_change_of_anything_is_not_obeyed") {
        return;
    }
    let (mut etcd, directories) = (Members::start(1), directories::<1>());
    let member = etcd.directory.path().join("m0");
    let backup = etcd.directory.path().join("backup");
    let nodes = vec![start(directories[0].path(), &etcd).await];
    ready(&nodes).await;
    nodes[0].service().create_collection(name("t"), spec(None)).await.expect("a table");
    back_up(&mut etcd, &member, &backup);
    // This changes no shard: the shard table stays as it is in the backup.
    until("a field is indexed", async || {
        let field = vectorsphere::types::path::Path::parse("colour").expect("a path");
        nodes[0].service().put_payload_index(&name("t"), field, PayloadIndexKind::Value).await.is_ok()
    })
    .await;
    etcd.kill(0);
    std::fs::remove_dir_all(&member).expect("gone");
    copy(&backup, &member);
    etcd.run(0);
    the_past_is_noticed(&nodes[0]).await;
    let indexes = nodes[0].service().payload_indexes(&name("t")).await.expect("listed");
    assert_eq!(indexes.len(), 1, "what was changed is still known");
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_restored_from_a_backup_and_another_clusters_are_not_obeyed() {
    if !has_etcd("an_etcd_restored_from_a_backup_and_another_clusters_are_not_obeyed") {
        return;
    }
    let (mut etcd, directories) = (Members::start(1), directories::<2>());
    let member = etcd.directory.path().join("m0");
    let (backup, newest) = (etcd.directory.path().join("backup"), etcd.directory.path().join("newest"));
    let nodes = vec![start(directories[0].path(), &etcd).await];
    ready(&nodes).await;
    nodes[0].service().create_collection(name("old"), spec(None)).await.expect("a table");
    back_up(&mut etcd, &member, &backup);
    until("a table is made that the backup does not know", async || {
        nodes[0].service().create_collection(name("new"), spec(None)).await.is_ok()
    })
    .await;
    write(&nodes[0], "new", 0..10).await;

    // The running node notices; it takes no order from it, nor gives any.
    etcd.kill(0);
    std::fs::rename(&member, &newest).expect("out of the way");
    copy(&backup, &member);
    etcd.run(0);
    the_past_is_noticed(&nodes[0]).await;
    all_read(&nodes, "new", 10).await;
    write(&nodes[0], "new", 10..20).await;
    assert!(nodes[0].service().health().ready);
    let status = nodes[0].service().cluster_status().await;
    assert!(status.verdict == "degraded" && status.reasons.iter().any(|why| why.contains("old backup")), "{status:?}");
    let refused = nodes[0].service().create_collection(name("newer"), spec(None)).await.expect_err("not obeyed");
    assert!(refused.kind() == ErrorKind::Unavailable && refused.to_string().contains("old backup"), "{refused}");
    // So does one that starts now.
    stop(nodes).await;
    let nodes = vec![start(directories[0].path(), &etcd).await];
    ready(&nodes).await;
    until("the older state is noticed", async || !coordinator(nodes[0].service()).0).await;
    all_read(&nodes, "new", 20).await;

    // Another cluster's, begun by another node in an empty etcd of the same address.
    etcd.kill(0);
    std::fs::remove_dir_all(&member).expect("gone");
    etcd.run(0);
    until("that it is empty is noticed", async || {
        coordinator(nodes[0].service()).1.contains("knows nothing of cluster")
    })
    .await;
    let other = vec![start(directories[1].path(), &etcd).await];
    ready(&other).await;
    until("that it is another's is noticed", async || {
        coordinator(nodes[0].service()).1.contains("but this node belongs to cluster")
    })
    .await;
    all_read(&nodes, "new", 20).await;
    let unknown = other[0].service().get(&name("new"), &DocumentId::Num(0), &ReadOptions::default()).await;
    assert_eq!(unknown.expect_err("another cluster").code(), "table_not_found");
    stop(other).await;

    // With its own it goes on as if nothing had been.
    etcd.kill(0);
    std::fs::remove_dir_all(&member).expect("gone");
    std::fs::rename(&newest, &member).expect("back in place");
    etcd.run(0);
    until("its own is obeyed again", async || coordinator(nodes[0].service()).0).await;
    until("a table can be made again", async || {
        nodes[0].service().create_collection(name("newer"), spec(None)).await.is_ok()
    })
    .await;
    all_read(&nodes, "new", 20).await;
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_and_etcd_know_each_other_by_certificates() {
    if !has(&["etcd", "openssl"], "nodes_and_etcd_know_each_other_by_certificates") {
        return;
    }
    let (etcd, directories) = (Members::start_encrypted(), directories::<3>());
    let files = etcd.directory.path();
    let with = |i: usize, known: bool| {
        let mut config = config(directories[i].path(), Mode::Auto, &etcd.clients);
        config.etcd.tls.ca_file = Some(files.join("ca.pem"));
        if known {
            config.etcd.tls.cert_file = Some(files.join("client.pem"));
            config.etcd.tls.key_file = Some(files.join("client.key"));
        }
        config
    };
    let mut nodes = Vec::new();
    for i in 0..2 {
        nodes.push(Node::start(&with(i, true)).await.expect("it starts"));
    }
    ready(&nodes).await;
    nodes[0].service().create_collection(name("t"), spec(Some(2))).await.expect("a table");
    write(&nodes[1], "t", 0..10).await;
    all_read(&nodes, "t", 10).await;
    // Who has no certificate gets nowhere, and says so.
    let stranger = Node::start(&with(2, false)).await.expect("it waits");
    until("it is told", async || coordinator(stranger.service()).1.contains("has not answered for")).await;
    assert!(!stranger.service().health().ready);
    stranger.stop().await;
    stop(nodes).await;
}
