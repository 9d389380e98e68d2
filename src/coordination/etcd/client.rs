//! Calls to etcd: which endpoint is asked, who asks, how long, and what may be concluded when no answer comes. Called by `etcd` and its
//! watches.

use super::{
    convert,
    proto::{self, auth_client::AuthClient, kv_client::KvClient, lease_client::LeaseClient, watch_client::WatchClient},
};
use crate::{
    coordination::{BoxFuture, CoordinationError, KeptAlive, LeaseId, Transaction},
    rt::{
        rpc::{self, Channel, InvalidAddress, RpcOptions},
        time::{self, Instant},
    },
};
use futures_util::stream;
use std::{
    fmt,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::AcqRel, Ordering::Acquire},
    },
    time::Duration,
};
use tokio::sync::Notify;
use tonic::{Code, Request, Response, Status, Streaming, metadata::AsciiMetadataValue};

/// How long one endpoint may take to answer.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(2);
/// How long a call goes on trying, in all.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// Between two attempts: doubled from the first to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// An answer is no longer than this: everything of the cluster may be listed at once.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// etcd closes connections that ping more often than every 5 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How etcd is reached.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// `host:port` of its members.
    pub endpoints: Vec<String>,
    /// Who asks, where etcd wants to know.
    pub user: Option<EtcdUser>,
    /// Its keys lie below `/vectorsphere/{cluster}/`.
    pub cluster: String,
    /// Bounds of the connections, and their encryption.
    pub rpc: RpcOptions,
}

/// Who asks.
#[derive(Clone)]
pub struct EtcdUser {
    pub name: String,
    pub password: String,
}

impl fmt::Debug for EtcdUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdUser").field("name", &self.name).finish_non_exhaustive()
    }
}

impl EtcdOptions {
    /// Those of a cluster's etcd without a password.
    pub fn new(endpoints: Vec<String>, cluster: &str) -> EtcdOptions {
        let rpc = RpcOptions { keepalive_interval: KEEPALIVE_INTERVAL, ..RpcOptions::default() };
        EtcdOptions { endpoints, user: None, cluster: cluster.to_owned(), rpc }
    }
}

/// Options that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidEtcd {
    /// No member is named.
    #[error("etcd needs at least one endpoint")]
    NoEndpoint,
    /// A member's address is none.
    #[error("an endpoint of etcd: {0}")]
    Address(#[from] InvalidAddress),
    /// A member is to be reached over TLS.
    #[error("{0} needs TLS: the certificate of the authority that signed etcd's (etcd.tls.ca_file)")]
    Encrypted(String),
}

/// See the module.
pub(super) struct Client {
    channels: Vec<Channel>,
    user: Option<EtcdUser>,
    token: Mutex<Option<AsciiMetadataValue>>,
    /// How often the endpoint was changed; which one is asked follows from it.
    moves: AtomicU64,
    moved: Arc<Notify>,
}

/// Waits until an endpoint is left.
pub(super) struct Moved {
    client: Arc<Client>,
    seen: u64,
}

impl Moved {
    pub(super) async fn wait(&self) {
        loop {
            let mut moved = pin!(self.client.moved.notified());
            moved.as_mut().enable();
            if self.client.moves.load(Acquire) != self.seen {
                return;
            }
            moved.await;
        }
    }

    /// The stream that was opened there broke. It may not be the first to break: others may have left that endpoint already.
    pub(super) fn failed(&self, status: &Status) {
        self.client.failed_at(self.seen, status);
    }
}

/// What an error of one attempt means.
enum Verdict {
    /// Nothing happened; another attempt may help.
    Again,
    /// It may have happened.
    Unknown,
    /// It is so.
    Settled(CoordinationError),
}

impl Client {
    pub(super) fn new(options: &EtcdOptions) -> Result<Client, InvalidEtcd> {
        if options.endpoints.is_empty() {
            return Err(InvalidEtcd::NoEndpoint);
        }
        let channels = options.endpoints.iter().map(|endpoint| {
            let address = match endpoint.strip_prefix("https://") {
                Some(_) if options.rpc.tls.is_none() => return Err(InvalidEtcd::Encrypted(endpoint.clone())),
                Some(address) => address,
                None => endpoint.strip_prefix("http://").unwrap_or(endpoint),
            };
            Ok(rpc::connect(address, &options.rpc)?)
        });
        Ok(Client {
            channels: channels.collect::<Result<_, _>>()?,
            user: options.user.clone(),
            token: Mutex::default(),
            moves: AtomicU64::new(0),
            moved: Arc::default(),
        })
    }

