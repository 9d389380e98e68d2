//! Reads of another node's replicas: by calls of their own, and small ones over one stream.

use super::frames::Old;
use super::*;
use crate::peer::{answering::SHARED_BYTES_MAX, proto::peer_server::PeerServer};

const SMALL: bool = true;

fn read(node: &TestNode, bytes: &'static [u8], is_small: bool) -> BoxStream<'static, Result<Bytes, CallError>> {
    node.peers.read(2, Bytes::from_static(bytes), is_small, time::now() + PATIENCE)
}

fn part(bytes: &'static [u8]) -> Option<Result<Bytes, CallError>> {
    Some(Ok(Bytes::from_static(bytes)))
}

#[tokio::test]
async fn reads_come_part_by_part_until_the_caller_has_had_enough() {
    let nodes = cluster(2).await;
    for is_small in [!SMALL, SMALL] {
        let mut parts = nodes[0].peers.read(2, Bytes::from_static(b"ab"), is_small, time::now() + 300 * MS);
        assert_eq!((parts.next().await, parts.next().await), (part(b"a"), part(b"b")));
        assert!(matches!(parts.next().await, Some(Err(CallError::Unavailable(_)))), "its time is up");
        let mut parts = read(&nodes[0], b"a.", is_small);
        assert_eq!((parts.next().await, parts.next().await, parts.next().await), (part(b"a"), part(b"."), None));
        let refused = CallError::Refused("nothing to read".to_owned());
        assert_eq!(read(&nodes[0], b"nothing", is_small).next().await, Some(Err(refused)));
        let nobody = nodes[0].peers.read(9, Bytes::new(), is_small, time::now() + PATIENCE).next().await;
        assert!(matches!(nobody, Some(Err(CallError::Unavailable(_)))), "{nobody:?}");
    }
    stop_all(nodes).await;
}

#[tokio::test]
async fn a_read_counts_among_the_calls_under_way_until_it_is_over() {
    let (listeners, addresses) = ports(2).await;
    let mut nodes = Vec::new();
    for (at, listener) in listeners.into_iter().enumerate() {
        let mut settings = settings(at as NodeId + 1, &addresses, &addresses[at]);
        settings.options.calls_max = 1;
        nodes.push(TestNode::start(listener, &addresses, settings, Recorder::default()));
    }
    linked(&nodes).await;
    for is_small in [!SMALL, SMALL] {
        let mut first = read(&nodes[0], b"a", is_small);
        assert!(matches!(first.next().await, Some(Ok(_))));
        assert!(matches!(read(&nodes[0], b"a", is_small).next().await, Some(Err(CallError::Exhausted(_)))));
        drop(first);
        // The other side hears of it after the next read at the latest.
        assert!(matches!(read(&nodes[0], b"a", is_small).next().await, Some(Ok(_))), "its place is free again");
    }
    stop_all(nodes).await;
}

#[tokio::test]
async fn a_read_that_is_let_go_ends_on_the_other_side() {
    let nodes = cluster(2).await;
    for is_small in [!SMALL, SMALL] {
        let mut endless: Vec<_> = (0..3).map(|_| read(&nodes[0], b"a", is_small)).collect();
        for parts in &mut endless {
            assert_eq!(parts.next().await, part(b"a"));
        }
        assert_eq!(nodes[1].service.reading.load(Ordering::SeqCst), 3);
        drop(endless.pop());
        until("let go", || nodes[1].service.reading.load(Ordering::SeqCst) == 2).await;
        drop(endless);
        until("let go", || nodes[1].service.reading.load(Ordering::SeqCst) == 0).await;
    }
    stop_all(nodes).await;
}

#[tokio::test]
async fn an_answer_that_is_not_small_comes_by_a_call_of_its_own() {
    let nodes = cluster(2).await;
    let mut parts = read(&nodes[0], b".l.", SMALL);
    let mut lengths = Vec::new();
    while let Some(part) = parts.next().await {
        lengths.push(part.unwrap().len());
    }
    // The one before it came first, and then once more with all the others.
    assert_eq!(lengths, [1, 1, SHARED_BYTES_MAX + 1, 1]);
    assert_eq!(read(&nodes[0], b".", SMALL).next().await, part(b"."), "the others go on");
    stop_all(nodes).await;
}

#[tokio::test]
async fn reads_end_with_their_connection_and_each_link_has_its_own() {
    let mut nodes = cluster(2).await;
    let mut parts = read(&nodes[0], b"a", SMALL);
    assert_eq!(parts.next().await, part(b"a"));
    nodes[0].peers.cut(2);
    until("lost", || nodes[0].service.events().contains(&Event::Lost(2))).await;
    linked(&nodes).await;
    // The connection is the same.
    assert!(parts.next().now_or_never().is_none());
    drop(parts);
    until("let go", || nodes[1].service.reading.load(Ordering::SeqCst) == 0).await;
    let mut parts = read(&nodes[0], b"b", SMALL);
    assert_eq!(parts.next().await, part(b"b"));
    nodes[1].serving.abort();
    assert!(matches!(parts.next().await, Some(Err(CallError::Unavailable(_)))));
    nodes.remove(0).stop().await;
}

#[tokio::test]
async fn a_read_that_breaks_off_is_told_of_and_leaves_its_place() {
    let nodes = cluster(2).await;
    for _ in 0..PeerOptions::default().calls_max + 1 {
        let answer = read(&nodes[0], b"panic", SMALL).next().await;
        assert!(matches!(answer, Some(Err(CallError::Unavailable(_)))), "{answer:?}");
    }
    assert_eq!(read(&nodes[0], b".", SMALL).next().await, part(b"."));
    stop_all(nodes).await;
}

#[tokio::test]
async fn who_stops_waits_for_what_it_has_asked_and_is_asked() {
    for stops in [0, 1] {
        let nodes = cluster(2).await;
        let mut parts = read(&nodes[0], b"ab in time.", SMALL);
        assert_eq!(parts.next().await, part(b"a"));
        nodes[stops].peers.stop();
        let mut said = Vec::new();
        while let Some(part) = parts.next().await {
            said.extend_from_slice(&part.unwrap());
        }
        assert_eq!(said, b"b in time.");
        stop_all(nodes).await;
    }
}

#[tokio::test]
async fn a_program_that_is_too_old_for_the_shared_stream_is_asked_by_calls() {
    let (mut listeners, addresses) = ports(2).await;
    let (old, first) = (listeners.pop().unwrap(), listeners.pop().unwrap());
    let identity = settings(2, &addresses, &addresses[1]).identity;
    let settings = settings(1, &addresses, &addresses[0]);
    let serving = rpc::serve(old, PeerServer::new(Old(identity)), settings.options.rpc.clone(), Shutdown::new());
    let serving = spawn("test.old", serving);
    let node = TestNode::start(first, &addresses, settings, Recorder::default());
    until("linked", || node.is_connected_to(2)).await;
    for _ in 0..3 {
        let mut parts = read(&node, b"a", SMALL);
        assert_eq!((parts.next().await, parts.next().await), (part(b"as ever"), None));
    }
    serving.abort();
    node.stop().await;
}

/// Whoever reads has what it wants with the last part, and lets go; so it is with every search. Resets of streams are counted by HTTP/2, and
/// too many end the connection, with everything on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_are_let_go_after_what_was_wanted_do_not_end_the_link() {
    let nodes = cluster(2).await;
    let reading = |peers: Peers| async move {
        for turns in 0..4_000 {
            let wanted = vec![b'.'; 1 + turns % 24];
            let mut read = peers.read(2, Bytes::from(wanted.clone()), true, time::now() + PATIENCE);
            for _ in wanted {
                assert_eq!(read.next().await, Some(Ok(Bytes::from_static(b"."))));
            }
        }
    };
    let readers: Vec<_> = (0..16).map(|_| spawn("test.read", reading(nodes[0].peers.clone()))).collect();
    for reader in readers {
        reader.await.unwrap();
    }
    assert_eq!(nodes[0].service.events(), [Event::Found(2)]);
    stop_all(nodes).await;
}
