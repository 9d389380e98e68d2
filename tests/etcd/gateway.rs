//! Nodes register in etcd and a gateway finds them there: with their weights, without those that are drained, through lost leases and
//! an etcd that is away; and a node that stops costs no request.

use super::*;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};
use vectorsphere::{
    config::{Balance, Config},
    coordination::registry::{Filter, NodeRecord, NodeState, Registry},
    gateway::Gateway,
    rt::http::client::Client,
};

/// A gateway that knows nothing but etcd.
async fn gate(etcd: &Members) -> Gateway {
    gate_with(&etcd.clients, |config| config.gateway.balance = Balance::Weighted).await
}

async fn gate_with(etcd: &[String], set: impl Fn(&mut Config)) -> Gateway {
    let mut config = config(Path::new("unused"), Mode::Gateway, etcd);
    config.listen.gateway.set_port(0);
    set(&mut config);
    Gateway::start(&config).await.expect("it starts")
}

/// A node with a tag in a group of its own.
async fn labelled(directory: &Path, etcd: &Members, tag: &str, group: &str) -> Node {
    let mut config = config(directory, Mode::Auto, &etcd.clients);
    config.cluster.tags = vec![tag.parse().expect("a tag"), "any".parse().expect("a tag")];
    config.cluster.group = Some(group.parse().expect("a group"));
    Node::start(&config).await.expect("it starts")
}

async fn weighed(directory: &Path, etcd: &Members, weight: u64) -> Node {
    let mut config = config(directory, Mode::Auto, &etcd.clients);
    config.cluster.weight = weight;
    Node::start(&config).await.expect("it starts")
}

async fn call(address: impl ToString, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    let request = request.body(Full::new(Bytes::from(body))).expect("a request");
    let answer = Client::new(address.to_string()).request(request).await.expect("an answer");
    (answer.status(), serde_json::from_slice(answer.body()).unwrap_or_default())
}

/// What the gateway says of each node.
async fn backends(gate: &Gateway) -> Vec<(String, String, u64)> {
    let (_, told) = call(gate.addresses().monitoring, Method::GET, "/backends", Value::Null).await;
    let backends = told["backends"].as_array().expect("a list").iter();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    backends.map(|one| (text(&one["node"]), text(&one["state"]), one["requests"].as_u64().expect("a number"))).collect()
}

async fn read(gate: &Gateway) -> (StatusCode, Value) {
    call(gate.addresses().gateway, Method::GET, "/api/v1/tables/t/documents/1", Value::Null).await
}

/// Waits until the gateway says that these nodes, and no others, get requests.
async fn until_in(gate: &Gateway, nodes: &[&Node]) {
    let mut wanted: Vec<String> = nodes.iter().map(|node| node.service().identity().node_name()).collect();
    wanted.sort();
    until("the gateway knows who takes requests", async || {
        let known = backends(gate).await.into_iter().filter(|(_, state, _)| state == "in");
        gate.is_ready() && known.map(|(node, ..)| node).collect::<Vec<_>>() == wanted
    })
    .await;
}

/// How many of `count` requests each node gets.
async fn shares(gate: &Gateway, nodes: &[Node], count: u64) -> Vec<u64> {
    let before = backends(gate).await;
    for _ in 0..count {
        assert_eq!(read(gate).await.0, StatusCode::OK);
    }
    let got = |backends: &[(String, String, u64)], node: &Node| {
        let name = node.service().identity().node_name();
        backends.iter().find(|(one, ..)| *one == name).map_or(0, |(.., requests)| *requests)
    };
    let after = backends(gate).await;
    nodes.iter().map(|node| got(&after, node) - got(&before, node)).collect()
}

