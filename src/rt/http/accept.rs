//! The accept loop that every server of the process runs: one task a connection, a bound on how many are open, and an
//! orderly end. Called by `http::server` and `rpc::server`.

use crate::rt::{
    net::{Listener, Stream},
    shutdown::Shutdown,
    spawn, time,
};
use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::Semaphore;

/// How long to wait after a failed accept. Mostly it fails for want of file descriptors; trying at once would spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(10);

/// What a server's connections did so far; for metrics. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct ConnectionStats(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    ended: AtomicU64,
    refused: AtomicU64,
    timed_out: AtomicU64,
    accept_failed: AtomicU64,
}

impl ConnectionStats {
    /// Connections taken since the start.
    pub fn accepted(&self) -> u64 {
        self.0.accepted.load(Ordering::Relaxed)
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        let ended = self.0.ended.load(Ordering::Acquire);
        self.accepted().saturating_sub(ended)
    }

    /// Connections closed at once because too many were open.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Connections closed because the client was too slow or idle for too long.
    pub fn timed_out(&self) -> u64 {
        self.0.timed_out.load(Ordering::Relaxed)
    }

    /// Accepts that failed.
    pub fn accept_failed(&self) -> u64 {
        self.0.accept_failed.load(Ordering::Relaxed)
    }

    pub(super) fn count_timed_out(&self) {
        self.0.timed_out.fetch_add(1, Ordering::Relaxed);
    }
}

/// The signals a connection's task obeys.
#[derive(Clone, Debug)]
pub(in crate::rt) struct Stop {
    /// Finish what is in flight, take nothing new, then end.
    pub drain: Shutdown,
    /// End now.
    pub cut: Shutdown,
}

/// The bounds of an accept loop.
#[derive(Clone, Debug)]
pub(in crate::rt) struct AcceptLimits {
    pub connections_max: usize,
    pub drain_timeout: Duration,
}

/// Cuts every connection when the loop ends, in whatever way: also when its future is dropped.
struct CutOnDrop(Shutdown);

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.0.trigger();
    }
}

/// Counts a connection as ended when its task ends, in whatever way.
struct Open(ConnectionStats);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.ended.fetch_add(1, Ordering::Release);
    }
}

/// Accepts until `shutdown`, running `serve` as a task for each connection; then closes the port, lets the connections
/// finish for at most `drain_timeout`, and cuts the rest. When it returns, no connection is left.
pub(in crate::rt) async fn accept_loop<S, F>(
    listener: Listener,
    limits: AcceptLimits,
    stats: ConnectionStats,
    shutdown: Shutdown,
    serve: S,
) where
    S: Fn(Stream, SocketAddr, Stop) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let connections_max = u32::try_from(limits.connections_max.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX).max(1);
    let slots = Arc::new(Semaphore::new(connections_max as usize));
    let cut = CutOnDrop(Shutdown::new());
    let stop = Stop { drain: shutdown.clone(), cut: cut.0.clone() };
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.wait() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(connection) => connection,
            Err(error) => {
                stats.0.accept_failed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%error, "accept failed");
                if !is_one_connections(&error) {
                    time::sleep(ACCEPT_RETRY).await;
                }
                continue;
            }
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            // Closing tells the client at once; keeping it in the backlog would let it time out.
            stats.0.refused.fetch_add(1, Ordering::Relaxed);
            drop(stream);
            continue;
        };
        stats.0.accepted.fetch_add(1, Ordering::Relaxed);
        let open = Open(stats.clone());
        let connection = serve(stream, peer, stop.clone());
        drop(spawn("http.connection", async move {
            connection.await;
            drop(open);
            drop(slot);
        }));
    }
    drop(listener);
    // All slots back means no connection left.
    if time::timeout(limits.drain_timeout, slots.acquire_many(connections_max)).await.is_err() {
        cut.0.trigger();
        let _all = slots.acquire_many(connections_max).await;
    }
}

/// Whether a failed accept concerns only the connection that was to be accepted: its client left before its turn came.
fn is_one_connections(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}
