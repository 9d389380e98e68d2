//! Peers over real loopback sockets. Here: nodes to test with; the tests are in the files beside.

mod calls;
mod frames;
mod garbage;
mod handshake;
mod membership;
mod reads;
mod speed;

use super::*;
use crate::raft::{
    CheckpointPlace, CheckpointStream, CheckpointWanted, FetchError, GroupId, GroupMessage, NodeId, SendError,
    Transport,
};
use crate::rt::{Task, net::Listener, rpc, shutdown::Shutdown, spawn, time};
use crate::telemetry::metrics::Metrics;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use std::collections::BTreeMap;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);
const MS: Duration = Duration::from_millis(1);

type Answer<T> = BoxFuture<'static, T>;
type ProposeHandler = dyn Fn(NodeId, Proposal) -> Answer<Result<Proposed, CallError>> + Send + Sync;
type CheckpointHandler =
    dyn Fn(GroupId, CheckpointWanted) -> Answer<Result<Box<dyn CheckpointStream>, FetchError>> + Send + Sync;

/// A node's side that writes down what happens to it.
struct Recorder {
    cluster_id: Option<u64>,
    members: Option<Vec<NodeId>>,
    received: Mutex<Vec<(NodeId, GroupMessage)>>,
    events: Mutex<Vec<Event>>,
    /// Who opened a link to here, and where it is reached.
    seen: Mutex<BTreeMap<NodeId, String>>,
    /// Reads under way.
    reading: Arc<AtomicUsize>,
    propose: Box<ProposeHandler>,
    checkpoint: Box<CheckpointHandler>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Found(NodeId),
    Lost(NodeId),
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder {
            cluster_id: None,
            members: None,
            received: Mutex::default(),
            events: Mutex::default(),
            seen: Mutex::default(),
            reading: Arc::default(),
            propose: Box::new(|_, _| Box::pin(async { Err(CallError::NotLeader { leader: None }) })),
            checkpoint: Box::new(|_, _| Box::pin(async { Err(FetchError::Refused("no such group".to_owned())) })),
        }
    }
}

impl Recorder {
    fn received(&self) -> Vec<(NodeId, GroupMessage)> {
        self.received.lock().unwrap().clone()
    }

    fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }
}

impl PeerService for Recorder {
    fn cluster_id(&self) -> Option<u64> {
        self.cluster_id
    }

    fn admit(&self, peer: &PeerInfo) -> Result<(), Refusal> {
        match &self.members {
            Some(members) if !members.contains(&peer.node) => Err(Refusal::new(Cause::Member, "not on the list")),
            _ => Ok(()),
        }
    }

    fn peer_seen(&self, peer: &PeerInfo) {
        self.seen.lock().unwrap().insert(peer.node, peer.addresses.peer.clone());
    }

    fn join(&self, from: NodeId, joining: Joining) -> Answer<Result<Joined, CallError>> {
        let answer = match self.cluster_id {
            Some(cluster_id) if joining.mode != "refused" => Ok(Joined { cluster_id, founders: vec![from, 77] }),
            _ => Err(CallError::Refused(format!("not {from}"))),
        };
        std::future::ready(answer).boxed()
    }

    fn peer_found(&self, peer: &PeerInfo) {
        self.events.lock().unwrap().push(Event::Found(peer.node));
    }

    fn peer_lost(&self, node: NodeId) {
        self.events.lock().unwrap().push(Event::Lost(node));
    }

    fn receive(&self, from: NodeId, messages: Vec<GroupMessage>) {
        self.received.lock().unwrap().extend(messages.into_iter().map(|message| (from, message)));
    }

    fn propose(&self, from: NodeId, proposal: Proposal) -> Answer<Result<Proposed, CallError>> {
        (self.propose)(from, proposal)
    }

    fn serve_checkpoint(
        &self,
        _from: NodeId,
        group: GroupId,
        wanted: CheckpointWanted,
    ) -> Answer<Result<Box<dyn CheckpointStream>, FetchError>> {
        (self.checkpoint)(group, wanted)
    }

    fn inspect(&self, group: GroupId, bucket: Option<u8>) -> Answer<Result<Bytes, CallError>> {
        let answer = match group {
            1 => Ok(Bytes::from(format!("report {bucket:?}"))),
            _ => Err(CallError::Refused("no such group".to_owned())),
        };
        std::future::ready(answer).boxed()
    }

    fn read(&self, _from: NodeId, read: Bytes) -> Result<BoxStream<'static, Bytes>, CallError> {
        match read.as_ref() {
            b"nothing" => Err(CallError::Refused("nothing to read".to_owned())),
            b"panic" => Ok(stream::once(async { panic!("as it was told") }).boxed()),
            // Answers every byte, `l` with a large answer, and then never comes to an end, unless the last byte is a full stop.
            bytes => {
                let answer = |byte: &u8| match byte {
                    b'l' => Bytes::from(vec![b'l'; answering::SHARED_BYTES_MAX + 1]),
                    byte => Bytes::copy_from_slice(&[*byte]),
                };
                let answers = bytes.iter().map(answer).collect::<Vec<_>>();
                let ends = bytes.last() == Some(&b'.');
                // A moment later, so that the end does not go in one packet with the last answer.
                let end = if ends { turns(read.len()).boxed() } else { std::future::pending().boxed() };
                let reading = UnderWay::new(&self.reading);
                // Slowly, one after the other.
                let pause = if read.ends_with(b" in time.") { 20 * MS } else { Duration::ZERO };
                let answers = stream::iter(answers).then(move |answer| slowly(pause, answer));
                let answers = answers.chain(stream::once(end).filter_map(async |()| None));
                Ok(answers.map(move |answer| (answer, &reading).0).boxed())
            }
        }
    }

    fn hand_over(&self, group: GroupId, to: NodeId) -> Answer<Result<(), CallError>> {
        let answer = match group {
            1 => Ok(()),
            _ => Err(CallError::NotLeader { leader: Some(to) }),
        };
        std::future::ready(answer).boxed()
    }

    fn aliases_epoch(&self) -> u64 {
        7
    }

    fn groups(&self, only: Option<GroupId>) -> Answer<Vec<GroupReport>> {
        let mut reports = if only == Some(MANY) { many_reports() } else { reports() };
        reports.retain(|report| only.is_none_or(|group| report.group == group));
        std::future::ready(reports).boxed()
    }
}

