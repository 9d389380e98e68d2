//! The registry of nodes over the embedded coordinator.

use crate::embedded::Cluster;
use std::time::Duration;
use vectorsphere::{
    coordination::registry::{Filter, Health, NodeRecord, Registry, TTL_MIN},
    rt::time,
};

fn record(node: u64, zone: &str) -> NodeRecord {
    NodeRecord { node, zone: zone.to_owned(), version: "1.0.0".to_owned(), ..NodeRecord::default() }
}

/// Waits until the nodes that pass are these.
async fn become_nodes(registry: &Registry, filter: &Filter, wanted: &[u64], limit: Duration) -> Duration {
    let began = time::now();
    let mut seen = 0;
    loop {
        let found = registry.find(filter).map(|found| found.nodes.iter().map(|node| node.node).collect::<Vec<_>>());
        if found.as_deref() == Ok(wanted) {
            return began.elapsed();
        }
        assert!(began.elapsed() < limit, "expected {wanted:?}, found {found:?}");
        if let Ok(version) = time::timeout(Duration::from_millis(100), registry.changed(seen)).await {
            seen = version;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_come_go_and_die() {
    let cluster = Cluster::start(1).await;
    let registry = Registry::follow(cluster.nodes[0].coordinator());
    let soon = Duration::from_secs(5);
    let any = Filter::default();
    let two = registry.register(vec![record(1, "a"), record(2, "b")]).await.unwrap();
    let one = registry.register(vec![record(3, "a")]).await.unwrap();
    become_nodes(&registry, &any, &[1, 2, 3], soon).await;
    become_nodes(&registry, &Filter { zone: Some("a".into()), ..any.clone() }, &[1, 3], soon).await;
    // What changes is told at once.
    let ill = Health { score: 30, reasons: vec!["its disk is slow".to_owned()] };
    two.update(NodeRecord { health: ill.clone(), ..record(2, "b") });
    become_nodes(&registry, &Filter { health_min: 50, ..any.clone() }, &[1, 3], soon).await;
    assert_eq!(registry.node(2).unwrap().unwrap().health, ill);
    // Taken off together, by the one who registered them or by somebody else.
    registry.deregister(&[3]).await.unwrap();
    become_nodes(&registry, &any, &[1, 2], soon).await;
    two.leave().await.unwrap();
    become_nodes(&registry, &any, &[], soon).await;
    one.update(NodeRecord { zone: "c".to_owned(), ..record(3, "a") });
    become_nodes(&registry, &any, &[3], soon).await;
    // A node that dies says nothing; its lease is that of regular heartbeats by then.
    let regular = time::now();
    while one.ttl().await > TTL_MIN {
        assert!(regular.elapsed() < Duration::from_secs(25), "its time to live is still {:?}", one.ttl().await);
        time::sleep(Duration::from_millis(200)).await;
    }
    drop(one);
    let missed = become_nodes(&registry, &any, &[], TTL_MIN * 2).await;
    assert!(missed >= Duration::from_secs(1), "{missed:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_found_while_the_coordinator_is_away() {
    let cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let registry = Registry::follow(follower.coordinator());
    let registered = registry.register(vec![record(9, "a")]).await.unwrap();
    become_nodes(&registry, &Filter::default(), &[9], Duration::from_secs(5)).await;
    assert_eq!(registry.find(&Filter::default()).unwrap().stale, None);
    cluster.cut(follower.id);
    let away = time::now();
    let stale = loop {
        let found = registry.find(&Filter::default()).unwrap();
        assert_eq!(found.nodes.len(), 1, "the copy is served");
        match found.stale {
            Some(stale) => break stale,
            None => time::sleep(Duration::from_millis(200)).await,
        }
        assert!(away.elapsed() < Duration::from_secs(20), "nobody says that the copy is old");
    };
    assert!(stale >= Duration::from_secs(10), "{stale:?}");
    drop(registered);
    cluster.stop().await;
}
