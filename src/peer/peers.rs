//! The handle to the other nodes: built by the roof, started with the [`PeerService`] of this node, and from then on the [`Transport`] of
//! its Raft groups and the way to call other nodes.

use super::{
    calls,
    identity::{Identity, Myself, PeerInfo, Refusal},
    incoming::Incoming,
    link::{self, Link},
    proto,
    queue::QueueLimits,
    server,
    service::{CallError, Joined, Joining, NodeReport, PeerService, Proposal, Proposed},
};
use crate::raft::{
    CheckpointStream, CheckpointWanted, FetchError, GroupId, GroupMessage, NodeId, SendError, Transport,
};
use crate::rt::{
    self, rng,
    rpc::{self, InvalidAddress, RpcOptions},
    shutdown::Shutdown,
    time::Instant,
};
use crate::telemetry::metrics::PeersMetrics;
use axum::Router;
use bytes::Bytes;
use futures_util::{future::BoxFuture, stream::BoxStream};
use rand::RngCore;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Most kinds of refused handshakes that are remembered for the status.
const REFUSALS_MAX: usize = 64;

/// Bounds of the links.
#[derive(Clone, Debug)]
pub struct PeerOptions {
    /// Both sides of every connection. For the server's side pass the same to [`rpc::serve`].
    pub rpc: RpcOptions,
    /// What may wait for one peer, and how much of it goes at once.
    pub queue: QueueLimits,
    /// From the dial to the answer to Hello.
    pub handshake_timeout: Duration,
    /// Before the first attempt to dial again; then twice as long each time.
    pub retry_first: Duration,
    /// The longest wait between attempts.
    pub retry_longest: Duration,
    /// How often the round trip is measured.
    pub ping_interval: Duration,
    /// Calls under way to one peer; more are `Exhausted`.
    pub calls_max: usize,
}

impl Default for PeerOptions {
    fn default() -> PeerOptions {
        PeerOptions {
            // Room for checkpoints that are read slowly beside everything else on the connection.
            rpc: RpcOptions { connection_window_bytes: 16 << 20, connections_max: 512, ..RpcOptions::default() },
            queue: QueueLimits::default(),
            handshake_timeout: Duration::from_secs(3),
            retry_first: Duration::from_millis(50),
            retry_longest: Duration::from_secs(2),
            ping_interval: Duration::from_secs(1),
            calls_max: 512,
        }
    }
}

/// How the link to an address stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// An attempt is under way, and the last one did not fail.
    Connecting,
    Connected {
        since: Instant,
    },
    /// Nobody answers there, or not as a peer should.
    Unreachable(String),
    /// One of the two sides does not want the link.
    Refused(Refusal),
    /// The address is this node's own.
    Itself,
}

impl PeerState {
    /// Whether both say that the link does not stand, for the same cause.
    pub(super) fn is_same_failure(&self, other: &PeerState) -> bool {
        match (self, other) {
            (PeerState::Unreachable(_), PeerState::Unreachable(_)) | (PeerState::Itself, PeerState::Itself) => true,
            (PeerState::Refused(one), PeerState::Refused(two)) => one.cause == two.cause,
            _ => false,
        }
    }
}

/// An address that is dialled, for the status.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    pub address: String,
    pub state: PeerState,
    /// Who was there last.
    pub peer: Option<Arc<PeerInfo>>,
    /// Whether its link to here stands as well.
    pub is_incoming: bool,
    pub round_trip: Option<Duration>,
}

/// A handshake that this node refused, for the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncomingRefusal {
    /// The id it gave.
    pub node: NodeId,
    /// The address it gave.
    pub address: String,
    pub refusal: Refusal,
    pub times: u64,
}

/// All other nodes of the cluster. Cheap to clone.
#[derive(Clone)]
pub struct Peers(Arc<Shared>);

pub(super) struct Shared {
    pub(super) me: Myself,
    pub(super) options: PeerOptions,
    pub(super) metrics: PeersMetrics,
    pub(super) incoming: Arc<Incoming>,
    pub(super) stop: Shutdown,
    service: Mutex<Option<Arc<dyn PeerService>>>,
    /// Given by the configuration: dialled whatever the members are.
    seeds: BTreeSet<String>,
    /// By address.
    links: Mutex<BTreeMap<String, Arc<Link>>>,
    by_node: Mutex<BTreeMap<NodeId, Arc<Link>>>,
    refusals: Mutex<BTreeMap<(NodeId, &'static str), IncomingRefusal>>,
}

impl Peers {
    /// The links to the peers at `addresses` (`host:port`; this node's own may be among them). Nothing is dialled and nobody answered
    /// before [`start`](Peers::start).
    ///
    /// # Errors
    /// An address that is none.
    pub fn new(
        identity: Identity,
        addresses: &[String],
        options: PeerOptions,
        metrics: PeersMetrics,
    ) -> Result<Peers, InvalidAddress> {
        let mut links = BTreeMap::new();
        for address in addresses {
            links.insert(address.clone(), link_to_address(address, &options)?);
        }
        let me = Myself { identity, instance: rng::stream("peer/instance").next_u64() };
        Ok(Peers(Arc::new(Shared {
            me,
            options,
            metrics,
            incoming: Arc::default(),
            stop: Shutdown::new(),
            service: Mutex::default(),
            seeds: links.keys().cloned().collect(),
            links: Mutex::new(links),
            by_node: Mutex::default(),
            refusals: Mutex::default(),
        })))
    }

