//! Being registered: one task keeps the lease alive, tells what has changed, makes the lease as long as the heartbeats are irregular,
//! and registers anew when the lease was lost. Called by `registry`.

use super::{
    NodeRecord,
    beat::{self, Gaps},
    key,
};
use crate::{
    coordination::{Change, CoordinationError, Coordinator, KeptAlive, LeaseId, OPERATIONS_MAX, Transaction},
    rt::{
        self, Shutdown,
        time::{self, Instant},
    },
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{Mutex as AsyncMutex, Notify};

/// How often a change of load alone is told.
const UPDATE_INTERVAL: Duration = Duration::from_secs(10);
/// How long one call to the coordinator may take.
const CALL_LIMIT: Duration = Duration::from_secs(3);

/// Nodes that are registered. Dropping it leaves them to be missed; [`Registration::leave`] takes them off at once.
pub struct Registration(Arc<Shared>);

struct Shared {
    coordinator: Arc<dyn Coordinator>,
    wanted: Mutex<BTreeMap<u64, NodeRecord>>,
    updated: Notify,
    /// Held over every call, so that leaving comes after what is under way.
    told: AsyncMutex<Told>,
    stop: Shutdown,
}

/// What the coordinator was told.
struct Told {
    lease: LeaseId,
    ttl: Duration,
    records: BTreeMap<u64, NodeRecord>,
    load_told_at: Instant,
    beaten_at: Instant,
    gaps: Gaps,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.0.stop.trigger();
    }
}

impl Registration {
    /// Registers nodes, all under one lease, and keeps them so until this is dropped or left.
    ///
    /// # Errors
    /// Those of the coordinator. `Indeterminate` ones are gone after a time to live.
    pub async fn begin(
        coordinator: Arc<dyn Coordinator>,
        records: Vec<NodeRecord>,
    ) -> Result<Registration, CoordinationError> {
        let wanted: BTreeMap<u64, NodeRecord> = records.into_iter().map(|record| (record.node, record)).collect();
        let gaps = Gaps::default();
        let (now, ttl) = (time::now(), gaps.ttl());
        let lease = coordinator.grant(ttl).await?;
        put(&*coordinator, lease, wanted.values()).await?;
        let told = Told { lease, ttl, records: wanted.clone(), load_told_at: now, beaten_at: now, gaps };
        let shared = Arc::new(Shared {
            coordinator,
            wanted: Mutex::new(wanted),
            updated: Notify::new(),
            told: AsyncMutex::new(told),
            stop: Shutdown::new(),
        });
        drop(rt::spawn("registration", keep(shared.clone())));
        Ok(Registration(shared))
    }

    /// What is to be told from now on. Load is told within ten seconds, anything else at once.
    pub fn update(&self, record: NodeRecord) {
        self.0.wanted().insert(record.node, record);
        self.0.updated.notify_one();
    }

    /// The time to live of the lease at present: it follows the heartbeats.
    pub async fn ttl(&self) -> Duration {
        self.0.told.lock().await.ttl
    }

    /// Takes the nodes off, all at once.
    ///
    /// # Errors
    /// Those of the coordinator; they are missed after a time to live then.
    pub async fn leave(self) -> Result<(), CoordinationError> {
        self.0.stop.trigger();
        let told = self.0.told.lock().await;
        self.0.coordinator.revoke(told.lease).await
    }
}

impl Shared {
    fn wanted(&self) -> MutexGuard<'_, BTreeMap<u64, NodeRecord>> {
        // Every change is one insert.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One round: the lease, then what has changed.
    async fn beat(&self, told: &mut Told) -> Result<(), CoordinationError> {
        let asked = time::now();
        match self.coordinator.keep_alive(told.lease).await? {
            KeptAlive::For(ttl) => {
                told.gaps.push(asked - told.beaten_at);
                told.beaten_at = asked;
                // The store may have made it longer.
                told.ttl = ttl;
            }
            KeptAlive::Gone => {
                tracing::warn!(ttl = ?told.ttl, "the lease of this node's registration was lost; it registers anew");
                rt::mark("a registration was lost and made again");
                return self.renew(told, asked).await;
            }
        }
        if beat::replaces(told.gaps.ttl(), told.ttl) {
            tracing::info!(from = ?told.ttl, to = ?told.gaps.ttl(), "the lease of the registration is replaced");
            let old = told.lease;
            self.renew(told, asked).await?;
            return self.coordinator.revoke(old).await;
        }
        self.tell(told).await
    }

    /// Everything under a new lease.
    async fn renew(&self, told: &mut Told, now: Instant) -> Result<(), CoordinationError> {
        let wanted = self.wanted().clone();
        let ttl = told.gaps.ttl();
        let lease = self.coordinator.grant(ttl).await?;
        // If this does not come to its end, some may be bound to the new lease, which nobody will keep alive: then all is told again
        // under the old one, if it lives.
        told.records.clear();
        put(&*self.coordinator, lease, wanted.values()).await?;
        (told.lease, told.ttl, told.records) = (lease, ttl, wanted);
        (told.load_told_at, told.beaten_at) = (now, now);
        Ok(())
    }

