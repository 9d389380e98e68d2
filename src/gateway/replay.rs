//! The body of a request that may have to be sent more than once. A short body of known length is taken whole, so that it can be
//! sent again at any time; every other body streams, and can be sent again as long as nothing of it was taken. Whether the
//! request may be sent again is another question: `proxy`'s.
//!
//! Promise: a body goes to one attempt only. A connection goes on to read the body of its request after an early answer; what
//! came then would be missing from the attempt that followed.

use crate::rt::http::{BodyFailure, body_failure};
use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

/// A body no longer than this is taken whole: a search with a vector of a few thousand dimensions.
pub const WHOLE_BYTES_MAX: u64 = 128 * 1024;

/// See the module.
pub enum Replay {
    /// As often as needed.
    Whole(Bytes),
    /// Once, unless nothing of it was taken.
    Streamed(Arc<Mutex<Slot>>),
}

/// A streamed body's place.
pub struct Slot {
    body: Body,
    was_touched: bool,
    /// Attempts so far. The body is the last one's.
    attempts: u32,
    /// Why it did not come whole.
    failure: Option<BodyFailure>,
}

/// Why an attempt that was given up reads no further.
#[derive(Debug, thiserror::Error)]
#[error("the body went with a later attempt")]
struct Superseded;

impl Replay {
    /// Keeps `body`.
    ///
    /// # Errors
    /// A short body did not come: the client's or the connection's fault.
    pub async fn keep(body: Body) -> Result<Replay, axum::Error> {
        if body.is_end_stream() {
            return Ok(Replay::Whole(Bytes::new()));
        }
        let is_short = body.size_hint().upper().is_some_and(|bytes| bytes <= WHOLE_BYTES_MAX);
        if is_short {
            let whole = axum::body::to_bytes(body, WHOLE_BYTES_MAX as usize).await?;
            return Ok(Replay::Whole(whole));
        }
        Ok(Replay::Streamed(Arc::new(Mutex::new(Slot { body, was_touched: false, attempts: 0, failure: None }))))
    }

    /// The body for one attempt; `None` where a part of it has gone with an earlier one.
    pub fn take(&self) -> Option<Body> {
        match self {
            Replay::Whole(bytes) if bytes.is_empty() => Some(Body::empty()),
            Replay::Whole(bytes) => Some(Body::from(bytes.clone())),
            Replay::Streamed(shared) => {
                let mut slot = lock(shared);
                if slot.was_touched {
                    return None;
                }
                slot.attempts += 1;
                Some(Body::new(Streamed { slot: shared.clone(), attempt: slot.attempts }))
            }
        }
    }

    /// Why the body did not come whole, if so: then it is not the node that failed.
    pub fn failure(&self) -> Option<BodyFailure> {
        match self {
            Replay::Whole(_) => None,
            Replay::Streamed(slot) => lock(slot).failure,
        }
    }
}

fn lock(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    // A body that panicked is broken, and says so when it is polled again.
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The body of one attempt.
struct Streamed {
    slot: Arc<Mutex<Slot>>,
    attempt: u32,
}

impl HttpBody for Streamed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut slot = lock(&self.slot);
        if self.attempt != slot.attempts {
            return Poll::Ready(Some(Err(axum::Error::new(Superseded))));
        }
        let polled = Pin::new(&mut slot.body).poll_frame(cx);
        // Waiting for the first part takes nothing.
        slot.was_touched |= polled.is_ready();
        if let Poll::Ready(Some(Err(error))) = &polled {
            slot.failure = Some(body_failure(error));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.slot).body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.slot).body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn a_short_body_goes_out_as_often_as_needed() {
        let replay = Replay::keep(Body::from("abc")).await.expect("it came");
        for _ in 0..3 {
            let body = replay.take().expect("again").collect().await.expect("whole").to_bytes();
            assert_eq!(body, "abc");
        }
    }

    #[tokio::test]
    async fn a_streamed_body_goes_out_again_only_untouched() {
        let unmeasured =
            || Body::from_stream(futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from("abc"))]));
        let replay = Replay::keep(unmeasured()).await.expect("kept");
        drop(replay.take().expect("first"));
        let mut body = replay.take().expect("nothing was taken");
        assert_eq!(body.frame().await.expect("one").expect("good").into_data().expect("data"), "abc");
        assert!(replay.take().is_none());
        let long = Replay::keep(Body::from(vec![0; WHOLE_BYTES_MAX as usize + 1])).await.expect("kept");
        assert!(matches!(long, Replay::Streamed(_)));
    }

    #[tokio::test]
    async fn an_attempt_that_was_given_up_takes_nothing_from_the_next() {
        let parts = ["one", "two"].map(|part| Ok::<_, std::io::Error>(Bytes::from(part)));
        let replay = Replay::keep(Body::from_stream(futures_util::stream::iter(parts))).await.expect("kept");
        let mut early = replay.take().expect("first");
        let late = replay.take().expect("nothing was taken");
        assert!(early.frame().await.expect("a word").is_err());
        assert_eq!(late.collect().await.expect("whole").to_bytes(), "onetwo");
        assert_eq!(replay.failure(), None);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_known_to() {
        let parts = [Ok(Bytes::from("one")), Err(std::io::Error::other("left"))];
        let replay = Replay::keep(Body::from_stream(futures_util::stream::iter(parts))).await.expect("kept");
        assert!(replay.take().expect("first").collect().await.is_err());
        assert_eq!(replay.failure(), Some(BodyFailure::Broken));
    }
}
