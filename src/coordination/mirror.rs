//! A node's own copy of the keys below a prefix, kept by listing once and watching from there: read without waiting, and still there
//! when the coordinator is not, with the time since which nobody has confirmed it. Called by `registry`, `election` and whoever
//! follows keys of the coordinator.

use super::{
    Committed, CoordinationError, Coordinator, Event, KeyValue, Listed, Revision, Transaction, Watch, WatchError,
};
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

/// The keys of a mirror, and of when they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub entries: Arc<Entries>,
    /// They are as they were at this revision, with everything that happened up to it.
    pub revision: Revision,
}

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
    seen: ArcSwap<Seen>,
    state: Mutex<State>,
    /// Why the coordinator could not be listed the last time, while that is so.
    problem: Mutex<Option<String>>,
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
        self.0.shared.seen.load().entries.clone()
    }

    /// The same with the revision at which they were so; 0 before the first answer.
    pub fn seen(&self) -> Arc<Seen> {
        self.0.shared.seen.load_full()
    }

    /// When what is here was last known to be what the coordinator has; none before the first answer.
    pub fn confirmed(&self) -> Option<Instant> {
        self.0.shared.state().confirmed
    }

    /// Why the coordinator does not tell what it holds, while it does not.
    pub fn problem(&self) -> Option<String> {
        self.0.shared.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

    fn set_problem(&self, problem: Option<String>) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    fn publish(&self, entries: Entries, revision: Revision) {
        self.seen.store(Arc::new(Seen { entries: Arc::new(entries), revision }));
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
        let mut pause = PAUSE_FIRST;
        loop {
            let after = self.list().await;
            let listed_at = time::now();
            let mut watch = self.coordinator.watch(&self.prefix, after);
            self.watch(&mut *watch).await;
            // A member that is behind may list, again and again, what can be watched no more.
            pause = if listed_at.elapsed() > PAUSE_MAX { PAUSE_FIRST } else { (pause * 2).min(PAUSE_MAX) };
            time::sleep(pause).await;
        }
    }

    /// Puts what is there in place of the copy; the revision it was read at.
    async fn list(&self) -> Revision {
        let mut pause = PAUSE_FIRST;
        loop {
            let asked = time::now();
            match time::timeout(ASK_LIMIT, self.newest()).await {
                Ok(Ok(Some(Listed { revision, entries }))) => {
                    self.shared.set_problem(None);
                    self.shared.confirm(asked);
                    self.shared.publish(entries.into_iter().map(|kv| (kv.key.clone(), kv)).collect(), revision);
                    return revision;
                }
                Ok(Ok(None)) => self.cannot_list("the member that was asked is behind".to_owned()),
                Ok(Err(error)) => self.cannot_list(error.to_string()),
                Err(elapsed) => self.cannot_list(elapsed.to_string()),
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// What is there; none if a member answered that is behind what this copy shows already, or the copy would go back. A coordinator
    /// that is behind as a whole was put back to an older state, and that is then what there is.
    async fn newest(&self) -> Result<Option<Listed>, CoordinationError> {
        let seen = self.shared.seen.load().revision;
        let listed = self.coordinator.list(&self.prefix).await?;
        if listed.revision >= seen {
            return Ok(Some(listed));
        }
        rt::mark("a mirror was shown an older state than its own");
        // A transaction is decided by all of them.
        let decided = self.coordinator.commit(Transaction::default()).await?;
        Ok(matches!(decided, Committed::At(now) if now < seen).then_some(listed))
    }

    fn cannot_list(&self, problem: String) {
        tracing::debug!(prefix = self.prefix, problem, "the coordinator cannot be listed");
        self.shared.set_problem(Some(problem));
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
                // Not gone on with: in between, an older state may have been put in its place, and lived on past where this was.
                Err(WatchError::Unavailable(error)) => {
                    tracing::debug!(prefix = self.prefix, error, "the coordinator cannot be watched just now");
                    return;
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
        let seen = self.shared.seen.load_full();
        let (mut entries, mut revision) = (Entries::clone(&seen.entries), seen.revision);
        for event in events {
            revision = revision.max(event.revision());
            match event {
                Event::Put(kv) => entries.insert(kv.key.clone(), kv),
                Event::Delete(key, _) => entries.remove(&key),
            };
        }
        self.shared.publish(entries, revision);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordination::{BoxFuture, KeptAlive, LeaseId};
    use std::collections::VecDeque;

    /// A coordinator of which each listing is of another revision, and that cannot be watched until the last one.
    struct Members {
        listings: Mutex<VecDeque<Revision>>,
        /// What it is at as a whole.
        revision: Revision,
    }

    struct Watched(bool);

    impl Watch for Watched {
        fn next(&mut self) -> BoxFuture<'_, Result<Vec<Event>, WatchError>> {
            let is_over = self.0;
            Box::pin(async move {
                match is_over {
                    true => std::future::pending().await,
                    false => Err(WatchError::Unavailable("broken off".to_owned())),
                }
            })
        }
    }

    impl Coordinator for Members {
        fn get<'a>(&'a self, _key: &'a str) -> BoxFuture<'a, Result<Option<KeyValue>, CoordinationError>> {
            Box::pin(async { Ok(None) })
        }

        fn list<'a>(&'a self, _prefix: &'a str) -> BoxFuture<'a, Result<Listed, CoordinationError>> {
            let revision = self.listings.lock().unwrap().pop_front().expect("the last one can be watched from");
            Box::pin(async move { Ok(Listed { revision, entries: Vec::new() }) })
        }

        fn remembered(&self, _prefix: &str) -> Result<Vec<KeyValue>, CoordinationError> {
            unreachable!("a mirror asks for what there is")
        }

        fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<Committed, CoordinationError>> {
            assert!(transaction.changes.is_empty() && transaction.compares.is_empty(), "a mirror changes nothing");
            let revision = self.revision;
            Box::pin(async move { Ok(Committed::At(revision)) })
        }

        fn watch(&self, _prefix: &str, _after: Revision) -> Box<dyn Watch> {
            Box::new(Watched(self.listings.lock().unwrap().is_empty()))
        }

        fn grant(&self, _ttl: Duration) -> BoxFuture<'_, Result<LeaseId, CoordinationError>> {
            unreachable!("a mirror has no lease")
        }

        fn keep_alive(&self, _lease: LeaseId) -> BoxFuture<'_, Result<KeptAlive, CoordinationError>> {
            unreachable!("a mirror has no lease")
        }

        fn revoke(&self, _lease: LeaseId) -> BoxFuture<'_, Result<(), CoordinationError>> {
            unreachable!("a mirror has no lease")
        }
    }

    /// The revisions that a mirror shows of these listings, until the last of them.
    async fn shown(listings: &[Revision], revision: Revision) -> Vec<Revision> {
        let last = *listings.last().unwrap();
        let coordinator = Members { listings: Mutex::new(listings.iter().copied().collect()), revision };
        let mirror = Mirror::follow(Arc::new(coordinator), "");
        let (mut shown, mut version) = (Vec::new(), 0);
        while shown.last() != Some(&last) {
            version = time::timeout(Duration::from_secs(20), mirror.changed(version)).await.expect("it goes on");
            shown.push(mirror.seen().revision);
        }
        shown
    }

    #[tokio::test]
    async fn a_member_that_is_behind_is_not_believed() {
        assert_eq!(shown(&[5, 9, 7, 4, 12], 12).await, [5, 9, 12]);
    }

    #[tokio::test]
    async fn a_coordinator_that_was_put_back_is_shown_as_it_is() {
        assert_eq!(shown(&[5, 9, 4], 4).await, [5, 9, 4]);
    }
}
