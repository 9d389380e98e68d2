//! The asking side of the calls beside the link: who is asked, how long, and what may be concluded when no answer comes.

use super::{
    identity::PeerInfo,
    link::Link,
    peers::Shared,
    proto::{self, peer_client::PeerClient},
    reads::{Asked, Said},
    server::MESSAGE_BYTES_MAX,
    service::{CallError, Joined, Joining, NodeReport, Proposal, Proposed},
    wire,
};
use crate::raft::{CHUNK_BYTES_MAX, CheckpointPart, CheckpointStream, CheckpointWanted, FetchError, GroupId, NodeId};
use crate::rt::{
    rpc::{self, Channel},
    time::{self, Instant},
};
use crate::types::limits;
use bytes::Bytes;
use futures_util::{
    FutureExt, StreamExt, TryFutureExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::SemaphorePermit;
use tonic::{Code, Request, Status, Streaming};

/// Longest part of a checkpoint: a chunk, or a head with its members.
const PART_BYTES_MAX: usize = CHUNK_BYTES_MAX + (128 << 10);

pub(super) async fn propose(shared: &Shared, to: NodeId, proposal: Proposal) -> Result<Proposed, CallError> {
    let (got, limit) = (proposal.data.len(), limits::COMMAND_BYTES_MAX);
    if got > limit {
        return Err(CallError::Refused(format!("an entry of {got} bytes, expected at most {limit}")));
    }
    let left = proposal.deadline - time::now();
    if left.is_zero() {
        return Err(CallError::Unavailable("no time was left to ask the leader".to_owned()));
    }
    let link = connected(shared, to)?;
    let _call = turn(&link)?;
    let request = proto::ProposeRequest {
        caller: Some(caller(shared, to)),
        group: proposal.group,
        data: proposal.data,
        ack: wire::wire_ack(proposal.ack) as i32,
        timeout_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
    };
    match client(&link).propose(limited(request, left)).await {
        Ok(reply) => reply.into_inner().into(),
        Err(status) => Err(not_known(&status)),
    }
}

pub(super) async fn inspect(
    shared: &Shared,
    to: NodeId,
    group: GroupId,
    bucket: Option<u8>,
    limit: Duration,
) -> Result<Bytes, CallError> {
    let link = connected(shared, to)?;
    let _call = turn(&link)?;
    let request = proto::InspectRequest { caller: Some(caller(shared, to)), group, bucket: bucket.map(u32::from) };
    let reply = client(&link).inspect(limited(request, limit)).await;
    reply.map_err(no_answer)?.into_inner().into()
}

pub(super) async fn join(shared: &Shared, to: NodeId, joining: Joining, limit: Duration) -> Result<Joined, CallError> {
    let link = connected(shared, to)?;
    let _call = turn(&link)?;
    let Joining { address, zone, mode } = joining;
    let request = proto::JoinRequest { caller: Some(caller(shared, to)), address, zone, mode };
    let reply = client(&link).join(limited(request, limit)).await;
    reply.map_err(no_answer)?.into_inner().into()
}

pub(super) async fn hand_over(
    shared: &Shared,
    from: NodeId,
    group: GroupId,
    to: NodeId,
    limit: Duration,
) -> Result<(), CallError> {
    let link = connected(shared, from)?;
    let _call = turn(&link)?;
    let request = proto::HandOverRequest { caller: Some(caller(shared, from)), group, to };
    match client(&link).hand_over(limited(request, limit)).await {
        Ok(reply) => reply.into_inner().into(),
        Err(status) => Err(not_known(&status)),
    }
}

pub(super) async fn report(
    shared: &Shared,
    to: NodeId,
    group: Option<GroupId>,
    limit: Duration,
) -> Result<NodeReport, CallError> {
    let link = connected(shared, to)?;
    let _call = turn(&link)?;
    let request = proto::StatusRequest { caller: Some(caller(shared, to)), group };
    let reply = client(&link).status(limited(request, limit)).await;
    let reply = reply.map_err(no_answer)?.into_inner();
    let node = PeerInfo::try_from(reply.node.unwrap_or_default());
    let node = node.map_err(|refusal| CallError::Unavailable(refusal.to_string()))?;
    let groups = reply.groups.into_iter().map(Into::into).collect();
    Ok(NodeReport { node, groups, aliases_epoch: reply.aliases_epoch })
}

/// Reads replicas of another node: encoded answers as they come, at most until `deadline`. An error is the last item.
pub(super) fn read(
    shared: Arc<Shared>,
    to: NodeId,
    read: Bytes,
    is_small: bool,
    deadline: Instant,
) -> BoxStream<'static, Result<Bytes, CallError>> {
    let answers = async move {
        let link = connected(&shared, to)?;
        let call = link.calls.clone().try_acquire_owned().map_err(|_| busy())?;
        let read = Reading { request: proto::ReadRequest { caller: Some(caller(&shared, to)), read }, link, deadline };
        let asked = if is_small { read.ask()? } else { None };
        let parts = match asked {
            Some(asked) => read.shared(asked),
            None => read.alone().await?,
        };
        // The call is under way until its last part has come.
        Ok(parts.map(move |part| (part, &call).0))
    };
    answers.try_flatten_stream().boxed()
}

