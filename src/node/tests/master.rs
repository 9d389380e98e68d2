//! The controller on real nodes: a cluster that nobody attends to mends itself, and empties a node that it is asked to.

use super::*;
use crate::service::Service;

const POINTS: u64 = 60;
/// Long enough that a node which is only slow is not taken for gone.
const REPLACE_AFTER: Duration = Duration::from_secs(2);

async fn start(directory: &Path, peers: &[&Node]) -> Node {
    let mut config = config(directory, Mode::Auto, peers);
    config.cluster.replace_after = REPLACE_AFTER;
    Node::start(&config).await.unwrap()
}

/// The table as a node knows it.
fn replicas(node: &Node) -> Vec<u64> {
    let stored = node.engine.inside().coordinator.unwrap().remembered("table").unwrap();
    let table: ShardTable = serde_json::from_slice(&stored[0].value).unwrap();
    assert_eq!(table.shards.len(), 1, "one collection of one shard");
    table.shards[&SHARD].replicas.clone()
}

fn master(node: &Node) -> Option<u64> {
    (node.service().identity().leader)()
}

/// All nodes agree on a master that is one of them.
async fn agreed_master(nodes: &[&Node]) -> u64 {
    until("a master is agreed on", async || {
        let masters: Vec<_> = nodes.iter().map(|node| master(node)).collect();
        let known = masters[0].is_some_and(|master| nodes.iter().any(|node| id(node) == master));
        known && masters.windows(2).all(|pair| pair[0] == pair[1])
    })
    .await;
    master(nodes[0]).unwrap()
}

async fn all_are_read(nodes: &[&Node]) {
    for node in nodes {
        until("a node reads", async || has(node, 0).await).await;
        for document in 0..POINTS {
            assert!(has(node, document).await, "document {document} from node {:016x}", id(node));
        }
    }
}

/// Changes that were made, as any node tells them.
fn history(service: &Service) -> Vec<String> {
    service.cluster_history().unwrap().into_iter().map(|change| format!("{}: {}", change.what, change.why)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_node_is_replaced_by_the_master_and_a_drained_one_is_emptied() {
    let directories: [_; 4] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let mut nodes = vec![start(directories[0].path(), &[]).await];
    for directory in &directories[1..] {
        let joined = start(directory.path(), &[&nodes[0]]).await;
        nodes.push(joined);
    }
    let all: Vec<&Node> = nodes.iter().collect();
    ready(&all).await;
    until("the master gives three of them votes", async || voters(&all, 0).await.len() == 3).await;
    let first_master = agreed_master(&all).await;
    until("all know each other", async || all.iter().all(|node| node.engine.members().records().len() == 4)).await;
    create(all[3]).await;
    write(all[3], 0..POINTS).await;
    let before = replicas(all[3]);
    assert_eq!(before.len(), 3, "the copies of a collection that asks for none");

    // A node with a replica is gone for ever: the master itself if it has one.
    let lost = if before.contains(&first_master) { first_master } else { before[0] };
    let lost = nodes.remove(nodes.iter().position(|node| id(node) == lost).unwrap());
    let lost_id = id(&lost);
    lost.stop().await;
    let left: Vec<&Node> = nodes.iter().collect();
    agreed_master(&left).await;
    until("the table names others", async || !replicas(left[0]).contains(&lost_id)).await;
    held_by(&left, SHARD, &left).await;
    equal(&left).await;
    all_are_read(&left).await;
    let told = history(left[0].service());
    assert!(told.iter().any(|change| change.contains("has been away for too long")), "{told:?}");

    // It is removed, and so the three that are left are all there are; then one of these is drained.
    until("the vote of the lost node is given to another", async || {
        left[0].engine.members().records().get(&lost_id).is_some_and(|record| !record.votes)
    })
    .await;
    left[0].service().remove_node(lost_id).await.unwrap();
    let drained = left[2];
    left[1].service().drain_node(id(drained), true).await.unwrap();
    until("the drained node is empty", async || {
        let host = drained.service().host();
        !replicas(drained).contains(&id(drained)) && replica(drained).is_none() && host.stored().is_empty()
    })
    .await;
    held_by(&left, SHARD, &left[..2]).await;
    all_are_read(&left).await;
    let drained_id = drained.service().identity().node_name();
    // What is told is what the master's last round saw.
    until("every node tells that it is empty", async || {
        let mut told = Vec::new();
        for node in &left {
            let placement = node.service().cluster_placement().await.unwrap().unwrap();
            let node = placement.nodes.into_iter().find(|node| node.id == drained_id).unwrap();
            told.push((node.state, node.replicas, node.leads, node.up));
        }
        told.iter().all(|told| *told == ("draining", 0, 0, true))
    })
    .await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_alone_has_nothing_to_administer() {
    let directory = tempfile::tempdir().unwrap();
    let node = super::start(directory.path(), Mode::Standalone, &[]).await;
    assert_eq!(node.service().cluster_placement().await.unwrap(), None);
    assert_eq!(node.service().cluster_history().unwrap_err().code(), "not_in_cluster");
    assert_eq!(node.service().drain_node(id(&node), true).await.unwrap_err().code(), "not_in_cluster");
    assert_eq!(master(&node), Some(id(&node)));
    node.stop().await;
}
