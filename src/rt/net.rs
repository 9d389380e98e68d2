//! TCP: a listener, a stream and a dialler. Nagle's algorithm is off everywhere: requests and log entries are whole
//! messages, and waiting to fill a packet only adds latency. Names are resolved by the system; in the simulation
//! addresses are `ip:port`.
//!
//! Called by `http` and `rpc`, which every server and client goes through. TLS will wrap [`Stream`] here.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, ToSocketAddrs},
};

#[cfg(madsim)]
use crate::rt::sim::links;

/// A bound socket that hands out connections. Dropping it closes the port.
pub struct Listener {
    inner: TcpListener,
    #[cfg(madsim)]
    _listening: links::Listening,
}

impl Listener {
    /// Binds `addr` (an address, `"host:port"`, or port 0 for any free one).
    ///
    /// # Errors
    /// What the system says: the port is taken, the address is not this machine's, or it is no address.
    pub async fn bind(addr: impl ToSocketAddrs) -> io::Result<Listener> {
        let inner = TcpListener::bind(addr).await?;
        #[cfg(madsim)]
        let _listening = links::Listening::new(inner.local_addr()?.port());
        Ok(Listener {
            inner,
            #[cfg(madsim)]
            _listening,
        })
    }

    /// The address it is bound to, with the real port.
    ///
    /// # Errors
    /// When the system has forgotten the socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// Waits for the next connection. Safe to drop while it waits: no connection is lost.
    ///
    /// # Errors
    /// Mostly passing ones (the peer has left already, no file descriptors): try again after a pause.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        let (inner, peer) = self.inner.accept().await?;
        Ok((Stream::new(inner), peer))
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// Opens a connection to `addr` (`"host:port"`). Across a cut network this waits, as a real one does, until the cut heals
/// or the caller gives up: always put a limit around it.
///
/// # Errors
/// The name is unknown, nobody listens there, or the network says no.
pub async fn dial(addr: &str) -> io::Result<Stream> {
    #[cfg(not(madsim))]
    let inner = TcpStream::connect(addr).await?;
    #[cfg(madsim)]
    let inner = links::connect(addr).await?;
    Ok(Stream::new(inner))
}

/// One TCP connection.
#[derive(Debug)]
pub struct Stream {
    inner: TcpStream,
    /// The simulated stream sends a packet at every flush, even an empty one, which the other side takes for the end of
    /// the stream; HTTP/2 flushes at every poll. So flush only after a write.
    #[cfg(madsim)]
    dirty: bool,
    /// Whose end of it may close unheard.
    #[cfg(madsim)]
    peer: Option<madsim::task::NodeId>,
}

impl Stream {
    fn new(inner: TcpStream) -> Stream {
        // Fails only when the peer has left already, which the next read will tell.
        let _ = inner.set_nodelay(true);
        Stream {
            #[cfg(madsim)]
            dirty: false,
            #[cfg(madsim)]
            peer: inner.peer_addr().ok().and_then(links::node_at),
            inner,
        }
    }
}

#[cfg(not(madsim))]
impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

#[cfg(not(madsim))]
impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(madsim)]
impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.inner).poll_read(cx, buf) {
            Poll::Ready(answer) if buf.filled().len() == before && buf.remaining() > 0 => {
                if self.hears_end(cx) {
                    Poll::Ready(answer)
                } else {
                    Poll::Pending
                }
            }
            other => other,
        }
    }
}

#[cfg(madsim)]
impl Stream {
    fn hears_end(&self, cx: &Context<'_>) -> bool {
        self.peer.is_none_or(|peer| links::hears_end(peer, cx))
    }
}

#[cfg(madsim)]
impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.dirty |= !buf.is_empty();
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.dirty {
            return Poll::Ready(Ok(()));
        }
        self.dirty = false;
        match Pin::new(&mut self.inner).poll_flush(cx) {
            // The other end is gone, but nothing has told this one: what it sends goes nowhere.
            Poll::Ready(Err(_)) if !self.hears_end(cx) => Poll::Ready(Ok(())),
            other => other,
        }
    }

    /// The simulated stream closes when it is dropped; what was written before must still go out.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.as_mut().poll_flush(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.inner).poll_shutdown(cx),
            other => other,
        }
    }
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn bytes_go_both_ways_and_the_end_is_seen() {
        let listener = Listener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("bound").to_string();
        let server = crate::rt::spawn("echo", async move {
            let (mut stream, _peer) = listener.accept().await?;
            let mut word = [0; 4];
            stream.read_exact(&mut word).await?;
            stream.write_all(&word).await?;
            stream.shutdown().await
        });
        let mut stream = dial(&addr).await.expect("someone listens");
        stream.write_all(b"ping").await.expect("written");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("read to the end");
        assert_eq!(answer, b"ping");
        server.await.expect("ended").expect("no i/o error");
    }

    #[tokio::test]
    async fn nobody_there_is_refused() {
        let listener = Listener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("bound").to_string();
        drop(listener);
        let error = dial(&addr).await.expect_err("nobody listens");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
