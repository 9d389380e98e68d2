//! Between the wire to other nodes and the rooms below it: what peers ask is done by this node's groups and shards, and the nodes
//! that meet for the first time become the members of a cluster. Built by [`super::Node`].

use super::{Engine, Network, StartError, engine::Stores};
use crate::{
    cluster::Members,
    config::Config,
    coordination::embedded,
    peer::{
        Addresses, CallError, Cause, GroupReport, Identity, PeerInfo, PeerOptions, PeerService, Peers, Proposal,
        Proposed, Refusal, peer_set_hash,
    },
    raft::{CheckpointStream, FetchError, Forward, GroupId, GroupMessage, LogIndex, NodeId, ProposeError},
    rt::{cuts::Cuts, rpc::RpcOptions, time},
    telemetry::metrics::PeersMetrics,
    types::{Ack, Error, ErrorKind},
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};

/// How long a write sent to another node may take there.
const FORWARD_LIMIT: Duration = Duration::from_secs(5);

/// The wire of one node, before the engine it serves is there.
pub struct Wire {
    peers: Peers,
    gate: Arc<Gate>,
}

impl Wire {
    /// The links to the peers of `config`; they are dialled by [`Wire::start`].
    ///
    /// # Errors
    /// The data directory cannot be read or written.
    pub async fn new(
        config: &Config,
        stores: &Stores,
        bound: &super::Addresses,
        cuts: Option<Cuts>,
        metrics: PeersMetrics,
    ) -> Result<Wire, StartError> {
        let addresses = advertised(config, bound);
        let others: Vec<String> = config.cluster.peers.iter().map(|peer| peer.as_str().to_owned()).collect();
        let (boot, known) = stores.begin_boot().await?;
        let own = addresses.peer.clone();
        let identity = Identity {
            cluster_name: config.cluster.name.as_str().to_owned(),
            peer_set_hash: peer_set_hash(others.iter().map(String::as_str).chain([own.as_str()])),
            node: stores.node_id(),
            boot,
            addresses,
        };
        let distinct: BTreeSet<&str> = others.iter().map(String::as_str).chain([own.as_str()]).collect();
        let gate = Gate {
            node: stores.node_id(),
            nodes: distinct.len(),
            met: Mutex::default(),
            members: known.map_or_else(Members::forming, Members::of),
            engine: RwLock::new(None),
        };
        let mut options = PeerOptions::default();
        options.rpc.cuts = cuts;
        let peers =
            Peers::new(identity, &others, options, metrics).map_err(|error| StartError::Peer(error.to_string()))?;
        Ok(Wire { peers, gate: Arc::new(gate) })
    }

    /// What the engine is started over.
    pub fn network(&self) -> Network {
        let all = || Arc::new(self.peers.clone());
        Network { transport: all(), forward: all(), others: all(), members: self.gate.members.clone() }
    }

    /// Dials, and answers for `engine` from now on.
    pub fn start(&self, engine: &Engine) {
        *self.gate.engine.write().expect("no panic while attaching") = Some(engine.inside());
        self.peers.start(self.gate.clone());
    }

    /// Ends the links and lets go of the engine.
    pub fn stop(&self) {
        self.peers.stop();
        *self.gate.engine.write().expect("no panic while attaching") = None;
    }

    /// Bounds of the connections of peers.
    pub fn rpc_options(&self) -> RpcOptions {
        PeerOptions::default().rpc
    }

    /// The links.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }
}

/// This node as its peers see it.
struct Gate {
    node: NodeId,
    /// How many nodes the cluster will have.
    nodes: usize,
    /// Others met so far, while the cluster forms.
    met: Mutex<BTreeSet<NodeId>>,
    members: Members,
    /// Taken away when the node stops: the engine holds the wire, and so itself.
    engine: RwLock<Option<super::engine::Inside>>,
}

impl Gate {
    fn inside(&self) -> Option<super::engine::Inside> {
        self.engine.read().expect("no panic while attaching").clone()
    }

    fn engine(&self) -> Result<super::engine::Inside, CallError> {
        self.inside().ok_or_else(|| CallError::Unavailable("the node is starting or stopping".to_owned()))
    }
}

impl PeerService for Gate {
    fn cluster_id(&self) -> Option<u64> {
        self.members.cluster_id()
    }

    fn admit(&self, peer: &PeerInfo) -> Result<(), Refusal> {
        if self.members.may_contain(peer.node) {
            return Ok(());
        }
        let detail = format!("node {:016x} is not one of the nodes that formed the cluster", peer.node);
        Err(Refusal::new(Cause::Member, detail))
    }

