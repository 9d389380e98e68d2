//! A network that pretends to be cut, for `cluster dev`: connections that this process dialled to certain addresses stand
//! still, in both directions, as if packets were lost; new ones are not made until the cut heals. When both nodes of a pair
//! cut each other, nothing passes between them, because each carries one direction's connections.
//!
//! Off unless the options of a channel name a [`Cuts`]; then it costs one lock a read or write. Called by `rpc::channel`.

use crate::rt::net::{self, Stream};
use std::{
    collections::BTreeSet,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The addresses that cannot be reached now. Clones are one set.
#[derive(Clone, Debug, Default)]
pub struct Cuts(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    addresses: BTreeSet<String>,
    /// Tasks that wait for a cut to heal.
    waiting: Vec<Waker>,
}

impl Cuts {
    /// Cuts these addresses (`host:port`, as they are dialled) and no others.
    pub fn set(&self, addresses: BTreeSet<String>) {
        let woken = {
            let mut inner = self.inner();
            inner.addresses = addresses;
            std::mem::take(&mut inner.waiting)
        };
        woken.into_iter().for_each(Waker::wake);
    }

    /// The addresses cut now.
    pub fn addresses(&self) -> BTreeSet<String> {
        self.inner().addresses.clone()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Both fields are valid on their own, so a panic elsewhere cannot have broken the whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready when `addr` is not cut; else the task is woken by the next change.
    fn poll_open(&self, addr: &str, cx: &Context<'_>) -> Poll<()> {
        let mut inner = self.inner();
        if !inner.addresses.contains(addr) {
            return Poll::Ready(());
        }
        if !inner.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            inner.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// Opens a connection to `addr` that stands still while `cuts` has it. As [`net::dial`]: put a limit around it.
///
/// # Errors
/// As [`net::dial`].
pub(in crate::rt) async fn dial(addr: &str, cuts: Option<&Cuts>) -> io::Result<Cuttable> {
    if let Some(cuts) = cuts {
        std::future::poll_fn(|cx| cuts.poll_open(addr, cx)).await;
    }
    let stream = net::dial(addr).await?;
    Ok(Cuttable { stream, cuts: cuts.map(|cuts| (cuts.clone(), addr.to_owned())) })
}

/// A connection that may be cut.
#[derive(Debug)]
pub(in crate::rt) struct Cuttable {
    stream: Stream,
    cuts: Option<(Cuts, String)>,
}

impl Cuttable {
    fn poll_open(&self, cx: &Context<'_>) -> Poll<()> {
        match &self.cuts {
            Some((cuts, addr)) => cuts.poll_open(addr, cx),
            None => Poll::Ready(()),
        }
    }
}

impl AsyncRead for Cuttable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_open(cx));
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Cuttable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_open(cx));
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_open(cx));
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_open(cx));
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;
    use crate::rt::{spawn, time};
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_cut_connection_stands_still_and_goes_on_when_it_heals() {
        let listener = net::Listener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("bound").to_string();
        drop(spawn("echo", async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                drop(spawn("echo.one", async move {
                    let mut word = [0; 4];
                    while stream.read_exact(&mut word).await.is_ok() && stream.write_all(&word).await.is_ok() {}
                }));
            }
        }));
        let cuts = Cuts::default();
        let mut stream = dial(&addr, Some(&cuts)).await.expect("someone listens");
        stream.write_all(b"one.").await.expect("written");
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.expect("echoed");
        // An answer that was on its way when the cut came does not arrive.
        stream.write_all(b"two.").await.expect("written");
        cuts.set([addr.clone()].into());
        let brief = Duration::from_millis(60);
        assert!(time::timeout(brief, stream.read_exact(&mut word)).await.is_err(), "read through a cut");
        assert!(time::timeout(brief, stream.write_all(b"lost")).await.is_err(), "wrote through a cut");
        assert!(time::timeout(brief, dial(&addr, Some(&cuts))).await.is_err(), "dialled through a cut");
        let waiting = spawn("waiting", async move {
            stream.read_exact(&mut word).await.expect("heals");
            word
        });
        time::sleep(brief).await;
        cuts.set(BTreeSet::new());
        let word = time::timeout(Duration::from_secs(5), waiting).await.expect("woken").expect("no panic");
        assert_eq!(&word, b"two.");
        assert!(cuts.addresses().is_empty());
    }
}
