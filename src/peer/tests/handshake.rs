//! Handshakes that fail, and what is told of them.

use super::*;
use crate::peer::proto::{self, link_reply, link_request, peer_client::PeerClient};
use crate::rt::rpc::{RpcOptions, connect};
use futures_util::stream;

/// Two nodes, the second as a test wants it.
async fn pair(change: impl FnOnce(&mut Settings, &mut Recorder), first: Recorder) -> (TestNode, TestNode) {
    let (mut listeners, addresses) = ports(2).await;
    let (second_listener, first_listener) = (listeners.pop().unwrap(), listeners.pop().unwrap());
    let node = TestNode::start(first_listener, &addresses, settings(1, &addresses, &addresses[0]), first);
    let (mut settings, mut recorder) = (settings(2, &addresses, &addresses[1]), Recorder::default());
    change(&mut settings, &mut recorder);
    (node, TestNode::start(second_listener, &addresses, settings, recorder))
}

/// Both sides say why, and neither finds the other.
async fn refuse_each_other(cause: Cause, (first, second): (TestNode, TestNode)) {
    for (one, other) in [(&first, &second), (&second, &first)] {
        until("refused", || matches!(one.state_of(&other.address), PeerState::Refused(_))).await;
        let PeerState::Refused(refusal) = one.state_of(&other.address) else { panic!("it was refused just now") };
        assert_eq!(refusal.cause, cause, "{refusal}");
        assert!(
            one.metrics.encode().contains(&format!("vectorsphere_peer_refusals_total{{cause=\"{}\"}}", cause.as_str()))
        );
    }
    until("refused twice", || first.peers.refusals().iter().any(|refusal| refusal.times >= 2)).await;
    let refusals = first.peers.refusals();
    assert_eq!(refusals.len(), 1, "one cause, one line: {refusals:?}");
    assert_eq!((refusals[0].node, refusals[0].address.as_str()), (second.id, second.address.as_str()));
    assert_eq!(first.service.events(), []);
    assert_eq!(second.service.events(), []);
    stop_all(vec![first, second]).await;
}

#[tokio::test]
async fn another_clusters_node_is_refused() {
    let stranger = pair(|settings, _| settings.identity.cluster_name = "other".to_owned(), Recorder::default()).await;
    refuse_each_other(Cause::Cluster, stranger).await;
    let stranger = pair(|settings, _| settings.identity.peer_set_hash = 1, Recorder::default()).await;
    refuse_each_other(Cause::Cluster, stranger).await;
    let founded = Recorder { cluster_id: Some(1), ..Recorder::default() };
    refuse_each_other(Cause::Cluster, pair(|_, recorder| recorder.cluster_id = Some(2), founded).await).await;
}

#[tokio::test]
async fn a_node_that_joins_a_founded_cluster_with_the_same_peers_is_taken() {
    let founded = Recorder { cluster_id: Some(1), members: Some(vec![1, 2]), ..Recorder::default() };
    let (first, second) = pair(|_, _| {}, founded).await;
    let nodes = [first, second];
    linked(&nodes).await;
    stop_all(nodes.into()).await;
}

#[tokio::test]
async fn a_copy_of_a_node_is_refused() {
    refuse_each_other(Cause::Node, pair(|settings, _| settings.identity.node = 1, Recorder::default()).await).await;
}

#[tokio::test]
async fn two_copies_of_another_node_are_not_both_taken() {
    let (mut listeners, addresses) = ports(3).await;
    let (third, second, first) = (listeners.pop().unwrap(), listeners.pop().unwrap(), listeners.pop().unwrap());
    let node = TestNode::start(first, &addresses, settings(1, &addresses, &addresses[0]), Recorder::default());
    let original = TestNode::start(second, &addresses, settings(2, &addresses, &addresses[1]), Recorder::default());
    until("linked", || node.is_connected_to(2)).await;
    let copy = TestNode::start(third, &addresses, settings(2, &addresses, &addresses[2]), Recorder::default());
    until("refused", || matches!(node.state_of(&addresses[2]), PeerState::Refused(Refusal { cause: Cause::Node, .. })))
        .await;
    assert!(node.is_connected_to(2));
    assert!(matches!(node.state_of(&addresses[1]), PeerState::Connected { .. }));
    stop_all(vec![node, original, copy]).await;
}

