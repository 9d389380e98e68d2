//! The link to one peer: dialled, shaken hands on, kept, and dialled again. One task an address, until nobody wants it dialled.

use super::{
    back_off::BackOff,
    identity::{Cause, Id, PeerInfo, Refusal},
    peers::{PeerState, Shared},
    proto::{self, link_reply, link_request, peer_client::PeerClient},
    queue::Queue,
    reads::Reads,
    service::PeerService,
};
use crate::raft::{GroupMessage, NodeId, SendError};
use crate::rt::{
    rng,
    rpc::Channel,
    shutdown::Shutdown,
    time::{self, Instant},
};
use crate::telemetry::metrics::PeerMetrics;
use futures_util::stream::{self, Stream, StreamExt};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tonic::Streaming;

/// See the module.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) address: String,
    pub(super) channel: Channel,
    /// Calls under way beside the link.
    pub(super) calls: Arc<Semaphore>,
    progress: Mutex<Progress>,
    /// Woken when there is reason to dial before the back-off is over.
    hurry: Notify,
    /// Woken when the session is to end.
    cut: Notify,
    /// Fires when the address is not to be dialled any more.
    pub(super) stop: Shutdown,
}

/// How far the link has got.
#[derive(Debug)]
struct Progress {
    state: PeerState,
    /// Who was there last.
    peer: Option<Arc<PeerInfo>>,
    session: Option<Arc<Session>>,
    round_trip: Option<Duration>,
}

/// One life of a link: what waits to be sent, and the counters once it is known whose they are.
#[derive(Debug)]
struct Session {
    queue: Queue,
    reads: Arc<Reads>,
    metrics: OnceLock<PeerMetrics>,
}

/// How a session ended.
enum Ended {
    /// There was none: nobody answered as they should.
    Unreachable(String),
    /// One of the two sides did not want it.
    Refused(Refusal),
    /// It stood, and broke.
    Broke { lived: Duration },
}

impl Link {
    pub(super) fn new(address: String, channel: Channel, calls_max: usize) -> Link {
        let progress = Progress { state: PeerState::Connecting, peer: None, session: None, round_trip: None };
        let calls = Arc::new(Semaphore::new(calls_max));
        let (hurry, cut, stop) = (Notify::new(), Notify::new(), Shutdown::new());
        Link { address, channel, calls, progress: Mutex::new(progress), hurry, cut, stop }
    }

    pub(super) fn send(&self, messages: Vec<GroupMessage>) -> Result<(), SendError> {
        let session = self.progress().session.clone().ok_or(SendError::Disconnected)?;
        let count = messages.len();
        let sent = session.queue.push(messages);
        if sent.is_err()
            && let Some(metrics) = session.metrics.get()
        {
            metrics.dropped(count);
        }
        sent
    }

    pub(super) fn state(&self) -> PeerState {
        self.progress().state.clone()
    }

    pub(super) fn peer(&self) -> Option<Arc<PeerInfo>> {
        self.progress().peer.clone()
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.progress().round_trip
    }

    pub(super) fn is_connected(&self) -> bool {
        self.progress().session.is_some()
    }

    /// The small reads of the session, if one stands.
    pub(super) fn reads(&self) -> Option<Arc<Reads>> {
        self.progress().session.as_ref().map(|session| session.reads.clone())
    }

    /// Dials at once if it waits to. For when the peer has shown that it is there.
    pub(super) fn hurry(&self) {
        if !self.is_connected() {
            self.hurry.notify_one();
        }
    }

