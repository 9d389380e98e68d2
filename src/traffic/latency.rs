//! How long a backend takes lately: an exponentially weighted mean of its answers that fades while none come, so that a
//! backend which was slow once is tried again. Kept by `backend`, read by the policy that balances by latency.

use crate::rt::time::Instant;
use std::time::Duration;

/// Weight of one more answer. A single outlier moves the mean by a quarter of its excess, eight answers forget most of it.
const SHARE_OF_NEWEST: f64 = 0.25;
/// Without answers the mean falls to 1/e in this time.
const FADING: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Latency(Option<Known>);

#[derive(Clone, Copy, Debug)]
struct Known {
    mean_s: f64,
    observed: Instant,
}

impl Latency {
    /// One more answer took `took`.
    pub fn observe(&mut self, took: Duration, now: Instant) {
        let took_s = took.as_secs_f64();
        let mean_s = self.mean_s(now).map_or(took_s, |mean_s| mean_s + SHARE_OF_NEWEST * (took_s - mean_s));
        self.0 = Some(Known { mean_s, observed: now });
    }

    /// It refused after `took`: the mean neither falls by that nor fades.
    pub fn refused(&mut self, took: Duration, now: Instant) {
        if let Some(known) = &mut self.0 {
            known.mean_s = known.mean_s.max(took.as_secs_f64());
            known.observed = now;
        }
    }

    /// The mean in seconds; `None` before the first answer.
    pub fn mean_s(&self, now: Instant) -> Option<f64> {
        self.0.map(|known| {
            let idle_s = (now - known.observed).as_secs_f64();
            known.mean_s * (-idle_s / FADING.as_secs_f64()).exp()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn the_mean_follows_and_fades() {
        let mut latency = Latency::default();
        assert_eq!(latency.mean_s(at(0)), None);
        latency.observe(Duration::from_millis(8), at(0));
        assert_eq!(latency.mean_s(at(0)), Some(0.008));
        for ms in 1..=20 {
            latency.observe(Duration::from_millis(2), at(ms));
        }
        let mean_s = latency.mean_s(at(20)).expect("observed");
        assert!((0.002..0.0021).contains(&mean_s), "{mean_s}");
        let faded = latency.mean_s(at(5_020)).expect("observed");
        assert!((faded / mean_s - (-1.0f64).exp()).abs() < 1e-9, "{faded}");
    }
}
