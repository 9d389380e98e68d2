//! The body of a request that may have to be sent more than once. A short body of known length is taken whole, so that it can be
//! sent again at any time; every other body streams, and its beginning is kept: it can be sent again as long as what was taken of it
//! is no more than a short body (every unary gRPC call, whose length is not announced). Whether the request may be sent again is
//! another question: `proxy`'s.
//!
//! Promise: every attempt sees the body from its first byte, or there is no attempt. A connection goes on to read the body of its
//! request after an early answer; a body that went to a later attempt breaks off there.

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
    /// Once, or as long as what was taken of it is kept.
    Streamed(Arc<Mutex<Slot>>),
}

/// A streamed body's place.
pub struct Slot {
    body: Body,
    /// What was taken of it; none once that is too much.
    kept: Option<Vec<Bytes>>,
    kept_bytes: u64,
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
        let slot = Slot { body, kept: Some(Vec::new()), kept_bytes: 0, attempts: 0, failure: None };
        Ok(Replay::Streamed(Arc::new(Mutex::new(slot))))
    }

    /// The body for one attempt; `None` where more of it than is kept has gone with an earlier one.
    pub fn take(&self) -> Option<Body> {
        match self {
            Replay::Whole(bytes) if bytes.is_empty() => Some(Body::empty()),
            Replay::Whole(bytes) => Some(Body::from(bytes.clone())),
            Replay::Streamed(shared) => {
                let mut slot = lock(shared);
                slot.kept.as_ref()?;
                slot.attempts += 1;
                Some(Body::new(Streamed { slot: shared.clone(), attempt: slot.attempts, given: 0 }))
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

impl Slot {
    /// Takes the next part of the body, and keeps it if it may have to be sent again.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => self.keep(frame.data_ref()),
            Poll::Ready(Some(Err(error))) => self.failure = Some(body_failure(error)),
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }

    /// Without data it is what follows a body, which is not kept.
    fn keep(&mut self, data: Option<&Bytes>) {
        self.kept_bytes += data.map_or(0, |data| data.len() as u64);
        match (&mut self.kept, data) {
            (Some(kept), Some(data)) if self.kept_bytes <= WHOLE_BYTES_MAX => kept.push(data.clone()),
            _ => self.kept = None,
        }
    }

    /// The parts from number `given` on that were taken already.
    fn kept_from(&self, given: usize) -> &[Bytes] {
        self.kept.as_ref().and_then(|kept| kept.get(given..)).unwrap_or_default()
    }
}

/// The body of one attempt.
struct Streamed {
    slot: Arc<Mutex<Slot>>,
    attempt: u32,
    /// Parts of what is kept that went out.
    given: usize,
}

impl HttpBody for Streamed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let shared = self.slot.clone();
        let mut slot = lock(&shared);
        if self.attempt != slot.attempts {
            return Poll::Ready(Some(Err(axum::Error::new(Superseded))));
        }
        if let Some(data) = slot.kept_from(self.given).first() {
            self.given += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        let polled = slot.poll_next(cx);
        self.given = slot.kept.as_ref().map_or(0, Vec::len);
        polled
    }

    fn is_end_stream(&self) -> bool {
        let slot = lock(&self.slot);
        slot.kept_from(self.given).is_empty() && slot.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let slot = lock(&self.slot);
        let kept = slot.kept_from(self.given).iter().map(|data| data.len() as u64).sum::<u64>();
        let rest = slot.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + kept);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + kept);
        }
        hint
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

    fn in_parts(parts: &'static [&'static str]) -> Body {
        let parts = parts.iter().map(|part| Ok::<_, std::io::Error>(Bytes::from_static(part.as_bytes())));
        Body::from_stream(futures_util::stream::iter(parts))
    }

    async fn part(body: &mut Body) -> String {
        let part = body.frame().await.expect("one").expect("good").into_data().expect("data");
        String::from_utf8_lossy(&part).into_owned()
    }

    #[tokio::test]
    async fn what_was_taken_of_a_streamed_body_goes_out_again() {
        let replay = Replay::keep(in_parts(&["abc", "def", "g"])).await.expect("kept");
        drop(replay.take().expect("first"));
        let mut second = replay.take().expect("nothing was taken");
        assert_eq!((part(&mut second).await, part(&mut second).await), ("abc".into(), "def".into()));
        let mut third = replay.take().expect("it is kept");
        assert!(second.frame().await.expect("one").is_err(), "it went with a later attempt");
        assert!(third.size_hint().lower() == 6 && !third.is_end_stream());
        assert_eq!(part(&mut third).await, "abc");
        assert_eq!(third.collect().await.expect("whole").to_bytes(), "defg");
        let again = replay.take().expect("it is kept whole");
        assert_eq!(again.collect().await.expect("whole").to_bytes(), "abcdefg");
    }

    #[tokio::test]
    async fn a_long_body_goes_out_once() {
        const HALF: &str = match std::str::from_utf8(&[b'x'; WHOLE_BYTES_MAX as usize / 2 + 1]) {
            Ok(text) => text,
            Err(_) => unreachable!(),
        };
        let replay = Replay::keep(in_parts(&[HALF, HALF, "end"])).await.expect("kept");
        let mut first = replay.take().expect("first");
        assert_eq!(part(&mut first).await, HALF);
        let mut second = replay.take().expect("half of it is kept");
        assert_eq!((part(&mut second).await, part(&mut second).await), (HALF.into(), HALF.into()));
        assert!(replay.take().is_none(), "that is more than is kept");
        assert_eq!(second.collect().await.expect("the rest").to_bytes(), "end");
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
