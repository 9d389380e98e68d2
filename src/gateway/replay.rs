//! The body of a request that may have to be sent more than once. A short body of known length is taken whole, so that it can be
//! sent again at any time; every other body streams, and can be sent again as long as nothing of it was taken. Whether the
//! request may be sent again is another question: `proxy`'s.

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
}

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
        Ok(Replay::Streamed(Arc::new(Mutex::new(Slot { body, was_touched: false }))))
    }

    /// The body for one attempt; `None` where a part of it has gone with an earlier one.
    pub fn take(&self) -> Option<Body> {
        match self {
            Replay::Whole(bytes) if bytes.is_empty() => Some(Body::empty()),
            Replay::Whole(bytes) => Some(Body::from(bytes.clone())),
            Replay::Streamed(slot) if lock(slot).was_touched => None,
            Replay::Streamed(slot) => Some(Body::new(Streamed(slot.clone()))),
        }
    }
}

fn lock(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    // A body that panicked is broken, and says so when it is polled again.
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The body of one attempt.
struct Streamed(Arc<Mutex<Slot>>);

impl HttpBody for Streamed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut slot = lock(&self.0);
        let polled = Pin::new(&mut slot.body).poll_frame(cx);
        // Waiting for the first part takes nothing.
        slot.was_touched |= polled.is_ready();
        polled
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.0).body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.0).body.size_hint()
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
}