    fn peer_found(&self, peer: &PeerInfo) {
        let mut met = self.met.lock().expect("no panic while meeting");
        met.insert(peer.node);
        if met.len() + 1 == self.nodes {
            self.members.met(met.iter().copied().chain([self.node]).collect());
        }
    }

    fn peer_lost(&self, node: NodeId) {
        if let Some(inside) = self.inside() {
            inside.raft.peer_lost(node);
        }
    }

    fn receive(&self, from: NodeId, messages: Vec<GroupMessage>) {
        if let Some(inside) = self.inside() {
            inside.raft.receive(from, messages);
        }
    }

    fn propose(&self, _from: NodeId, proposal: Proposal) -> BoxFuture<'static, Result<Proposed, CallError>> {
        let inside = self.engine();
        Box::pin(async move {
            let inside = inside?;
            let unknown = || CallError::Indeterminate("it took too long".to_owned());
            time::timeout_at(proposal.deadline, propose(&inside, proposal)).await.unwrap_or_else(|_| Err(unknown()))
        })
    }

    fn serve_checkpoint(
        &self,
        _from: NodeId,
        group: GroupId,
        at_least: LogIndex,
    ) -> BoxFuture<'static, Result<Box<dyn CheckpointStream>, FetchError>> {
        match self.inside() {
            Some(inside) => inside.raft.serve_checkpoint(group, at_least),
            None => Box::pin(async { Err(FetchError::Refused("the node is starting".to_owned())) }),
        }
    }

    fn inspect(&self, group: GroupId, bucket: Option<u8>) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let inside = self.engine();
        Box::pin(async move {
            let replica = inside?.service.host().replica(group).map_err(|error| not_here(&error))?;
            super::verify::inspect(replica, bucket).await
        })
    }

    fn groups(&self) -> Vec<GroupReport> {
        Vec::new()
    }
}

async fn propose(inside: &super::engine::Inside, proposal: Proposal) -> Result<Proposed, CallError> {
    let Proposal { group, data, ack, .. } = proposal;
    let proposed = if group == embedded::GROUP {
        inside.coordinator.propose_forwarded(data).await
    } else {
        let replica = inside.service.host().replica(group).map_err(|error| not_here(&error))?;
        replica.propose_forwarded(data, ack).await.map_err(|error| CallError::Refused(error.to_string()))?
    };
    let (log_index, outcome) = proposed?;
    Ok(Proposed { log_index, outcome })
}

fn not_here(error: &Error) -> CallError {
    match error.kind() {
        ErrorKind::Unavailable | ErrorKind::NotFound => CallError::Unavailable(error.to_string()),
        _ => CallError::Refused(error.to_string()),
    }
}

impl Forward for Peers {
    fn forward(
        &self,
        to: NodeId,
        group: GroupId,
        data: Bytes,
        ack: Ack,
    ) -> BoxFuture<'static, Result<(LogIndex, Bytes), ProposeError>> {
        let peers = self.clone();
        Box::pin(async move {
            let proposal = Proposal { group, data, ack, deadline: time::now() + FORWARD_LIMIT };
            match peers.propose(to, proposal).await {
                Ok(Proposed { log_index, outcome }) => Ok((log_index, outcome)),
                Err(CallError::NotLeader { leader }) => Err(ProposeError::NotLeader { leader }),
                Err(CallError::Exhausted(_)) => Err(ProposeError::Exhausted),
                Err(CallError::Indeterminate(why)) => {
                    tracing::debug!(to, group, why, "the outcome of a forwarded write is not known");
                    Err(ProposeError::Indeterminate)
                }
                Err(CallError::Refused(why) | CallError::Unavailable(why)) => Err(ProposeError::Unreachable(why)),
            }
        })
    }
}

/// The addresses this node gives to its peers.
fn advertised(config: &Config, bound: &super::Addresses) -> Addresses {
    let advertised = &config.advertise;
    let peer = bound.peer.unwrap_or(config.listen.peer);
    let http = match &advertised.http {
        Some(one) => vec![one.as_str().to_owned()],
        None => bound.http.iter().map(ToString::to_string).collect(),
    };
    Addresses {
        peer: advertised.peer.as_ref().map_or_else(|| peer.to_string(), |given| given.as_str().to_owned()),
        http,
        grpc: advertised.grpc.as_ref().map_or_else(|| bound.grpc.to_string(), |given| given.as_str().to_owned()),
    }
}
