//! A request's way through the gateway: pick a node, send it there, give the answer back as it comes. Where the node cannot be
//! reached another gets it, if nothing was sent, or the request only reads, or has an `Idempotency-Key`; else the client is
//! told what is known: that nothing happened (unavailable), or that it may have (indeterminate). A node that itself says "not
//! now, and nothing happened" is an answer only if no other node has a better one.
//!
//! A request waits for its answer as long as its node answers checks; when the balancer gives the node up, so does the request.
//! What becomes of an answer on its way to the client is `answer`'s.

use super::{
    answer::{self, Ended, Passing},
    headers,
    link::Link,
    replay::Replay,
    route::{self, at_node},
};
use crate::{
    api::{errors::REQUEST_TIMEOUT, grpc, rest},
    config::Sticky,
    rt::{
        http::{BodyFailure, PeerAddr, UpstreamError, body_failure},
        rng, rpc,
        time::{self, Instant},
    },
    telemetry::metrics::Metrics,
    traffic::{Affinity, Ask, Balancer, Outcome, Pick, RetryBudget, RetryOptions, Token, token},
    types::{Error, ErrorKind},
};
use axum::{
    Router,
    body::Body,
    extract::{Request, State as Shared},
    response::Response,
};
use http::{HeaderName, HeaderValue, Uri, Version, header, request::Parts, uri::PathAndQuery};
use http_body::Body as _;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tower::Service as _;

/// Retries that may be saved up.
const RETRIES_SAVED_MAX: u32 = 100;
/// The cookie that keeps a client on a node.
const COOKIE: &str = "vectorsphere-node";
/// How often a request that waits looks whether its node is still in.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Looks in a row that must find the node out before a write to it, or an answer that has begun, is given up: 5 s.
pub(super) const LOOKS_OUT: u32 = 20;
/// The header of a request's id.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// See the module. Clones are one.
#[derive(Clone)]
pub struct Proxy(Arc<Inner>);

struct Inner {
    balancer: Balancer<Arc<Link>>,
    affinity: Sticky,
    retry: RetryOptions,
    budget: Mutex<RetryBudget>,
    rng: Mutex<rng::Rng>,
    metrics: Metrics,
}

/// The gateway's public face.
pub fn router(proxy: Proxy) -> Router {
    super::monitoring::health(proxy.0.balancer.clone()).merge(Router::new().fallback(handle).with_state(proxy))
}

async fn handle(Shared(proxy): Shared<Proxy>, request: Request) -> Response {
    proxy.handle(request).await
}

/// A request as it goes to nodes, without its body.
struct Outgoing {
    head: Parts,
    is_grpc: bool,
    only_reads: bool,
    /// Whether to send it twice does no more than to send it once.
    is_repeatable: bool,
    id: HeaderValue,
    affinity: Option<Affinity>,
    key: u64,
}

/// Why an attempt gave no answer.
enum Failed {
    /// Nothing of the request was sent.
    NotSent(String),
    /// The node may have acted on it.
    Broken(String),
}

impl Proxy {
    /// A proxy over these backends.
    pub fn new(balancer: Balancer<Arc<Link>>, affinity: Sticky, metrics: Metrics) -> Proxy {
        Proxy(Arc::new(Inner {
            balancer,
            affinity,
            retry: RetryOptions::default(),
            budget: Mutex::new(RetryBudget::new(RETRIES_SAVED_MAX)),
            rng: Mutex::new(rng::stream("gateway.retry")),
            metrics,
        }))
    }

    async fn handle(&self, request: Request) -> Response {
        let began = time::now();
        let _in_flight = self.0.metrics.http.begin();
        let is_grpc = route::is_grpc(request.headers());
        let class = route::class(request.uri().path(), is_grpc);
        let method = request.method().clone();
        let response = self.pass(request, is_grpc).await;
        self.0.metrics.http.served(class, method.as_str(), response.status().as_u16(), began.elapsed());
        response
    }

    async fn pass(&self, request: Request, is_grpc: bool) -> Response {
        let (head, body) = request.into_parts();
        let id = rest::request_id(&head.headers);
        let outgoing = match self.outgoing(head, is_grpc, id.clone()) {
            Ok(outgoing) => outgoing,
            Err(error) => return refused(error, is_grpc, &id),
        };
        let body = match Replay::keep(body).await {
            Ok(body) => body,
            Err(error) => return refused(bad_body(body_failure(&error)), is_grpc, &id),
        };
        match self.send(&outgoing, &body).await {
            Ok(response) => response,
            Err(error) => {
                tracing::warn!(method = %outgoing.head.method, path = outgoing.head.uri.path(), %error, "not passed on");
                refused(error, is_grpc, &id)
            }
        }
    }

