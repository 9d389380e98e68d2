//! Embedded coordinators in one process: each node has its own store, log and driver; frames and forwarded proposals go through a table
//! that can leave nodes out.

use crate::contract::{self, Hooks};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tempfile::TempDir;
use vectorsphere::{
    coordination::{Change, Committed, Coordinator, Embedded, KeptAlive, Transaction, embedded},
    raft::{
        CheckpointStream, CheckpointWanted, FetchError, Forward, GroupId, GroupMessage, LogIndex, LogStore, MultiRaft,
        NodeId, ProposeError, RaftOptions, Route, SendError, Transport, log_options,
    },
    rt::time,
    store::{Store, StoreOptions, directory::make_directory},
    types::Ack,
};

/// What every node sees of the others.
#[derive(Default)]
pub struct Wire {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<NodeId, (MultiRaft, Embedded)>,
    /// Nodes that nothing reaches and that reach nobody.
    cut: BTreeSet<NodeId>,
    /// Nodes that no message of Raft reaches; they reach the others, and what they ask is answered.
    deaf: BTreeSet<NodeId>,
}

impl Wire {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn between(&self, from: NodeId, to: NodeId) -> Option<(MultiRaft, Embedded)> {
        let state = self.state();
        let open = !state.cut.contains(&from) && !state.cut.contains(&to);
        state.nodes.get(&to).filter(|_| open).cloned()
    }
}

struct Port {
    wire: Arc<Wire>,
    node: NodeId,
}

impl Transport for Port {
    fn send(&self, to: NodeId, messages: Vec<GroupMessage>) -> Result<(), SendError> {
        let (raft, _) = self.wire.between(self.node, to).ok_or(SendError::Disconnected)?;
        if self.wire.state().deaf.contains(&to) {
            return Ok(());
        }
        raft.receive(self.node, messages);
        Ok(())
    }

    fn fetch_checkpoint(
        &self,
        from: NodeId,
        group: GroupId,
        wanted: CheckpointWanted,
    ) -> BoxFuture<'static, Result<Box<dyn CheckpointStream>, FetchError>> {
        match self.wire.between(self.node, from) {
            Some((raft, _)) => raft.serve_checkpoint(group, wanted),
            None => Box::pin(async { Err(FetchError::Unreachable("cut".to_owned())) }),
        }
    }
}

impl Forward for Port {
    fn forward(
        &self,
        to: NodeId,
        _group: GroupId,
        data: Bytes,
        _ack: Ack,
    ) -> BoxFuture<'static, Result<(LogIndex, Bytes), ProposeError>> {
        let there = self.wire.between(self.node, to);
        Box::pin(async move {
            let (_, embedded) = there.ok_or_else(|| ProposeError::Unreachable("cut".to_owned()))?;
            embedded.propose_forwarded(data).await
        })
    }
}

/// A node of a cluster of coordinators.
pub struct Node {
    pub id: NodeId,
    pub embedded: Embedded,
    raft: MultiRaft,
}

/// Nodes 1 to `size`, formed.
pub struct Cluster {
    pub wire: Arc<Wire>,
    pub nodes: Vec<Node>,
    // Last: the stores lie in it.
    _directory: TempDir,
}

impl Cluster {
    pub async fn start(size: u64) -> Cluster {
        let directory = tempfile::tempdir().unwrap();
        let wire = Arc::<Wire>::default();
        let voters: Vec<NodeId> = (1..=size).collect();
        let mut nodes = Vec::new();
        for id in &voters {
            nodes.push(Node::start(*id, &directory.path().join(id.to_string()), wire.clone()));
        }
        for node in &nodes {
            let group = node.raft.open(embedded::GROUP, &voters, node.embedded.machine().unwrap()).await.unwrap();
            let port = Arc::new(Port { wire: wire.clone(), node: node.id });
            node.embedded.attach(Route::new(group, port, embedded::decode_outcome));
        }
        let cluster = Cluster { wire, nodes, _directory: directory };
        cluster.leader().await;
        cluster
    }

    /// The node that leads, once a node that is not cut off does.
    pub async fn leader(&self) -> &Node {
        for _ in 0..200 {
            let cut = self.wire.state().cut.clone();
            let reachable = self.nodes.iter().filter(|node| !cut.contains(&node.id));
            let mut leading = reachable.filter(|node| node.embedded.group().is_some_and(|group| group.is_leader()));
            if let Some(node) = leading.next() {
                return node;
            }
            time::sleep(Duration::from_millis(50)).await;
        }
        panic!("nobody leads");
    }

    /// A node that does not lead.
    pub async fn follower(&self) -> &Node {
        let leader = self.leader().await.id;
        self.nodes.iter().find(|node| node.id != leader).expect("there are others")
    }