    /// Ends the session, if one stands.
    pub(super) fn cut(&self) {
        if self.is_connected() {
            self.cut.notify_one();
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // Every field is valid on its own.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes why the link does not stand; says so in the log the first time.
    fn failed(&self, state: PeerState) {
        let is_new = {
            let mut progress = self.progress();
            let is_new = !progress.state.is_same_failure(&state);
            progress.state = state.clone();
            is_new
        };
        if !is_new {
            return;
        }
        match state {
            PeerState::Refused(refusal) => {
                tracing::warn!(address = self.address, %refusal, "a peer and this node do not talk");
            }
            PeerState::Unreachable(why) => tracing::info!(address = self.address, why, "a peer cannot be reached"),
            PeerState::Itself => tracing::debug!(address = self.address, "this address is the node's own"),
            PeerState::Connecting | PeerState::Connected { .. } => {}
        }
    }
}

/// Keeps the link until the node stops, or the link is not wanted any more.
pub(super) async fn run(shared: Arc<Shared>, link: Arc<Link>, service: Arc<dyn PeerService>) {
    let options = &shared.options;
    let mut back_off = BackOff::new(options.retry_first, options.retry_longest, rng::stream("peer/back-off"));
    loop {
        let ended = tokio::select! {
            biased;
            () = shared.stop.wait() => return,
            () = link.stop.wait() => return,
            ended = session(&shared, &link, service.as_ref()) => ended,
        };
        match ended {
            Ended::Broke { lived } if lived >= options.retry_longest => back_off.reset(),
            Ended::Broke { .. } => {}
            Ended::Unreachable(why) => link.failed(PeerState::Unreachable(why)),
            Ended::Refused(refusal) if refusal.cause == Cause::Itself => {
                link.failed(PeerState::Itself);
                return;
            }
            Ended::Refused(refusal) => {
                shared.metrics.refused(refusal.cause.as_str());
                link.failed(PeerState::Refused(refusal));
            }
        }
        tokio::select! {
            biased;
            () = shared.stop.wait() => return,
            () = link.stop.wait() => return,
            () = link.hurry.notified() => {}
            () = time::sleep(back_off.next()) => {}
        }
    }
}

/// One life of the link, from the dial to the break.
async fn session(shared: &Arc<Shared>, link: &Arc<Link>, service: &dyn PeerService) -> Ended {
    // To open a second link to one node would end the first.
    if let Some(known) = link.peer()
        && let Err(refusal) = shared.check_route(known.node, link)
    {
        return Ended::Refused(refusal);
    }
    let (queue, reads) = (Queue::new(shared.options.queue), Reads::new(shared.options.calls_max));
    let session = Arc::new(Session { queue, reads, metrics: OnceLock::new() });
    let _closing = CloseOnDrop { link, session: &session, service };
    let hello = shared.me.hello(service.cluster_id());
    let opening = open(link.channel.clone(), hello, session.clone());
    let (mut replies, first) = match time::timeout(shared.options.handshake_timeout, opening).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(status)) => return Ended::Unreachable(status.message().to_owned()),
        Err(elapsed) => return Ended::Unreachable(format!("no answer to the handshake: {elapsed}")),
    };
    let peer = match welcomed(shared, link, service, first) {
        Ok(peer) => peer,
        Err(refusal) => return Ended::Refused(refusal),
    };
    let began = time::now();
    let metrics = stand(shared, link, &session, &peer);
    service.peer_found(&peer);
    let why = keep(shared, link, &session, &metrics, &mut replies).await;
    fall(link, &session, &metrics);
    let lived = began.elapsed();
    tracing::info!(address = link.address, node = %Id(peer.node), why, ?lived, "the link to a peer broke");
    service.peer_lost(peer.node);
    Ended::Broke { lived }
}

/// Opens the stream, says Hello and waits for the first answer.
async fn open(
    channel: Channel,
    hello: proto::Hello,
    session: Arc<Session>,
) -> Result<(Streaming<proto::LinkReply>, Option<proto::LinkReply>), tonic::Status> {
    let mut replies = PeerClient::new(channel).link(requests(hello, session)).await?.into_inner();
    let first = replies.message().await?;
    Ok((replies, first))
}

/// What goes out: Hello, then what the queue gives until it is closed.
fn requests(hello: proto::Hello, session: Arc<Session>) -> impl Stream<Item = proto::LinkRequest> + Send {
    let hello = proto::LinkRequest { kind: Some(link_request::Kind::Hello(hello)) };
    let frames = stream::unfold(session, |session| async move {
        let taken = session.queue.take().await?;
        if let Some(metrics) = session.metrics.get()
            && taken.messages > 0
        {
            metrics.sent(taken.messages, taken.bytes);
        }
        Some((taken.request, session))
    });
    stream::once(std::future::ready(hello)).chain(frames)
}

/// Reads the answer to Hello, and looks whether this node accepts that one as well.
fn welcomed(
    shared: &Shared,
    link: &Arc<Link>,
    service: &dyn PeerService,
    first: Option<proto::LinkReply>,
) -> Result<Arc<PeerInfo>, Refusal> {
    match first.and_then(|reply| reply.kind) {
        Some(link_reply::Kind::Welcome(hello)) => {
            let peer = shared.accept(hello, service)?;
            shared.incoming.saw(&peer);
            let peer = Arc::new(peer);
            link.progress().peer = Some(peer.clone());
            shared.route(peer.node, link)?;
            Ok(peer)
        }
        Some(link_reply::Kind::Refusal(refusal)) => Err(refusal.into()),
        Some(link_reply::Kind::Pong(_)) | None => Err(Refusal::new(Cause::Malformed, "no welcome came")),
    }
}

