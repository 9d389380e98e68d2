//! One signal, given once, that many tasks wait for: "stop". Cheap to clone and to test; waking is in the order in which
//! the waiters came, so the simulation replays it. Called by `node`, which triggers it, and by every server loop.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::Notify;

/// A stop signal. All clones are one signal; once triggered it stays so.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(Arc<Signal>);

#[derive(Debug, Default)]
struct Signal {
    triggered: AtomicBool,
    waiters: Notify,
}

impl Shutdown {
    /// A signal that nobody has given yet.
    pub fn new() -> Shutdown {
        Shutdown::default()
    }

    /// Gives the signal. Giving it again does nothing.
    pub fn trigger(&self) {
        if !self.0.triggered.swap(true, Ordering::AcqRel) {
            self.0.waiters.notify_waiters();
        }
    }

    /// Whether the signal was given. One atomic load.
    pub fn is_triggered(&self) -> bool {
        self.0.triggered.load(Ordering::Acquire)
    }

    /// Waits for the signal; returns at once if it was given before.
    pub async fn wait(&self) {
        let notified = self.0.waiters.notified();
        // `notified` counts from its creation, so a trigger between these two lines is not lost.
        if !self.is_triggered() {
            notified.await;
        }
    }
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;
    use crate::rt::{spawn, time};
    use std::time::Duration;

    #[tokio::test]
    async fn every_waiter_early_or_late_is_woken() {
        let shutdown = Shutdown::new();
        assert!(!shutdown.is_triggered());
        let waits = time::timeout(Duration::from_millis(5), shutdown.wait()).await;
        assert!(waits.is_err(), "nobody triggered it yet");

        let early: Vec<_> = (0..4)
            .map(|_| {
                let shutdown = shutdown.clone();
                spawn("waiter", async move { shutdown.wait().await })
            })
            .collect();
        crate::rt::yield_now().await;
        shutdown.trigger();
        shutdown.trigger();
        for waiter in early {
            time::timeout(Duration::from_secs(5), waiter).await.expect("woken").expect("ended well");
        }
        shutdown.wait().await;
        assert!(shutdown.is_triggered());
    }
}