    pub fn cut(&self, node: NodeId) {
        self.wire.state().cut.insert(node);
        for other in self.nodes.iter().filter(|other| other.id != node) {
            other.raft.peer_lost(node);
        }
    }

    pub async fn stop(self) {
        for node in &self.nodes {
            node.raft.stop().await;
        }
    }
}

impl Node {
    fn start(id: NodeId, path: &Path, wire: Arc<Wire>) -> Node {
        let checkpoints = path.join("checkpoint");
        make_directory(&checkpoints).unwrap();
        let log = LogStore::open(path.join("log"), log_options()).unwrap();
        let port = Arc::new(Port { wire: wire.clone(), node: id });
        let raft = MultiRaft::start(id, log, None, port, Arc::from(checkpoints), RaftOptions::default());
        let embedded = Embedded::open(Store::open(path.join("store"), StoreOptions::default()).unwrap()).unwrap();
        wire.state().nodes.insert(id, (raft.clone(), embedded.clone()));
        Node { id, embedded, raft }
    }

    pub fn coordinator(&self) -> Arc<dyn Coordinator> {
        Arc::new(self.embedded.clone())
    }
}

impl Hooks for Node {
    fn compact(&self) -> BoxFuture<'_, ()> {
        self.embedded.compact();
        Box::pin(async {})
    }

    fn second_lasts_max(&self) -> Duration {
        // The leader looks ten times a second, on a machine that may be busy.
        Duration::from_millis(1800)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_coordinator_alone_keeps_the_contract() {
    let cluster = Cluster::start(1).await;
    contract::check(&cluster.nodes[0].coordinator(), &cluster.nodes[0], 1).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_embedded_coordinators_keep_the_contract_from_every_node() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    contract::check(&leader.coordinator(), leader, 1).await;
    let follower = cluster.follower().await;
    contract::check(&follower.coordinator(), follower, 2).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_hear_of_its_own_change_says_so_in_time() {
    let cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let c = follower.coordinator();
    contract::write(&*c, vec![contract::put("k", "1")]).await;
    cluster.wire.state().deaf.insert(follower.id);
    let change = Transaction { compares: Vec::new(), changes: vec![contract::put("k", "2")] };
    let done = time::timeout(Duration::from_secs(10), c.commit(change)).await.expect("answered in time");
    let Ok(Committed::At(revision)) = done else { panic!("the leader has done it: {done:?}") };
    assert_eq!(c.remembered("k").unwrap()[0].value, b"1", "it has not come here");
    cluster.wire.state().deaf.clear();
    let there = c.get("k").await.unwrap().unwrap();
    assert_eq!((&there.value[..], there.revision), (&b"2"[..], revision));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_outlive_their_leader_by_a_whole_time_to_live() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await.id;
    let follower = cluster.follower().await;
    let c = follower.coordinator();
    let kept = c.grant(Duration::from_secs(2)).await.unwrap();
    let left = c.grant(Duration::from_secs(2)).await.unwrap();
    let leased = |key: &str, lease| Change::PutLeased(key.to_owned(), Vec::new(), lease);
    let after = contract::write(&*c, vec![leased("l/kept", kept), leased("l/left", left)]).await;
    let mut watch = c.watch("l/", after);
    // Nearly over when the leader is lost.
    time::sleep(Duration::from_millis(1500)).await;
    assert!(matches!(c.keep_alive(kept).await, Ok(KeptAlive::For(_))));
    let lost = time::now();
    cluster.cut(leader);
    let next = cluster.leader().await.id;
    let elected = lost.elapsed();
    assert_ne!(next, leader);
    let mut gone_after = None;
    while lost.elapsed() < elected + Duration::from_secs(4) {
        assert!(matches!(c.keep_alive(kept).await, Ok(KeptAlive::For(_))), "a lease that was kept ended");
        if let Ok(events) = time::timeout(Duration::from_millis(200), watch.next()).await {
            let events = events.unwrap();
            assert!(events.len() == 1 && events[0].key() == "l/left", "{events:?}");
            gone_after = Some(lost.elapsed());
        }
    }
    let gone_after = gone_after.expect("the lease that nobody kept ended");
    assert!(gone_after >= Duration::from_secs(2), "the new leader gave it {gone_after:?}");
    assert_eq!(c.list("l/").await.unwrap().entries.len(), 1);
    // What the old leader says to itself is not heard.
    let old = cluster.nodes.iter().find(|node| node.id == leader).unwrap();
    let cut_off = old.coordinator();
    assert!(time::timeout(Duration::from_secs(6), cut_off.keep_alive(kept)).await.is_ok_and(|kept| kept.is_err()));
    assert!(cut_off.get("l/kept").await.is_err(), "a read that nobody confirmed");
    assert!(cut_off.remembered("l/").unwrap().is_empty());
    cluster.stop().await;
}
