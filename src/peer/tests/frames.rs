//! Frames: in order, bounded, and over breaks.

use super::*;
use crate::peer::proto::{
    self, link_reply,
    peer_server::{Peer, PeerServer},
};
use crate::rt::Runtime;
use futures_util::stream::{self, BoxStream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// Sends, and again as long as the queue is full.
async fn send(node: &TestNode, to: NodeId, message: GroupMessage) {
    while let Err(error) = node.peers.send(to, vec![message.clone()]) {
        assert_eq!(error, SendError::Full);
        time::sleep(MS).await;
    }
}

#[tokio::test]
async fn three_peers_exchange_frames_in_order() {
    let nodes = cluster(3).await;
    for number in 0..500 {
        for one in &nodes {
            for other in nodes.iter().filter(|other| other.id != one.id) {
                send(one, other.id, message(one.id * 10 + other.id, number, 100)).await;
            }
        }
    }
    for one in &nodes {
        until("everything came", || one.service.received.lock().unwrap().len() == 1_000).await;
        for other in nodes.iter().filter(|other| other.id != one.id) {
            let from_other = one.service.received().into_iter().filter(|(from, _)| *from == other.id);
            let expected = (0..500).map(|number| message(other.id * 10 + one.id, number, 100));
            assert!(from_other.map(|(_, message)| message).eq(expected), "{} to {}", other.id, one.id);
        }
        assert_eq!(one.service.events().len(), 2, "found the two others once, lost none");
    }
    let text = nodes[0].metrics.encode();
    assert!(text.contains("vectorsphere_peer_messages_sent_total{peer=\"0000000000000002\"} 500"), "{text}");
    assert!(text.contains("vectorsphere_peer_messages_received_total{peer=\"0000000000000003\"} 500"), "{text}");
    until("a round trip is measured", || {
        nodes[0].peers.status().iter().filter(|status| status.round_trip.is_some()).count() == 2
    })
    .await;
    assert_eq!(nodes[0].state_of(&nodes[0].address), PeerState::Itself, "its own address is no peer");
    assert_eq!(nodes[0].peers.send(99, Vec::new()), Err(SendError::Unknown));
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_pass() {
    let nodes = cluster(2).await;
    let (mib, largest) = (1 << 20, crate::types::limits::COMMAND_BYTES_MAX);
    for number in 0..40 {
        send(&nodes[0], 2, message(1, number, mib)).await;
    }
    send(&nodes[0], 2, message(1, 40, largest)).await;
    send(&nodes[0], 2, message(1, 41, 8)).await;
    until("everything came", || nodes[1].service.received.lock().unwrap().len() == 42).await;
    for (at, (_, got)) in nodes[1].service.received().into_iter().enumerate() {
        let length = if at < 40 { mib } else { [largest, 8][at - 40] };
        assert_eq!(got, message(1, at as u64, length));
    }
    assert_eq!(nodes[0].service.events(), [Event::Found(2)], "the link stood all the time");
    stop_all(nodes).await;
}

#[tokio::test]
async fn a_stopped_peer_is_lost_unreachable_and_found_again() {
    let mut nodes = cluster(2).await;
    let second = nodes.pop().unwrap();
    let first = nodes.pop().unwrap();
    let addresses = vec![first.address.clone(), second.address.clone()];
    let address = second.stop().await;
    until("lost", || first.service.events().contains(&Event::Lost(2))).await;
    assert_eq!(first.peers.send(2, vec![message(1, 0, 10)]), Err(SendError::Disconnected));
    until("unreachable", || matches!(first.state_of(&address), PeerState::Unreachable(_))).await;

    let listener = Listener::bind(address.as_str()).await.expect("free again");
    let mut again = settings(2, &addresses, &address);
    again.identity.boot = 2;
    let second = TestNode::start(listener, &addresses, again, Recorder::default());
    linked(&[first, second]).await;
}

#[tokio::test]
async fn a_restarted_peer_hears_what_is_sent_after_it_was_found() {
    let mut nodes = cluster(2).await;
    for boot in 2..5 {
        let second = nodes.pop().unwrap();
        let addresses = vec![nodes[0].address.clone(), second.address.clone()];
        let address = second.stop().await;
        until("lost", || !nodes[0].is_connected_to(2)).await;
        let listener = Listener::bind(address.as_str()).await.expect("free again");
        let mut again = settings(2, &addresses, &address);
        again.identity.boot = boot;
        let began = time::now();
        nodes.push(TestNode::start(listener, &addresses, again, Recorder::default()));
        linked(&nodes).await;
        // It dials us first, which makes us hurry: no back-off is waited out.
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        send(&nodes[0], 2, message(1, boot, 10)).await;
        until("heard", || nodes[1].service.received() == [(1, message(1, boot, 10))]).await;
    }
    let events = nodes[0].service.events();
    let (found, lost) = ([Event::Found(2)], [Event::Lost(2), Event::Found(2)]);
    assert_eq!(events, [&found[..], &lost, &lost, &lost].concat(), "in turn");
    stop_all(nodes).await;
}

#[test]
fn a_killed_peer_is_noticed_within_milliseconds() {
    let (left, right) = (Runtime::new(1).unwrap(), Runtime::new(1).unwrap());
    let (mut listeners, addresses) = left.block_on(ports(1));
    let (more, other) = right.block_on(ports(1));
    listeners.extend(more);
    let addresses = [addresses, other].concat();
    let second = listeners.pop().unwrap();
    let first = listeners.pop().unwrap();
    let start = |listener, at: usize| {
        let (own, addresses) = (addresses[at].clone(), addresses.clone());
        async move {
            let settings = settings(at as NodeId + 1, &addresses, &own);
            TestNode::start(listener, &addresses, settings, Recorder::default())
        }
    };
    let first = left.block_on(start(first, 0));
    let second = right.block_on(start(second, 1));
    left.block_on(until("linked", || first.is_connected_to(2)));
    left.block_on(until("linked", || second.is_connected_to(1)));
    let killed = time::now();
    right.stop(Duration::ZERO);
    left.block_on(until("lost", || first.service.events().contains(&Event::Lost(2))));
    let took = killed.elapsed();
    assert!(took < 200 * MS, "{took:?}");
    drop(second);
    left.stop(Duration::ZERO);
}

/// A peer that accepts every link and never reads another byte of it; of an older program, which answers reads by calls only.
pub(super) struct Old(pub(super) Identity);

#[tonic::async_trait]
impl Peer for Old {
    type LinkStream = BoxStream<'static, Result<proto::LinkReply, Status>>;

    async fn link(
        &self,
        request: Request<Streaming<proto::LinkRequest>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let hello = super::super::identity::Myself { identity: self.0.clone(), instance: 77 }.hello(None);
        let welcome = proto::LinkReply { kind: Some(link_reply::Kind::Welcome(hello)) };
        let requests = request.into_inner();
        let silence = stream::once(async move {
            let _unread = requests;
            std::future::pending().await
        });
        Ok(Response::new(stream::once(async { Ok(welcome) }).chain(silence).boxed()))
    }

    type FetchCheckpointStream = BoxStream<'static, Result<proto::CheckpointPart, Status>>;

    async fn fetch_checkpoint(
        &self,
        _: Request<proto::FetchCheckpointRequest>,
    ) -> Result<Response<Self::FetchCheckpointStream>, Status> {
        Err(Status::unimplemented("deaf"))
    }

    type ReadStream = BoxStream<'static, Result<proto::ReadPart, Status>>;

    async fn read(&self, _: Request<proto::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let part = Ok(Bytes::from_static(b"as ever")).into();
        Ok(Response::new(stream::once(async { Ok(part) }).boxed()))
    }

    type ReadsStream = BoxStream<'static, Result<proto::ReadsReply, Status>>;

    async fn reads(&self, _: Request<Streaming<proto::ReadsRequest>>) -> Result<Response<Self::ReadsStream>, Status> {
        Err(Status::unimplemented("deaf"))
    }

    async fn propose(&self, _: Request<proto::ProposeRequest>) -> Result<Response<proto::ProposeReply>, Status> {
        Err(Status::unimplemented("deaf"))
    }

    async fn status(&self, _: Request<proto::StatusRequest>) -> Result<Response<proto::StatusReply>, Status> {
        Err(Status::unimplemented("deaf"))
    }

    async fn join(&self, _: Request<proto::JoinRequest>) -> Result<Response<proto::JoinReply>, Status> {
        Err(Status::unimplemented("deaf"))
    }

    async fn hand_over(&self, _: Request<proto::HandOverRequest>) -> Result<Response<proto::HandOverReply>, Status> {
        Err(Status::unimplemented("deaf"))
    }

    async fn inspect(&self, _: Request<proto::InspectRequest>) -> Result<Response<proto::InspectReply>, Status> {
        Err(Status::unimplemented("deaf"))
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_fills_its_queue_and_no_more() {
    let (mut listeners, addresses) = ports(2).await;
    let (deaf, first) = (listeners.pop().unwrap(), listeners.pop().unwrap());
    let identity = settings(2, &addresses, &addresses[1]).identity;
    let options = settings(1, &addresses, &addresses[0]).options;
    let shutdown = Shutdown::new();
    let serving = rpc::serve(deaf, PeerServer::new(Old(identity)), options.rpc.clone(), shutdown.clone());
    let serving = spawn("test.deaf", serving);
    let mut small = settings(1, &addresses, &addresses[0]);
    small.options.queue = QueueLimits { messages_max: 100, bytes_max: 1 << 20, ..QueueLimits::default() };
    let node = TestNode::start(first, &addresses, small, Recorder::default());
    until("linked", || node.is_connected_to(2)).await;

    let mut sent = 0;
    let mut refused_in_a_row = 0;
    while refused_in_a_row < 20 {
        match node.peers.send(2, vec![message(1, sent, 64 << 10)]) {
            Ok(()) => (sent, refused_in_a_row) = (sent + 1, 0),
            Err(error) => {
                assert_eq!(error, SendError::Full);
                refused_in_a_row += 1;
                time::sleep(10 * MS).await;
            }
        }
        assert!(sent < 500, "32 MB and still not full");
    }
    let text = node.metrics.encode();
    assert!(text.contains("vectorsphere_peer_messages_dropped_total{peer=\"0000000000000002\"}"), "{text}");
    serving.abort();
    shutdown.trigger();
    until("lost", || node.service.events().contains(&Event::Lost(2))).await;
    node.stop().await;
}
