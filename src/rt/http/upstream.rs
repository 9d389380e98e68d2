//! An HTTP/1.1 client of one server that streams both ways: the body of a request goes out as it comes in, the answer comes back
//! as soon as its head is there. For a gateway, which must hold neither. Called by `gateway`.

use crate::rt::{
    BoxError, net, spawn,
    time::{self, Instant},
};
use axum::body::Body;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The bounds of such a client.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamOptions {
    /// For one attempt to connect.
    pub connect_timeout: Duration,
    /// Connections kept for the next request.
    pub idle_connections_max: usize,
    /// How long a connection is kept; less than the server's own limit, so that the server rarely closes first.
    pub idle_timeout: Duration,
}

impl Default for UpstreamOptions {
    fn default() -> UpstreamOptions {
        UpstreamOptions {
            connect_timeout: Duration::from_secs(1),
            idle_connections_max: 512,
            idle_timeout: Duration::from_secs(60),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No connection could be made, or it was closed before anything was sent: nothing happened. The request is given back.
    #[error("not sent: {source}")]
    NotSent {
        /// As it was handed over.
        request: Box<Request<Body>>,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke after something was sent: the server may have acted on it.
    #[error("broken off: {source}")]
    Broken {
        /// What went wrong.
        source: BoxError,
    },
}

/// A client of one server. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Upstream(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    addr: String,
    options: UpstreamOptions,
    /// Connections made, the latest used last. One that still streams an answer is among them and is passed over.
    kept: Mutex<Vec<Kept>>,
}

#[derive(Debug)]
struct Kept {
    sender: SendRequest<Body>,
    since: Instant,
}

impl Upstream {
    /// A client of the server at `addr` (`"host:port"`). Nothing is dialled yet.
    pub fn new(addr: impl Into<String>, options: UpstreamOptions) -> Upstream {
        Upstream(Arc::new(Shared { addr: addr.into(), options, kept: Mutex::default() }))
    }

    /// The server's address.
    pub fn addr(&self) -> &str {
        &self.0.addr
    }

    /// Sends `request`, whose address is its path and query alone, and gives back the head of the answer with its body to
    /// come. No time limit but the one on connecting.
    ///
    /// # Errors
    /// [`UpstreamError`], which tells whether anything was sent.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, UpstreamError> {
        let mut request = request;
        loop {
            let (mut sender, is_kept) = match self.0.take() {
                Some(sender) => (sender, true),
                None => match self.0.dial().await {
                    Ok(sender) => (sender, false),
                    Err(source) => return Err(UpstreamError::NotSent { request: Box::new(request), source }),
                },
            };
            let mut error = match sender.try_send_request(request).await {
                Ok(answer) => {
                    self.0.keep(sender);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            match error.take_message() {
                // The server closed a kept connection before this request went out: the next one is a new one.
                Some(unsent) if is_kept => request = unsent,
                Some(unsent) => {
                    let source = io::Error::new(io::ErrorKind::ConnectionAborted, "closed as soon as it was open");
                    return Err(UpstreamError::NotSent { request: Box::new(unsent), source });
                }
                None => return Err(UpstreamError::Broken { source: error.into_error().into() }),
            }
        }
    }
}

impl Shared {
    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        // A list of connections is valid at every moment, so a panic elsewhere cannot have broken it.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The latest used connection that is at rest; drops those that are closed or too old.
    fn take(&self) -> Option<SendRequest<Body>> {
        let oldest_kept = time::now() - self.options.idle_timeout;
        let mut kept = self.kept();
        kept.retain(|one| !one.sender.is_closed() && (one.since >= oldest_kept || !one.sender.is_ready()));
        let at_rest = kept.iter().rposition(|one| one.sender.is_ready())?;
        Some(kept.remove(at_rest).sender)
    }

    /// Keeps a connection whose answer may still be coming. Dropping the oldest ends it after its answer, not before.
    fn keep(&self, sender: SendRequest<Body>) {
        let mut kept = self.kept();
        if kept.len() >= self.options.idle_connections_max {
            kept.remove(0);
        }
        kept.push(Kept { sender, since: time::now() });
    }

    async fn dial(&self) -> io::Result<SendRequest<Body>> {
        let dialled = time::timeout(self.options.connect_timeout, net::dial(&self.addr)).await;
        let stream = dialled.map_err(|elapsed| io::Error::new(io::ErrorKind::TimedOut, elapsed))??;
        let (sender, connection) =
            http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        drop(spawn("http.upstream", async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a node ended");
            }
        }));
        Ok(sender)
    }
}
