//! What the operators' port of the nodes of a cluster tells.

use super::*;
use crate::rt::http::client::Client;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use std::collections::BTreeSet;

/// What a node's `/metrics` says.
async fn scrape(node: &Node) -> String {
    let request = Request::builder().uri("/metrics").body(Full::new(Bytes::new())).unwrap();
    let answer = Client::new(node.addresses().monitoring.to_string()).request(request).await.unwrap();
    String::from_utf8(answer.body().to_vec()).unwrap()
}

/// The value of a series; none if there is no such.
fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// The sum over all series of a family.
fn sum(text: &str, family: &str) -> f64 {
    let lines = text.lines().filter(|line| line.strip_prefix(family).is_some_and(|rest| rest.starts_with('{')));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

fn families(text: &str) -> BTreeSet<&str> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
}

async fn started(directory: &Path, peers: &[&Node]) -> Node {
    start(directory, Mode::Auto, peers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_tell_of_their_replicas_and_the_master_of_the_whole() {
    let directories: [_; 3] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let first = started(directories[0].path(), &[]).await;
    let (second, third) =
        (started(directories[1].path(), &[&first]).await, started(directories[2].path(), &[&first]).await);
    let nodes = [&first, &second, &third];
    ready(&nodes).await;
    until("all know each other", async || nodes.iter().all(|node| node.engine.members().records().len() == 3)).await;
    create(&first).await;
    write(&first, 0..60).await;
    held_by(&nodes, SHARD, &nodes).await;
    equal(&nodes).await;

    // The master is the only one that tells of the whole, once a round has seen the table.
    let mut texts = Vec::new();
    until("a master tells of the whole", async || {
        texts = vec![scrape(&first).await, scrape(&second).await, scrape(&third).await];
        texts.iter().any(|text| value(text, "vectorsphere_cluster_points") == Some(60.0))
    })
    .await;
    let masters: Vec<&String> = texts.iter().filter(|text| text.contains("vectorsphere_cluster_")).collect();
    let [master] = masters[..] else { panic!("{} masters", masters.len()) };
    assert_eq!(value(master, "vectorsphere_node_is_master"), Some(1.0));
    assert!(value(master, "vectorsphere_master_rounds_total").unwrap() >= 1.0);
    for (family, expected) in [("shards", 1.0), ("replicas", 3.0), ("shards_short", 0.0), ("rebalance_paused", 0.0)] {
        assert_eq!(value(master, &format!("vectorsphere_cluster_{family}")), Some(expected), "{family}");
    }
    assert_eq!(sum(master, "vectorsphere_cluster_node_up"), 3.0);
    assert_eq!(sum(master, "vectorsphere_cluster_node_leads"), 1.0);
    assert!(families(master).len() >= 100, "{} families", families(master).len());

    // Every node tells of its replica; who leads it, of the others.
    for text in &texts {
        assert_eq!(sum(text, "vectorsphere_shard_points"), 60.0, "{text}");
        assert_eq!(value(text, "vectorsphere_node_members"), Some(3.0));
        assert_eq!(value(text, "vectorsphere_node_ready"), Some(1.0));
        let others = text.lines().filter(|line| line.starts_with("vectorsphere_shard_replica_lag_entries{")).count();
        assert_eq!(others as f64, 2.0 * sum(text, "vectorsphere_shard_leads"));
        assert_eq!(sum(text, "vectorsphere_shard_silent"), 0.0);
        assert!(value(text, "vectorsphere_store_disk_bytes{database=\"log\"}").unwrap() > 0.0);
    }
    assert_eq!(texts.iter().map(|text| sum(text, "vectorsphere_shard_leads")).sum::<f64>(), 1.0);

    // One that is gone lags behind, and is seen to be away.
    let gone = nodes.into_iter().find(|node| !replica(node).unwrap().is_leader() && !is_master(node)).map(id).unwrap();
    let (mut stopped, mut left) = (None, Vec::new());
    for node in [first, second, third] {
        if id(&node) == gone { stopped = Some(node) } else { left.push(node) }
    }
    stopped.unwrap().stop().await;
    write(&left[0], 60..90).await;
    let lagging = format!("node=\"{gone:016x}\"");
    until("its lag is told", async || {
        let mut told = (false, false);
        for node in &left {
            let text = scrape(node).await;
            let of = |family: &str, is: fn(f64) -> bool| {
                text.lines().any(|line| {
                    let mut words = line.rsplitn(2, ' ');
                    let value: Option<f64> = words.next().and_then(|value| value.parse().ok());
                    line.starts_with(family) && line.contains(&lagging) && value.is_some_and(is)
                })
            };
            told.0 |= of("vectorsphere_shard_replica_lag_entries{", |lag| lag > 0.0);
            told.1 |= of("vectorsphere_cluster_node_up{", |up| up == 0.0);
        }
        told == (true, true)
    })
    .await;
    for node in left {
        node.stop().await;
    }
}

fn is_master(node: &Node) -> bool {
    (node.service().identity().leader)() == Some(id(node))
}
