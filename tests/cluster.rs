//! Three real nodes on loopback, as a user would start them: they form a cluster, answer on every node, lose no acknowledged
//! write and stay linearizable while their leaders are killed with SIGKILL in a loop. The history is judged by the checker the
//! simulation uses, and kept as EDN. `life.rs` has the whole course of a cluster in etcd, `rot.rs` bytes that decay on
//! one node's disk.

#![allow(clippy::disallowed_methods)] // real processes under a real clock, from outside

#[path = "cluster/administration.rs"]
mod administration;
#[path = "../sim/workload/answer.rs"]
#[allow(dead_code)]
mod answer;
#[path = "../sim/check/mod.rs"]
#[allow(dead_code)]
mod check;
#[path = "cluster/client.rs"]
mod client;
#[path = "cluster/elections.rs"]
mod elections;
#[path = "cluster/figures.rs"]
mod figures;
#[path = "cluster/life.rs"]
mod life;
#[path = "cluster/load.rs"]
mod load;
#[path = "coordination/members.rs"]
#[allow(dead_code)]
mod members;
#[path = "cluster/processes.rs"]
mod processes;
#[path = "cluster/rot.rs"]
mod rot;
#[path = "cluster/service_figures.rs"]
mod service_figures;

use client::{Failure, Reply, Rest};
use http::Method;
use load::Load;
use processes::Cluster;
use serde_json::json;
use std::time::{Duration, Instant};

const TABLE: &str = "things";
/// Leaders killed, and how long a killed node stays down.
const KILLS: usize = 6;
const DOWN: Duration = Duration::from_millis(700);
const BETWEEN_KILLS: Duration = Duration::from_millis(1_500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_answers_and_what_one_took_all_have() {
    let mut cluster = Cluster::start(3).await;
    let nodes: Vec<Rest> = (0..3).map(|i| Rest::new(&cluster.http(i), TABLE)).collect();
    nodes[0].create(2, 2).await.expect("a table");
    for id in 0..60 {
        // A node may hear of the new table a moment later than the one that made it.
        let point = [(id, id)];
        retried(|| nodes[id as usize % 3].put(&point, None)).await;
    }
    for (i, node) in nodes.iter().enumerate() {
        assert_eq!(node.get(7).await.expect("a read").map(|(value, _)| value), Some(7), "node {i}");
        assert_eq!(node.search(42, 1).await.expect("a search"), [42], "node {i}");
    }
    cluster.kill(1);
    for id in 100..140 {
        let point = [(id, id)];
        retried(|| nodes[0].put(&point, None)).await;
    }
    cluster.restart(1);
    cluster.wait_until_ready().await;
    let one = Rest::new(&cluster.http(1), TABLE);
    assert_eq!(one.search(139, 1).await.expect("a search"), [139], "a node that was away has caught up");
    let verified = retried(|| one.call(Method::POST, "/api/v1/cluster/verify", Some(json!({})))).await;
    assert_eq!(verified["equal"], json!(true), "{verified}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_leaders_lose_nothing_and_reads_stay_linearizable() {
    let mut cluster = Cluster::start(3).await;
    retried(|| async {
        let created = Rest::new(&cluster.http(0), TABLE).create(2, 1).await;
        created.map(drop).or_else(|failure| if matches!(failure, Failure::Conflict) { Ok(()) } else { Err(failure) })
    })
    .await;
    let load = Load::begin(&cluster.addresses());
    for round in 0..KILLS {
        tokio::time::sleep(BETWEEN_KILLS).await;
        let leader = leader(&cluster).await.unwrap_or(round % 3);
        cluster.kill(leader);
        tokio::time::sleep(DOWN).await;
        cluster.restart(leader);
        cluster.wait_until_one_is_ready(leader).await;
    }
    tokio::time::sleep(BETWEEN_KILLS).await;
    cluster.wait_until_ready().await;
    load.end(&cluster.addresses(), "killed-leaders").await;
}

/// The node that leads the first shard of the table, as any node sees it.
async fn leader(cluster: &Cluster) -> Option<usize> {
    for i in 0..cluster.len() {
        let node = Rest::new(&cluster.http(i), TABLE);
        let Ok(stats) = node.call(Method::GET, &format!("/api/v1/tables/{TABLE}/stats"), None).await else { continue };
        if stats["shards"][0]["role"] == "leader" {
            return Some(i);
        }
    }
    None
}

/// The answer of a call that is repeated while the cluster is between two leaders.
async fn retried<T, F: Future<Output = Reply<T>>>(call: impl Fn() -> F) -> T {
    let begun = Instant::now();
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(failure) => assert!(begun.elapsed() < Duration::from_secs(30), "no answer in time: {failure:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