/// Counts a read as long as it is under way.
struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    fn new(count: &Arc<AtomicUsize>) -> UnderWay {
        count.fetch_add(1, Ordering::SeqCst);
        UnderWay(count.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn slowly<T>(pause: Duration, answer: T) -> T {
    if !pause.is_zero() {
        time::sleep(pause).await;
    }
    answer
}

/// Ends when others had so many turns.
async fn turns(count: usize) {
    for _ in 0..count {
        crate::rt::yield_now().await;
    }
}

/// How the groups of every test node stand.
fn reports() -> Vec<GroupReport> {
    let first = GroupReport {
        group: 1,
        term: 2,
        leader: Some(3),
        last_index: 41,
        committed: 40,
        applied: 39,
        voters: vec![1, 2, 3],
        voters_outgoing: vec![4],
        learners: vec![5],
        members_index: 38,
        is_settled: true,
        points: 7,
        bytes: 1 << 40,
        failure: None,
    };
    vec![first, GroupReport { group: 9, failure: Some("damaged".to_owned()), ..GroupReport::default() }]
}

/// The group of which a test node makes more reports than fit into four MiB, as many groups that were given up do.
const MANY: GroupId = 88;

fn many_reports() -> Vec<GroupReport> {
    let failed = GroupReport { group: MANY, failure: Some("x".repeat(1000)), ..GroupReport::default() };
    vec![failed; 5_000]
}

/// What a test may change about a node.
struct Settings {
    identity: Identity,
    options: PeerOptions,
}

/// A node that is its peers' port and nothing else.
struct TestNode {
    id: NodeId,
    address: String,
    peers: Peers,
    service: Arc<Recorder>,
    metrics: Metrics,
    shutdown: Shutdown,
    serving: Task<()>,
}

async fn ports(count: usize) -> (Vec<Listener>, Vec<String>) {
    let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let listener = Listener::bind("127.0.0.1:0").await.expect("a free port");
        addresses.push(listener.local_addr().expect("bound").to_string());
        listeners.push(listener);
    }
    (listeners, addresses)
}

fn settings(id: NodeId, addresses: &[String], own: &str) -> Settings {
    let identity = Identity {
        cluster_name: "test".to_owned(),
        peer_set_hash: peer_set_hash(addresses.iter().map(String::as_str)),
        node: id,
        boot: 1,
        addresses: Addresses { peer: own.to_owned(), ..Addresses::default() },
    };
    let mut options = PeerOptions { ping_interval: 20 * MS, retry_longest: 200 * MS, ..PeerOptions::default() };
    options.rpc.drain_timeout = 200 * MS;
    Settings { identity, options }
}

impl TestNode {
    fn start(listener: Listener, addresses: &[String], settings: Settings, service: Recorder) -> TestNode {
        let (id, metrics, shutdown) = (settings.identity.node, Metrics::new(), Shutdown::new());
        let address = settings.identity.addresses.peer.clone();
        let rpc_options = settings.options.rpc.clone();
        let peers =
            Peers::new(settings.identity, addresses, settings.options, metrics.peers.clone()).expect("addresses");
        let serving = spawn("test.peers", rpc::serve(listener, peers.routes(), rpc_options, shutdown.clone()));
        let service = Arc::new(service);
        peers.start(service.clone());
        TestNode { id, address, peers, service, metrics, shutdown, serving }
    }

    async fn stop(self) -> String {
        self.peers.stop();
        self.shutdown.trigger();
        time::timeout(PATIENCE, self.serving).await.expect("drained").expect("ended well");
        self.address
    }

    fn is_connected_to(&self, other: NodeId) -> bool {
        self.peers.send(other, Vec::new()).is_ok()
    }

    fn state_of(&self, address: &str) -> PeerState {
        let status = self.peers.status().into_iter().find(|status| status.address == address);
        status.expect("a configured peer").state
    }
}

/// Nodes 1 to `count`, all linked with each other.
async fn cluster(count: usize) -> Vec<TestNode> {
    let (listeners, addresses) = ports(count).await;
    let mut nodes = Vec::new();
    for (at, listener) in listeners.into_iter().enumerate() {
        let settings = settings(at as NodeId + 1, &addresses, &addresses[at]);
        nodes.push(TestNode::start(listener, &addresses, settings, Recorder::default()));
    }
    linked(&nodes).await;
    nodes
}

async fn linked(nodes: &[TestNode]) {
    for one in nodes {
        for other in nodes {
            if one.id != other.id {
                until("linked", || one.is_connected_to(other.id)).await;
            }
        }
    }
}

async fn stop_all(nodes: Vec<TestNode>) {
    for node in nodes {
        node.stop().await;
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let began = time::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "still not {what}");
        time::sleep(MS).await;
    }
}

fn message(group: GroupId, number: u64, length: usize) -> GroupMessage {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(length.max(8), number as u8);
    GroupMessage { group, message: Bytes::from(bytes) }
}