#[tokio::test]
async fn a_node_under_two_addresses_gets_one_link_that_stands() {
    let (mut listeners, addresses) = ports(2).await;
    let (second, first) = (listeners.pop().unwrap(), listeners.pop().unwrap());
    let alias = addresses[1].replace("127.0.0.1", "localhost");
    let known = [addresses[1].clone(), alias.clone()];
    let node = TestNode::start(first, &known, settings(1, &addresses, &addresses[0]), Recorder::default());
    let other = TestNode::start(second, &addresses, settings(2, &addresses, &addresses[1]), Recorder::default());
    let is_refused =
        |address: &str| matches!(node.state_of(address), PeerState::Refused(Refusal { cause: Cause::Node, .. }));
    until("one is refused", || is_refused(&known[0]) || is_refused(&known[1])).await;
    until("the other stands", || node.is_connected_to(2)).await;
    let before = node.service.events().len();
    time::sleep(600 * MS).await;
    assert_eq!(node.service.events().len(), before, "and goes on standing: {:?}", node.service.events());
    assert!(node.is_connected_to(2));
    stop_all(vec![node, other]).await;
}

#[tokio::test]
async fn a_stopped_node_lets_go_of_its_service() {
    let nodes = cluster(2).await;
    let services: Vec<_> = nodes.iter().map(|node| Arc::downgrade(&node.service)).collect();
    let peers: Vec<_> = nodes.iter().map(|node| node.peers.clone()).collect();
    stop_all(nodes).await;
    until("freed", || services.iter().all(|service| service.strong_count() == 0)).await;
    drop(peers);
}

#[tokio::test]
async fn who_is_no_member_is_refused() {
    let (mut listeners, addresses) = ports(2).await;
    let (second, first) = (listeners.pop().unwrap(), listeners.pop().unwrap());
    let closed = Recorder { members: Some(vec![1, 3]), ..Recorder::default() };
    let node = TestNode::start(first, &addresses, settings(1, &addresses, &addresses[0]), closed);
    let stranger = TestNode::start(second, &addresses, settings(2, &addresses, &addresses[1]), Recorder::default());
    refuse_each_other(Cause::Member, (node, stranger)).await;
}

/// Opens a link by hand and answers the first reply.
async fn greet(address: &str, first: Option<link_request::Kind>) -> Result<Option<proto::LinkReply>, tonic::Status> {
    let channel = connect(address, &RpcOptions::default()).expect("an address");
    let request = stream::iter([proto::LinkRequest { kind: first }]).chain(stream::pending());
    use futures_util::StreamExt;
    let mut replies = PeerClient::new(channel).link(request).await?.into_inner();
    replies.message().await
}

#[tokio::test]
async fn other_versions_and_what_is_no_hello_are_refused() {
    let nodes = cluster(1).await;
    let address = nodes[0].address.clone();
    let myself = super::super::identity::Myself {
        identity: settings(2, std::slice::from_ref(&address), "elsewhere:1").identity,
        instance: 1,
    };
    let newer = proto::Hello { version_min: 9, version_max: 10, ..myself.hello(None) };
    let reply = greet(&address, Some(link_request::Kind::Hello(newer))).await.unwrap().unwrap();
    let Some(link_reply::Kind::Refusal(refusal)) = reply.kind else { panic!("{reply:?}") };
    assert_eq!(Refusal::from(refusal).cause, Cause::Version);

    let wide = proto::Hello { version_min: 1, version_max: 10, ..myself.hello(None) };
    let reply = greet(&address, Some(link_request::Kind::Hello(wide))).await.unwrap().unwrap();
    assert!(matches!(reply.kind, Some(link_reply::Kind::Welcome(_))), "{reply:?}");

    for wrong in
        [None, Some(link_request::Kind::Frame(Bytes::new())), Some(link_request::Kind::Ping(proto::Ping { number: 1 }))]
    {
        let status = greet(&address, wrong).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
    }
    stop_all(nodes).await;
}
