//! HTTP/1.1 and HTTP/2 on one port: the first bytes of a connection say which it speaks (HTTP/2 with prior knowledge, as gRPC
//! clients do). Called by `gateway`.

use super::{
    HttpOptions,
    accept::{AcceptLimits, Stop, accept_loop},
    connection::{Activity, HTTP2_PREFACE, Watched, drive},
    server,
};
use crate::rt::{
    net::{Listener, Stream},
    rpc::{self, RpcOptions},
    shutdown::Shutdown,
    time::{self, Elapsed},
};
use axum::{Router, extract::DefaultBodyLimit};
use hyper_util::rt::TokioIo;
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// Serves `router` on `listener` until `shutdown`, then drains, as [`super::serve`] and [`rpc::serve`] do: `http` bounds the
/// connections and everything of HTTP/1.1, `rpc` what is HTTP/2's own. Returns when no connection is left.
pub async fn serve_both(listener: Listener, router: Router, http: HttpOptions, rpc: RpcOptions, shutdown: Shutdown) {
    let limits = AcceptLimits { connections_max: http.connections_max, drain_timeout: http.drain_timeout };
    let router = router.layer(DefaultBodyLimit::disable()).with_state(());
    accept_loop(listener, limits, http.stats.clone(), shutdown, |stream, peer, stop| {
        one(stream, peer, stop, router.clone(), http.clone(), rpc.clone())
    })
    .await;
}

/// One connection, to its end.
async fn one(stream: Stream, peer: SocketAddr, stop: Stop, router: Router, http: HttpOptions, rpc: RpcOptions) {
    let begun = tokio::select! {
        biased;
        () = stop.cut.wait() => return,
        () = stop.drain.wait() => return,
        begun = begin(stream, http.head_read_timeout) => begun,
    };
    let (stream, is_http2) = match begun {
        Ok(Some(begun)) => begun,
        // A client that leaves before it has said anything is nobody's business.
        Ok(None) => return,
        Err(_elapsed) => return http.stats.count_timed_out(),
    };
    let activity = Activity::new();
    let stats = http.stats.clone();
    if is_http2 {
        let io = TokioIo::new(Watched::http2(stream, activity.clone()));
        let limits = (http.body_bytes_max, http.body_read_timeout);
        let handler = rpc::server::handler(router, peer, Some(limits));
        let connection = rpc::server::builder(&rpc).serve_connection(io, handler);
        drive(connection, activity, rpc::server::patience(&rpc), stop, stats).await;
    } else {
        let handler = server::Handler::new(router, activity.clone(), peer, &http);
        let io = TokioIo::new(Watched::http1(stream, activity.clone()));
        let connection = server::builder(&http).serve_connection(io, handler);
        drive(connection, activity, server::patience(&http), stop, stats).await;
    }
}

/// Reads until it is clear what is spoken, and gives back the stream as if nothing had been read; `None` where it has ended.
async fn begin(mut stream: Stream, limit: Duration) -> Result<Option<(Rewound, bool)>, Elapsed> {
    let mut read = Vec::with_capacity(HTTP2_PREFACE.len());
    let reading = async {
        while read.len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(&read) {
            let mut byte = [0; HTTP2_PREFACE.len()];
            let wanted = HTTP2_PREFACE.len() - read.len();
            match stream.read(&mut byte[..wanted]).await {
                Ok(0) | Err(_) => return,
                Ok(count) => read.extend_from_slice(&byte[..count]),
            }
        }
    };
    time::timeout(limit, reading).await?;
    let is_http2 = read == HTTP2_PREFACE;
    Ok((!read.is_empty()).then_some((Rewound { read, given: 0, stream }, is_http2)))
}

/// A stream whose first bytes have been read already.
#[derive(Debug)]
struct Rewound {
    read: Vec<u8>,
    given: usize,
    stream: Stream,
}

impl AsyncRead for Rewound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.given == self.read.len() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = buf.remaining().min(self.read.len() - self.given);
        buf.put_slice(&self.read[self.given..self.given + count]);
        self.given += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
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
