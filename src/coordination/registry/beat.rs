//! How long a node's lease should last, from how regular its heartbeats have been: long enough that an irregular node is not taken for
//! dead, short enough that a dead one is missed soon. Called by `registration`.

use std::{collections::VecDeque, time::Duration};

/// Between two heartbeats.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// Shortest time to live.
pub const TTL_MIN: Duration = Duration::from_secs(3);
/// Longest.
pub const TTL_MAX: Duration = Duration::from_secs(30);
/// Before anything is known.
const TTL_FIRST: Duration = Duration::from_secs(6);
/// Gaps that are remembered.
const GAPS_MAX: usize = 64;
/// Gaps that say something.
const GAPS_MIN: usize = 8;

/// The last gaps between heartbeats that were answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Gaps(VecDeque<Duration>);

impl Gaps {
    pub(super) fn push(&mut self, gap: Duration) {
        if self.0.len() == GAPS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(gap);
    }

    /// Mean + 4 standard deviations, from [`TTL_MIN`] to [`TTL_MAX`].
    pub(super) fn ttl(&self) -> Duration {
        if self.0.len() < GAPS_MIN {
            return TTL_FIRST;
        }
        let count = self.0.len() as f64;
        let mean = self.0.iter().map(Duration::as_secs_f64).sum::<f64>() / count;
        let variance = self.0.iter().map(|gap| (gap.as_secs_f64() - mean).powi(2)).sum::<f64>() / count;
        let seconds = mean + 4.0 * variance.sqrt();
        Duration::from_secs_f64(seconds.clamp(TTL_MIN.as_secs_f64(), TTL_MAX.as_secs_f64()))
    }
}

/// Whether a lease of `granted` should be replaced by one of `wanted`: at once when it is too short, and when it is far too long.
pub(super) fn replaces(wanted: Duration, granted: Duration) -> bool {
    wanted > granted.mul_f64(1.25) || wanted < granted.mul_f64(0.6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ttl_of(gaps_ms: impl IntoIterator<Item = u64>) -> Duration {
        let mut gaps = Gaps::default();
        gaps_ms.into_iter().for_each(|ms| gaps.push(Duration::from_millis(ms)));
        gaps.ttl()
    }

    #[test]
    fn the_time_to_live_follows_the_heartbeats() {
        assert_eq!(ttl_of([1000; 7]), TTL_FIRST);
        assert_eq!(ttl_of([1000; 64]), TTL_MIN);
        // Mean 3 s, deviation 1 s.
        assert_eq!(ttl_of((0..64).map(|i| 2000 + i % 2 * 2000)), Duration::from_secs(7));
        assert_eq!(ttl_of((0..64).map(|i| i % 2 * 60_000)), TTL_MAX);
        assert_eq!(ttl_of([60_000; 8].into_iter().chain([1000; 64])), TTL_MIN, "the past is forgotten");
    }

    #[test]
    fn a_lease_is_not_replaced_for_little() {
        let seconds = Duration::from_secs;
        assert!(
            !replaces(seconds(6), seconds(6)) && !replaces(seconds(4), seconds(6)) && !replaces(seconds(7), seconds(6))
        );
        assert!(replaces(seconds(3), seconds(6)) && replaces(seconds(8), seconds(6)));
    }
}
