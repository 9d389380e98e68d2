//! The body of a request as handlers see it: bounded in size and in time. Called by `http::server`; `api` uses
//! [`body_failure`] to choose the right answer.

use crate::rt::time::{self, Instant, Sleep};
use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use std::{
    error::Error,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

/// The slowest body that is not held against a client once its grace (the body read timeout) is over.
const BYTES_PER_SECOND_MIN: u64 = 64 * 1024;

/// A body that came too slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request body stopped coming: {received_bytes} bytes after {waited:?}")]
pub struct BodyTimedOut {
    /// How much had come.
    pub received_bytes: u64,
    /// How long it took.
    pub waited: Duration,
}

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFailure {
    /// More than the server takes: 413.
    TooLarge,
    /// Too slow: 408.
    TimedOut,
    /// The client went away or broke the protocol: 400, if anybody still listens.
    Broken,
}

/// Finds out why reading a request's body failed, from the error that the extractor gave.
pub fn body_failure(error: &(dyn Error + 'static)) -> BodyFailure {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return BodyFailure::TooLarge;
        }
        if error.is::<BodyTimedOut>() {
            return BodyFailure::TimedOut;
        }
        cause = error.source();
    }
    BodyFailure::Broken
}

/// Puts the limits around a body. No cost for a request without one. A body whose announced length is too large fails at
/// once, not at its last byte.
pub(in crate::rt) fn limited(incoming: Incoming, bytes_max: usize, read_timeout: Duration) -> Body {
    if incoming.is_end_stream() {
        return Body::empty();
    }
    if incoming.size_hint().lower() > bytes_max as u64 {
        // Fails when it is first read, without taking (or, with `expect: 100-continue`, inviting) a byte of it.
        return Body::new(Limited::new(Full::new(Bytes::from_static(b"more")), 0));
    }
    Body::new(Limited::new(TimedBody::new(incoming, read_timeout), bytes_max))
}

/// A body with a deadline that moves on as bytes come in. Its clock and its timer start when it first has to wait, so a
/// body that came together with its head costs neither.
struct TimedBody<B> {
    inner: B,
    read_timeout: Duration,
    received_bytes: u64,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<B> TimedBody<B> {
    fn new(inner: B, read_timeout: Duration) -> TimedBody<B> {
        TimedBody { inner, read_timeout, received_bytes: 0, waiting: None }
    }

    /// The patience that what has come so far has earned.
    fn patience(&self) -> Duration {
        self.read_timeout + Duration::from_secs(self.received_bytes / BYTES_PER_SECOND_MIN)
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<BodyTimedOut> {
        let patience = self.patience();
        let (started, sleep) = self.waiting.get_or_insert_with(|| {
            let now = time::now();
            (now, Box::pin(time::sleep_until(now + patience)))
        });
        loop {
            ready!(sleep.as_mut().poll(cx));
            let waited = started.elapsed();
            if waited >= patience {
                return Poll::Ready(BodyTimedOut { received_bytes: self.received_bytes, waited });
            }
            sleep.set(time::sleep_until(*started + patience));
        }
    }
}

impl<B> HttpBody for TimedBody<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<crate::rt::BoxError>,
{
    type Data = Bytes;
    type Error = crate::rt::BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                if let Some(Ok(frame)) = &frame {
                    self.received_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => self.poll_timer(cx).map(|timed_out| Some(Err(timed_out.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
