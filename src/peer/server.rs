//! The answering side: links that other nodes open, and their calls. Served by `rt::rpc`.

use super::{
    answering,
    identity::{Cause, Id, PeerInfo, Refusal, TEXT_BYTES_MAX},
    incoming::Arrival,
    peers::Shared,
    proto::{
        self, link_reply, link_request,
        peer_server::{Peer, PeerServer},
    },
    service::{CallError, Joining, PeerService, Proposal},
    wire,
};
use crate::raft::{CheckpointStream, NodeId};
use crate::rt::{http::PeerAddr, time};
use crate::telemetry::metrics::PeerMetrics;
use crate::types::limits;
use axum::Router;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status, Streaming, server::NamedService};

/// Longest message of a call or a link: the largest command and what is around it.
pub(super) const MESSAGE_BYTES_MAX: usize = limits::COMMAND_BYTES_MAX + (2 << 20);
/// Longest time a forwarded proposal or a read may take, whatever its sender says.
pub(super) const CALL_TIME_MAX: Duration = Duration::from_secs(600);

/// The peers' service as a router.
pub(super) fn routes(shared: Arc<Shared>) -> Router {
    let server = PeerServer::new(Server(shared)).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let path = format!("/{}/{{*method}}", PeerServer::<Server>::NAME);
    let nothing = async || Status::unimplemented("there is no such service or method").into_http::<axum::body::Body>();
    Router::new().route_service(&path, server).fallback(nothing)
}

pub(super) struct Server(pub(super) Arc<Shared>);

impl Server {
    fn service(&self) -> Result<Arc<dyn PeerService>, Status> {
        self.0.service().ok_or_else(|| Status::failed_precondition("the node is starting or stopping"))
    }

    /// The service, for a caller that means this node and whose link stands.
    pub(super) fn service_for(&self, caller: Option<proto::Caller>) -> Result<(Arc<dyn PeerService>, NodeId), Status> {
        let service = self.service()?;
        let caller = caller.ok_or_else(|| Status::invalid_argument("the caller is missing"))?;
        let own = self.0.me.identity.node;
        if caller.to != own {
            return Err(Status::failed_precondition(format!("this is {}, not {}", Id(own), Id(caller.to))));
        }
        if !self.0.incoming.is_linked(caller.node, caller.instance) {
            return Err(Status::failed_precondition("the caller has no link to this node"));
        }
        Ok((service, caller.node))
    }

    /// The first message of a link must be a Hello that comes soon.
    async fn hello(&self, requests: &mut Streaming<proto::LinkRequest>) -> Result<proto::Hello, Status> {
        let first = time::timeout(self.0.options.handshake_timeout, requests.message()).await;
        let first = first.map_err(|elapsed| Status::deadline_exceeded(elapsed.to_string()))??;
        match first.and_then(|request| request.kind) {
            Some(link_request::Kind::Hello(hello)) => Ok(hello),
            _ => Err(Status::invalid_argument("a link begins with Hello")),
        }
    }
}

#[tonic::async_trait]
impl Peer for Server {
    type LinkStream = BoxStream<'static, Result<proto::LinkReply, Status>>;

    async fn link(
        &self,
        request: Request<Streaming<proto::LinkRequest>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let service = self.service()?;
        let socket = request.extensions().get::<PeerAddr>().map(|addr| addr.0.to_string()).unwrap_or_default();
        let mut requests = request.into_inner();
        let hello = self.hello(&mut requests).await?;
        let (node, address) = (hello.node, hello.addresses.as_ref().map_or(socket.as_str(), |a| a.peer.as_str()));
        let address = address.to_owned();
        let peer = match self.0.accept(hello, service.as_ref()) {
            Ok(peer) => peer,
            Err(refusal) => {
                if refusal.cause != Cause::Itself {
                    self.0.note_refusal(node, &address, &refusal);
                }
                return Ok(Response::new(refused(refusal)));
            }
        };
        let arrival = self.0.incoming.arrive(&peer);
        self.0.hurry(&peer);
        service.peer_seen(&peer);
        let welcome = self.0.me.hello(service.cluster_id());
        let receiving = Receiving::new(self.0.clone(), service, peer, arrival, requests);
        let welcome = proto::LinkReply { kind: Some(link_reply::Kind::Welcome(welcome)) };
        let pongs = stream::unfold(receiving, async |mut receiving| {
            let reply = receiving.next_reply().await?;
            Some((reply, receiving))
        });
        Ok(Response::new(stream::once(std::future::ready(Ok(welcome))).chain(pongs).boxed()))
    }

