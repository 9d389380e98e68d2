//! The client's side of gRPC: one HTTP/2 connection to one server, dialled when first needed and dialled again when it is
//! gone. All calls share it; a dial is shared by all calls that wait for it, so a call with little time left does not
//! cancel it for the others. No back-off between dials: at most one is under way, and callers have retry rules of their
//! own. Called by `cluster`, `raft`'s transport, `coordination` (etcd) and the simulation.

use super::{
    RpcOptions,
    deadline::{self, Side},
};
use crate::rt::{
    cuts,
    http::hyper_rt::{RtExecutor, RtTimer},
    spawn, time,
};
use http::{
    Request, Response, Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
};
use tonic::{Status, body::Body};
use tower::Service;

/// How many connections a request may try before it is sent: the shared one may just have been closed, its successor
/// should not be. A server that takes connections only to close them (it has too many) is Unavailable.
const SEND_ATTEMPTS: u32 = 2;

/// Calls let go of before their end that are remembered for a second. What the server still says of one that is forgotten counts as its
/// fault, and after some thousand such the whole connection is given up (h2 0.4, "too_many_internal_resets").
const RESETS_REMEMBERED: usize = 4_096;

/// An address that is not `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a peer's address is host:port, got {addr:?}")]
pub struct InvalidAddress {
    /// What was given.
    pub addr: String,
}

/// The cause of a status that a channel made because it could not send the request: nothing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request was not sent")]
struct NotSent;

/// Whether a call failed with `status` before anything of it was sent. If not, the server may have acted on it.
pub fn was_not_sent(status: &Status) -> bool {
    std::error::Error::source(status).is_some_and(|source| source.is::<NotSent>())
}

/// Makes a channel to `addr` (`"host:port"`). No I/O until the first call.
///
/// # Errors
/// [`InvalidAddress`].
pub fn connect(addr: &str, options: &RpcOptions) -> Result<Channel, InvalidAddress> {
    let authority: Authority = addr.parse().map_err(|_| InvalidAddress { addr: addr.to_owned() })?;
    if authority.port().is_none() || authority.host().is_empty() {
        return Err(InvalidAddress { addr: addr.to_owned() });
    }
    let peer = Peer { authority, options: options.clone(), link: Mutex::default(), dialled: Notify::new() };
    Ok(Channel(Arc::new(peer)))
}

/// A channel to one server: the inner service of tonic's generated clients. Clones share the connection. Always ready:
/// waiting for the connection is part of the call, under its deadline.
#[derive(Clone, Debug)]
pub struct Channel(Arc<Peer>);

impl Channel {
    /// The server's address.
    pub fn addr(&self) -> &str {
        self.0.authority.as_str()
    }

    /// Sends without keeping the deadline on this side: to see the server keep it.
    #[cfg(all(test, not(madsim)))]
    pub(super) async fn send_undeadlined(self, request: Request<Body>) -> Result<Response<Body>, Status> {
        Ok(self.0.send(request).await?.map(Body::new))
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let peer = self.0.clone();
        Box::pin(async move {
            let deadline = deadline::deadline(request.headers());
            let response = deadline::within(deadline, peer.send(request)).await??;
            Ok(deadline::bound(response, deadline, Side::Client))
        })
    }
}

struct Peer {
    authority: Authority,
    options: RpcOptions,
    link: Mutex<Link>,
    /// Woken whenever a dial ends.
    dialled: Notify,
}