    pub(super) async fn range(&self, request: proto::RangeRequest) -> Result<proto::RangeResponse, CoordinationError> {
        let call = |channel, request| -> Calling<proto::RangeResponse> {
            Box::pin(
                async move { KvClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX).range(request).await },
            )
        };
        self.call(true, request, call).await
    }

    /// Runs a transaction; one that is `repeatable` changes nothing, so that its outcome is never of doubt.
    pub(super) async fn txn(
        &self,
        transaction: &Transaction,
        repeatable: bool,
    ) -> Result<proto::TxnResponse, CoordinationError> {
        let call = |channel, request| -> Calling<proto::TxnResponse> {
            Box::pin(async move { KvClient::new(channel).txn(request).await })
        };
        let answer = self.call(repeatable, convert::transaction(transaction), call).await;
        // etcd does not say which lease it is that it has not found.
        answer.map_err(|error| match error {
            CoordinationError::LeaseGone(_) => CoordinationError::LeaseGone(a_lease(transaction)),
            other => other,
        })
    }

    pub(super) async fn grant(&self, ttl_seconds: u64) -> Result<LeaseId, CoordinationError> {
        let request = proto::LeaseGrantRequest { ttl: convert::signed(ttl_seconds), id: 0 };
        let call = |channel, request| -> Calling<proto::LeaseGrantResponse> {
            Box::pin(async move { LeaseClient::new(channel).lease_grant(request).await })
        };
        convert::lease(self.call(false, request, call).await?.id)
    }

    pub(super) async fn revoke(&self, lease: LeaseId) -> Result<(), CoordinationError> {
        let request = proto::LeaseRevokeRequest { id: convert::signed(lease) };
        let call = |channel, request| -> Calling<proto::LeaseRevokeResponse> {
            Box::pin(async move { LeaseClient::new(channel).lease_revoke(request).await })
        };
        // Asked again, it is gone, which is what is wanted.
        match self.call(true, request, call).await {
            Ok(_) | Err(CoordinationError::LeaseGone(_)) => Ok(()),
            // One of the attempts may have arrived.
            Err(CoordinationError::Unavailable(error)) => Err(CoordinationError::Indeterminate(error)),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn keep_alive(&self, lease: LeaseId) -> Result<KeptAlive, CoordinationError> {
        let request = proto::LeaseKeepAliveRequest { id: convert::signed(lease) };
        let call = |channel,
                    request: Request<proto::LeaseKeepAliveRequest>|
         -> Calling<proto::LeaseKeepAliveResponse> {
            Box::pin(async move {
                let (metadata, extensions, message) = request.into_parts();
                let asked = Request::from_parts(metadata, extensions, stream::iter([message]));
                let mut answers = LeaseClient::new(channel).lease_keep_alive(asked).await?.into_inner();
                let answer = answers.message().await?;
                answer.map(Response::new).ok_or_else(|| Status::unavailable("etcd ended the stream without an answer"))
            })
        };
        let answer = self.call(true, request, call).await?;
        Ok(match u64::try_from(answer.ttl) {
            Ok(seconds @ 1..) => KeptAlive::For(Duration::from_secs(seconds)),
            _ => KeptAlive::Gone,
        })
    }

    /// Opens a watch; the problem if that was not possible just now.
    pub(super) async fn watch(
        self: &Arc<Client>,
        create: proto::WatchRequest,
    ) -> Result<(Streaming<proto::WatchResponse>, Moved), String> {
        let seen = self.moves.load(Acquire);
        // The asking side stays open as long as the answers are read.
        let asked = stream::StreamExt::chain(stream::iter([create]), stream::pending());
        let opening = async {
            let request = self.signed(seen, Request::new(asked)).await?;
            let channel = self.channel(seen);
            WatchClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX).watch(request).await
        };
        match time::timeout(ATTEMPT_LIMIT, opening).await {
            Ok(Ok(answers)) => Ok((answers.into_inner(), Moved { client: self.clone(), seen })),
            Ok(Err(status)) => {
                self.failed_at(seen, &status);
                Err(status.message().to_owned())
            }
            Err(elapsed) => {
                self.leave(seen);
                Err(elapsed.to_string())
            }
        }
    }

    fn failed_at(&self, seen: u64, status: &Status) {
        match status.code() {
            Code::Unauthenticated => self.forget_token(),
            _ => self.leave(seen),
        }
    }

    /// Goes on to the next endpoint, unless somebody has done so since `seen`.
    fn leave(&self, seen: u64) {
        let left = self.moves.compare_exchange(seen, seen + 1, AcqRel, Acquire);
        if left.is_ok() && self.channels.len() > 1 {
            tracing::debug!(
                from = self.channel(seen).addr(),
                to = self.channel(seen + 1).addr(),
                "another member of etcd"
            );
        }
        self.moved.notify_waiters();
    }

    fn channel(&self, moves: u64) -> Channel {
        let count = self.channels.len() as u64;
        self.channels[(moves % count) as usize].clone()
    }

    /// Calls until there is an answer, or something can be concluded, or it takes too long. A call that is `repeatable` does no harm
    /// when it happens twice.
    async fn call<Q: Clone, A>(
        &self,
        repeatable: bool,
        message: Q,
        send: impl Fn(Channel, Request<Q>) -> Calling<A>,
    ) -> Result<A, CoordinationError> {
        let deadline = time::now() + CALL_LIMIT;
        let mut pause = PAUSE_FIRST;
        loop {
            let seen = self.moves.load(Acquire);
            let status = match self.attempt(seen, deadline, message.clone(), &send).await {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            match verdict(&status) {
                Verdict::Settled(error) => return Err(error),
                Verdict::Unknown if !repeatable => {
                    self.failed_at(seen, &status);
                    return Err(CoordinationError::Indeterminate(status.message().to_owned()));
                }
                Verdict::Again | Verdict::Unknown => self.failed_at(seen, &status),
            }
            if time::now() + pause >= deadline {
                return Err(CoordinationError::Unavailable(status.message().to_owned()));
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn attempt<Q, A>(
        &self,
        seen: u64,
        deadline: Instant,
        message: Q,
        send: &impl Fn(Channel, Request<Q>) -> Calling<A>,
    ) -> Result<A, Status> {
        let mut request = self.signed(seen, Request::new(message)).await?;
        let limit = ATTEMPT_LIMIT.min(deadline - time::now());
        request.set_timeout(limit);
        // The transport keeps the same deadline; this one also bounds a stream's first message.
        match time::timeout(limit + PAUSE_MAX, send(self.channel(seen), request)).await {
            Ok(answered) => answered.map(Response::into_inner),
            Err(elapsed) => Err(Status::deadline_exceeded(elapsed.to_string())),
        }
    }

    /// A request with who asks, and with the wish that a member without a leader says so rather than wait.
    async fn signed<T>(&self, seen: u64, mut request: Request<T>) -> Result<Request<T>, Status> {
        request.metadata_mut().insert("hasleader", AsciiMetadataValue::from_static("true"));
        if let Some(token) = self.authenticate(seen).await? {
            request.metadata_mut().insert("token", token);
        }
        Ok(request)
    }

    async fn authenticate(&self, seen: u64) -> Result<Option<AsciiMetadataValue>, Status> {
        let Some(user) = &self.user else { return Ok(None) };
        let known = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if known.is_some() {
            return Ok(known);
        }
        let message = proto::AuthenticateRequest { name: user.name.clone(), password: user.password.clone() };
        let mut request = Request::new(message);
        request.set_timeout(ATTEMPT_LIMIT);
        let channel = self.channel(seen);
        // Nothing of the call itself has been sent, whatever goes wrong here.
        let answer = AuthClient::new(channel).authenticate(request).await.map_err(|status| match status.code() {
            Code::InvalidArgument | Code::FailedPrecondition => Status::permission_denied(status.message()),
            _ => {
                // The caller only forgets the token for what it is told: the endpoint is left here.
                self.failed_at(seen, &status);
                Status::unauthenticated(status.message())
            }
        })?;
        let token = AsciiMetadataValue::try_from(answer.into_inner().token);
        let token = token.map_err(|_| Status::permission_denied("etcd gave a token that cannot be sent"))?;
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
        Ok(Some(token))
    }

    fn forget_token(&self) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// One attempt under way.
type Calling<A> = BoxFuture<'static, Result<Response<A>, Status>>;

fn a_lease(transaction: &Transaction) -> LeaseId {
    let lease = |change: &crate::coordination::Change| match change {
        crate::coordination::Change::PutLeased(_, _, lease) => Some(*lease),
        _ => None,
    };
    transaction.changes.iter().find_map(lease).unwrap_or(0)
}

/// What a status of etcd says. The texts are etcd's own (`rpctypes/error.go`), the same from 3.4 on; where one is not known, the worst
/// is taken to be true.
fn verdict(status: &Status) -> Verdict {
    let text = status.message();
    if rpc::was_not_sent(status) {
        return Verdict::Again;
    }
    match status.code() {
        Code::NotFound if text.contains("requested lease not found") => {
            Verdict::Settled(CoordinationError::LeaseGone(0))
        }
        // A token that has run out, or that a member which was started anew does not know.
        Code::Unauthenticated => Verdict::Again,
        // Said by the door, before anything is proposed.
        Code::Unavailable if text == "etcdserver: no leader" => Verdict::Again,
        Code::ResourceExhausted if text == "etcdserver: too many requests" => Verdict::Again,
        // The store is full: nothing can be written until a person has made room. In other words the same code is the
        // transport's, of a connection that broke with the call under way.
        Code::ResourceExhausted | Code::FailedPrecondition if text.starts_with("etcdserver: ") => {
            Verdict::Settled(CoordinationError::Unavailable(text.to_owned()))
        }
        Code::InvalidArgument | Code::PermissionDenied | Code::OutOfRange | Code::Unimplemented | Code::NotFound => {
            Verdict::Settled(CoordinationError::Rejected(text.to_owned()))
        }
        _ => Verdict::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_surely_did_not_happen_is_said_not_to_have_happened() {
        let judged = |code, text: &str| match verdict(&Status::new(code, text)) {
            Verdict::Again => "again",
            Verdict::Unknown => "unknown",
            Verdict::Settled(_) => "settled",
        };
        for text in ["etcdserver: request timed out", "etcdserver: leader changed", "etcdserver: server stopped"] {
            assert_eq!(judged(Code::Unavailable, text), "unknown", "{text}");
        }
        assert_eq!(judged(Code::Unavailable, "etcdserver: no leader"), "again");
        assert_eq!(judged(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"), "settled");
        // Found by coordination_survives_its_etcd, seed 15: a write that had happened was said not to have.
        assert_eq!(judged(Code::ResourceExhausted, "h2 protocol error: http2 error"), "unknown");
        assert_eq!(judged(Code::DeadlineExceeded, ""), "unknown");
        assert_eq!(judged(Code::Cancelled, ""), "unknown");
        assert_eq!(judged(Code::Unauthenticated, "etcdserver: invalid auth token"), "again");
        assert_eq!(judged(Code::NotFound, "etcdserver: requested lease not found"), "settled");
        assert_eq!(judged(Code::InvalidArgument, "etcdserver: duplicate key given in txn request"), "settled");
    }

    fn two_members_with_a_password() -> Arc<Client> {
        // Nobody listens on port 1.
        let mut options = EtcdOptions::new(vec!["127.0.0.1:1".to_owned(), "[::1]:1".to_owned()], "c");
        options.user = Some(EtcdUser { name: "n".to_owned(), password: "p".to_owned() });
        Arc::new(Client::new(&options).unwrap())
    }

    #[tokio::test]
    async fn a_member_that_cannot_be_asked_for_a_token_is_left() {
        let client = two_members_with_a_password();
        let refused = client.signed(0, Request::new(())).await.unwrap_err();
        assert_eq!((refused.code(), client.moves.load(Acquire)), (Code::Unauthenticated, 1));
    }

    #[tokio::test]
    async fn a_member_is_left_once_however_many_streams_break_there() {
        let client = two_members_with_a_password();
        let streams = [0, 0, 0].map(|seen| Moved { client: client.clone(), seen });
        streams.iter().for_each(|stream| stream.failed(&Status::unavailable("broken")));
        assert_eq!(client.moves.load(Acquire), 1);
    }

    #[test]
    fn endpoints_are_checked_and_passwords_not_shown() {
        let of = |endpoints: &[&str]| {
            EtcdOptions::new(endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect(), "c")
        };
        assert!(matches!(Client::new(&of(&[])), Err(InvalidEtcd::NoEndpoint)));
        assert!(matches!(Client::new(&of(&["nowhere"])), Err(InvalidEtcd::Address(_))));
        assert!(matches!(Client::new(&of(&["https://a:1"])), Err(InvalidEtcd::Encrypted(_))));
        assert!(Client::new(&of(&["http://127.0.0.1:2379", "[::1]:2379"])).is_ok());
        let user = EtcdUser { name: "n".to_owned(), password: "p4ssword".to_owned() };
        assert!(!format!("{user:?}").contains("p4ssword"));
    }
}