    async fn propose(&self, request: Request<proto::ProposeRequest>) -> Result<Response<proto::ProposeReply>, Status> {
        let request = request.into_inner();
        let (service, from) = self.service_for(request.caller)?;
        let Some(ack) = wire::ack(request.ack()) else {
            return Err(Status::invalid_argument("there is no such acknowledgement"));
        };
        let left = Duration::from_millis(request.timeout_ms).min(CALL_TIME_MAX);
        let proposal = Proposal { group: request.group, data: request.data, ack, deadline: time::now() + left };
        Ok(Response::new(service.propose(from, proposal).await.into()))
    }

    type FetchCheckpointStream = BoxStream<'static, Result<proto::CheckpointPart, Status>>;

    async fn fetch_checkpoint(
        &self,
        request: Request<proto::FetchCheckpointRequest>,
    ) -> Result<Response<Self::FetchCheckpointStream>, Status> {
        let request = request.into_inner();
        let (group, wanted) = (request.group, wire::wanted(&request));
        let (service, from) = self.service_for(request.caller)?;
        Ok(Response::new(match service.serve_checkpoint(from, group, wanted).await {
            Ok(parts) => checkpoint_parts(parts),
            Err(error) => stream::once(std::future::ready(Ok(wire::refused_part(&error)))).boxed(),
        }))
    }

    async fn status(&self, request: Request<proto::StatusRequest>) -> Result<Response<proto::StatusReply>, Status> {
        let proto::StatusRequest { caller, group } = request.into_inner();
        let (service, _) = self.service_for(caller)?;
        let mut groups = service.groups(group).await;
        groups.truncate(wire::ITEMS_MAX);
        let node = Some(self.0.me.hello(service.cluster_id()));
        let (groups, aliases_epoch) = (groups.into_iter().map(Into::into).collect(), service.aliases_epoch());
        Ok(Response::new(proto::StatusReply { node, groups, aliases_epoch }))
    }

    async fn join(&self, request: Request<proto::JoinRequest>) -> Result<Response<proto::JoinReply>, Status> {
        let request = request.into_inner();
        let (service, from) = self.service_for(request.caller)?;
        let proto::JoinRequest { address, zone, mode, .. } = request;
        if [&address, &zone, &mode].into_iter().any(|text| text.len() > TEXT_BYTES_MAX) {
            return Err(Status::invalid_argument("too long a text"));
        }
        Ok(Response::new(service.join(from, Joining { address, zone, mode }).await.into()))
    }

    async fn inspect(&self, request: Request<proto::InspectRequest>) -> Result<Response<proto::InspectReply>, Status> {
        let request = request.into_inner();
        let (service, _) = self.service_for(request.caller)?;
        let answer: Result<_, CallError> = match request.bucket.map(u8::try_from).transpose() {
            Ok(bucket) => service.inspect(request.group, bucket).await,
            Err(_) => Err(CallError::Refused("there is no such bucket".to_owned())),
        };
        Ok(Response::new(answer.into()))
    }

    async fn hand_over(
        &self,
        request: Request<proto::HandOverRequest>,
    ) -> Result<Response<proto::HandOverReply>, Status> {
        let proto::HandOverRequest { caller, group, to } = request.into_inner();
        let (service, _) = self.service_for(caller)?;
        Ok(Response::new(service.hand_over(group, to).await.into()))
    }

    type ReadStream = BoxStream<'static, Result<proto::ReadPart, Status>>;

