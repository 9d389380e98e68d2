//! A small HTTP/1.1 client for one server: keep-alive connections in a pool, one time limit over connecting, sending and
//! reading the whole answer, and a bound on the answer. Its errors say whether the request may have had an effect.
//!
//! Called by `cli` and by the simulation's workloads.

use crate::rt::{
    net, spawn,
    time::{self, Instant},
};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long an answered connection may take to become ready for the next request. Normally it already is; a server that
/// answered before it had read the whole request may keep it busy, and then it is not worth keeping.
const READY_WAIT_MAX: Duration = Duration::from_millis(20);

/// The bounds of a client.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// For a whole request: connecting, sending, and reading the answer.
    pub timeout: Duration,
    /// The body of an answer.
    pub body_bytes_max: usize,
    /// Connections kept for the next request.
    pub idle_connections_max: usize,
    /// How long a connection is kept; less than the server's own limit, so that the server rarely closes first.
    pub idle_timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            timeout: Duration::from_secs(30),
            body_bytes_max: 256 * 1024 * 1024,
            idle_connections_max: 32,
            idle_timeout: Duration::from_secs(60),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection could be made: nothing was sent.
    #[error("cannot connect to {addr}: {source}")]
    Connect {
        /// The server.
        addr: String,
        /// What the system said.
        source: io::Error,
    },
    /// The request cannot be written as HTTP/1.1: nothing was sent.
    #[error("not a request: {reason}")]
    BadRequest {
        /// What is wrong with it.
        reason: String,
    },
    /// The time was up while connecting: nothing was sent.
    #[error("cannot connect to {addr} within {limit:?}")]
    ConnectTimedOut {
        /// The server.
        addr: String,
        /// The limit for the whole request.
        limit: Duration,
    },
    /// The time was up after the request was sent: it may have had its effect.
    #[error("no answer from {addr} within {limit:?}; the request may have been carried out")]
    TimedOut {
        /// The server.
        addr: String,
        /// The limit for the whole request.
        limit: Duration,
    },
    /// The connection broke after the request was sent: it may have had its effect.
    #[error("the connection to {addr} broke; the request may have been carried out: {source}")]
    Broken {
        /// The server.
        addr: String,
        /// What went wrong.
        source: crate::rt::BoxError,
    },
    /// The answer is longer than this client takes. The request was carried out.
    #[error("the answer of {addr} is longer than {limit_bytes} bytes")]
    AnswerTooLarge {
        /// The server.
        addr: String,
        /// The most it takes.
        limit_bytes: usize,
    },
}

impl ClientError {
    /// Whether the server may have carried out the request. If not, it is safe to send it again.
    pub fn may_have_happened(&self) -> bool {
        match self {
            ClientError::Connect { .. } | ClientError::BadRequest { .. } | ClientError::ConnectTimedOut { .. } => false,
            ClientError::TimedOut { .. } | ClientError::Broken { .. } | ClientError::AnswerTooLarge { .. } => true,
        }
    }
}

type Sender = SendRequest<Full<Bytes>>;

/// A client of one server. Clones share the pool.
#[derive(Clone, Debug)]
pub struct Client(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    addr: String,
    host: Option<HeaderValue>,
    options: ClientOptions,
    /// Connections at rest, the latest used last.
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    sender: Sender,
    since: Instant,
}

impl Client {
    /// A client of the server at `addr` (`"host:port"`) with default bounds. Nothing is dialled yet.
    pub fn new(addr: impl Into<String>) -> Client {
        Client::with_options(addr, ClientOptions::default())
    }

    /// A client with bounds of its own.
    pub fn with_options(addr: impl Into<String>, options: ClientOptions) -> Client {
        let addr = addr.into();
        let host = HeaderValue::from_str(&addr).ok();
        Client(Arc::new(Shared { addr, host, options, idle: Mutex::default() }))
    }

    /// The server's address.
    pub fn addr(&self) -> &str {
        &self.0.addr
    }