/// The connection, as far as it has got.
#[derive(Default)]
struct Link {
    sender: Option<SendRequest<Body>>,
    dialling: bool,
    /// How many dials have ended, and how the last one failed: a call fails with the dial it waited for, not an older one.
    dials_ended: u64,
    failure: Option<io::Error>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl Peer {
    fn link(&self) -> MutexGuard<'_, Link> {
        // Every field is valid on its own, so a panic elsewhere cannot have broken the whole.
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(self: Arc<Peer>, request: Request<Body>) -> Result<Response<hyper::body::Incoming>, Status> {
        let mut request = self.addressed(request)?;
        let mut attempts_left = SEND_ATTEMPTS;
        loop {
            attempts_left -= 1;
            let mut sender = self.connected().await?;
            let mut error = match sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            // A connection that closed before the request went out does no harm: the request may take the next one.
            match error.take_message() {
                Some(unsent) if attempts_left > 0 => request = unsent,
                Some(_) => return Err(self.unreachable(None)),
                None => return Err(deadline::transport_status(error.into_error().into())),
            }
        }
    }

    /// HTTP/2 wants the scheme and the authority in the request's address.
    fn addressed(&self, request: Request<Body>) -> Result<Request<Body>, Status> {
        let (mut head, body) = request.into_parts();
        let mut uri = head.uri.into_parts();
        uri.scheme = Some(if self.options.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP });
        uri.authority = Some(self.authority.clone());
        uri.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
        head.uri = Uri::from_parts(uri).map_err(|error| Status::internal(format!("not an address: {error}")))?;
        Ok(Request::from_parts(head, body))
    }

    /// The open connection; starts a dial or waits for the one under way.
    async fn connected(self: &Arc<Peer>) -> Result<SendRequest<Body>, Status> {
        let mut waited_for = None;
        loop {
            let notified = self.dialled.notified();
            {
                let mut link = self.link();
                match &link.sender {
                    Some(sender) if !sender.is_closed() => return Ok(sender.clone()),
                    _ => {}
                }
                if waited_for.is_some_and(|dial| link.dials_ended > dial) {
                    return Err(self.unreachable(link.failure.as_ref()));
                }
                waited_for = Some(link.dials_ended);
                if !link.dialling {
                    link.dialling = true;
                    drop(spawn("rpc.dial", self.clone().dial()));
                }
            }
            notified.await;
        }
    }

    /// The status of a call whose dial failed, or gave a connection that the server closed at once.
    fn unreachable(&self, failure: Option<&io::Error>) -> Status {
        let reason = failure.map_or_else(|| "closed as soon as it was open".to_owned(), io::Error::to_string);
        let mut status = Status::unavailable(format!("cannot connect to {}: {reason}", self.authority));
        status.set_source(Arc::new(NotSent));
        status
    }

    /// One attempt to connect, as a task of its own.
    async fn dial(self: Arc<Peer>) {
        let limit = self.options.connect_timeout;
        let mut attempt = Attempt { peer: self, sender: Err(io::ErrorKind::Interrupted.into()) };
        attempt.sender = match time::timeout(limit, attempt.peer.open()).await {
            Ok(dialled) => dialled,
            Err(elapsed) => Err(io::Error::new(io::ErrorKind::TimedOut, elapsed)),
        };
    }

    async fn open(&self) -> io::Result<SendRequest<Body>> {
        let stream = cuts::dial(self.authority.as_str(), self.options.cuts.as_ref()).await?;
        match &self.options.tls {
            None => self.handshake(stream).await,
            Some(tls) => self.handshake(tls.greet(self.authority.host(), stream).await?).await,
        }
    }

    async fn handshake<S>(&self, stream: S) -> io::Result<SendRequest<Body>>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let options = &self.options;
        let (sender, connection) = http2::Builder::new(RtExecutor)
            .timer(RtTimer)
            .keep_alive_interval(options.keepalive_interval)
            .keep_alive_timeout(options.keepalive_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(options.stream_window_bytes)
            .initial_connection_window_size(options.connection_window_bytes)
            .max_header_list_size(options.head_bytes_max)
            .max_concurrent_reset_streams(RESETS_REMEMBERED)
            .handshake::<_, Body>(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        drop(spawn("rpc.connection", async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a peer ended");
            }
        }));
        Ok(sender)
    }
}

/// A dial under way. Its end, in whatever way (the task may be killed), is told to the calls that wait.
struct Attempt {
    peer: Arc<Peer>,
    sender: io::Result<SendRequest<Body>>,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let ended = std::mem::replace(&mut self.sender, Err(io::ErrorKind::Interrupted.into()));
        {
            let mut link = self.peer.link();
            link.dialling = false;
            link.dials_ended += 1;
            match ended {
                Ok(sender) => (link.sender, link.failure) = (Some(sender), None),
                Err(error) => (link.sender, link.failure) = (None, Some(error)),
            }
        }
        self.peer.dialled.notify_waiters();
    }
}
