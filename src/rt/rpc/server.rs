//! The gRPC server: a tower service behind hyper's HTTP/2, on the shared accept loop. Called by `api` and `cluster`,
//! which compose tonic's routes and layers.

use super::{
    RpcOptions,
    deadline::{self, Side},
};
use crate::rt::{
    BoxError,
    http::{
        accept::{AcceptLimits, accept_loop},
        connection::{Activity, PatienceLimits, Watched, drive},
        hyper_rt::{RtExecutor, RtTimer},
        limited,
    },
    net::Listener,
    shutdown::Shutdown,
};
use bytes::Bytes;
use http::{Request, Response, header::CONTENT_TYPE};
use http_body::Body as HttpBody;
use hyper::{
    body::Incoming,
    server::conn::http2,
    service::{HttpService, service_fn},
};
use hyper_util::rt::TokioIo;
use std::{convert::Infallible, net::SocketAddr, time::Duration};
use tonic::{Status, body::Body};
use tower::{Service, ServiceExt};

/// How the content type of every gRPC request begins.
const GRPC: &[u8] = b"application/grpc";

/// Serves `service` (tonic routes, with or without layers) on `listener` until `shutdown`, then drains: clients are told
/// to go elsewhere, calls in flight may finish within the drain timeout, and streams that never end are cut after it.
/// Returns when no connection is left; dropping the future cuts them all. Every request carries the client's address as
/// an extension ([`PeerAddr`](crate::rt::http::PeerAddr)).
pub async fn serve<S, B>(listener: Listener, service: S, options: RpcOptions, shutdown: Shutdown)
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let builder = builder(&options);
    let limits = AcceptLimits { connections_max: options.connections_max, drain_timeout: options.drain_timeout };
    let patience = patience(&options);
    let stats = options.stats.clone();
    accept_loop(listener, limits, options.stats, shutdown, |stream, peer, stop| {
        let activity = Activity::new();
        let handler = handler(service.clone(), peer, None);
        let io = TokioIo::new(Watched::http2(stream, activity.clone()));
        drive(builder.serve_connection(io, handler), activity, patience, stop, stats.clone())
    })
    .await;
}

/// Hyper's side of a connection.
pub(in crate::rt) fn builder(options: &RpcOptions) -> http2::Builder<RtExecutor> {
    let mut builder = http2::Builder::new(RtExecutor);
    builder
        .timer(RtTimer)
        .auto_date_header(false)
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .initial_stream_window_size(options.stream_window_bytes)
        .initial_connection_window_size(options.connection_window_bytes)
        .max_concurrent_streams(options.streams_max)
        .max_header_list_size(options.head_bytes_max);
    builder
}

/// The watchdog's side of a connection.
pub(in crate::rt) fn patience(options: &RpcOptions) -> PatienceLimits {
    PatienceLimits { head: options.handshake_timeout, idle: options.handshake_timeout, write: options.write_timeout }
}

/// One connection's way to the service. What is not gRPC, if that may be, has `plain_limits`: the most bytes of a body, and how long
/// it may be waited for. A gRPC body may be a stream that rests for long; its calls have deadlines, its connection pings.
pub(in crate::rt) fn handler<S, B>(
    service: S,
    peer: SocketAddr,
    plain_limits: Option<(usize, Duration)>,
) -> impl HttpService<Incoming, ResBody = Body, Error = Infallible, Future: Send> + Send
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(crate::rt::http::PeerAddr(peer));
        let is_grpc = || request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(GRPC));
        let request = match plain_limits.filter(|_| !is_grpc()) {
            Some((bytes_max, wait_max)) => request.map(|body| Body::new(limited(body, bytes_max, wait_max))),
            None => request.map(Body::new),
        };
        answer(service.clone(), request)
    })
}

/// Runs one call under its deadline. Errors become a status: gRPC has no other way to say them.
async fn answer<S, B>(service: S, request: Request<Body>) -> Result<Response<Body>, Infallible>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let deadline = deadline::deadline(request.headers());
    Ok(match deadline::within(deadline, service.oneshot(request)).await {
        Ok(Ok(response)) => deadline::bound(response, deadline, Side::Server),
        Ok(Err(error)) => Status::from_error(error.into()).into_http(),
        Err(expired) => expired.into_http(),
    })
}
