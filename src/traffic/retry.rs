//! Trying again: how many times, after which pause, and a budget over all requests that keeps retries from adding to an
//! overload. Whether a request may be repeated at all is the caller's to know. Called by the gateway.

use rand::{Rng, RngCore};
use std::time::Duration;

/// Bounds of trying one request again.
#[derive(Clone, Copy, Debug)]
pub struct RetryOptions {
    /// Attempts at one request, the first included.
    pub attempts_max: u32,
    /// The longest pause before the second retry; the first retry goes at once, to another backend.
    pub pause_first: Duration,
    /// The longest pause before any retry.
    pub pause_max: Duration,
}

impl Default for RetryOptions {
    fn default() -> RetryOptions {
        RetryOptions { attempts_max: 4, pause_first: Duration::from_millis(20), pause_max: Duration::from_millis(500) }
    }
}

impl RetryOptions {
    /// The pause before retry number `retry` (from 1): none before the first, then anything between nothing and a bound
    /// that doubles, so that callers which failed together do not come back together.
    pub fn pause(&self, retry: u32, rng: &mut dyn RngCore) -> Duration {
        let Some(doublings) = retry.checked_sub(2) else { return Duration::ZERO };
        let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let bound = self.pause_first.saturating_mul(factor).min(self.pause_max);
        bound.mul_f64(rng.random_range(0.0..=1.0))
    }
}

/// A tenth of a retry for every request, and a few to begin with: under a total failure the load grows by a tenth, not by
/// the number of attempts.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    tenths: u32,
    tenths_max: u32,
}

impl RetryBudget {
    /// A budget that holds at most `retries_max` unused retries; it begins with all of them.
    pub fn new(retries_max: u32) -> RetryBudget {
        let tenths_max = retries_max.saturating_mul(10);
        RetryBudget { tenths: tenths_max, tenths_max }
    }

    /// One request came.
    pub fn request(&mut self) {
        self.tenths = self.tenths.saturating_add(1).min(self.tenths_max);
    }

    /// Takes one retry; `false` where none is left.
    pub fn take(&mut self) -> bool {
        match self.tenths.checked_sub(10) {
            Some(left) => {
                self.tenths = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::StdRng};

    #[test]
    fn a_total_failure_adds_a_tenth() {
        let mut budget = RetryBudget::new(5);
        let mut retries = 0;
        for _ in 0..10_000 {
            budget.request();
            retries += u32::from(budget.take());
        }
        assert!((1_000..=1_005).contains(&retries), "{retries}");
    }

    #[test]
    fn unused_retries_are_kept_up_to_the_bound() {
        let mut budget = RetryBudget::new(3);
        (0..1_000).for_each(|_| budget.request());
        assert_eq!((0..10).filter(|_| budget.take()).count(), 3);
    }

    #[test]
    fn pauses_grow_to_a_bound_and_the_first_is_none() {
        let (options, mut rng) = (RetryOptions::default(), StdRng::seed_from_u64(1));
        assert_eq!(options.pause(1, &mut rng), Duration::ZERO);
        let longest = |retry: u32, rng: &mut StdRng| (0..500).map(|_| options.pause(retry, rng)).max().unwrap();
        let (second, third, last) = (longest(2, &mut rng), longest(3, &mut rng), longest(40, &mut rng));
        assert!(second <= Duration::from_millis(20) && second > Duration::from_millis(18), "{second:?}");
        assert!(third <= Duration::from_millis(40) && third > Duration::from_millis(36), "{third:?}");
        assert!(last <= Duration::from_millis(500) && last > Duration::from_millis(450), "{last:?}");
    }
}
