//! A candidate's lease: one task keeps it alive, and says so before it can have ended. Called by `campaign`.

use crate::{
    coordination::{CoordinationError, Coordinator, KeptAlive, LeaseId},
    rt::{
        self, Shutdown,
        time::{self, Instant},
    },
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Share of a lease that its holder relies on: clocks may run up to 5 % fast here and slow there.
const RELIED_ON: f64 = 0.85;
/// How long giving back a lease may take.
const REVOKE_LIMIT: Duration = Duration::from_secs(5);

/// A lease that is kept alive until it is dropped or has lapsed.
pub(super) struct Session {
    pub(super) lease: LeaseId,
    /// Fires when the lease may be about to end, or has; it is not kept alive any more then.
    pub(super) lapsed: Shutdown,
    coordinator: Arc<dyn Coordinator>,
    reign: Arc<Mutex<Option<Shutdown>>>,
    stop: Shutdown,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop.trigger();
    }
}

impl Session {
    /// A new lease.
    ///
    /// # Errors
    /// Those of the coordinator.
    pub(super) async fn open(coordinator: Arc<dyn Coordinator>, ttl: Duration) -> Result<Session, CoordinationError> {
        let asked = time::now();
        let lease = coordinator.grant(ttl).await?;
        let session = Session {
            lease,
            lapsed: Shutdown::new(),
            coordinator: coordinator.clone(),
            reign: Arc::default(),
            stop: Shutdown::new(),
        };
        let keeping = Keeping {
            coordinator,
            lease,
            ttl,
            valid_until: asked + ttl.mul_f64(RELIED_ON),
            lapsed: session.lapsed.clone(),
            reign: session.reign.clone(),
            stop: session.stop.clone(),
        };
        drop(rt::spawn("election-session", keeping.run()));
        Ok(session)
    }

    /// Ends this reign when the session lapses, at that very moment.
    pub(super) fn bind(&self, ended: Shutdown) {
        *self.reign.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended.clone());
        if self.lapsed.is_triggered() {
            ended.trigger();
        }
    }

    /// Gives the lease back, beside the caller: what is bound to it goes at once, if the coordinator can be reached.
    pub(super) fn give_back(self) {
        let (coordinator, lease) = (self.coordinator.clone(), self.lease);
        drop(rt::spawn("election-revoke", async move {
            // It ends by itself otherwise.
            let _ = time::timeout(REVOKE_LIMIT, coordinator.revoke(lease)).await;
        }));
    }
}

struct Keeping {
    coordinator: Arc<dyn Coordinator>,
    lease: LeaseId,
    ttl: Duration,
    valid_until: Instant,
    lapsed: Shutdown,
    reign: Arc<Mutex<Option<Shutdown>>>,
    stop: Shutdown,
}

impl Keeping {
    async fn run(mut self) {
        let (stop, lapsed) = (self.stop.clone(), self.lapsed.clone());
        tokio::select! {
            biased;
            () = stop.wait() => return,
            () = self.keep() => {}
        }
        lapsed.trigger();
        if let Some(ended) = &*self.reign.lock().unwrap_or_else(PoisonError::into_inner) {
            ended.trigger();
        }
    }

    /// Returns when the lease has ended, or could before the next word about it.
    async fn keep(&mut self) {
        loop {
            let asked = time::now();
            let answer = time::timeout_at(self.valid_until, self.coordinator.keep_alive(self.lease)).await;
            let pause = match answer {
                Ok(Ok(KeptAlive::For(ttl))) => {
                    self.ttl = ttl;
                    self.valid_until = asked + ttl.mul_f64(RELIED_ON);
                    ttl / 4
                }
                Ok(Ok(KeptAlive::Gone)) => return,
                Ok(Err(error)) => {
                    tracing::debug!(%error, lease = self.lease, "a candidate's lease could not be kept alive");
                    self.ttl / 20
                }
                Err(_) => return,
            };
            let next = time::now() + pause;
            if next >= self.valid_until {
                time::sleep_until(self.valid_until).await;
                return;
            }
            time::sleep_until(next).await;
        }
    }
}
