//! How long leases still live, by the clock of the node that leads the coordinator's group. Which leases there are is in the map;
//! time is not: a new leader gives every lease its full time again, so that clocks are never compared. What is past its time is
//! ended by a log entry, which every node applies alike. Called by `embedded`.
//!
//! A lease ends only in the term in which nobody kept it alive (`Expire` names the term), and a lease whose end is under way is not
//! kept alive any more: whoever was told that it lives, at time `t`, has it until `t` plus its time to live.

use super::super::LeaseId;
use crate::rt::time::{self, Instant};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Leases ended by one entry, at most.
const ENDED_AT_ONCE_MAX: usize = 128;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct LeaseClock(Mutex<Clock>);

#[derive(Debug, Default)]
struct Clock {
    /// The term this node leads in; what is below was seen in that term.
    term: u64,
    deadlines: BTreeMap<LeaseId, Instant>,
    /// Their end has been proposed.
    ending: BTreeSet<LeaseId>,
}

/// What became of a request to keep a lease alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// For so long, in milliseconds.
    For(u64),
    Gone,
    /// It is being ended, or this is not the term any more: ask again.
    NotNow,
}

impl LeaseClock {
    /// Keeps a lease alive in `term`, in which this node is known to have led after it was asked, and to have applied what was
    /// proposed before that term. `find` reads its time to live, in
    /// milliseconds, from the map: inside the lock, so that an end that was proposed before is seen, either as under way or as done.
    pub(super) fn keep<E>(
        &self,
        term: u64,
        lease: LeaseId,
        find: impl FnOnce() -> Result<Option<u64>, E>,
    ) -> Result<Kept, E> {
        let mut clock = self.clock();
        if term < clock.term {
            return Ok(Kept::NotNow);
        }
        clock.enter(term);
        if clock.ending.contains(&lease) {
            return Ok(Kept::NotNow);
        }
        let Some(ttl_ms) = find()? else { return Ok(Kept::Gone) };
        clock.deadlines.insert(lease, time::now() + Duration::from_millis(ttl_ms));
        Ok(Kept::For(ttl_ms))
    }

    /// The leases, of those there are, whose time is up in `term`; their end is under way from now on, until [`LeaseClock::ended`].
    /// Leases that were not there before get their full time.
    pub(super) fn expired(&self, term: u64, leases: &BTreeMap<LeaseId, u64>) -> Vec<LeaseId> {
        let now = time::now();
        let mut clock = self.clock();
        if term < clock.term {
            return Vec::new();
        }
        clock.enter(term);
        clock.deadlines.retain(|lease, _| leases.contains_key(lease));
        for (lease, ttl_ms) in leases {
            clock.deadlines.entry(*lease).or_insert(now + Duration::from_millis(*ttl_ms));
        }
        let Clock { deadlines, ending, .. } = &mut *clock;
        let over = deadlines.iter().filter(|(lease, deadline)| **deadline <= now && !ending.contains(lease));
        let over: Vec<LeaseId> = over.map(|(lease, _)| *lease).take(ENDED_AT_ONCE_MAX).collect();
        ending.extend(&over);
        over
    }

    /// The proposal that ends these leases was answered: they are gone, or known to live on.
    pub(super) fn ended(&self, leases: &[LeaseId]) {
        let mut clock = self.clock();
        clock.ending.retain(|lease| !leases.contains(lease));
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        // A panic while it is held leaves at worst a lease that lives too long.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock {
    /// What another term has seen means nothing in this one.
    fn enter(&mut self, term: u64) {
        if self.term < term {
            *self = Clock { term, ..Clock::default() };
        }
    }
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn keep(clock: &LeaseClock, term: u64, ttl_ms: Option<u64>) -> Kept {
        let Ok(kept) = clock.keep(term, 7, || Ok::<_, Infallible>(ttl_ms));
        kept
    }

    #[tokio::test]
    async fn a_lease_ends_when_nobody_keeps_it_and_lives_anew_in_every_term() {
        let clock = LeaseClock::default();
        const NONE: [LeaseId; 0] = [];
        let leases = BTreeMap::from([(7, 20)]);
        let expired = |term| clock.expired(term, &leases);
        assert_eq!(expired(1), NONE, "it was not seen before");
        time::sleep(Duration::from_millis(30)).await;
        assert_eq!(keep(&clock, 1, Some(20)), Kept::For(20));
        assert_eq!(expired(1), NONE);
        time::sleep(Duration::from_millis(30)).await;
        assert_eq!(expired(2), NONE, "a new term gives it its full time");
        time::sleep(Duration::from_millis(30)).await;
        assert_eq!(expired(1), NONE, "an old term has nothing to say");
        assert_eq!(expired(2), [7]);
        assert_eq!(expired(2), NONE, "its end is under way");
        assert_eq!((keep(&clock, 2, Some(20)), keep(&clock, 1, Some(20))), (Kept::NotNow, Kept::NotNow));
        clock.ended(&[7]);
        assert_eq!(keep(&clock, 2, None), Kept::Gone);
        assert_eq!(expired(2), [7], "the proposal was lost, so it is made again");
        assert_eq!(keep(&clock, 3, Some(20)), Kept::For(20), "a new term has seen what was proposed before it");
    }
}
