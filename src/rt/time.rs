//! Clocks and timers. Two clocks, never mixed: [`Instant`] only ever moves forward and measures durations, deadlines and
//! leases; [`WallTime`] is what people and other systems call the time, may jump, and must never decide an order.
//!
//! In the simulation every node has clocks of its own: a wall clock that is off and jumps, and a monotonic clock that
//! runs up to 5 % fast or slow (see `rt::sim`). Sleeps are measured by the clock of the node that sleeps.
//! Called by every room that waits or measures.

use std::{
    fmt,
    future::{Future, poll_fn},
    ops::{Add, AddAssign, Sub},
    pin::pin,
    task::Poll,
    time::Duration,
};

#[cfg(not(madsim))]
use production as source;
#[cfg(madsim)]
use simulated as source;

pub use source::Sleep;

/// A point on this node's monotonic clock: nanoseconds since the process (or the simulation) started. Means nothing on
/// another node or after a restart. Arithmetic saturates: adding an endless duration gives "never", not a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// When the clock started.
    pub const START: Instant = Instant(0);

    /// The instant `nanos` after the clock started.
    pub const fn from_nanos(nanos: u64) -> Instant {
        Instant(nanos)
    }

    /// Nanoseconds since the clock started.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long ago this was; zero if it lies ahead.
    pub fn elapsed(self) -> Duration {
        now() - self
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(saturated_nanos(duration)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;

    fn sub(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_sub(saturated_nanos(duration)))
    }
}

impl Sub<Instant> for Instant {
    type Output = Duration;

    /// The time from `earlier` to `self`; zero if `earlier` is in fact later.
    fn sub(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

fn saturated_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970-01-01 UTC by this node's wall clock. For people and other systems, never for order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub u64);

/// A wait that ended without what was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Elapsed {
    /// How long the wait was allowed to last.
    pub limit: Duration,
}

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nothing came within {:?}", self.limit)
    }
}

/// Reads the monotonic clock. Cost: ~25 ns.
pub fn now() -> Instant {
    source::now()
}

/// Reads the wall clock. Cost: ~25 ns.
pub fn wall() -> WallTime {
    source::wall()
}

/// Waits for `duration`, at least; timers have a resolution of 1 ms.
pub fn sleep(duration: Duration) -> Sleep {
    source::sleep_until(now() + duration)
}

/// Waits until the monotonic clock shows `deadline`; at once if it already does.
pub fn sleep_until(deadline: Instant) -> Sleep {
    source::sleep_until(deadline)
}

/// Runs `future` for at most `limit`. A future that is ready when it is first asked always wins, even with a limit of
/// zero; a future whose time is up is dropped.
///
/// # Errors
/// [`Elapsed`] when the time was up first.
pub async fn timeout<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    timeout_at(now() + limit, future).await.map_err(|_| Elapsed { limit })
}

/// As [`timeout`], but until an instant.
///
/// # Errors
/// [`Elapsed`] when `deadline` came first.
pub async fn timeout_at<F: Future>(deadline: Instant, future: F) -> Result<F::Output, Elapsed> {
    let limit = deadline - now();
    let mut future = pin!(future);
    let mut sleep = pin!(source::sleep_until(deadline));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Ok(output)),
        Poll::Pending => sleep.as_mut().poll(cx).map(|()| Err(Elapsed { limit })),
    })
    .await
}

/// The clocks and timers of the operating system, through tokio.
#[cfg(not(madsim))]
mod production {
    use super::{Duration, Instant, WallTime};
    use std::{sync::OnceLock, time::SystemTime};

    pub use tokio::time::Sleep;

    /// What `Instant::START` is in the system's terms: the first time anybody asked.
    fn origin() -> std::time::Instant {
        static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
        *ORIGIN.get_or_init(std::time::Instant::now)
    }

    pub(super) fn now() -> Instant {
        Instant(super::saturated_nanos(origin().elapsed()))
    }

