//! A histogram of durations with bounded relative error, after Gil Tene's HdrHistogram: every power of two of nanoseconds is cut
//! into [`PER_OCTAVE`] equal buckets, so a value is known to within 1/[`PER_OCTAVE`] (0.8 %) of itself, from 1 ns to 584 years, in
//! 58 KiB, whatever the number of values. Recording costs a few nanoseconds. Called by `bench`.

use std::time::Duration;

/// Buckets in each power of two.
const PER_OCTAVE: u64 = 1 << OCTAVE_BITS;
const OCTAVE_BITS: u32 = 7;
/// Values below `PER_OCTAVE` have a bucket each; every octave above adds `PER_OCTAVE`.
const BUCKETS: usize = (64 - OCTAVE_BITS as usize + 1) * PER_OCTAVE as usize;

/// See the module.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    total_ns: u128,
    min_ns: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; BUCKETS], count: 0, total_ns: 0, min_ns: u64::MAX, max_ns: 0 }
    }
}

impl Histogram {
    pub fn record(&mut self, value: Duration) {
        let ns = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(ns)] += 1;
        self.count += 1;
        self.total_ns += u128::from(ns);
        self.min_ns = self.min_ns.min(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// Adds everything `other` has recorded.
    pub fn merge(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(own, more)| *own += more);
        self.count += other.count;
        self.total_ns += other.total_ns;
        self.min_ns = self.min_ns.min(other.min_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max_ns)
    }

    pub fn mean(&self) -> Duration {
        let mean = self.total_ns / u128::from(self.count.max(1));
        Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX))
    }

    /// The least recorded value that at least `share` (0 to 1) of the values do not exceed, to the bucket's precision (rounded up).
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(upper(at).min(self.max_ns));
            }
        }
        self.max()
    }

    /// The distribution as at most about `rows` ranges of equal ratio, from the least value to the greatest, with their counts.
    pub fn ranges(&self, rows: usize) -> Vec<(Duration, Duration, u64)> {
        if self.count == 0 {
            return Vec::new();
        }
        let (first, last) = (bucket(self.min_ns), bucket(self.max_ns));
        // Equal numbers of buckets are nearly equal ratios, because buckets are logarithmic from octave to octave.
        let step = (last - first + 1).div_ceil(rows.max(1));
        let starts = (first..=last).step_by(step);
        starts
            .map(|start| {
                let end = (start + step - 1).min(last);
                let lower = if start == 0 { 0 } else { upper(start - 1) + 1 };
                let count = self.counts[start..=end].iter().sum();
                (Duration::from_nanos(lower), Duration::from_nanos(upper(end)), count)
            })
            .collect()
    }
}

/// The bucket of a value.
fn bucket(ns: u64) -> usize {
    // How many low bits the value's octave ignores.
    let shift = (63 - (ns | 1).leading_zeros()).saturating_sub(OCTAVE_BITS);
    ((u64::from(shift) << OCTAVE_BITS) + (ns >> shift)) as usize
}

/// The greatest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket >> OCTAVE_BITS).saturating_sub(1);
    let high = bucket - (shift << OCTAVE_BITS);
    (high << shift) + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_extremes_have_a_bucket() {
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, BUCKETS - 1));
        assert_eq!(upper(BUCKETS - 1), u64::MAX);
        assert_eq!(Histogram::default().quantile(0.5), Duration::ZERO);
    }

    #[test]
    fn ranges_hold_every_value() {
        let mut histogram = Histogram::default();
        (1..=1000u64).for_each(|us| histogram.record(Duration::from_micros(us)));
        let ranges = histogram.ranges(20);
        assert!(ranges.len() <= 20);
        assert_eq!(ranges.iter().map(|(_, _, count)| count).sum::<u64>(), 1000);
        assert!(ranges.windows(2).all(|pair| pair[0].1 + Duration::from_nanos(1) == pair[1].0));
    }

    proptest! {
        #[test]
        fn a_bucket_is_narrow_and_holds_its_values(ns: u64) {
            let at = bucket(ns);
            prop_assert!(at < BUCKETS && ns <= upper(at));
            prop_assert!(at == 0 || upper(at - 1) < ns);
            prop_assert!(upper(at) - ns <= ns / PER_OCTAVE);
        }

        #[test]
        fn quantiles_are_those_of_the_values(mut values in prop::collection::vec(1u64..10_000_000_000, 1..300), share in 0.0f64..=1.0, cut: prop::sample::Index) {
            let (mut one, mut other) = (Histogram::default(), Histogram::default());
            let cut = cut.index(values.len());
            values[..cut].iter().for_each(|ns| one.record(Duration::from_nanos(*ns)));
            values[cut..].iter().for_each(|ns| other.record(Duration::from_nanos(*ns)));
            one.merge(&other);
            values.sort_unstable();
            let rank = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len());
            let (expected, got) = (values[rank - 1], one.quantile(share).as_nanos() as u64);
            prop_assert!(got >= expected && got - expected <= expected / PER_OCTAVE, "{} {}", expected, got);
            prop_assert_eq!(one.max().as_nanos() as u64, *values.last().unwrap());
            prop_assert_eq!(one.count() as usize, values.len());
        }
    }
}