    async fn tell(&self, told: &mut Told) -> Result<(), CoordinationError> {
        let now = time::now();
        let load_too = now - told.load_told_at >= UPDATE_INTERVAL;
        let wanted = self.wanted().clone();
        let is_news = |record: &&NodeRecord| match told.records.get(&record.node) {
            Some(known) => record.differs_in_kind(known) || (load_too && *record != known),
            None => true,
        };
        let news: Vec<NodeRecord> = wanted.values().filter(is_news).cloned().collect();
        if news.is_empty() {
            return Ok(());
        }
        put(&*self.coordinator, told.lease, news.iter()).await?;
        told.records.extend(news.into_iter().map(|record| (record.node, record)));
        told.load_told_at = now;
        Ok(())
    }
}

/// The task.
async fn keep(shared: Arc<Shared>) {
    let mut beat_at = time::now() + beat::INTERVAL;
    loop {
        let due = tokio::select! {
            biased;
            () = shared.stop.wait() => return,
            () = time::sleep_until(beat_at) => true,
            () = shared.updated.notified() => false,
        };
        let mut told = shared.told.lock().await;
        let done = tokio::select! {
            biased;
            () = shared.stop.wait() => return,
            done = time::timeout(CALL_LIMIT, async {
                match due {
                    true => shared.beat(&mut told).await,
                    false => shared.tell(&mut told).await,
                }
            }) => done,
        };
        match done {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the registration could not be kept alive; it is tried again"),
            Err(elapsed) => tracing::debug!(%elapsed, "the registration could not be kept alive; it is tried again"),
        }
        if due {
            beat_at = time::now() + beat::INTERVAL;
        }
    }
}

async fn put<'a>(
    coordinator: &dyn Coordinator,
    lease: LeaseId,
    records: impl Iterator<Item = &'a NodeRecord>,
) -> Result<(), CoordinationError> {
    let changes: Vec<Change> =
        records.map(|record| Change::PutLeased(key(record.node), record.encode(), lease)).collect();
    for some in changes.chunks(OPERATIONS_MAX) {
        coordinator.commit(Transaction { compares: Vec::new(), changes: some.to_vec() }).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordination::{BoxFuture, Committed, KeyValue, Listed, Revision, Watch};

    /// A coordinator that knows under which lease each key lies, and loses the answer to one commit.
    #[derive(Default)]
    struct Leases(Mutex<Known>);

    #[derive(Default)]
    struct Known {
        last: LeaseId,
        ttl: Duration,
        bound: BTreeMap<String, LeaseId>,
        loses_answer: bool,
    }

    impl Coordinator for Leases {
        fn get<'a>(&'a self, _key: &'a str) -> BoxFuture<'a, Result<Option<KeyValue>, CoordinationError>> {
            unreachable!("a registration reads nothing")
        }

        fn list<'a>(&'a self, _prefix: &'a str) -> BoxFuture<'a, Result<Listed, CoordinationError>> {
            unreachable!("a registration reads nothing")
        }

        fn remembered(&self, _prefix: &str) -> Result<Vec<KeyValue>, CoordinationError> {
            unreachable!("a registration reads nothing")
        }

        fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<Committed, CoordinationError>> {
            let mut known = self.0.lock().unwrap();
            for change in transaction.changes {
                let Change::PutLeased(key, _, lease) = change else { panic!("{change:?}") };
                known.bound.insert(key, lease);
            }
            let answer = match std::mem::take(&mut known.loses_answer) {
                true => Err(CoordinationError::Indeterminate("lost".to_owned())),
                false => Ok(Committed::At(1)),
            };
            Box::pin(async { answer })
        }

        fn watch(&self, _prefix: &str, _after: Revision) -> Box<dyn Watch> {
            unreachable!("a registration reads nothing")
        }

        fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, CoordinationError>> {
            let mut known = self.0.lock().unwrap();
            (known.last, known.ttl) = (known.last + 1, ttl);
            let lease = known.last;
            Box::pin(async move { Ok(lease) })
        }

        fn keep_alive(&self, _lease: LeaseId) -> BoxFuture<'_, Result<KeptAlive, CoordinationError>> {
            let ttl = self.0.lock().unwrap().ttl;
            Box::pin(async move { Ok(KeptAlive::For(ttl)) })
        }

        fn revoke(&self, _lease: LeaseId) -> BoxFuture<'_, Result<(), CoordinationError>> {
            Box::pin(async { Ok(()) })
        }
    }

    #[tokio::test]
    async fn what_may_lie_under_a_lease_that_nobody_keeps_is_told_again() {
        let leases = Arc::new(Leases::default());
        let records = vec![NodeRecord { node: 7, ..NodeRecord::default() }];
        let registration = Registration::begin(leases.clone(), records).await.unwrap();
        let shared = &registration.0;
        // Its task beats no more: the test does.
        shared.stop.trigger();
        let mut told = shared.told.lock().await;
        {
            let mut known = leases.0.lock().unwrap();
            (known.ttl, known.loses_answer) = (beat::TTL_MAX, true);
        }
        // Far too long: it is replaced, and nobody knows whether it was.
        shared.beat(&mut told).await.unwrap_err();
        assert_eq!((told.lease, leases.0.lock().unwrap().bound[&key(7)]), (1, 2));
        shared.beat(&mut told).await.unwrap();
        assert_eq!(leases.0.lock().unwrap().bound[&key(7)], told.lease);
    }
}
