//! Calls beside the link: answers, errors, and what may be concluded from silence.

use super::*;
use crate::raft::{CheckpointHead, CheckpointPart, LogIndex};
use crate::types::Ack;
use std::sync::atomic::{AtomicU64, Ordering};

fn proposal(data: &'static [u8], limit: Duration) -> Proposal {
    Proposal { group: 1, data: Bytes::from_static(data), ack: Ack::All, deadline: time::now() + limit }
}

/// Node 1 asks, node 2 answers as it is told.
async fn asked(service: Recorder) -> (TestNode, TestNode) {
    let (mut listeners, addresses) = ports(2).await;
    let (second, first) = (listeners.pop().unwrap(), listeners.pop().unwrap());
    let one = TestNode::start(first, &addresses, settings(1, &addresses, &addresses[0]), Recorder::default());
    let two = TestNode::start(second, &addresses, settings(2, &addresses, &addresses[1]), service);
    let nodes = [one, two];
    linked(&nodes).await;
    nodes.into()
}

fn proposing(
    handle: impl Fn(NodeId, Proposal) -> Answer<Result<Proposed, CallError>> + Send + Sync + 'static,
) -> Recorder {
    Recorder { propose: Box::new(handle), ..Recorder::default() }
}

#[tokio::test]
async fn a_forwarded_proposal_and_its_answer() {
    let service = proposing(|from, proposal| {
        assert_eq!((from, proposal.group, proposal.ack), (1, 1, Ack::All));
        let left = proposal.deadline - time::now();
        assert!((Duration::from_secs(3)..Duration::from_secs(6)).contains(&left), "{left:?}");
        Box::pin(async move {
            match &proposal.data[..] {
                b"write" => Ok(Proposed { log_index: 17, outcome: Bytes::from_static(b"written") }),
                b"elsewhere" => Err(CallError::NotLeader { leader: Some(9) }),
                b"busy" => Err(CallError::Exhausted("later".to_owned())),
                _ => Err(CallError::Indeterminate("lost".to_owned())),
            }
        })
    });
    let (one, two) = asked(service).await;
    let limit = Duration::from_secs(5);
    let expected = Proposed { log_index: 17, outcome: Bytes::from_static(b"written") };
    assert_eq!(one.peers.propose(2, proposal(b"write", limit)).await, Ok(expected));
    let error = one.peers.propose(2, proposal(b"elsewhere", limit)).await.unwrap_err();
    assert_eq!(error, CallError::NotLeader { leader: Some(9) });
    let error = one.peers.propose(2, proposal(b"busy", limit)).await.unwrap_err();
    assert_eq!(error, CallError::Exhausted("later".to_owned()));
    let error = one.peers.propose(2, proposal(b"lost", limit)).await.unwrap_err();
    assert_eq!(error, CallError::Indeterminate("lost".to_owned()));
    stop_all(vec![one, two]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_command_can_be_forwarded_and_nothing_larger() {
    let service = proposing(|_, proposal| {
        let outcome = Bytes::from(proposal.data.len().to_string());
        Box::pin(async { Ok(Proposed { log_index: 1, outcome }) })
    });
    let (one, two) = asked(service).await;
    let largest = crate::types::limits::COMMAND_BYTES_MAX;
    let of = |length| Proposal { data: Bytes::from(vec![5; length]), ..proposal(b"", PATIENCE) };
    let proposed = one.peers.propose(2, of(largest)).await.unwrap();
    assert_eq!(proposed.outcome, largest.to_string());
    assert!(matches!(one.peers.propose(2, of(largest + 1)).await, Err(CallError::Refused(_))));
    stop_all(vec![one, two]).await;
}

#[tokio::test]
async fn what_was_never_sent_is_unavailable() {
    let called = Arc::new(AtomicU64::new(0));
    let counted = called.clone();
    let service = proposing(move |_, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Err(CallError::NotLeader { leader: None }) })
    });
    let (one, two) = asked(service).await;
    let unavailable = |answer| assert!(matches!(answer, Err(CallError::Unavailable(_))), "{answer:?}");
    unavailable(one.peers.propose(99, proposal(b"", PATIENCE)).await);
    unavailable(one.peers.propose(2, proposal(b"", Duration::ZERO)).await);
    two.stop().await;
    until("lost", || !one.is_connected_to(2)).await;
    unavailable(one.peers.propose(2, proposal(b"", PATIENCE)).await);
    assert_eq!(called.load(Ordering::SeqCst), 0);
    one.stop().await;
}

