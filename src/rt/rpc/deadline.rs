//! The one deadline of a call, and the one translation of transport errors. Called by `rpc::server` and `rpc::channel`.

use crate::rt::{
    BoxError,
    time::{self, Instant, Sleep},
};
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tonic::{Code, Status, body::Body};

/// When the call with these headers must be over, counted from now. A header that is no timeout is none (as in tonic).
pub(super) fn deadline(headers: &HeaderMap) -> Option<Instant> {
    let value = headers.get("grpc-timeout")?;
    parse_timeout(value.as_bytes()).map(|timeout| time::now() + timeout)
}

/// Reads the value of `grpc-timeout`: one to eight digits and a unit (gRPC over HTTP/2, "Requests").
fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (&unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0_u64, |count, digit| count * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(count * 3_600)),
        b'M' => Some(Duration::from_secs(count * 60)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// The status of a call whose time is up.
pub(super) fn expired() -> Status {
    Status::deadline_exceeded("the call's deadline has passed")
}

/// The status of a call that the transport could not carry. tonic maps what it knows; a broken socket comes out as
/// Unknown, a connection that closed under a call as Cancelled, and one that the other side gave up (its pings were not
/// answered) as Internal, but to a caller all mean: not there, try elsewhere. A status that the other side sent stays.
pub(super) fn transport_status(error: BoxError) -> Status {
    let sent = error.is::<Status>();
    let status = Status::from_error(error);
    match status.code() {
        Code::Internal if !sent => Status::unavailable(format!("connection lost: {}", status.message())),
        Code::Unknown | Code::Cancelled => Status::unavailable(format!("connection lost: {}", status.message())),
        _ => status,
    }
}

/// What the end of a body by error looks like to who reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Reading from the network: errors are the transport's, and a passed deadline is an error.
    Client,
    /// Writing to the network: a passed deadline is an orderly end with trailers, so that the client learns the status.
    Server,
}

/// A body that ends when the call's time is up.
pub(super) struct DeadlineBody<B> {
    inner: Option<B>,
    sleep: Option<Pin<Box<Sleep>>>,
    side: Side,
}

/// Puts the deadline over an answer's body. An answer without a body passes as it is.
pub(super) fn bound<B>(response: Response<B>, deadline: Option<Instant>, side: Side) -> Response<Body>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    response.map(|inner| {
        if inner.is_end_stream() {
            return Body::new(inner);
        }
        if deadline.is_none() && side == Side::Server {
            return Body::new(inner);
        }
        let sleep = deadline.map(|deadline| Box::pin(time::sleep_until(deadline)));
        Body::new(DeadlineBody { inner: Some(inner), sleep, side })
    })
}

impl<B> DeadlineBody<B> {
    fn expire(&mut self) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // Drops the handler's stream, or resets the server's, at once rather than when the reader lets go.
        self.inner = None;
        let status = expired();
        if self.side == Side::Client {
            return Poll::Ready(Some(Err(status)));
        }
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }
}

impl<B> HttpBody for DeadlineBody<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(inner).poll_frame(cx) {
            let side = self.side;
            return Poll::Ready(frame.map(|frame| {
                frame.map_err(|error| match side {
                    Side::Client => transport_status(error.into()),
                    Side::Server => Status::from_error(error.into()),
                })
            }));
        }
        let timed_out = self.sleep.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready());
        if timed_out { self.expire() } else { Poll::Pending }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

/// Runs `future` until `deadline`, if there is one.
pub(super) async fn within<F: Future>(deadline: Option<Instant>, future: F) -> Result<F::Output, Status> {
    match deadline {
        None => Ok(future.await),
        Some(deadline) => time::timeout_at(deadline, future).await.map_err(|_| expired()),
    }
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_writes_them() {
        let seconds = Duration::from_secs;
        for (value, expected) in [
            ("1H", Some(seconds(3_600))),
            ("2M", Some(seconds(120))),
            ("30S", Some(seconds(30))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("0m", Some(Duration::ZERO)),
            ("", None),
            ("m", None),
            ("123456789m", None),
            ("-1S", None),
            ("1.5S", None),
            ("5s", None),
            ("5", None),
        ] {
            assert_eq!(parse_timeout(value.as_bytes()), expected, "{value:?}");
        }
    }

    #[test]
    fn broken_and_draining_connections_are_unavailable_and_real_statuses_stay() {
        let broken = std::io::Error::new(std::io::ErrorKind::BrokenPipe, "gone");
        assert_eq!(transport_status(Box::new(broken)).code(), Code::Unavailable);
        assert_eq!(transport_status(Box::new(Status::cancelled("drained"))).code(), Code::Unavailable);
        assert_eq!(transport_status(Box::new(Status::not_found("x"))).code(), Code::NotFound);
        assert_eq!(transport_status(Box::new(Status::internal("a bug"))).code(), Code::Internal);
    }
}
