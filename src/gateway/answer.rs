//! A node's answer on its way to the client: whether it is one that another node may better, and its body, which streams. The node
//! counts as working until the last of it has gone through. A body whose node falls silent breaks off, as the answer to a
//! request that waits does: a machine that lost its power closes no connection. Made by `proxy`.

use super::{
    link::Link,
    proxy::{LOOK_INTERVAL, LOOKS_OUT},
};
use crate::{
    rt::time::{self, Sleep},
    traffic::{Outcome, Pick},
};
use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use serde::Deserialize;
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

/// Problems are shorter than this.
const PROBLEM_BYTES_MAX: u64 = 8 * 1024;

/// Why an answer ends early.
#[derive(Debug, thiserror::Error)]
#[error("the node's answer broke off")]
struct BrokenOff;

/// Whether by this answer a node declines for now without having done anything: it is cut off from the leader, or it is
/// starting. Another node may do better. The body of such an answer is short, and here; every other answer is passed on unread.
pub async fn looked_at(answer: Response) -> (Response, bool) {
    if is_declined_call(answer.headers()) {
        return (answer, true);
    }
    let is_problem =
        answer.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == "application/problem+json");
    let is_short = answer.body().size_hint().upper().is_some_and(|bytes| bytes <= PROBLEM_BYTES_MAX);
    if answer.status() != StatusCode::SERVICE_UNAVAILABLE || !is_problem || !is_short {
        return (answer, false);
    }
    let (head, body) = answer.into_parts();
    let Ok(body) = axum::body::to_bytes(body, PROBLEM_BYTES_MAX as usize).await else {
        // The client shall see the same.
        let broken = Body::from_stream(futures_util::stream::iter([Err::<Bytes, _>(BrokenOff)]));
        return (Response::from_parts(head, broken), false);
    };
    let problem: Problem = serde_json::from_slice(&body).unwrap_or_default();
    let is_declined = !problem.code.is_empty() && problem.code != "outcome_unknown";
    (Response::from_parts(head, Body::from(body)), is_declined)
}

/// Whether these are the headers of a call that a node has declined, in which nothing came before its status. A status without a
/// code is not the node's own: then nothing is known.
fn is_declined_call(headers: &HeaderMap) -> bool {
    const UNAVAILABLE: &str = "14";
    let is_unavailable = headers.get("grpc-status").is_some_and(|status| status == UNAVAILABLE);
    is_unavailable && headers.get("vs-code").is_some_and(|code| code != "outcome_unknown")
}

/// Whether by this answer a node says of the attempt that it answers that nothing happened: then it says nothing of an earlier one.
pub fn did_nothing(answer: &Response) -> bool {
    const EXHAUSTED: &str = "8";
    const UNAVAILABLE: &str = "14";
    let is_one_of = |status: &http::HeaderValue| status == EXHAUSTED || status == UNAVAILABLE;
    matches!(answer.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
        || answer.headers().get("grpc-status").is_some_and(is_one_of)
}

/// What came of a request that was answered so: the time of one that failed says nothing of how fast the node works.
pub fn outcome(head: &http::response::Parts, took: Duration) -> Outcome {
    let failed_call = || head.headers.get("grpc-status").is_some_and(|status| status != "0");
    match head.status.is_server_error() || failed_call() {
        true => Outcome::Refused(took),
        false => Outcome::Answered(took),
    }
}

/// What matters of a problem.
#[derive(Default, Deserialize)]
struct Problem {
    #[serde(default)]
    code: String,
}

/// An answer's body on its way through.
pub struct Passing {
    body: Body,
    pick: Option<Pick<Arc<Link>>>,
    /// When the body has gone through.
    answered: Outcome,
    /// Until the next look at the node, while nothing comes.
    look: Option<Pin<Box<Sleep>>>,
    /// Looks in a row that found the node given up.
    looks_out: u32,
}

impl Passing {
    /// The body of an answer by which the picked node has `answered`.
    pub fn new(body: Body, pick: Pick<Arc<Link>>, answered: Outcome) -> Passing {
        Passing { body, pick: Some(pick), answered, look: None, looks_out: 0 }
    }

    fn finish(&mut self, outcome: Outcome) {
        if let Some(pick) = self.pick.take() {
            pick.finish(outcome, time::now());
        }
    }

    /// Ready when the balancer has given up the node for a while in which nothing came.
    fn poll_given_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(pick) = &self.pick else { return Poll::Pending };
            let look = self.look.get_or_insert_with(|| Box::pin(time::sleep(LOOK_INTERVAL)));
            ready!(look.as_mut().poll(cx));
            self.look = None;
            self.looks_out = if pick.is_given_up() { self.looks_out + 1 } else { 0 };
            if self.looks_out >= LOOKS_OUT {
                return Poll::Ready(());
            }
        }
    }
}

impl HttpBody for Passing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            ready!(self.poll_given_up(cx));
            self.finish(Outcome::Failed);
            return Poll::Ready(Some(Err(axum::Error::new(BrokenOff))));
        };
        (self.look, self.looks_out) = (None, 0);
        let answered = self.answered;
        match &frame {
            None => self.finish(answered),
            Some(Err(_)) => self.finish(Outcome::Failed),
            Some(Ok(_)) if self.body.is_end_stream() => self.finish(answered),
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body that is over before it began, of a length that was never stated.
pub struct Ended;

impl HttpBody for Ended {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_nothing_is_told_by_status_and_by_code() {
        let says = |status: u16, grpc: Option<&str>| {
            let mut answer = Response::builder().status(status);
            if let Some(grpc) = grpc {
                answer = answer.header("grpc-status", grpc);
            }
            did_nothing(&answer.body(Body::empty()).unwrap())
        };
        assert!(says(429, None) && says(503, None) && says(200, Some("8")) && says(200, Some("14")));
        for (status, grpc) in
            [(200, None), (504, None), (409, None), (200, Some("0")), (200, Some("2")), (200, Some("4"))]
        {
            assert!(!says(status, grpc), "{status} {grpc:?}");
        }
    }
}
