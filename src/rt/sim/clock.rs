//! The clocks of simulated nodes. The simulator has one clock, the true time. A node's monotonic clock runs at its own
//! rate from the moment the rate was set; its wall clock is the true time at the start of the run, plus what its
//! monotonic clock has counted, plus an offset that the simulation moves about. So one slow oscillator slows both, as
//! it does in a real machine.

use madsim::{task::NodeId, time::TimeHandle};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

/// The most a clock may run fast or slow, in millionths: 5 %.
pub const DRIFT_PPM_MAX: i32 = 50_000;

const MILLION: i128 = 1_000_000;

/// One node's clock: `local = local_base + (true − true_base) · (1 + drift)`.
#[derive(Clone, Copy, Debug, Default)]
struct Clock {
    true_base_nanos: u64,
    local_base_nanos: u64,
    drift_ppm: i32,
    wall_offset_ms: i64,
}

impl Clock {
    fn rate(self) -> i128 {
        MILLION + i128::from(self.drift_ppm)
    }

    fn local_nanos(self, true_nanos: u64) -> u64 {
        let since_base = i128::from(true_nanos) - i128::from(self.true_base_nanos);
        let local = i128::from(self.local_base_nanos) + since_base * self.rate() / MILLION;
        u64::try_from(local.max(0)).unwrap_or(u64::MAX)
    }

    /// How much true time passes until the clock shows `local_deadline_nanos`, rounded up.
    fn true_delay_nanos(self, true_nanos: u64, local_deadline_nanos: u64) -> u64 {
        let left = i128::from(local_deadline_nanos) - i128::from(self.local_nanos(true_nanos));
        let delay = (left.max(0) * MILLION + self.rate() - 1) / self.rate();
        u64::try_from(delay).unwrap_or(u64::MAX)
    }
}

thread_local! {
    static CLOCKS: RefCell<BTreeMap<NodeId, Clock>> = const { RefCell::new(BTreeMap::new()) };
}

fn clock(node: NodeId) -> Clock {
    CLOCKS.with_borrow(|clocks| clocks.get(&node).copied().unwrap_or_default())
}

fn change(node: NodeId, change: impl FnOnce(&mut Clock)) {
    CLOCKS.with_borrow_mut(|clocks| change(clocks.entry(node).or_default()));
}

fn true_nanos() -> u64 {
    u64::try_from(TimeHandle::current().elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Lets `node`'s monotonic clock run `drift_ppm` millionths fast (slow if negative) from now on; what it shows now stays.
/// Sleeps already begun when the clock is sped up end at their old true time, that is, late by the node's clock.
///
/// # Panics
/// Beyond [`DRIFT_PPM_MAX`]: leases and elections are designed for that much and no more.
pub fn set_drift_ppm(node: NodeId, drift_ppm: i32) {
    assert!(drift_ppm.abs() <= DRIFT_PPM_MAX, "drift of {drift_ppm} ppm; at most {DRIFT_PPM_MAX} either way");
    let true_now = true_nanos();
    change(node, |clock| {
        clock.local_base_nanos = clock.local_nanos(true_now);
        clock.true_base_nanos = true_now;
        clock.drift_ppm = drift_ppm;
    });
}

/// Sets how far `node`'s wall clock is ahead (behind if negative).
pub fn set_wall_offset(node: NodeId, offset_ms: i64) {
    change(node, |clock| clock.wall_offset_ms = offset_ms);
}

/// Moves `node`'s wall clock by `jump_ms`, on top of the offset it has.
pub fn jump_wall(node: NodeId, jump_ms: i64) {
    change(node, |clock| clock.wall_offset_ms = clock.wall_offset_ms.saturating_add(jump_ms));
}

/// What `node`'s monotonic clock shows.
pub(in crate::rt) fn monotonic_nanos(node: NodeId) -> u64 {
    clock(node).local_nanos(true_nanos())
}

/// What `node`'s wall clock shows, in milliseconds since 1970.
pub(in crate::rt) fn wall_ms(node: NodeId) -> u64 {
    let time = TimeHandle::current();
    let start = time.now_time() - time.elapsed();
    let start_ms = start.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let local_ms = monotonic_nanos(node) / 1_000_000;
    let shown = i128::try_from(start_ms).unwrap_or(i128::MAX / 2)
        + i128::from(local_ms)
        + i128::from(clock(node).wall_offset_ms);
    u64::try_from(shown.max(0)).unwrap_or(u64::MAX)
}

/// How long `node` must sleep in true time until its own clock shows `deadline_nanos`.
pub(in crate::rt) fn global_delay(node: NodeId, deadline_nanos: u64) -> Duration {
    Duration::from_nanos(clock(node).true_delay_nanos(true_nanos(), deadline_nanos))
}

pub(super) fn reset() {
    CLOCKS.with_borrow_mut(BTreeMap::clear);
}
