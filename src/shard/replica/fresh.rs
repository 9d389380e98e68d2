//! How fresh a read of a replica is: what it waits for before it looks at the state. A linearizable read asks the group how far it is; one
//! of a session waits for what the session has seen; an eventual one asks the group only when its last answer is older than the read may be.

use super::{Replica, not_proposed};
use crate::{
    mutants::mutant,
    rt::{self, time::Instant},
    types::{Error, Result},
};
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// How long a read waits for what its session has seen.
const SESSION_WAIT: Duration = Duration::from_secs(3);

/// What the group said last of how far it is, and when it was asked.
pub(super) struct Confirmed {
    staleness_max: Duration,
    last: Mutex<Option<(Instant, u64)>>,
}

impl Confirmed {
    /// Nothing yet; what an eventual read shows was so at most `staleness_max` before it.
    pub(super) fn new(staleness_max: Duration) -> Confirmed {
        Confirmed { staleness_max, last: Mutex::default() }
    }

    /// Whether a state that has everything up to `applied` is young enough at `now`.
    fn covers(&self, applied: u64, now: Instant) -> bool {
        // Mutant 49: any state is.
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        mutant!(49) || last.is_some_and(|(at, index)| now - at <= self.staleness_max && index <= applied)
    }

    /// Asked at `at`, the group had committed up to `index`.
    fn note(&self, at: Instant, index: u64) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|(before, _)| before < at) {
            *last = Some((at, index));
        }
    }
}

impl Replica {
    /// Waits until a read sees every write acknowledged before now, and at least log index `seen`; says how far it sees.
    pub async fn read_barrier(&self, seen: u64) -> Result<u64> {
        let began = rt::time::now();
        let index = self.route.group().read_index().await.map_err(not_proposed)?;
        self.confirmed.note(began, index);
        if !self.is_leader() {
            rt::mark("a replica that does not lead answered a linearizable read");
        }
        if seen > index {
            return Err(Error::invalid("session_ahead", "the session token has seen more than this shard ever held")
                .at("session")
                .expected(format!("at most log index {index}"))
                .got(seen));
        }
        Ok(index)
    }

    /// Waits until a read here sees what a session has seen; says how far it sees.
    pub async fn session_barrier(&self, seen: u64) -> Result<u64> {
        let group = self.route.group();
        // Mutant 30: what the session has seen does not matter.
        let seen = if mutant!(30) { 0 } else { seen };
        match rt::time::timeout(SESSION_WAIT, group.wait_applied(seen)).await {
            Ok(applied) => applied.map(|()| group.applied()).map_err(not_proposed),
            // Either this replica is far behind, or nobody has ever got that far.
            Err(_) => self.read_barrier(seen).await,
        }
    }

    /// Waits, if it has to, until a read here sees every write acknowledged more than `limits.staleness` ago; says how far it sees. Cost:
    /// a lock, and once in that time a round to a majority.
    pub async fn staleness_barrier(&self) -> Result<u64> {
        if !self.is_fresh() {
            rt::mark("an eventual read asked how far the others are");
            self.read_barrier(0).await?;
        }
        Ok(self.applied())
    }

    /// Whether an eventual read may show what is here, without a question to anybody.
    pub(super) fn is_fresh(&self) -> bool {
        self.confirmed.covers(self.applied(), rt::time::now())
    }
}