/// The link stands from here on.
fn stand(shared: &Shared, link: &Link, session: &Arc<Session>, peer: &Arc<PeerInfo>) -> PeerMetrics {
    let metrics = session.metrics.get_or_init(|| shared.metrics.peer(&Id(peer.node).to_string())).clone();
    metrics.found();
    {
        let mut progress = link.progress();
        progress.state = PeerState::Connected { since: time::now() };
        progress.session = Some(session.clone());
    }
    let (node, version) = (Id(peer.node), &peer.program_version);
    tracing::info!(address = link.address, %node, version, "the link to a peer stands");
    metrics
}

/// Pings the peer now and then and reads what comes, until the link breaks; answers why it did.
async fn keep(
    shared: &Shared,
    link: &Link,
    session: &Session,
    metrics: &PeerMetrics,
    replies: &mut Streaming<proto::LinkReply>,
) -> String {
    let interval = shared.options.ping_interval;
    let mut next_ping = time::now() + interval;
    let mut pinged: (u64, Instant) = (0, time::now());
    loop {
        let reply = tokio::select! {
            biased;
            () = link.cut.notified() => return "this node ended it".to_owned(),
            reply = replies.message() => reply,
            () = time::sleep_until(next_ping) => {
                pinged = (pinged.0 + 1, time::now());
                session.queue.ping(pinged.0);
                next_ping = pinged.1 + interval;
                continue;
            }
        };
        match reply {
            Ok(Some(proto::LinkReply { kind: Some(link_reply::Kind::Pong(pong)) })) if pong.number == pinged.0 => {
                let took = pinged.1.elapsed();
                metrics.round_trip(took);
                link.progress().round_trip = Some(took);
            }
            // A pong that was overtaken, or of a kind that a newer program sends.
            Ok(Some(_)) => {}
            Ok(None) => return "the peer ended it".to_owned(),
            Err(status) => return status.message().to_owned(),
        }
    }
}

/// The link stands no more: nothing is queued from here on.
fn fall(link: &Link, session: &Session, metrics: &PeerMetrics) {
    {
        let mut progress = link.progress();
        progress.state = PeerState::Connecting;
        progress.session = None;
        progress.round_trip = None;
    }
    metrics.dropped(session.queue.close());
    metrics.lost();
}

/// Ends the request stream when a session ends, in whatever way.
struct CloseOnDrop<'a> {
    link: &'a Link,
    session: &'a Arc<Session>,
    service: &'a dyn PeerService,
}

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        let mut progress = self.link.progress();
        let was_standing = progress.session.take().is_some();
        if was_standing {
            progress.state = PeerState::Connecting;
            if let Some(metrics) = self.session.metrics.get() {
                metrics.lost();
            }
        }
        let peer = progress.peer.clone();
        drop(progress);
        self.session.queue.close();
        self.session.reads.finish();
        // A node that stops need not be told that it has lost its peers; one that lets go of an address must.
        if was_standing
            && self.link.stop.is_triggered()
            && let Some(peer) = peer
        {
            self.service.peer_lost(peer.node);
        }
    }
}

impl Shared {
    /// This link leads to a node from here on, unless another does.
    fn route(&self, node: NodeId, link: &Arc<Link>) -> Result<(), Refusal> {
        self.check_route(node, link)?;
        let mut by_node = self.by_node();
        by_node.retain(|_, known| !Arc::ptr_eq(known, link));
        by_node.insert(node, link.clone());
        Ok(())
    }

    /// Whether no other link leads to a node.
    fn check_route(&self, node: NodeId, link: &Arc<Link>) -> Result<(), Refusal> {
        match self.link_to(node) {
            Some(other) if !Arc::ptr_eq(&other, link) && other.is_connected() => {
                let detail = format!("{} and {} are both {}", link.address, other.address, Id(node));
                Err(Refusal::new(Cause::Node, detail))
            }
            _ => Ok(()),
        }
    }

    /// The link to a node that was met.
    pub(super) fn link_to(&self, node: NodeId) -> Option<Arc<Link>> {
        self.by_node().get(&node).cloned()
    }
}