    /// The head of the request as a node shall see it.
    fn outgoing(&self, mut head: Parts, is_grpc: bool, id: HeaderValue) -> Result<Outgoing, Error> {
        let bad = |reason: &str| Error::invalid("bad_request", reason.to_owned());
        let path = head.uri.path_and_query().ok_or_else(|| bad("the request has no path"))?;
        let path: PathAndQuery = at_node(path).map_err(|_| bad("what follows /data is not a path"))?;
        let only_reads = route::only_reads(&head.method, path.path(), is_grpc);
        let client = head.extensions.get::<PeerAddr>().map(|peer| peer.0.ip());
        let affinity = match self.0.affinity {
            Sticky::None => None,
            Sticky::Ip => client.map(|ip| Affinity::Client(token(ip.to_string().as_bytes()))),
            Sticky::Cookie => headers::cookie(&head.headers, COOKIE)
                .and_then(|value| Token::from_str_radix(value, 16).ok())
                .map(Affinity::Backend),
        };
        let key = token(path.path().as_bytes());
        headers::strip(&mut head.headers);
        // By what the node will see: a key that stayed behind at this hop protects nothing.
        let is_repeatable = only_reads || route::is_named(&head.headers, path.path(), is_grpc);
        if let Some(client) = client {
            headers::forwarded(&mut head.headers, client);
        }
        if !is_grpc {
            // HTTP/2 has the host in the address.
            if let Some(authority) = head.uri.authority()
                && !head.headers.contains_key(header::HOST)
                && let Ok(host) = HeaderValue::from_str(authority.as_str())
            {
                head.headers.insert(header::HOST, host);
            }
            head.headers.remove(header::EXPECT);
            head.version = Version::HTTP_11;
        }
        head.headers.insert(REQUEST_ID, id.clone());
        head.uri = Uri::from(path);
        Ok(Outgoing { head, is_grpc, only_reads, is_repeatable, id, affinity, key })
    }

    /// Sends to one node after the other until one answers.
    async fn send(&self, outgoing: &Outgoing, body: &Replay) -> Result<Response, Error> {
        self.budget(RetryBudget::request);
        let mut avoid: Vec<Token> = Vec::new();
        let (mut failure, mut declined): (Option<Error>, Option<Response>) = (None, None);
        for attempt in 1..=self.0.retry.attempts_max {
            let ask = Ask { key: Some(outgoing.key), affinity: outgoing.affinity, avoid: &avoid };
            let Some(pick) = self.0.balancer.pick(&ask, time::now()) else { break };
            let Some(attempt_body) = body.take() else { break };
            avoid.push(pick.token());
            let picked = time::now();
            let failed = match self.attempt(outgoing, attempt_body, &pick).await {
                Ok(answer) => {
                    let (answer, is_declined) = answer::looked_at(answer).await;
                    // What an earlier attempt may have done is not told by this one.
                    let leaves_it_open = answer::did_nothing(&answer) && is_unknown(failure.as_ref());
                    let answer = self.answered(answer, is_declined, pick, picked, outgoing);
                    if !is_declined && !leaves_it_open {
                        return Ok(answer);
                    }
                    declined = Some(answer);
                    if self.budget(RetryBudget::take) {
                        continue;
                    }
                    break;
                }
                Err(failed) => failed,
            };
            let name = pick.name().to_owned();
            if let Some(failure) = body.failure() {
                // The client's fault: the node is not to be left for it.
                drop(pick);
                if !outgoing.is_grpc {
                    // Half a request over HTTP is none. Of a gRPC stream the node may have done what it got.
                    return Err(bad_body(failure));
                }
            } else {
                pick.finish(Outcome::Failed, time::now());
            }
            let may_repeat = match failed {
                Failed::NotSent(why) => {
                    let why = format!("node {name} cannot be reached: {why}");
                    // What an earlier attempt may have done is not undone by this one.
                    failure.get_or_insert_with(|| Error::new(ErrorKind::Unavailable, "node_unreachable", why));
                    true
                }
                Failed::Broken(why) => {
                    let error = match outgoing.only_reads {
                        true => Error::new(
                            ErrorKind::Unavailable,
                            "node_unreachable",
                            format!("node {name} did not answer: {why}"),
                        ),
                        false => Error::new(
                            ErrorKind::Indeterminate,
                            "outcome_unknown",
                            format!("node {name} did not answer, and may have done what was asked: {why}"),
                        ),
                    };
                    failure = Some(error);
                    outgoing.is_repeatable && self.budget(RetryBudget::take)
                }
            };
            if !may_repeat {
                break;
            }
            tracing::debug!(node = name, attempt, "trying another node");
            time::sleep(self.pause(attempt)).await;
        }
        if let Some(declined) = declined
            && !is_unknown(failure.as_ref())
        {
            return Ok(declined);
        }
        let nobody = || Error::new(ErrorKind::Unavailable, "no_node", "no node of the cluster is known yet");
        Err(failure.unwrap_or_else(nobody))
    }

