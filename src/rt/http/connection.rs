//! One connection from its first byte to its last: drives hyper's state machine, and watches over it. The watchdog costs
//! nothing per request: reads, requests and writes only note the time in [`Activity`], and one timer, set to the earliest
//! moment at which any limit could be broken, looks at the notes when it fires.
//!
//! Called by `http::server`, `http::both` and `rpc::server`.

use super::accept::{ConnectionStats, Stop};
use crate::rt::{
    net::Stream,
    time::{self, Instant},
};
use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How long a connection may stay in each state before it is closed.
#[derive(Clone, Copy, Debug)]
pub(in crate::rt) struct PatienceLimits {
    /// From the first byte of a request (or, on a new connection, from its start) to the end of its head.
    pub head: Duration,
    /// Between requests.
    pub idle: Duration,
    /// For the client to take one more byte of an answer.
    pub write: Duration,
}

/// What the client is doing, as far as the watchdog cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// Nothing since the last answer.
    Idle,
    /// It is sending the head of a request, or has yet to send its first byte.
    Head,
    /// A request is being worked on: its body and its handler have limits of their own.
    Busy,
}

/// Notes about one connection. Written by the connection's own task only; atomics because hyper wants `Send` and `Sync`.
#[derive(Debug)]
pub(in crate::rt) struct Activity {
    phase: AtomicU8,
    since_nanos: AtomicU64,
    /// When the socket first refused to take more; 0 while it takes what it is given.
    write_stalled_nanos: AtomicU64,
}

impl Activity {
    pub(in crate::rt) fn new() -> Arc<Activity> {
        Arc::new(Activity {
            phase: AtomicU8::new(Phase::Head as u8),
            since_nanos: AtomicU64::new(time::now().as_nanos()),
            write_stalled_nanos: AtomicU64::new(0),
        })
    }

    /// A request's head has been read.
    pub(in crate::rt) fn request_began(&self) {
        self.phase.store(Phase::Busy as u8, Ordering::Relaxed);
    }

    /// The last answer has been handed over in full.
    pub(in crate::rt) fn request_ended(&self) {
        self.since_nanos.store(time::now().as_nanos(), Ordering::Relaxed);
        self.phase.store(Phase::Idle as u8, Ordering::Relaxed);
    }

    /// Whether the client has nothing under way.
    fn is_idle(&self) -> bool {
        self.phase() == Phase::Idle
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Idle,
            1 => Phase::Head,
            _ => Phase::Busy,
        }
    }

    fn bytes_came(&self) {
        if self.is_idle() {
            self.since_nanos.store(time::now().as_nanos(), Ordering::Relaxed);
            self.phase.store(Phase::Head as u8, Ordering::Relaxed);
        }
    }

    fn write_stalled(&self) {
        if self.write_stalled_nanos.load(Ordering::Relaxed) == 0 {
            self.write_stalled_nanos.store(time::now().as_nanos().max(1), Ordering::Relaxed);
        }
    }

    fn write_went_on(&self) {
        if self.write_stalled_nanos.load(Ordering::Relaxed) != 0 {
            self.write_stalled_nanos.store(0, Ordering::Relaxed);
        }
    }

    /// The state the connection is in must end by then.
    fn deadline(&self, limits: &PatienceLimits) -> Option<Instant> {
        let since = Instant::from_nanos(self.since_nanos.load(Ordering::Relaxed));
        let phase = match self.phase() {
            Phase::Idle => Some(since + limits.idle),
            Phase::Head => Some(since + limits.head),
            Phase::Busy => None,
        };
        let write = match self.write_stalled_nanos.load(Ordering::Relaxed) {
            0 => None,
            stalled => Some(Instant::from_nanos(stalled) + limits.write),
        };
        phase.into_iter().chain(write).min()
    }

    /// When to look next: at the deadline of the state as it is, but no later than any state entered meanwhile could end.
    fn next_look(&self, limits: &PatienceLimits, now: Instant) -> Instant {
        let soonest = now + limits.head.min(limits.idle).min(limits.write);
        self.deadline(limits).map_or(soonest, |deadline| deadline.min(soonest))
    }
}

/// A stream that notes what happens on it.
#[derive(Debug)]
pub(in crate::rt) struct Watched<S = Stream> {
    stream: S,
    activity: Arc<Activity>,
    /// HTTP/2 has no requests at this level: once this many bytes have come (its preface), the client has shown that it
    /// speaks, and HTTP/2's own pings take over.
    preface_left: Option<usize>,
}

/// The client's HTTP/2 connection preface (RFC 9113, section 3.4).
pub(super) const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl<S> Watched<S> {
    pub(in crate::rt) fn http1(stream: S, activity: Arc<Activity>) -> Watched<S> {
        Watched { stream, activity, preface_left: None }
    }

    pub(in crate::rt) fn http2(stream: S, activity: Arc<Activity>) -> Watched<S> {
        Watched { stream, activity, preface_left: Some(HTTP2_PREFACE.len()) }
    }

    fn note_read(&mut self, bytes: usize) {
        match &mut self.preface_left {
            None => self.activity.bytes_came(),
            Some(0) => {}
            Some(left) => {
                *left = left.saturating_sub(bytes);
                if *left == 0 {
                    self.activity.request_began();
                }
            }
        }
    }

    fn note_write(&self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Pending => self.activity.write_stalled(),
            Poll::Ready(_) => self.activity.write_went_on(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let filled_before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let bytes = buf.filled().len() - filled_before;
        if bytes > 0 {
            self.note_read(bytes);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note_write(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note_write(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A connection of hyper's that can be asked to finish.
pub(in crate::rt) trait Connection: Future<Output = hyper::Result<()>> {
    fn finish(self: Pin<&mut Self>);
}

impl<I, S, B> Connection for hyper::server::conn::http1::Connection<I, S>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<crate::rt::BoxError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: hyper::body::Body + 'static,
    B::Error: Into<crate::rt::BoxError>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S, B, E> Connection for hyper::server::conn::http2::Connection<I, S, E>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<crate::rt::BoxError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: hyper::body::Body + 'static,
    B::Error: Into<crate::rt::BoxError>,
    E: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Runs `connection` until it ends, is told to stop, or loses patience with its client.
///
/// Must be a task of its own (or the last thing a task does): the stop signals are asked once, when it starts, and after
/// that only when they were given, which is sound because a task's wakers all wake the same task.
pub(in crate::rt) async fn drive<C: Connection>(
    connection: C,
    activity: Arc<Activity>,
    limits: PatienceLimits,
    stop: Stop,
    stats: ConnectionStats,
) {
    let mut connection = pin!(connection);
    let mut drain = pin!(stop.drain.wait());
    let mut cut = pin!(stop.cut.wait());
    let mut watchdog = pin!(time::sleep_until(activity.next_look(&limits, time::now())));
    let (mut registered, mut draining) = (false, false);
    poll_fn(|cx| {
        if (!registered || stop.cut.is_triggered()) && cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if !draining && (!registered || stop.drain.is_triggered()) && drain.as_mut().poll(cx).is_ready() {
            draining = true;
            connection.as_mut().finish();
        }
        registered = true;
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        while watchdog.as_mut().poll(cx).is_ready() {
            let now = time::now();
            if activity.deadline(&limits).is_some_and(|deadline| deadline <= now) {
                stats.count_timed_out();
                return Poll::Ready(());
            }
            watchdog.set(time::sleep_until(activity.next_look(&limits, now)));
        }
        Poll::Pending
    })
    .await;
}