#[tokio::test]
async fn what_was_sent_and_not_answered_is_indeterminate() {
    let called = Arc::new(AtomicU64::new(0));
    let counted = called.clone();
    let service = proposing(move |_, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::pending().boxed()
    });
    let (one, two) = asked(service).await;
    let error = one.peers.propose(2, proposal(b"", 100 * MS)).await.unwrap_err();
    assert!(matches!(error, CallError::Indeterminate(_)), "the deadline passed: {error:?}");

    let peers = one.peers.clone();
    let asking = spawn("test.ask", async move { peers.propose(2, proposal(b"", PATIENCE)).await });
    until("asked", || called.load(Ordering::SeqCst) == 2).await;
    two.serving.abort();
    two.peers.stop();
    let error = time::timeout(PATIENCE, asking).await.expect("ends").expect("ended well").unwrap_err();
    assert!(matches!(error, CallError::Indeterminate(_)), "the connection broke: {error:?}");
    one.stop().await;
}

#[tokio::test]
async fn not_more_calls_than_allowed_are_under_way() {
    let (mut listeners, addresses) = ports(2).await;
    let (second, first) = (listeners.pop().unwrap(), listeners.pop().unwrap());
    let mut few = settings(1, &addresses, &addresses[0]);
    few.options.calls_max = 3;
    let one = TestNode::start(first, &addresses, few, Recorder::default());
    let stuck = proposing(|_, _| std::future::pending().boxed());
    let two = TestNode::start(second, &addresses, settings(2, &addresses, &addresses[1]), stuck);
    let nodes = [one, two];
    linked(&nodes).await;
    let calls = (0..5).map(|_| nodes[0].peers.propose(2, proposal(b"", 200 * MS)));
    let answers = futures_util::future::join_all(calls).await;
    let exhausted = answers.iter().filter(|answer| matches!(answer, Err(CallError::Exhausted(_)))).count();
    let waited = answers.iter().filter(|answer| matches!(answer, Err(CallError::Indeterminate(_)))).count();
    assert_eq!((exhausted, waited), (2, 3), "{answers:?}");
    let after = nodes[0].peers.propose(2, proposal(b"", 10 * MS)).await;
    assert!(matches!(after, Err(CallError::Indeterminate(_))), "there is room again: {after:?}");
    stop_all(nodes.into()).await;
}

#[tokio::test]
async fn hashes_and_reports() {
    let (one, two) = asked(Recorder { cluster_id: Some(8), ..Recorder::default() }).await;
    let limit = Duration::from_secs(5);
    assert_eq!(one.peers.inspect(2, 1, None, limit).await, Ok(Bytes::from("report None")));
    assert_eq!(one.peers.inspect(2, 1, Some(255), limit).await, Ok(Bytes::from("report Some(255)")));
    assert!(matches!(one.peers.inspect(2, 2, None, limit).await, Err(CallError::Refused(_))));
    let report = one.peers.report(2, None, limit).await.unwrap();
    assert_eq!((report.node.node, report.node.cluster_id), (2, Some(8)));
    assert_eq!(report.node.addresses.peer, two.address);
    assert_eq!(report.groups, reports());
    assert_eq!(one.peers.report(2, Some(9), limit).await.unwrap().groups, reports()[1..]);
    assert_eq!(one.peers.report(2, Some(10), limit).await.unwrap().groups, []);
    assert_eq!(one.peers.report(2, Some(MANY), limit).await.unwrap().groups, many_reports());
    stop_all(vec![one, two]).await;
}

#[tokio::test]
async fn a_leader_is_asked_to_hand_over() {
    let (one, two) = asked(Recorder::default()).await;
    let limit = Duration::from_secs(5);
    assert_eq!(one.peers.hand_over(2, 1, 9, limit).await, Ok(()));
    assert_eq!(one.peers.hand_over(2, 5, 9, limit).await, Err(CallError::NotLeader { leader: Some(9) }));
    assert!(matches!(one.peers.hand_over(3, 1, 9, limit).await, Err(CallError::Unavailable(_))), "nobody is there");
    stop_all(vec![one, two]).await;
}

const PLACE: CheckpointPlace = CheckpointPlace { id: 1 << 63, chunks: 3 };
const ANY: CheckpointWanted = CheckpointWanted { at_least: 30, goes_on: Some(PLACE) };

/// A checkpoint of numbered chunks that counts how many were asked of it.
struct Counting {
    asked: Arc<AtomicU64>,
    next: u64,
    count: u64,
    chunk_bytes: usize,
}

impl CheckpointStream for Counting {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<CheckpointPart>, FetchError>> {
        let at = self.next;
        self.next += 1;
        let part = match at {
            0 => Some(CheckpointPart::Head(
                CheckpointHead { index: 40, term: 2, members: Bytes::from_static(b"m") },
                PLACE,
            )),
            at if at <= self.count => {
                self.asked.store(at, Ordering::SeqCst);
                Some(CheckpointPart::Chunk(Bytes::from(vec![at as u8; self.chunk_bytes])))
            }
            at if at == self.count + 1 => Some(CheckpointPart::End { chunks: self.count, hash: 5 }),
            _ => None,
        };
        std::future::ready(Ok(part)).boxed()
    }
}