    fn budget<T>(&self, take: impl FnOnce(&mut RetryBudget) -> T) -> T {
        // A count is valid at every moment.
        take(&mut self.0.budget.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn pause(&self, retry: u32) -> Duration {
        self.0.retry.pause(retry, &mut *self.0.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One attempt at one node, as long as that node is in.
    async fn attempt(&self, outgoing: &Outgoing, body: Body, pick: &Pick<Arc<Link>>) -> Result<Response, Failed> {
        let mut request = Request::new(body);
        *request.method_mut() = outgoing.head.method.clone();
        *request.uri_mut() = outgoing.head.uri.clone();
        *request.version_mut() = outgoing.head.version;
        *request.headers_mut() = outgoing.head.headers.clone();
        let link = pick.value();
        let sending = async {
            match outgoing.is_grpc {
                true => send_grpc(link, request).await,
                false => send_http(link, request).await,
            }
        };
        tokio::select! {
            biased;
            answer = sending => answer,
            () = self.left(pick, outgoing.only_reads) => Err(Failed::Broken("it no longer answers at all".to_owned())),
        }
    }

    /// Waits until the balancer has given up the node: for a read, which can go elsewhere at once, until the first look that
    /// says so; for a write, whose outcome will then be unknown, until that has been so for a while, as an overloaded node
    /// that missed its checks may still answer.
    async fn left(&self, pick: &Pick<Arc<Link>>, only_reads: bool) {
        let looks_needed = if only_reads && !pick.was_out() { 1 } else { LOOKS_OUT };
        let mut looks = 0;
        while looks < looks_needed {
            time::sleep(LOOK_INTERVAL).await;
            looks = if pick.is_given_up() { looks + 1 } else { 0 };
        }
    }

    /// The node's answer on its way to the client; the node counts as working until all of it has gone through, or `is_here`.
    fn answered(
        &self,
        answer: Response,
        is_here: bool,
        pick: Pick<Arc<Link>>,
        picked: Instant,
        outgoing: &Outgoing,
    ) -> Response {
        let took = picked.elapsed();
        let (mut head, body) = answer.into_parts();
        let came_of_it = answer::outcome(&head, took);
        headers::strip(&mut head.headers);
        if self.0.affinity == Sticky::Cookie && outgoing.affinity != Some(Affinity::Backend(pick.token())) {
            let cookie = format!("{COOKIE}={:016x}; Path=/; HttpOnly; SameSite=Lax", pick.token());
            head.headers.append(header::SET_COOKIE, HeaderValue::from_str(&cookie).expect("invariant: plain text"));
        }
        if !head.headers.contains_key(REQUEST_ID) {
            head.headers.insert(REQUEST_ID, outgoing.id.clone());
        }
        if body.is_end_stream() {
            pick.finish(came_of_it, time::now());
            // A length the node did not state is not to be made up on the way, as it would be for a body known to be empty.
            let is_unstated = head.version == Version::HTTP_2 && !head.headers.contains_key(header::CONTENT_LENGTH);
            let body = if is_unstated { Body::new(Ended) } else { body };
            return Response::from_parts(head, body);
        }
        if is_here {
            pick.finish(came_of_it, time::now());
            return Response::from_parts(head, body);
        }
        Response::from_parts(head, Body::new(Passing::new(body, pick, came_of_it)))
    }
}

/// Whether an attempt that failed so may have done what was asked.
fn is_unknown(failure: Option<&Error>) -> bool {
    failure.is_some_and(|failure| failure.kind() == ErrorKind::Indeterminate)
}

/// An error in the client's own terms.
fn refused(error: Error, is_grpc: bool, id: &HeaderValue) -> Response {
    if is_grpc { grpc::refusal(&error, id.clone()) } else { rest::refusal(error, id) }
}

/// What is said of a body that did not come whole, as nodes say it.
fn bad_body(failure: BodyFailure) -> Error {
    match failure {
        BodyFailure::TimedOut => Error::invalid(REQUEST_TIMEOUT, "the body came too slowly"),
        BodyFailure::TooLarge | BodyFailure::Broken => Error::invalid("bad_body", "the body broke off"),
    }
}

async fn send_http(link: &Link, request: Request) -> Result<Response, Failed> {
    match link.http().send(request).await {
        Ok(answer) => Ok(answer.map(Body::new)),
        Err(UpstreamError::NotSent { source, .. }) => Err(Failed::NotSent(source.to_string())),
        Err(UpstreamError::Broken { source }) => Err(Failed::Broken(source.to_string())),
    }
}

async fn send_grpc(link: &Link, request: Request) -> Result<Response, Failed> {
    let Some(channel) = link.grpc() else { return Err(Failed::NotSent("it has no gRPC listener".to_owned())) };
    match channel.clone().call(request.map(tonic::body::Body::new)).await {
        Ok(answer) => Ok(answer.map(Body::new)),
        Err(status) if rpc::was_not_sent(&status) => Err(Failed::NotSent(status.message().to_owned())),
        // The deadline that the client set has passed: that is an answer, and no fault of the node.
        Err(status) if status.code() == tonic::Code::DeadlineExceeded => Ok(status.into_http()),
        Err(status) => Err(Failed::Broken(status.message().to_owned())),
    }
}