    /// Dials the peers and answers them from now on, until [`stop`](Peers::stop). Once; must be called inside a task.
    pub fn start(&self, service: Arc<dyn PeerService>) {
        {
            let mut started = self.0.started();
            if started.is_some() || self.0.stop.is_triggered() {
                return;
            }
            *started = Some(service.clone());
        }
        for link in self.0.links().values() {
            drop(rt::spawn("peer.link", link::run(self.0.clone(), link.clone(), service.clone())));
        }
    }

    /// Dials these addresses from now on, beside the configured ones, and drops the links to those that are in neither. An address
    /// that is none is passed over, with a warning. May be called at any time, as often as one likes; cheap if nothing changes.
    pub fn set_addresses(&self, addresses: &BTreeSet<String>) {
        let service = self.0.service();
        let mut links = self.0.links();
        let gone: Vec<String> = links
            .keys()
            .filter(|address| !addresses.contains(*address) && !self.0.seeds.contains(*address))
            .cloned()
            .collect();
        for address in gone {
            if let Some(link) = links.remove(&address) {
                self.0.by_node().retain(|_, known| !Arc::ptr_eq(known, &link));
                link.stop.trigger();
            }
        }
        for address in addresses {
            if links.contains_key(address) || self.0.stop.is_triggered() {
                continue;
            }
            match link_to_address(address, &self.0.options) {
                Ok(link) => {
                    links.insert(address.clone(), link.clone());
                    if let Some(service) = &service {
                        drop(rt::spawn("peer.link", link::run(self.0.clone(), link, service.clone())));
                    }
                }
                Err(error) => tracing::warn!(address, %error, "a member has an address that is none"),
            }
        }
    }

    /// Ends the links with a node, in both directions. It is asked for its name again when it, or this node, dials.
    pub fn cut(&self, node: NodeId) {
        self.0.incoming.cut(node);
        for link in self.0.links().values() {
            if link.peer().is_some_and(|peer| peer.node == node) {
                link.cut();
            }
        }
    }

    /// The service to run with [`rpc::serve`] on the peers' port, with [`PeerOptions::rpc`].
    pub fn routes(&self) -> Router {
        server::routes(self.0.clone())
    }

    /// Ends every link, in both directions, so that the peers notice and the server can drain; lets go of the service. For good.
    pub fn stop(&self) {
        self.0.stop.trigger();
        // The service holds this handle in turn: neither would ever be freed, nor what the service keeps open.
        let service = self.0.started().take();
        drop(service);
    }

    /// Every address that is dialled, in order.
    pub fn status(&self) -> Vec<PeerStatus> {
        let status = |link: &Arc<Link>| {
            let peer = link.peer();
            PeerStatus {
                address: link.address.clone(),
                state: link.state(),
                is_incoming: peer.as_ref().is_some_and(|peer| self.0.incoming.has_link_of(peer.node)),
                peer,
                round_trip: link.round_trip(),
            }
        };
        self.0.links().values().map(status).collect()
    }

    /// The handshakes that this node refused, by node id and cause; at most 64 kinds.
    pub fn refusals(&self) -> Vec<IncomingRefusal> {
        self.0.refusals().values().cloned().collect()
    }

    /// Proposes an entry on another node, which must lead the group.
    ///
    /// # Errors
    /// [`CallError`]: `Unavailable` also if nothing was sent, `Indeterminate` also if the answer was lost or the deadline passed.
    pub async fn propose(&self, to: NodeId, proposal: Proposal) -> Result<Proposed, CallError> {
        calls::propose(&self.0, to, proposal).await
    }

    /// What the replica of a group on another node holds.
    ///
    /// # Errors
    /// [`CallError`]; there is nothing that could have happened.
    pub async fn inspect(
        &self,
        to: NodeId,
        group: GroupId,
        bucket: Option<u8>,
        limit: Duration,
    ) -> Result<Bytes, CallError> {
        calls::inspect(&self.0, to, group, bucket, limit).await
    }

