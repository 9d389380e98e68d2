//! Three real nodes of which each holds a part of a table's shards: every node answers for all of them, at once after the table was
//! made, exactly, and says what is missing when a node is gone.

#![allow(clippy::disallowed_methods)] // real processes under a real clock, from outside

#[path = "../sim/workload/answer.rs"]
#[allow(dead_code)]
mod answer;
#[path = "cluster/client.rs"]
#[allow(dead_code)]
mod client;
#[path = "cluster/processes.rs"]
#[allow(dead_code)]
mod processes;

use client::{Failure, Rest};
use http::Method;
use processes::Cluster;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const TABLE: &str = "things";
const SHARDS: u64 = 6;
const POINTS: u64 = 60;

fn path(below: &str) -> String {
    format!("/api/v1/tables/{TABLE}{below}")
}

async fn post(node: &Rest, below: &str, body: Value) -> Value {
    node.call(Method::POST, &path(below), Some(body)).await.unwrap_or_else(|failure| panic!("{below}: {failure:?}"))
}

async fn get(node: &Rest, below: &str) -> Value {
    node.call(Method::GET, &path(below), None).await.unwrap_or_else(|failure| panic!("{below}: {failure:?}"))
}

/// One copy of each shard, so that two of three nodes lack it.
async fn create(node: &Rest) -> Value {
    let body = json!({"table_name": TABLE, "dimension": 2, "metric": "euclidean", "shards": SHARDS, "replicas": 1});
    node.call(Method::POST, "/api/v1/tables", Some(body)).await.expect("a table")
}

/// Every document's id, page by page.
async fn list(node: &Rest) -> Vec<u64> {
    let (mut ids, mut cursor) = (Vec::new(), Value::Null);
    loop {
        let page = post(node, "/documents/list", json!({"limit": 7, "cursor": cursor})).await;
        assert_eq!(page["shards"], json!({"total": SHARDS, "ok": SHARDS, "failed": []}));
        ids.extend(
            page["documents"].as_array().unwrap().iter().map(|document| document["document_id"].as_u64().unwrap()),
        );
        if page["cursor"].is_null() {
            return ids;
        }
        cursor = page["cursor"].clone();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_answers_for_shards_that_are_elsewhere() {
    let mut cluster = Cluster::start(3).await;
    let nodes: Vec<Rest> = (0..3).map(|i| Rest::new(&cluster.http(i), TABLE)).collect();
    create(&nodes[0]).await;
    for id in 0..POINTS {
        // No retry: a node that has not heard of the table yet asks.
        nodes[id as usize % 3].put(&[(id, id)], None).await.expect("a write through any node");
    }
    let stats = get(&nodes[0], "/stats").await;
    let holders: BTreeSet<&str> =
        stats["shards"].as_array().unwrap().iter().map(|shard| shard["replicas"][0].as_str().unwrap()).collect();
    assert_eq!(holders.len(), 3, "every node holds a part: {stats}");
    for (i, node) in nodes.iter().enumerate() {
        for id in 0..POINTS {
            assert_eq!(node.get(id).await.unwrap().map(|(value, _)| value), Some(id), "node {i}");
        }
        assert_eq!(node.search(30, 3).await.unwrap(), [30, 29, 31], "node {i}: ties go by id");
        assert_eq!(list(node).await, (0..POINTS).collect::<Vec<_>>(), "node {i}");
        assert_eq!(get(node, "").await["documents_count"], json!(POINTS), "node {i}");
    }
    versions_and_sessions(&nodes).await;
    refusals_travel(&nodes).await;
    let deleted =
        post(&nodes[1], "/documents/delete", json!({"filter": {"must": [{"key": "value", "range": {"lt": 10}}]}}));
    assert_eq!(deleted.await["deleted"], json!(10));
    assert_eq!(get(&nodes[2], "").await["documents_count"], json!(POINTS - 10));
    a_node_is_gone(&mut cluster, &nodes).await;
}

/// A batch over several shards says each document's version, and what was written is what a guard compares with.
async fn versions_and_sessions(nodes: &[Rest]) {
    nodes[0].put(&[(1, 1)], None).await.unwrap();
    let documents: Vec<Value> = (0..POINTS)
        .map(|id| json!({"document_id": id, "vector": [id as f32, 1.0], "metadata": {"value": id}}))
        .collect();
    let written = post(&nodes[1], "/documents", json!({"documents": documents})).await;
    let versions: Vec<u64> = written["versions"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect();
    assert_eq!(versions.len() as u64, POINTS);
    assert_eq!(versions.iter().max().copied(), written["version"].as_u64());
    for id in [0, 1, 17, 59] {
        let found = get(&nodes[2], &format!("/documents/{id}")).await;
        assert_eq!(found["version"].as_u64(), Some(versions[id]));
        let session = found["session"].as_str().expect("a read tells a session");
        let again = get(&nodes[0], &format!("/documents/{id}?session={session}")).await;
        assert_eq!(again["version"], found["version"]);
        let guarded = nodes[2].put(&[(id as u64, id as u64)], Some(versions[id])).await;
        assert!(guarded.is_ok(), "{guarded:?}");
        assert!(matches!(nodes[0].put(&[(id as u64, 0)], Some(versions[id])).await, Err(Failure::Conflict)));
    }
}

/// An error that was made on another node says the same as one made here.
async fn refusals_travel(nodes: &[Rest]) {
    let mut said = BTreeSet::new();
    for node in nodes {
        assert_eq!(node.get(1_000_000).await.unwrap(), None);
        let patch = node.call(Method::PATCH, &path("/documents/1000000"), Some(json!({"metadata": {"a": 1}}))).await;
        said.insert(format!("{patch:?}"));
    }
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said.first().unwrap().contains("document_not_found"));
}

async fn a_node_is_gone(cluster: &mut Cluster, nodes: &[Rest]) {
    cluster.kill(2);
    let search = |how: &str| json!({"vector": [30.0, 1.0], "top_k": 100, "on_unavailable": how});
    let part = post(&nodes[0], "/search", search("partial")).await;
    let failed = part["shards"]["failed"].as_array().unwrap().len() as u64;
    assert!((1..SHARDS).contains(&failed), "{}", part["shards"]);
    assert_eq!(
        (part["shards"]["total"].as_u64(), part["shards"]["ok"].as_u64()),
        (Some(SHARDS), Some(SHARDS - failed))
    );
    let found = part["results"].as_array().unwrap().len() as u64;
    assert!((1..POINTS - 10).contains(&found), "{found} of what the others hold");
    let whole = nodes[0].call(Method::POST, &path("/search"), Some(search("fail"))).await;
    assert!(matches!(whole, Err(Failure::Refused(_))), "{whole:?}");
    let table = get(&nodes[1], "").await;
    assert_eq!(table["documents_count"], json!(found));
    assert_eq!(table["notices"].as_array().unwrap().len() as u64, failed, "{table}");
    cluster.restart(2);
    cluster.wait_until_ready().await;
    assert_eq!(nodes[0].search(30, 3).await.unwrap(), [30, 29, 31]);
    assert_eq!(get(&nodes[1], "").await["documents_count"], json!(POINTS - 10));
}
