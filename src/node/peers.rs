//! The wire of a node: its links to the others, which follow the members of the cluster, and the way writes take over it. Built by
//! [`super::Node`].

use super::{
    Engine, Network, StartError, etcd,
    gate::Gate,
    join::{self, Met},
    membership,
    network::InCluster,
    stores::Stores,
};
use crate::{
    cluster::{Members, SelfTold},
    config::Config,
    peer::{Addresses, CallError, Identity, PeerOptions, Peers, Proposal, Proposed, peer_set_hash},
    raft::{Forward, GroupId, LogIndex, NodeId, ProposeError},
    rt::{self, cuts::Cuts, rpc::RpcOptions, shutdown::Shutdown, time},
    telemetry::metrics::PeersMetrics,
    types::Ack,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::{
    collections::BTreeSet,
    sync::{Arc, RwLock},
    time::Duration,
};

/// How long a write sent to another node may take there.
const FORWARD_LIMIT: Duration = Duration::from_secs(5);

/// The wire of one node, before the engine it serves is there.
pub struct Wire {
    node: NodeId,
    /// What it says of itself.
    told: SelfTold,
    /// Where its operators' port is.
    monitoring: String,
    peers: Peers,
    gate: Arc<Gate>,
    /// Whether a node of a cluster is asked to take this one in; with etcd it comes by itself.
    asks: bool,
    stop: Shutdown,
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
        let node = stores.node_id();
        let others: Vec<String> = config.cluster.peers.iter().map(|peer| peer.as_str().to_owned()).collect();
        let (boot, known) = stores.begin_boot().await?;
        let address = addresses.peer.clone();
        let distinct: BTreeSet<&str> = others.iter().map(String::as_str).chain([address.as_str()]).collect();
        let identity = Identity {
            cluster_name: config.cluster.name.as_str().to_owned(),
            peer_set_hash: peer_set_hash(distinct.iter().copied()),
            node,
            boot,
            addresses,
        };
        let is_in_etcd = etcd::is_used(config);
        let members = match known {
            // Whose etcd it is says which cluster.
            _ if is_in_etcd => Members::forming(),
            Some(founders) => Members::of(founders),
            // Nobody to wait for.
            None if distinct.len() == 1 => Members::of(vec![node]),
            None => Members::forming(),
        };
        // There the cluster is found, too: whom this node meets founds nothing.
        let founders = if is_in_etcd { usize::MAX } else { distinct.len() };
        let met = Arc::new(Met::new(node, founders));
        let mut options = PeerOptions::default();
        options.rpc.cuts = cuts;
        let peers =
            Peers::new(identity, &others, options, metrics).map_err(|error| StartError::Peer(error.to_string()))?;
        let gate = Arc::new(Gate { members, met, engine: RwLock::new(None) });
        let told = SelfTold {
            peer: address,
            zone: super::engine::zone(config),
            mode: config.mode.name().to_owned(),
            weight: u32::try_from(config.cluster.weight).unwrap_or(u32::MAX),
            labels: super::engine::labels(config),
        };
        let monitoring = bound.monitoring.to_string();
        Ok(Wire { node, told, monitoring, peers, gate, asks: !is_in_etcd, stop: Shutdown::new() })
    }

    /// What the engine is started over.
    pub fn network(&self) -> Network {
        let all = || Arc::new(self.peers.clone());
        Network {
            transport: all(),
            forward: all(),
            others: all(),
            members: self.gate.members.clone(),
            cluster: Some(InCluster {
                told: self.told.clone(),
                monitoring: self.monitoring.clone(),
                peers: self.peers.clone(),
            }),
        }
    }

    /// Dials, and answers for `engine` from now on.
    pub fn start(&self, engine: &Engine) {
        *self.gate.engine.write().expect("no panic while attaching") = Some(engine.inside());
        self.peers.start(self.gate.clone());
        let (members, peers, stop) = (self.gate.members.clone(), self.peers.clone(), self.stop.clone());
        drop(rt::spawn("peers-follow", membership::dial(self.node, members.clone(), peers.clone(), stop.clone())));
        if !self.asks {
            return;
        }
        let (met, told) = (self.gate.met.clone(), self.told.clone());
        let asking = async move {
            tokio::select! {
                biased;
                () = stop.wait() => {}
                () = join::ask(&met, &peers, &members, &told) => {}
            }
        };
        drop(rt::spawn("cluster-join", asking));
    }

    /// Ends the links and lets go of the engine.
    pub fn stop(&self) {
        self.stop.trigger();
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

/// The addresses this node gives to others.
pub(super) fn advertised(config: &Config, bound: &super::Addresses) -> Addresses {
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
