//! The HTTP/1.1 server: axum's router behind hyper, on the shared accept loop. Called by `api` and by `telemetry` for the
//! operators' port.

use super::{
    accept::{AcceptLimits, ConnectionStats, accept_loop},
    body,
    connection::{Activity, PatienceLimits, Watched, drive},
    hyper_rt::RtTimer,
};
use crate::rt::{net::Listener, shutdown::Shutdown};
use axum::{Router, body::Body, extract::DefaultBodyLimit, routing::future::RouteFuture};
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tower::Service as _;

/// The bounds of an HTTP server.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// Connections open at once; more are closed as they come.
    pub connections_max: usize,
    /// The head of a request (request line and headers): larger ones are answered 431.
    pub head_bytes_max: usize,
    /// How long a client may take to send a head (slow-loris), and to send its first one after connecting.
    pub head_read_timeout: Duration,
    /// How long a kept-alive connection may stay without a request.
    pub idle_timeout: Duration,
    /// The body of a request; see [`BodyFailure::TooLarge`](super::BodyFailure).
    pub body_bytes_max: usize,
    /// How long a body may keep the server waiting, plus one second for every 64 KiB of it that came.
    pub body_read_timeout: Duration,
    /// How long a client may refuse to take the next byte of an answer.
    pub write_timeout: Duration,
    /// How long requests in flight may go on after the shutdown signal.
    pub drain_timeout: Duration,
    /// Where connections are counted.
    pub stats: ConnectionStats,
}

impl Default for HttpOptions {
    fn default() -> HttpOptions {
        HttpOptions {
            connections_max: 10_000,
            head_bytes_max: 32 * 1024,
            head_read_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_bytes_max: 64 * 1024 * 1024,
            body_read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
            stats: ConnectionStats::default(),
        }
    }
}

/// The client's address; every request carries it as an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddr(pub SocketAddr);

/// Serves `router` on `listener` until `shutdown`, then drains. Returns when no connection is left; dropping the future
/// cuts them all. Bodies are bounded by the options alone: axum's own limit is off.
pub async fn serve(listener: Listener, router: Router, options: HttpOptions, shutdown: Shutdown) {
    let router = router.layer(DefaultBodyLimit::disable()).with_state(());
    let (builder, patience) = (builder(&options), patience(&options));
    let limits = AcceptLimits { connections_max: options.connections_max, drain_timeout: options.drain_timeout };
    let stats = options.stats.clone();
    accept_loop(listener, limits, options.stats.clone(), shutdown, |stream, peer, stop| {
        let activity = Activity::new();
        let service = Handler::new(router.clone(), activity.clone(), peer, &options);
        let io = TokioIo::new(Watched::http1(stream, activity.clone()));
        drive(builder.serve_connection(io, service), activity, patience, stop, stats.clone())
    })
    .await;
}

/// Hyper's side of a connection.
pub(super) fn builder(options: &HttpOptions) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // The watchdog has its own timers; hyper's would cost one timer a request.
    builder.timer(RtTimer).header_read_timeout(None).max_header_size(options.head_bytes_max);
    builder
}

/// The watchdog's side of a connection.
pub(super) fn patience(options: &HttpOptions) -> PatienceLimits {
    PatienceLimits { head: options.head_read_timeout, idle: options.idle_timeout, write: options.write_timeout }
}

/// One connection's way to the router.
pub(super) struct Handler {
    router: Router,
    activity: Arc<Activity>,
    peer: PeerAddr,
    body_bytes_max: usize,
    body_read_timeout: Duration,
}

impl Handler {
    pub(super) fn new(router: Router, activity: Arc<Activity>, peer: SocketAddr, options: &HttpOptions) -> Handler {
        Handler {
            router,
            activity,
            peer: PeerAddr(peer),
            body_bytes_max: options.body_bytes_max,
            body_read_timeout: options.body_read_timeout,
        }
    }
}

impl Service<Request<Incoming>> for Handler {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        self.activity.request_began();
        let mut request = request.map(|incoming| body::limited(incoming, self.body_bytes_max, self.body_read_timeout));
        request.extensions_mut().insert(self.peer);
        let in_flight = InFlight(self.activity.clone());
        Answer { future: self.router.clone().call(request), in_flight: Some(in_flight) }
    }
}

/// Tells the watchdog that a request is over, when its answer has been sent or given up.
struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.request_ended();
    }
}

/// The router's answer to come.
pub(super) struct Answer {
    future: RouteFuture<Infallible>,
    in_flight: Option<InFlight>,
}

impl Future for Answer {
    type Output = Result<Response<AnswerBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.future).poll(cx).map(|answer| {
            let in_flight = self.in_flight.take();
            answer.map(|response| response.map(|inner| AnswerBody { inner, _in_flight: in_flight }))
        })
    }
}

/// An answer's body, which keeps the request in flight until hyper has taken all of it.
pub(super) struct AnswerBody {
    inner: Body,
    _in_flight: Option<InFlight>,
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