    /// Sends `request` (its path and query; scheme and authority are ignored) and reads the whole answer, whatever its
    /// status.
    ///
    /// # Errors
    /// [`ClientError`]; ask it whether the request may have happened.
    pub async fn request(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, ClientError> {
        self.request_within(self.0.options.timeout, request).await
    }

    /// As [`Client::request`], with a time limit of its own.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn request_within(
        &self,
        limit: Duration,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, ClientError> {
        let deadline = time::now() + limit;
        let mut request = self.0.prepared(request)?;
        loop {
            let (mut sender, reused) = match self.0.take_idle() {
                Some(sender) => (sender, true),
                None => (self.0.dial(deadline, limit).await?, false),
            };
            match time::timeout_at(deadline, self.0.exchange(&mut sender, request)).await {
                Err(_) => return Err(ClientError::TimedOut { addr: self.0.addr.clone(), limit }),
                Ok(Ok(answer)) => {
                    self.0.keep(sender).await;
                    return Ok(answer);
                }
                // The server closed a kept connection before this request went out: nothing happened, so dial anew.
                Ok(Err(Failed::NotSent(unsent))) if reused => request = *unsent,
                Ok(Err(Failed::NotSent(_))) => return Err(self.0.broken("closed before the request was sent".into())),
                Ok(Err(Failed::Client(error))) => return Err(error),
            }
        }
    }
}

/// How one exchange over one connection failed.
enum Failed {
    /// The connection was gone before any of the request was written; here it is back.
    NotSent(Box<Request<Full<Bytes>>>),
    Client(ClientError),
}

impl Shared {
    fn prepared(&self, mut request: Request<Full<Bytes>>) -> Result<Request<Full<Bytes>>, ClientError> {
        if !request.headers().contains_key(header::HOST) {
            let host = self.host.clone().ok_or_else(|| ClientError::BadRequest {
                reason: format!("{:?} cannot stand in a Host header", self.addr),
            })?;
            request.headers_mut().insert(header::HOST, host);
        }
        if request.uri().authority().is_some() {
            let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
            *request.uri_mut() = Uri::from(path);
        }
        Ok(request)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        // A list of connections is valid at every moment, so a panic elsewhere cannot have broken it.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The latest used connection that is still open; drops those that are closed or too old.
    fn take_idle(&self) -> Option<Sender> {
        let oldest_kept = time::now() - self.options.idle_timeout;
        let mut idle = self.idle();
        idle.retain(|connection| connection.sender.is_ready() && connection.since >= oldest_kept);
        idle.pop().map(|connection| connection.sender)
    }

    /// Puts a connection at rest, once its task has seen the end of the answer: the pool holds only ready ones.
    async fn keep(&self, mut sender: Sender) {
        let Ok(Ok(())) = time::timeout(READY_WAIT_MAX, sender.ready()).await else { return };
        let mut idle = self.idle();
        if idle.len() < self.options.idle_connections_max {
            idle.push(Idle { sender, since: time::now() });
        }
    }

    async fn dial(&self, deadline: Instant, limit: Duration) -> Result<Sender, ClientError> {
        let connect = |source| ClientError::Connect { addr: self.addr.clone(), source };
        let stream = time::timeout_at(deadline, net::dial(&self.addr))
            .await
            .map_err(|_| ClientError::ConnectTimedOut { addr: self.addr.clone(), limit })?
            .map_err(connect)?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| connect(io::Error::other(error)))?;
        drop(spawn("http.client", connection));
        Ok(sender)
    }

    /// Sends the request and reads the whole answer.
    async fn exchange(&self, sender: &mut Sender, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Failed> {
        let response = match sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => {
                return Err(match error.take_message() {
                    Some(unsent) => Failed::NotSent(Box::new(unsent)),
                    None => Failed::Client(self.broken(error.into_error().into())),
                });
            }
        };
        let (head, incoming) = response.into_parts();
        let limit_bytes = self.options.body_bytes_max;
        let body = Limited::new(incoming, limit_bytes).collect().await.map_err(|error| {
            Failed::Client(if error.is::<LengthLimitError>() {
                ClientError::AnswerTooLarge { addr: self.addr.clone(), limit_bytes }
            } else {
                self.broken(error)
            })
        })?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }

    fn broken(&self, source: crate::rt::BoxError) -> ClientError {
        ClientError::Broken { addr: self.addr.clone(), source }
    }
}
