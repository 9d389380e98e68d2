//! A node's own copy of the keys below a prefix, kept by listing once and watching from there: read without waiting, and still there
//! when the coordinator is not, with the time since which nobody has confirmed it. Called by `registry`, `election` and whoever
//! follows keys of the coordinator.

use super::{Coordinator, Event, KeyValue, Listed, Revision, Watch, WatchError};
use crate::rt::{
    self, Shutdown,
    time::{self, Instant},
};
use arc_swap::ArcSwap;
use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// How often the copy is confirmed while nothing changes.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(2);
/// How long one question to the coordinator may take.
const ASK_LIMIT: Duration = Duration::from_secs(4);
/// Between two attempts to list: doubled from the first to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The keys of a mirror at one moment.
pub type Entries = BTreeMap<String, KeyValue>;

/// See the module. Clones share the copy; it is kept until the last clone is dropped.
#[derive(Clone)]
pub struct Mirror(Arc<Kept>);

/// Ends the task with the last mirror.
struct Kept {
    shared: Arc<Shared>,
    stop: Shutdown,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.stop.trigger();
    }
}

#[derive(Default)]
struct Shared {
    entries: ArcSwap<Entries>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// Grows with every change of the copy.
    version: u64,
    /// When the coordinator was asked for what it then turned out to be.
    confirmed: Option<Instant>,
}

impl Mirror {
    /// Begins to keep the keys that begin with `prefix`. To be called inside the executor.
    pub fn follow(coordinator: Arc<dyn Coordinator>, prefix: &str) -> Mirror {
        let (shared, stop) = (Arc::<Shared>::default(), Shutdown::new());
        let following =
            Following { coordinator, prefix: prefix.to_owned(), shared: shared.clone(), stop: stop.clone() };
        drop(rt::spawn("coordinator-mirror", following.run()));
        Mirror(Arc::new(Kept { shared, stop }))
    }

    /// The keys as last known; empty before the first answer. Cost: one atomic load.
    pub fn entries(&self) -> Arc<Entries> {
        self.0.shared.entries.load_full()
    }

    /// When what is here was last known to be what the coordinator has; none before the first answer.
    pub fn confirmed(&self) -> Option<Instant> {
        self.0.shared.state().confirmed
    }

    /// Which version of the copy this is; 0 before the first answer.
    pub fn version(&self) -> u64 {
        self.0.shared.state().version
    }

    /// Waits for a version after `seen`; which one it is. For any number of waiters.
    pub async fn changed(&self, seen: u64) -> u64 {
        loop {
            let mut changed = pin!(self.0.shared.changed.notified());
            changed.as_mut().enable();
            let version = self.version();
            if version > seen {
                return version;
            }
            changed.await;
        }
    }
}

impl Shared {
    fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn confirm(&self, asked: Instant) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).confirmed = Some(asked);
    }

    fn publish(&self, entries: Entries) {
        self.entries.store(Arc::new(entries));
        self.state.lock().unwrap_or_else(PoisonError::into_inner).version += 1;
        self.changed.notify_waiters();
    }
}

/// The task of a mirror.
struct Following {
    coordinator: Arc<dyn Coordinator>,
    prefix: String,
    shared: Arc<Shared>,
    stop: Shutdown,
}

impl Following {
    async fn run(self) {
        let stop = self.stop.clone();
        tokio::select! {
            biased;
            () = stop.wait() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&self) {
        loop {
            let after = self.list().await;
            let mut watch = self.coordinator.watch(&self.prefix, after);
            self.watch(&mut *watch).await;
        }
    }

    /// Puts what is there in place of the copy; the revision it was read at.
    async fn list(&self) -> Revision {
        let mut pause = PAUSE_FIRST;
        loop {
            let asked = time::now();
            match time::timeout(ASK_LIMIT, self.coordinator.list(&self.prefix)).await {
                Ok(Ok(Listed { revision, entries })) => {
                    self.shared.confirm(asked);
                    self.shared.publish(entries.into_iter().map(|kv| (kv.key.clone(), kv)).collect());
                    return revision;
                }
                Ok(Err(error)) => tracing::debug!(prefix = self.prefix, %error, "the coordinator cannot be listed"),
                Err(elapsed) => tracing::debug!(prefix = self.prefix, %elapsed, "the coordinator cannot be listed"),
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Follows until it has to list again.
    async fn watch(&self, watch: &mut dyn Watch) {
        let mut confirm_at = time::now() + CONFIRM_INTERVAL;
        loop {
            let next = tokio::select! {
                biased;
                next = watch.next() => next,
                () = time::sleep_until(confirm_at) => {
                    self.ask().await;
                    confirm_at = time::now() + CONFIRM_INTERVAL;
                    continue;
                }
            };
            match next {
                Ok(events) => self.apply(events),
                Err(WatchError::Unavailable(error)) => {
                    tracing::debug!(prefix = self.prefix, error, "the coordinator cannot be watched just now");
                }
                Err(error @ WatchError::Compacted { .. }) => {
                    tracing::info!(prefix = self.prefix, %error, "the coordinator is listed again");
                    return;
                }
                Err(error @ WatchError::Corrupt(_)) => {
                    tracing::error!(prefix = self.prefix, %error, "the coordinator is listed again");
                    time::sleep(PAUSE_MAX).await;
                    return;
                }
            }
        }
    }

    /// Whether anything has changed is told by the watch; whether it still can be is asked here.
    async fn ask(&self) {
        let asked = time::now();
        if let Ok(Ok(_)) = time::timeout(ASK_LIMIT, self.coordinator.get(&self.prefix)).await {
            self.shared.confirm(asked);
        }
    }

    fn apply(&self, events: Vec<Event>) {
        let mut entries = Entries::clone(&self.shared.entries.load());
        for event in events {
            match event {
                Event::Put(kv) => entries.insert(kv.key.clone(), kv),
                Event::Delete(key, _) => entries.remove(&key),
            };
        }
        self.shared.publish(entries);
    }
}
