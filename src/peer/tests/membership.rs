//! Peers that come, go and move while the node runs.

use super::*;
use std::collections::BTreeSet;

fn set(addresses: &[&str]) -> BTreeSet<String> {
    addresses.iter().map(|address| (*address).to_owned()).collect()
}

/// A founded node that was told of nobody, and one that knows its address and wants to join.
async fn newcomer() -> (TestNode, TestNode) {
    let (mut listeners, addresses) = ports(2).await;
    let (second, first) = (listeners.pop().unwrap(), listeners.pop().unwrap());
    let founded = Recorder { cluster_id: Some(5), ..Recorder::default() };
    let node = TestNode::start(first, &[], settings(1, &addresses[..1], &addresses[0]), founded);
    let newcomer =
        TestNode::start(second, &addresses[..1], settings(2, &addresses, &addresses[1]), Recorder::default());
    until("linked", || newcomer.is_connected_to(1)).await;
    (node, newcomer)
}

#[tokio::test]
async fn a_node_that_was_never_told_of_asks_to_join_and_is_dialled_then() {
    let (node, newcomer) = newcomer().await;
    assert!(!node.is_connected_to(2), "nobody told it to dial");
    assert_eq!(node.service.seen.lock().unwrap().get(&2), Some(&newcomer.address));
    let limit = Duration::from_secs(5);
    let joining =
        |mode: &str| Joining { address: newcomer.address.clone(), zone: "z".to_owned(), mode: mode.to_owned() };
    let joined = newcomer.peers.join(1, joining("auto"), limit).await;
    assert_eq!(joined, Ok(Joined { cluster_id: 5, founders: vec![2, 77] }));
    let refused = newcomer.peers.join(1, joining("refused"), limit).await;
    assert_eq!(refused, Err(CallError::Refused("not 2".to_owned())));
    node.peers.set_addresses(&set(&[&newcomer.address, "no address"]));
    until("linked back", || node.is_connected_to(2)).await;
    stop_all(vec![node, newcomer]).await;
}

#[tokio::test]
async fn a_link_that_is_not_wanted_is_dropped_and_told_of_and_a_configured_one_stays() {
    let (node, newcomer) = newcomer().await;
    node.peers.set_addresses(&set(&[&newcomer.address]));
    until("linked back", || node.is_connected_to(2)).await;
    node.peers.set_addresses(&set(&[&newcomer.address]));
    assert!(node.is_connected_to(2), "nothing has changed");
    node.peers.set_addresses(&set(&[]));
    until("dropped", || node.service.events() == [Event::Found(2), Event::Lost(2)]).await;
    assert!(!node.is_connected_to(2) && node.peers.status().is_empty());
    newcomer.peers.set_addresses(&set(&[]));
    assert!(newcomer.is_connected_to(1), "the configured address stays");
    stop_all(vec![node, newcomer]).await;
}

#[tokio::test]
async fn a_node_that_is_shut_out_loses_its_links_and_asks_again() {
    let (node, newcomer) = newcomer().await;
    node.peers.set_addresses(&set(&[&newcomer.address]));
    until("linked back", || node.is_connected_to(2)).await;
    node.peers.cut(2);
    until("cut both ways", || {
        let lost = |node: &TestNode, other| node.service.events().contains(&Event::Lost(other));
        lost(&node, 2) && lost(&newcomer, 1)
    })
    .await;
    // Nobody refuses it here, so it is back.
    until("back", || node.is_connected_to(2) && newcomer.is_connected_to(1)).await;
    stop_all(vec![node, newcomer]).await;
}
