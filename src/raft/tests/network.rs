//! Nodes in one process over a network that a seed makes lose, delay, repeat and cut. Each node has its own log on disk and
//! state machines in memory that outlive it, so that a node can be killed and started again.

use super::ledger::Memo;
use super::*;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rand::{Rng as _, SeedableRng, rngs::StdRng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use tempfile::TempDir;

/// What the network does to frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Chance that a frame is lost.
    pub loss: f64,
    /// Chance that a frame comes twice.
    pub repeat: f64,
    /// A frame takes up to so long; so they overtake each other.
    pub delay_ms_max: u64,
}

/// The network between the nodes.
pub struct Network {
    state: Mutex<State>,
}

struct State {
    rng: StdRng,
    faults: Faults,
    nodes: BTreeMap<NodeId, MultiRaft>,
    /// Pairs between which nothing passes.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Nodes that give no checkpoints.
    pub stingy: BTreeSet<NodeId>,
    /// After how many parts the next streams of checkpoints break.
    breaks: VecDeque<usize>,
    /// Chunks of checkpoints that came.
    chunks: usize,
}

impl Network {
    pub fn new(seed: u64, faults: Faults) -> Arc<Network> {
        let rng = StdRng::seed_from_u64(seed);
        let (nodes, cut, stingy, breaks) = Default::default();
        Arc::new(Network { state: Mutex::new(State { rng, faults, nodes, cut, stingy, breaks, chunks: 0 }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Lets nothing pass between the two, either way.
    pub fn cut(&self, one: NodeId, other: NodeId) {
        self.state().cut.extend([(one, other), (other, one)]);
    }

    /// Lets nothing pass from one to the other; the way back stays open.
    pub fn cut_one_way(&self, from: NodeId, to: NodeId) {
        self.state().cut.insert((from, to));
    }

    pub fn isolate(&self, node: NodeId) {
        let others: Vec<NodeId> = self.state().nodes.keys().copied().collect();
        others.into_iter().filter(|other| *other != node).for_each(|other| self.cut(node, other));
    }

    pub fn heal(&self) {
        self.state().cut.clear();
    }

    pub fn give_no_checkpoints(&self, nodes: impl IntoIterator<Item = NodeId>) {
        self.state().stingy = nodes.into_iter().collect();
    }

    /// Has the next streams of checkpoints break, each after so many parts.
    pub fn break_checkpoints(&self, after: impl IntoIterator<Item = usize>) {
        self.state().breaks = after.into_iter().collect();
    }

    /// Streams that are still to break.
    pub fn breaks(&self) -> usize {
        self.state().breaks.len()
    }

    /// Chunks of checkpoints that came.
    pub fn chunks(&self) -> usize {
        self.state().chunks
    }

    fn pass(self: Arc<Self>, from: NodeId, to: NodeId, messages: Vec<GroupMessage>) {
        let mut state = self.state();
        let faults = state.faults;
        if state.cut.contains(&(from, to)) || state.rng.random_bool(faults.loss) {
            return;
        }
        let copies = 1 + usize::from(state.rng.random_bool(faults.repeat));
        for _ in 0..copies {
            let delay_ms = state.rng.random_range(0..=faults.delay_ms_max);
            let (network, messages) = (self.clone(), messages.clone());
            let deliver = move || {
                let to = network.state().nodes.get(&to).cloned();
                to.iter().for_each(|to| to.receive(from, messages.clone()));
            };
            if delay_ms == 0 {
                drop(state);
                deliver();
                state = self.state();
            } else {
                rt::spawn("frame", async move {
                    rt::time::sleep(Duration::from_millis(delay_ms)).await;
                    deliver();
                });
            }
        }
    }
}

struct Port {
    network: Arc<Network>,
    node: NodeId,
}

impl Transport for Port {
    fn send(&self, to: NodeId, messages: Vec<GroupMessage>) -> Result<(), SendError> {
        if !self.network.state().nodes.contains_key(&to) {
            return Err(SendError::Disconnected);
        }
        self.network.clone().pass(self.node, to, messages);
        Ok(())
    }

    fn fetch_checkpoint(
        &self,
        from: NodeId,
        group: GroupId,
        wanted: CheckpointWanted,
    ) -> BoxFuture<'static, Result<Box<dyn CheckpointStream>, FetchError>> {
        let mut state = self.network.state();
        let giver = state.nodes.get(&from).filter(|_| !state.cut.contains(&(self.node, from))).cloned();
        let is_stingy = state.stingy.contains(&from);
        let left = state.breaks.pop_front().unwrap_or(usize::MAX);
        let network = self.network.clone();
        async move {
            match giver {
                Some(_) if is_stingy => Err(FetchError::Refused("told to".into())),
                Some(giver) => {
                    let parts = giver.serve_checkpoint(group, wanted).await?;
                    Ok(Box::new(Breaking { network, parts, left }) as Box<dyn CheckpointStream>)
                }
                None => Err(FetchError::Unreachable("there is no way there".into())),
            }
        }
        .boxed()
    }
}

/// A checkpoint on its way, which breaks after so many parts.
struct Breaking {
    network: Arc<Network>,
    parts: Box<dyn CheckpointStream>,
    left: usize,
}

impl CheckpointStream for Breaking {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<CheckpointPart>, FetchError>> {
        async move {
            let Some(left) = self.left.checked_sub(1) else { return Err(FetchError::Unreachable("cut".into())) };
            self.left = left;
            let part = self.parts.next().await?;
            self.network.state().chunks += usize::from(matches!(part, Some(CheckpointPart::Chunk(_))));
            Ok(part)
        }
        .boxed()
    }
}

/// Starts a node's driver on the network.
pub fn join(
    network: &Arc<Network>,
    node: NodeId,
    log: LogStore,
    checkpoints: &Path,
    options: RaftOptions,
) -> MultiRaft {
    let port = Arc::new(Port { network: network.clone(), node });
    let raft = MultiRaft::start(node, log, None, port, Arc::from(checkpoints), options);
    network.state().nodes.insert(node, raft.clone());
    raft
}

/// Nodes 1 to n, each with one group.
pub struct Cluster {
    pub network: Arc<Network>,
    pub options: RaftOptions,
    voters: Vec<NodeId>,
    directories: BTreeMap<NodeId, TempDir>,
    pub memos: BTreeMap<NodeId, Memo>,
    pub groups: BTreeMap<NodeId, Group<LogIndex>>,
}

impl Cluster {
    pub async fn start(nodes: u64, seed: u64, options: RaftOptions, faults: Faults) -> Cluster {
        let voters: Vec<NodeId> = (1..=nodes).collect();
        let network = Network::new(seed, faults);
        let (directories, memos, groups) = Default::default();
        let mut cluster = Cluster { network, options, voters: voters.clone(), directories, memos, groups };
        for node in voters {
            cluster.start_node(node).await;
        }
        cluster
    }

    /// Starts a node, for the first time or again. Nodes beyond the first voters begin as nobody's member.
    pub async fn start_node(&mut self, node: NodeId) {
        let directory = self.directories.entry(node).or_insert_with(|| tempfile::tempdir().unwrap()).path().to_owned();
        let checkpoints = directory.join("checkpoint");
        crate::store::directory::make_directory(&checkpoints).unwrap();
        // The tasks of a node that was killed may still hold its log for a moment.
        let mut log = LogStore::open(directory.join("log"), store_options());
        while log.is_err() {
            rt::time::sleep(Duration::from_millis(5)).await;
            log = LogStore::open(directory.join("log"), store_options());
        }
        let raft = join(&self.network, node, log.unwrap(), &checkpoints, self.options);
        let memo = self.memos.entry(node).or_default().clone();
        let voters = if self.voters.contains(&node) { self.voters.clone() } else { Vec::new() };
        let group = raft.open(GROUP, &voters, memo).await.unwrap();
        self.groups.insert(node, group);
    }

    /// Ends a node's process without a word, as far as its own files are concerned; the others notice that the connection broke
    /// if `noticed`.
    pub fn kill(&mut self, node: NodeId, noticed: bool) {
        self.groups.remove(&node);
        let mut state = self.network.state();
        state.nodes.remove(&node);
        if noticed {
            state.nodes.values().for_each(|other| other.peer_lost(node));
        }
    }

    pub fn raft(&self, node: NodeId) -> MultiRaft {
        self.network.state().nodes[&node].clone()
    }

    /// The directory of a node's files.
    pub fn directory(&self, node: NodeId) -> &Path {
        self.directories[&node].path()
    }

    /// The only leader there is, once there is one that could commit.
    pub async fn leader(&self) -> NodeId {
        let mut found = 0;
        eventually("there is a leader", async || {
            for (node, group) in &self.groups {
                if group.is_leader() && group.read_index().await.is_ok() {
                    found = *node;
                    return true;
                }
            }
            false
        })
        .await;
        found
    }

    /// A follower, once there is a leader.
    pub async fn follower(&self) -> NodeId {
        let leader = self.leader().await;
        *self.groups.keys().find(|node| **node != leader).unwrap()
    }

    /// Proposes a text until it is acknowledged; `true` if that took one try.
    pub async fn write(&self, text: &str) -> bool {
        let mut tries = 0;
        eventually("a write is acknowledged", async || {
            tries += 1;
            for group in self.groups.values() {
                if group.is_leader() {
                    let proposed = group.propose(Bytes::from(text.to_owned()));
                    let answered = rt::time::timeout(Duration::from_secs(1), proposed).await;
                    if matches!(answered, Ok(Ok(_))) {
                        return true;
                    }
                }
            }
            false
        })
        .await;
        tries == 1
    }

    /// Waits until every node has applied everything and all are alike; what they have.
    pub async fn agree(&self) -> Vec<String> {
        eventually("all nodes have the same", async || {
            let Ok(index) = self.groups[&self.leader().await].read_index().await else { return false };
            self.groups.values().all(|group| group.applied() >= index)
        })
        .await;
        let node = self.leader().await;
        let memory = self.memos[&node].memory();
        let (applied, expected) = (memory.applied, memory.entries.clone());
        drop(memory);
        for (other, memo) in self.memos.iter().filter(|(other, _)| self.groups.contains_key(other)) {
            let memory = memo.memory();
            let upto = memory.applied.min(applied);
            let (own, theirs) = (expected.range(..=upto), memory.entries.range(..=upto));
            assert!(own.eq(theirs), "nodes {node} and {other} differ");
        }
        self.memos[&node].commands()
    }
}
