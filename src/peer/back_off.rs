//! How long to wait between attempts to reach a peer: twice as long each time, spread at random so that nodes do not come all at once.

use crate::rt::rng::Rng;
use rand::Rng as _;
use std::time::Duration;

/// Waits of one link.
#[derive(Debug)]
pub(super) struct BackOff {
    first: Duration,
    longest: Duration,
    next: Duration,
    rng: Rng,
}

impl BackOff {
    pub(super) fn new(first: Duration, longest: Duration, rng: Rng) -> BackOff {
        BackOff { first, longest, next: first, rng }
    }

    /// The next wait: half to all of a value that doubles up to the longest.
    pub(super) fn next(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        let half_micros = u64::try_from(wait.as_micros() / 2).unwrap_or(u64::MAX / 4);
        Duration::from_micros(half_micros + self.rng.random_range(0..=half_micros))
    }

    /// Begins again with the first.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::rng;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_again() {
        let ms = Duration::from_millis;
        let mut back_off = BackOff::new(ms(50), ms(300), rng::stream("test"));
        for full in [50, 100, 200, 300, 300] {
            let wait = back_off.next();
            assert!((ms(full) / 2..=ms(full)).contains(&wait), "{wait:?} of {full} ms");
        }
        back_off.reset();
        assert!(back_off.next() <= ms(50));
    }
}
