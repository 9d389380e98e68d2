//! The least of many keys without sorting them: a limit found by guesses and counting passes, which the machine does many
//! keys at a time. Keys are [`order_bits`] of f32 numbers. Called by `probes`, `candidates` and `search`.
//!
//! [`order_bits`]: super::kernels::order_bits

use super::kernels::Kernels;

/// A limit such that `least..=most` keys are at or below it; more only where equal keys leave no choice, fewer only where there
/// are fewer. The same for the same keys in any order. Cost: some 3 to 10 passes where keys lie evenly, 60 at worst.
pub(crate) fn limit(keys: &[u32], least: usize, most: usize, kernels: &Kernels) -> u32 {
    if keys.len() <= most {
        return u32::MAX;
    }
    let (mut low, mut high) = keys.iter().fold((u32::MAX, 0), |(low, high), &key| (low.min(key), high.max(key)));
    // At or below `high` there are `within`, at least `least`; below `low` there are `below`, which is fewer.
    let (mut below, mut within) = (0, keys.len());
    let aim = least + (most - least) / 2;
    let mut halve = false;
    while low < high {
        // Where the limit would be if the keys between lay evenly; every second time the middle, whatever they do.
        let (width, share, of) = (u64::from(high - low), (aim - below) as u64, (within - below) as u64);
        let step = if halve { width / 2 } else { width * share / of };
        halve = !halve;
        let guess = low + step.min(width - 1) as u32;
        let count = (kernels.count_at_most)(keys, guess);
        if count < least {
            (low, below) = (guess + 1, count);
        } else {
            (high, within) = (guess, count);
            if count <= most {
                break;
            }
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::kernels::available;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_limit_admits_as_many_as_asked(
            keys in prop::collection::vec(prop_oneof![any::<u32>(), 0u32..9], 1..300), least in 1usize..300, more in 0usize..30,
        ) {
            let mut sorted = keys.clone();
            sorted.sort_unstable();
            for kernels in available() {
                let found = limit(&keys, least, least + more, kernels);
                let count = keys.iter().filter(|&&key| key <= found).count();
                prop_assert!(count >= least.min(keys.len()));
                if count > least + more {
                    let below = keys.iter().filter(|&&key| key < found).count();
                    prop_assert!(below < least, "only ties make it more");
                    prop_assert_eq!(found, sorted[least - 1]);
                }
            }
        }
    }
}