    pub(super) fn wall() -> WallTime {
        // A clock set before 1970 is a broken clock; the wall clock decides nothing, so zero will do.
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        WallTime(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn sleep_until(deadline: Instant) -> Sleep {
        tokio::time::sleep_until(tokio::time::Instant::from_std(origin() + Duration::from_nanos(deadline.0)))
    }
}

/// The clocks of a simulated node: see `rt::sim::clock`.
#[cfg(madsim)]
mod simulated {
    use super::{Instant, WallTime};
    use crate::rt::sim::clock;
    use madsim::task::NodeId;
    use std::{
        future::Future,
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    pub(super) fn now() -> Instant {
        Instant(clock::monotonic_nanos(madsim::plugin::node()))
    }

    pub(super) fn wall() -> WallTime {
        WallTime(clock::wall_ms(madsim::plugin::node()))
    }

    pub(super) fn sleep_until(deadline: Instant) -> Sleep {
        Sleep { node: madsim::plugin::node(), deadline, timer: None, armed_for: None }
    }

    /// A sleep by a node's own clock. The simulator's timer registers itself anew at every poll and never takes a
    /// registration back, so this one polls it once for each waker.
    #[derive(Debug)]
    pub struct Sleep {
        node: NodeId,
        deadline: Instant,
        timer: Option<tokio::time::Sleep>,
        armed_for: Option<Waker>,
    }

    impl Future for Sleep {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            loop {
                if clock::monotonic_nanos(self.node) >= self.deadline.0 {
                    return Poll::Ready(());
                }
                // A clock that was slowed down meanwhile makes the first timer fire too early: sleep again.
                if self.timer.as_ref().is_none_or(tokio::time::Sleep::is_elapsed) {
                    let delay = clock::global_delay(self.node, self.deadline.0);
                    self.timer = Some(tokio::time::sleep(delay));
                    self.armed_for = None;
                }
                if self.armed_for.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    return Poll::Pending;
                }
                let timer = self.timer.as_mut().expect("invariant: the timer was set above");
                if Pin::new(timer).poll(cx).is_pending() {
                    self.armed_for = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_never_goes_back() {
        let mut last = now();
        for _ in 0..10_000 {
            let next = now();
            assert!(next >= last, "{next:?} after {last:?}");
            last = next;
        }
    }

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let soon = Instant::from_nanos(5);
        assert_eq!(soon - Duration::from_secs(1), Instant::START);
        assert_eq!((soon + Duration::MAX).as_nanos(), u64::MAX);
        assert_eq!(soon - (soon + Duration::from_nanos(3)), Duration::ZERO);
        assert_eq!((soon + Duration::from_nanos(3)) - soon, Duration::from_nanos(3));
    }

    #[test]
    fn the_wall_clock_is_in_this_century() {
        let year_2024_ms = 1_704_067_200_000;
        let year_2100_ms = 4_102_444_800_000;
        assert!((year_2024_ms..year_2100_ms).contains(&wall().0), "{:?}", wall());
    }

    #[tokio::test]
    async fn sleep_lasts_at_least_as_long_as_asked() {
        let start = now();
        sleep(Duration::from_millis(20)).await;
        assert!(start.elapsed() >= Duration::from_millis(20));
        sleep_until(start).await;
    }

    #[tokio::test]
    async fn timeout_ends_a_wait_and_lets_a_ready_future_win() {
        let limit = Duration::from_millis(10);
        assert_eq!(timeout(limit, std::future::pending::<()>()).await, Err(Elapsed { limit }));
        assert_eq!(timeout(Duration::ZERO, async { 3 }).await, Ok(3));
        assert_eq!(timeout(Duration::MAX, async { yield_twice().await }).await, Ok(9));
    }

    async fn yield_twice() -> u8 {
        crate::rt::yield_now().await;
        crate::rt::yield_now().await;
        9
    }
}
