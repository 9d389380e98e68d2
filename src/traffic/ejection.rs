//! When a backend that fails is taken out, and when it is looked at again. It goes after several failures in a row, or when
//! too large a share of its lately finished requests failed; it is then left alone for a time that doubles with each
//! ejection that follows soon, and comes back when a check of it succeeds. Kept by `backend`.

use crate::rt::time::Instant;
use std::time::Duration;

/// Bounds of ejection.
#[derive(Clone, Copy, Debug)]
pub struct EjectionOptions {
    /// Failures in a row that eject.
    pub failures_in_a_row: u32,
    /// The share of failures among lately finished requests that ejects, from 0 to 1.
    pub failure_share: f64,
    /// Over fewer finished requests than this the share says nothing.
    pub requests_min: u32,
    /// What "lately" is: the share is taken over the last half to whole of this.
    pub window: Duration,
    /// How long a backend is left alone the first time.
    pub first: Duration,
    /// How long at most. A backend that was well for this long begins anew.
    pub longest: Duration,
}

impl Default for EjectionOptions {
    fn default() -> EjectionOptions {
        EjectionOptions {
            failures_in_a_row: 3,
            failure_share: 0.5,
            requests_min: 20,
            window: Duration::from_secs(10),
            first: Duration::from_millis(500),
            longest: Duration::from_secs(30),
        }
    }
}

/// Whether a backend is in, and what led there.
#[derive(Clone, Debug)]
pub(super) struct Ejection {
    state: State,
    in_a_row: u32,
    window: Window,
    /// Ejections that followed each other soon.
    repeated: u32,
    /// Ejections since the start.
    total: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    In { since: Instant },
    Out { until: Instant },
}

impl Ejection {
    pub fn new(now: Instant) -> Ejection {
        Ejection { state: State::In { since: now }, in_a_row: 0, window: Window::default(), repeated: 0, total: 0 }
    }

    /// Whether it is out, and until when it is left alone.
    pub fn out_until(&self) -> Option<Instant> {
        match self.state {
            State::In { .. } => None,
            State::Out { until } => Some(until),
        }
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    /// Something succeeded there. True where this brings it back.
    pub fn succeeded(&mut self, options: &EjectionOptions, now: Instant) -> bool {
        self.in_a_row = 0;
        self.window.count(false, options.window, now);
        match self.state {
            State::In { .. } => false,
            State::Out { .. } => {
                self.state = State::In { since: now };
                self.window = Window::default();
                true
            }
        }
    }

    /// Something failed there. True where this takes it out.
    pub fn failed(&mut self, options: &EjectionOptions, now: Instant) -> bool {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.window.count(true, options.window, now);
        match self.state {
            State::In { since } => {
                let too_many = self.window.finished() >= options.requests_min
                    && f64::from(self.window.failed()) >= options.failure_share * f64::from(self.window.finished());
                if self.in_a_row < options.failures_in_a_row && !too_many {
                    return false;
                }
                if now - since >= options.longest {
                    self.repeated = 0;
                }
                self.total += 1;
                self.leave_alone(options, now);
                true
            }
            // What was under way when it went, or was sent there because nobody else was left, does not prolong it.
            State::Out { .. } => false,
        }
    }

    /// A check failed: one more failure, or where it is out already, it stays out for longer.
    pub fn found_unreachable(&mut self, options: &EjectionOptions, now: Instant) {
        match self.state {
            State::In { .. } => {
                let _ejected = self.failed(options, now);
            }
            State::Out { .. } => self.leave_alone(options, now),
        }
    }

    fn leave_alone(&mut self, options: &EjectionOptions, now: Instant) {
        let factor = 1u32.checked_shl(self.repeated).unwrap_or(u32::MAX);
        let pause = options.first.saturating_mul(factor).min(options.longest);
        self.repeated = self.repeated.saturating_add(1);
        self.state = State::Out { until: now + pause };
    }
}

/// Finished requests in two halves of the window: the half under way and the one before it.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    halves: [Counts; 2],
    /// Number of the half under way since the clock's start.
    half: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    finished: u32,
    failed: u32,
}

impl Window {
    fn count(&mut self, failed: bool, window: Duration, now: Instant) {
        let half_nanos = u64::try_from(window.as_nanos() / 2).unwrap_or(u64::MAX).max(1);
        let half = now.as_nanos() / half_nanos;
        match half.saturating_sub(self.half) {
            0 => {}
            1 => self.halves = [Counts::default(), self.halves[0]],
            _ => self.halves = [Counts::default(); 2],
        }
        self.half = self.half.max(half);
        let newest = &mut self.halves[0];
        newest.finished = newest.finished.saturating_add(1);
        newest.failed = newest.failed.saturating_add(u32::from(failed));
    }

    fn finished(&self) -> u32 {
        self.halves[0].finished.saturating_add(self.halves[1].finished)
    }

    fn failed(&self) -> u32 {
        self.halves[0].failed.saturating_add(self.halves[1].failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn failures_in_a_row_eject_and_each_ejection_doubles() {
        let options = EjectionOptions::default();
        let mut ejection = Ejection::new(at(0));
        assert!(!ejection.failed(&options, at(1)) && !ejection.failed(&options, at(1)));
        assert!(!ejection.succeeded(&options, at(1)), "a success begins the count anew");
        assert!(!ejection.failed(&options, at(2)) && !ejection.failed(&options, at(2)));
        assert!(ejection.failed(&options, at(2)));
        assert_eq!(ejection.out_until(), Some(at(502)));
        assert!(!ejection.failed(&options, at(3)));
        assert_eq!(ejection.out_until(), Some(at(502)), "late failures do not prolong it");
        ejection.found_unreachable(&options, at(502));
        assert_eq!(ejection.out_until(), Some(at(1_502)));
        (0..20).for_each(|_| ejection.found_unreachable(&options, at(2_000)));
        assert_eq!(ejection.out_until(), Some(at(32_000)), "never longer than the longest");
        assert!(ejection.succeeded(&options, at(32_000)) && ejection.out_until().is_none());
        // Well for long: the next time is a first time.
        let ejected = (0..3).filter(|_| ejection.failed(&options, at(70_000))).count();
        assert_eq!(ejected, 1);
        assert_eq!((ejection.out_until(), ejection.total()), (Some(at(70_500)), 2));
    }

    #[test]
    fn a_large_share_of_failures_ejects_and_old_ones_are_forgotten() {
        let options = EjectionOptions::default();
        let mut ejection = Ejection::new(at(0));
        let mut alternate = |from_ms: u64, requests: u64| {
            let failed = |i: u64| {
                if i % 2 == 0 {
                    ejection.succeeded(&options, at(from_ms + i))
                } else {
                    ejection.failed(&options, at(from_ms + i))
                }
            };
            (0..requests).map(failed).filter(|changed| *changed).count()
        };
        assert_eq!(alternate(0, 18), 0, "too few to say");
        assert_eq!(alternate(60_000, 18), 0, "the first ones are long ago");
        assert_eq!(alternate(60_100, 18), 2, "out, and back at the next success");
    }
}