/// A client that reads and writes one after the other until it is told to stop; how many calls, and those that failed.
async fn busy(address: std::net::SocketAddr, calls: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut failed = Vec::new();
    while !stop.load(SeqCst) {
        let number = calls.fetch_add(1, SeqCst);
        let (status, answer) = match number % 2 {
            0 => call(address, Method::GET, "/api/v1/tables/t/documents/1", Value::Null).await,
            _ => {
                let document = json!({"document_id": 1000 + number % 50, "vector": [number as f32, 1.0]});
                call(address, Method::POST, "/api/v1/tables/t/documents", document).await
            }
        };
        if status != StatusCode::OK {
            failed.push(format!("{number}: {status} {answer}"));
        }
    }
    failed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_finds_nodes_in_the_registry_and_a_stop_costs_no_request() {
    if !has_etcd("a_gateway_finds_nodes_in_the_registry_and_a_stop_costs_no_request") {
        return;
    }
    let (mut etcd, directories) = (Members::start(1), directories::<4>());
    let gate = gate(&etcd).await;
    let starting = (0..3).map(|i| weighed(directories[i].path(), &etcd, if i == 2 { 300 } else { 100 }));
    let mut nodes = futures_util::future::join_all(starting).await;
    ready(&nodes).await;
    nodes[0].service().create_collection(name("t"), spec(Some(3))).await.expect("a table with three copies");
    write(&nodes[0], "t", 0..5).await;
    until_in(&gate, &nodes.iter().collect::<Vec<_>>()).await;

    // What they say of themselves.
    let looking = Etcd::open_unkept(&EtcdOptions::new(etcd.clients.clone(), "vectorsphere"), Arc::new(|_, _| Ok(())));
    let looking = Arc::new(looking.expect("it is begun with"));
    let registry = Registry::follow(looking.clone());
    let record = async |node: &Node| -> Option<NodeRecord> {
        registry.find(&Filter::default()).ok()?;
        registry.node(node.service().identity().node_id).ok()?
    };
    until("all say that they serve", async || {
        let mut serving = 0;
        for node in &nodes {
            serving += usize::from(record(node).await.is_some_and(|record| record.state == NodeState::Serving));
        }
        serving == 3
    })
    .await;
    let told = record(&nodes[2]).await.expect("it is registered");
    let at = nodes[2].addresses();
    assert_eq!((told.addresses.http, told.addresses.grpc), (vec![at.http[0].to_string()], at.grpc.to_string()));
    assert_eq!(Some(told.addresses.peer), at.peer.map(|peer| peer.to_string()));
    assert_eq!((told.zone.as_str(), told.weight, told.mode.as_str()), ("default", 300, "auto"));
    assert_eq!(told.version, env!("CARGO_PKG_VERSION"));

    // Who has come a moment ago is spared at first, whatever it weighs.
    until("it gets three of five parts", async || {
        let got = shares(&gate, &nodes, 100).await;
        assert_eq!(got.iter().sum::<u64>(), 100, "each request is counted once: {got:?}");
        (55..=65).contains(&got[2])
    })
    .await;

    // One that is drained gets nothing new.
    let drained = nodes[0].service().identity().node_id;
    nodes[1].service().drain_node(drained, true).await.expect("it can be drained");
    until_in(&gate, &[&nodes[1], &nodes[2]]).await;
    let got = shares(&gate, &nodes, 40).await;
    assert!(got[0] == 0 && got.iter().sum::<u64>() == 40, "{got:?}");
    nodes[1].service().drain_node(drained, false).await.expect("it takes part again");
    until_in(&gate, &nodes.iter().collect::<Vec<_>>()).await;

    // A lease that is lost is made anew.
    let key = format!("nodes/{drained:016x}");
    let before = looking.get(&key).await.expect("etcd answers").expect("it is registered");
    looking.revoke(before.lease.expect("under a lease")).await.expect("etcd answers");
    until("it is registered again", async || {
        looking.get(&key).await.expect("etcd answers").is_some_and(|now| now.lease != before.lease)
    })
    .await;
    until_in(&gate, &nodes.iter().collect::<Vec<_>>()).await;

    // One that stops is left before it closes.
    let (calls, stopped) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> =
        (0..3).map(|_| tokio::spawn(busy(gate.addresses().gateway, calls.clone(), stopped.clone()))).collect();
    time::sleep(Duration::from_millis(500)).await;
    let before = calls.load(SeqCst);
    let stopping = nodes.remove(2);
    let gone = stopping.service().identity().node_id;
    stopping.stop().await;
    time::sleep(Duration::from_millis(500)).await;
    stopped.store(true, SeqCst);
    let during = calls.load(SeqCst) - before;
    for client in clients {
        let failed = client.await.expect("it ends");
        assert!(failed.is_empty(), "{} of {during}: {failed:?}", failed.len());
    }
    assert!(during > 20, "{during} calls are too few to tell");
    assert!(registry.node(gone).expect("etcd answers").is_none(), "it is taken off");
    until_in(&gate, &[&nodes[0], &nodes[1]]).await;

    // Without etcd the known nodes are those there are; with it new ones are found.
    etcd.kill(0);
    for _ in 0..20 {
        assert_eq!(read(&gate).await.0, StatusCode::OK);
        time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(backends(&gate).await.len(), 2);
    etcd.run(0);
    nodes.push(weighed(directories[3].path(), &etcd, 100).await);
    ready(&nodes).await;
    until_in(&gate, &nodes.iter().collect::<Vec<_>>()).await;
    gate.stop().await;
    stop(nodes).await;
}

/// The nodes that a node lists, asked like this.
async fn listed(node: &Node, query: &str) -> Vec<String> {
    let path = format!("/api/v1/cluster/nodes?{query}");
    let (status, told) = call(node.addresses().http[0], Method::GET, &path, Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    let nodes = told["nodes"].as_array().expect("a list").iter();
    nodes.map(|one| one["id"].as_str().expect("a text").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_found_by_what_they_say_of_themselves() {
    if !has_etcd("nodes_are_found_by_what_they_say_of_themselves") {
        return;
    }
    let (etcd, directories) = (Members::start(1), directories::<3>());
    let labels = [("ssd", "blue"), ("hdd", "blue"), ("hdd", "green")];
    let starting = (0..3).map(|i| labelled(directories[i].path(), &etcd, labels[i].0, labels[i].1));
    let nodes = futures_util::future::join_all(starting).await;
    ready(&nodes).await;
    let id = |node: &Node| node.service().identity().node_name();
    nodes[0].service().create_collection(name("t"), spec(Some(3))).await.expect("a table with three copies");
    write(&nodes[0], "t", 0..5).await;

    // By the registry, with how busy they are.
    let looking = Etcd::open_unkept(&EtcdOptions::new(etcd.clients.clone(), "vectorsphere"), Arc::new(|_, _| Ok(())));
    let registry = Registry::follow(Arc::new(looking.expect("it is begun with")));
    let by = |tags: &[&str], group: Option<&str>| Filter {
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        group: group.map(str::to_owned),
        health_min: 1,
        ..Filter::default()
    };
    let found = |filter: Filter| -> Vec<u64> {
        registry.find(&filter).map_or(Vec::new(), |found| found.nodes.iter().map(|node| node.node).collect())
    };
    let number = |node: &Node| node.service().identity().node_id;
    until("all are registered and well", async || found(by(&["any"], None)).len() == 3).await;
    assert_eq!(found(by(&["hdd", "any"], Some("green"))), [number(&nodes[2])]);
    assert_eq!(found(by(&["ssd"], Some("green"))), [0; 0]);
    until("it tells its load", async || {
        let loads = registry.find(&Filter::default()).map(|found| found.nodes).unwrap_or_default();
        loads.iter().any(|node| node.load.points == 5 && node.load.data_bytes > 0)
    })
    .await;

    // By any node.
    until("the others have told", async || listed(&nodes[1], "tags=any&status=up").await.len() == 3).await;
    assert_eq!(listed(&nodes[1], "tags=ssd").await, [id(&nodes[0])]);
    assert_eq!(listed(&nodes[0], "tags=hdd,%20any&group=blue&zone=default").await, [id(&nodes[1])]);
    assert_eq!(listed(&nodes[0], "version=0.0.0").await, [""; 0]);
    let (status, told) =
        call(nodes[0].addresses().http[0], Method::GET, "/api/v1/cluster/nodes?status=ill", Value::Null).await;
    assert_eq!((status, told["code"].as_str()), (StatusCode::BAD_REQUEST, Some("unknown_value")), "{told}");

    // Gateways, by the registry or by asking nodes.
    let addresses: Vec<_> = nodes.iter().map(|node| node.addresses().http[0].into()).collect();
    let hdd = gate_with(&etcd.clients, |config| config.gateway.select.tags = vec!["hdd".parse().expect("a tag")]).await;
    let blue = gate_with(&[], |config| {
        config.gateway.nodes = addresses.clone();
        config.gateway.select.group = Some("blue".parse().expect("a group"));
    })
    .await;
    let nobody =
        gate_with(&etcd.clients, |config| config.gateway.select.zone = Some("moon".parse().expect("a zone"))).await;
    until_in(&hdd, &[&nodes[1], &nodes[2]]).await;
    until_in(&blue, &[&nodes[0], &nodes[1]]).await;
    for gate in [&hdd, &blue] {
        assert_eq!(read(gate).await.0, StatusCode::OK);
        assert_eq!(backends(gate).await.len(), 2);
    }
    assert!(!nobody.is_ready() && backends(&nobody).await.is_empty());
    for gate in [hdd, blue, nobody] {
        gate.stop().await;
    }
    stop(nodes).await;
}