/// A read of another node's replicas, not yet sent.
struct Reading {
    request: proto::ReadRequest,
    link: Arc<Link>,
    deadline: Instant,
}

/// How the parts of a small read come.
enum Way {
    Shared(Reading, Asked),
    Alone(Parts),
    Over,
}

type Parts = BoxStream<'static, Result<Bytes, CallError>>;

impl Reading {
    /// Over the stream of the link's small reads, unless the other program has none.
    fn ask(&self) -> Result<Option<Asked>, CallError> {
        let reads = self.link.reads().ok_or_else(not_connected)?;
        let left = u64::try_from((self.deadline - time::now()).as_millis()).unwrap_or(u64::MAX);
        reads.ask(&self.link, self.request.clone(), left)
    }

    fn shared(self, asked: Asked) -> Parts {
        let next = async |mut way| loop {
            match way {
                Way::Shared(reading, mut asked) => match time::timeout_at(reading.deadline, asked.next()).await {
                    Err(_) => return Some((Err(CallError::Unavailable("the time is up".to_owned())), Way::Over)),
                    Ok(None) => return None,
                    Ok(Some(Said::Part(part))) => return Some((part, Way::Shared(reading, asked))),
                    Ok(Some(Said::Alone)) => match reading.alone().await {
                        Ok(parts) => way = Way::Alone(parts),
                        Err(error) => return Some((Err(error), Way::Over)),
                    },
                },
                Way::Alone(mut parts) => return Some((parts.next().await?, Way::Alone(parts))),
                Way::Over => return None,
            }
        };
        stream::unfold(Way::Shared(self, asked), next).boxed()
    }

    /// By a call of its own.
    async fn alone(self) -> Result<Parts, CallError> {
        let request = limited(self.request, self.deadline - time::now());
        let parts = client(&self.link).read(request).await.map_err(no_answer)?.into_inner();
        Ok(parts.map(read_part).boxed())
    }
}

fn read_part(part: Result<proto::ReadPart, Status>) -> Result<Bytes, CallError> {
    part.map_err(no_answer)?.into()
}

/// Asks for a checkpoint; its parts are read as they are wanted, and what is not read is not sent.
pub(super) async fn fetch_checkpoint(
    shared: Arc<Shared>,
    from: NodeId,
    group: GroupId,
    wanted: CheckpointWanted,
) -> Result<Box<dyn CheckpointStream>, FetchError> {
    let link = connected(&shared, from).map_err(|error| FetchError::Unreachable(error.to_string()))?;
    let place = wanted.goes_on.unwrap_or_default();
    let request = proto::FetchCheckpointRequest {
        caller: Some(caller(&shared, from)),
        group,
        at_least: wanted.at_least,
        goes_on_id: place.id,
        goes_on_chunks: place.chunks,
    };
    let mut client = client(&link).max_decoding_message_size(PART_BYTES_MAX);
    let parts = client.fetch_checkpoint(request).await.map_err(unreachable)?.into_inner();
    Ok(Box::new(Fetching(parts)))
}

struct Fetching(Streaming<proto::CheckpointPart>);

impl CheckpointStream for Fetching {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<CheckpointPart>, FetchError>> {
        async move {
            match self.0.message().await.map_err(unreachable)? {
                Some(part) => wire::checkpoint_part(part).map(Some),
                None => Ok(None),
            }
        }
        .boxed()
    }
}

/// The link to a node that is there.
fn connected(shared: &Shared, node: NodeId) -> Result<Arc<Link>, CallError> {
    let link = shared.link_to(node).filter(|link| link.is_connected());
    link.ok_or_else(not_connected)
}

fn not_connected() -> CallError {
    CallError::Unavailable("the node is not connected".to_owned())
}

/// Takes answers as large as this node's own may be.
fn client(link: &Link) -> PeerClient<Channel> {
    PeerClient::new(link.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// One of the calls that may be under way.
fn turn(link: &Link) -> Result<SemaphorePermit<'_>, CallError> {
    link.calls.try_acquire().map_err(|_| busy())
}

fn busy() -> CallError {
    CallError::Exhausted("too many calls to it are under way".to_owned())
}

fn caller(shared: &Shared, to: NodeId) -> proto::Caller {
    proto::Caller { node: shared.me.identity.node, instance: shared.me.instance, to }
}

fn limited<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

/// Whether a call with this status was never acted on: it was not sent, or the peer's server turned it away before its handler.
fn nothing_happened(status: &Status) -> bool {
    rpc::was_not_sent(status)
        || matches!(status.code(), Code::FailedPrecondition | Code::Unimplemented | Code::InvalidArgument)
}

/// A request to change something that has no answer.
fn not_known(status: &Status) -> CallError {
    let why = status.message().to_owned();
    if nothing_happened(status) { CallError::Unavailable(why) } else { CallError::Indeterminate(why) }
}

/// A question that changes nothing and has no answer.
fn no_answer(status: Status) -> CallError {
    CallError::Unavailable(status.message().to_owned())
}

fn unreachable(status: Status) -> FetchError {
    FetchError::Unreachable(status.message().to_owned())
}