#[tokio::test]
async fn a_checkpoint_read_slowly_is_sent_slowly() {
    // 50 MB in chunks of 256 KiB; a stream's window is 1 MiB.
    let (count, chunk_bytes) = (200, 256 << 10);
    let asked_of = Arc::new(AtomicU64::new(0));
    let counter = asked_of.clone();
    let checkpoint = move |group, wanted| {
        assert_eq!((group, wanted), (7, ANY));
        let parts = Counting { asked: counter.clone(), next: 0, count, chunk_bytes };
        std::future::ready(Ok(Box::new(parts) as Box<dyn CheckpointStream>)).boxed()
    };
    let (one, two) = asked(Recorder { checkpoint: Box::new(checkpoint), ..Recorder::default() }).await;
    let mut parts = one.peers.fetch_checkpoint(2, 7, ANY).await.unwrap();
    let head = parts.next().await.unwrap();
    assert!(matches!(head, Some(CheckpointPart::Head(CheckpointHead { index: 40, term: 2, .. }, PLACE))), "{head:?}");
    let mut ahead_most = 0;
    for number in 1..=count {
        if number % 20 == 1 {
            time::sleep(20 * MS).await;
        }
        ahead_most = ahead_most.max(asked_of.load(Ordering::SeqCst) - (number - 1));
        let chunk = parts.next().await.unwrap();
        assert_eq!(chunk, Some(CheckpointPart::Chunk(Bytes::from(vec![number as u8; chunk_bytes]))));
    }
    assert_eq!(parts.next().await, Ok(Some(CheckpointPart::End { chunks: count, hash: 5 })));
    assert_eq!(parts.next().await, Ok(None));
    assert!(ahead_most <= 16, "{ahead_most} chunks of 256 KiB were under way at once");

    // The link was not held up, and a reader that leaves ends the giver's stream.
    assert_eq!(one.service.events(), [Event::Found(2)]);
    let mut parts = one.peers.fetch_checkpoint(2, 7, ANY).await.unwrap();
    parts.next().await.unwrap();
    drop(parts);
    stop_all(vec![one, two]).await;
}

#[tokio::test]
async fn a_checkpoint_travels_whole_through_fetch_and_serve() {
    use crate::raft::{ApplyError, Checkpoint, CheckpointReader, checkpoints};
    struct State(Vec<Bytes>);
    impl Checkpoint for State {
        fn index(&self) -> LogIndex {
            40
        }
        fn next_chunk(&mut self) -> Result<Option<Bytes>, ApplyError> {
            Ok(self.0.pop())
        }
    }
    let (throttle, shelf) = (checkpoints::Throttle::new(1, None), checkpoints::Shelf::new(1));
    let serving = move |_, _| {
        let served = throttle.begin().map(|turn| {
            let head = CheckpointHead { index: 40, term: 2, members: Bytes::from_static(b"members") };
            let chunks = (0..30).map(|number| Bytes::from(vec![number; 100_000])).collect();
            checkpoints::serve(&shelf, 7, head, Box::new(State(chunks)), turn)
        });
        std::future::ready(served).boxed()
    };
    let (one, two) = asked(Recorder { checkpoint: Box::new(serving), ..Recorder::default() }).await;
    let dir = tempfile::tempdir().unwrap();
    let (partials, limits) = (checkpoints::Partials::default(), checkpoints::FetchLimits::default());
    let wanted = checkpoints::Wanted { from: 2, group: 7, at_least: 30, partial_at_least: 30 };
    let fetched = checkpoints::fetch(&one.peers, dir.path(), wanted, &partials, &limits).await.unwrap();
    let mut opened = checkpoints::open(&fetched.path).unwrap();
    assert_eq!(opened.head.members, "members");
    for number in (0..30).rev() {
        assert_eq!(opened.next_chunk().unwrap(), Some(Bytes::from(vec![number; 100_000])));
    }
    assert_eq!(opened.next_chunk().unwrap(), None);

    // The first one's turn may take a moment to be given back; while it is held, a second taker is refused.
    let busy = one.peers.fetch_checkpoint(2, 7, ANY).await.unwrap();
    let mut second = one.peers.fetch_checkpoint(2, 7, ANY).await.unwrap();
    assert!(matches!(second.next().await, Err(FetchError::Refused(_))));
    drop(busy);

    let missing =
        checkpoints::fetch(&one.peers, dir.path(), checkpoints::Wanted { from: 9, ..wanted }, &partials, &limits)
            .await
            .unwrap_err();
    assert!(matches!(missing, FetchError::Unreachable(_)), "{missing}");
    stop_all(vec![one, two]).await;
}