    async fn read(&self, request: Request<proto::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let (service, from) = self.service_for(request.caller)?;
        let parts = match service.read(from, request.read) {
            Ok(answers) => answers.map(Ok).boxed(),
            Err(error) => stream::once(std::future::ready(Err(error))).boxed(),
        };
        Ok(Response::new(parts.map(|part: Result<Bytes, CallError>| Ok(part.into())).boxed()))
    }

    type ReadsStream = BoxStream<'static, Result<proto::ReadsReply, Status>>;

    async fn reads(
        &self,
        request: Request<Streaming<proto::ReadsRequest>>,
    ) -> Result<Response<Self::ReadsStream>, Status> {
        Ok(Response::new(answering::answer(self.0.clone(), request.into_inner())))
    }
}

fn refused(refusal: Refusal) -> BoxStream<'static, Result<proto::LinkReply, Status>> {
    let reply = proto::LinkReply { kind: Some(link_reply::Kind::Refusal(refusal.into())) };
    stream::once(std::future::ready(Ok(reply))).boxed()
}

/// The parts of a checkpoint as they are asked for; after an error nothing comes.
fn checkpoint_parts(parts: Box<dyn CheckpointStream>) -> BoxStream<'static, Result<proto::CheckpointPart, Status>> {
    let parts = stream::unfold(Some(parts), async |parts| {
        let mut parts = parts?;
        match parts.next().await {
            Ok(Some(part)) => Some((Ok(part.into()), Some(parts))),
            Ok(None) => None,
            Err(error) => Some((Ok(wire::refused_part(&error)), None)),
        }
    });
    parts.boxed()
}

/// A link from another node: what comes over it is handed on while the replies are asked for.
struct Receiving {
    shared: Arc<Shared>,
    service: Arc<dyn PeerService>,
    metrics: PeerMetrics,
    node: NodeId,
    arrival: Arrival,
    requests: Streaming<proto::LinkRequest>,
    is_over: bool,
}

impl Receiving {
    fn new(
        shared: Arc<Shared>,
        service: Arc<dyn PeerService>,
        peer: PeerInfo,
        arrival: Arrival,
        requests: Streaming<proto::LinkRequest>,
    ) -> Receiving {
        let metrics = shared.metrics.peer(&Id(peer.node).to_string());
        Receiving { shared, service, metrics, node: peer.node, arrival, requests, is_over: false }
    }

    /// Hands frames on until there is something to reply, or the link ends.
    async fn next_reply(&mut self) -> Option<Result<proto::LinkReply, Status>> {
        while !self.is_over {
            let request = tokio::select! {
                biased;
                () = self.shared.stop.wait() => return None,
                () = self.arrival.cut.wait() => return None,
                request = self.requests.message() => request,
            };
            // A broken link needs no reply.
            let Ok(Some(request)) = request else { return None };
            match request.kind {
                Some(link_request::Kind::Frame(frame)) => {
                    if let Err(status) = self.frame(frame) {
                        self.is_over = true;
                        return Some(Err(status));
                    }
                }
                Some(link_request::Kind::Ping(ping)) => {
                    return Some(Ok(proto::LinkReply { kind: Some(link_reply::Kind::Pong(ping)) }));
                }
                Some(link_request::Kind::Hello(_)) => {
                    self.is_over = true;
                    return Some(Err(Status::invalid_argument("a second Hello")));
                }
                // Of a kind that a newer program sends.
                None => {}
            }
        }
        None
    }

    fn frame(&self, frame: Bytes) -> Result<(), Status> {
        let bytes = frame.len();
        let messages = wire::decode_frame(frame, self.shared.options.queue.frame_messages_max.max(FRAME_MESSAGES_MAX))
            .map_err(|bad| {
                tracing::warn!(node = %Id(self.node), %bad, "a peer sent what is no frame");
                Status::invalid_argument(bad.to_string())
            })?;
        self.metrics.received(messages.len(), bytes);
        if !messages.is_empty() {
            self.service.receive(self.node, messages);
        }
        Ok(())
    }
}

/// Most messages in one frame, whatever this node's own frames are bounded by.
const FRAME_MESSAGES_MAX: usize = 16 << 10;