    /// Reads replicas of another node: encoded answers as they come, at most until `deadline`. An error is the last item; nothing
    /// could have happened. With `is_small` over one stream with others, which is cheaper; an answer may come twice then, if another
    /// one turns out not to be small.
    pub fn read(
        &self,
        to: NodeId,
        read: Bytes,
        is_small: bool,
        deadline: Instant,
    ) -> BoxStream<'static, Result<Bytes, CallError>> {
        calls::read(self.0.clone(), to, read, is_small, deadline)
    }

    /// Asks another node to take this one into its cluster. Asking again changes nothing.
    ///
    /// # Errors
    /// [`CallError`]; `Refused` for good, for instance because this node was removed.
    pub async fn join(&self, to: NodeId, joining: Joining, limit: Duration) -> Result<Joined, CallError> {
        calls::join(&self.0, to, joining, limit).await
    }

    /// Asks the node `from`, which leads a group, to let `to` lead it.
    ///
    /// # Errors
    /// [`CallError`]; `Indeterminate` also if the answer was lost or `limit` passed.
    pub async fn hand_over(&self, from: NodeId, group: GroupId, to: NodeId, limit: Duration) -> Result<(), CallError> {
        calls::hand_over(&self.0, from, group, to, limit).await
    }

    /// What another node is and how its groups stand: all of them, or the one asked for (an older program tells of all).
    ///
    /// # Errors
    /// [`CallError`]; there is nothing that could have happened.
    pub async fn report(&self, to: NodeId, group: Option<GroupId>, limit: Duration) -> Result<NodeReport, CallError> {
        calls::report(&self.0, to, group, limit).await
    }
}

impl Transport for Peers {
    fn send(&self, to: NodeId, messages: Vec<GroupMessage>) -> Result<(), SendError> {
        self.0.link_to(to).ok_or(SendError::Unknown)?.send(messages)
    }

    fn fetch_checkpoint(
        &self,
        from: NodeId,
        group: GroupId,
        wanted: CheckpointWanted,
    ) -> BoxFuture<'static, Result<Box<dyn CheckpointStream>, FetchError>> {
        Box::pin(calls::fetch_checkpoint(self.0.clone(), from, group, wanted))
    }
}

impl Shared {
    /// The node's side of every call, from its start to its stop.
    pub(super) fn service(&self) -> Option<Arc<dyn PeerService>> {
        self.started().clone()
    }

    fn started(&self) -> MutexGuard<'_, Option<Arc<dyn PeerService>>> {
        self.service.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a node that said this may be linked with: the checks of both sides of a handshake.
    pub(super) fn accept(&self, hello: proto::Hello, service: &dyn PeerService) -> Result<PeerInfo, Refusal> {
        let peer = PeerInfo::try_from(hello)?;
        self.me.check(&peer, service.cluster_id())?;
        self.incoming.check(&peer)?;
        service.admit(&peer)?;
        Ok(peer)
    }

    /// Notes a handshake that was refused here; says so in the log the first time.
    pub(super) fn note_refusal(&self, node: NodeId, address: &str, refusal: &Refusal) {
        self.metrics.refused(refusal.cause.as_str());
        let mut refusals = self.refusals();
        let key = (node, refusal.cause.as_str());
        if let Some(known) = refusals.get_mut(&key) {
            known.times += 1;
            known.refusal = refusal.clone();
            return;
        }
        if refusals.len() >= REFUSALS_MAX {
            return;
        }
        let address = address.chars().take(255).collect::<String>();
        tracing::warn!(address, %refusal, "a node that wanted a link was refused");
        refusals.insert(key, IncomingRefusal { node, address, refusal: refusal.clone(), times: 1 });
    }

    /// A node has opened its link: it is there, so the link to it need not wait.
    pub(super) fn hurry(&self, peer: &PeerInfo) {
        for link in self.links().values() {
            let is_its =
                link.address == peer.addresses.peer || link.peer().is_some_and(|known| known.node == peer.node);
            if is_its {
                link.hurry();
            }
        }
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Link>>> {
        // As below.
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn by_node(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<Link>>> {
        // Changed by single calls only.
        self.by_node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refusals(&self) -> MutexGuard<'_, BTreeMap<(NodeId, &'static str), IncomingRefusal>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn link_to_address(address: &str, options: &PeerOptions) -> Result<Arc<Link>, InvalidAddress> {
    let channel = rpc::connect(address, &options.rpc)?;
    Ok(Arc::new(Link::new(address.to_owned(), channel, options.calls_max)))
}
