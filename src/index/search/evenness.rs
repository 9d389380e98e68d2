//! Whether a filter has to do with the vectors, as seen by a search that goes from list to list: one that has not leaves about the same
//! share of every list, one that has leaves all of some and none of others. The nearest rows that the latter leaves may be far away and
//! in lists that rank late, so such a search must go on for longer. Called by `filtered`.

use crate::index::allowed::Allowed;
use crate::index::kernels::BLOCK_ROWS;
use crate::index::list::LiveList;

/// The lists' shares differ by so many times more (squared) than chance lets them: the filter follows the vectors.
const UNEVEN: f32 = 3.0;
/// Lists below which nothing is said.
const LISTS_MIN: usize = 3;
/// Rows of a list that are looked at, where they are not all counted anyway: one block.
const LOOKED_AT_ROWS: usize = BLOCK_ROWS;
/// Lists of which rows are looked at for this alone.
const LOOKED_AT_LISTS: usize = 32;

/// What was seen so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evenness {
    /// Of all rows, those that are allowed.
    share: f32,
    /// Squared differences of the allowed rows from what the share promises, each over its variance.
    deviations: f32,
    lists: usize,
}

impl Evenness {
    /// Of a filter that leaves `allowed` of `all` rows.
    pub(super) fn new(allowed: usize, all: usize) -> Evenness {
        let share = allowed as f32 / all.max(1) as f32;
        Evenness { share: share.clamp(0.0, 1.0), deviations: 0.0, lists: 0 }
    }

    /// A list, or a part of it, of so many live rows has so many that are allowed.
    pub(super) fn saw(&mut self, allowed: usize, rows: usize) {
        let variance = rows as f32 * self.share * (1.0 - self.share);
        if variance > 0.0 {
            let difference = allowed as f32 - rows as f32 * self.share;
            self.deviations += difference * difference / variance;
            self.lists += 1;
        }
    }

    /// Looks at some rows of a list whose allowed rows nobody counts. Cost: less than 100 ns.
    pub(super) fn look_at(&mut self, live: &LiveList, allowed: &Allowed) {
        if self.lists < LOOKED_AT_LISTS
            && let (Some(ordinals), Some(bits)) = (live.list.ordinals.chunks(LOOKED_AT_ROWS).next(), live.live.first())
        {
            self.saw((allowed.mask(ordinals) & bits).count_ones() as usize, bits.count_ones() as usize);
        }
    }

    /// Whether the filter follows the vectors.
    pub(super) fn is_uneven(&self) -> bool {
        self.lists >= LISTS_MIN && self.deviations > UNEVEN * self.lists as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::random::SplitMix64;

    /// Of lists of 40 to 400 rows.
    fn seen(share: f64, lists: usize, mut of_list: impl FnMut(usize, usize) -> usize) -> Evenness {
        let mut rng = SplitMix64::new(1);
        let mut evenness = Evenness::new((share * 1e6) as usize, 1_000_000);
        for list in 0..lists {
            let rows = 40 + rng.below(360);
            evenness.saw(of_list(list, rows), rows);
        }
        evenness
    }

    #[test]
    fn chance_is_even_and_corners_are_not() {
        for share in [0.01, 0.1, 0.5, 0.9] {
            let mut rng = SplitMix64::new(2);
            for lists in [LISTS_MIN, 8, 100] {
                let mut chosen = |rows: usize| (0..rows).filter(|_| rng.below(10_000) < (share * 1e4) as usize).count();
                let even = (0..50).filter(|_| !seen(share, lists, |_, rows| chosen(rows)).is_uneven()).count();
                assert!(even >= 42, "{share} {lists}: {even} of 50");
                assert!(seen(share, lists, |list, rows| if list % 3 == 0 { rows } else { 0 }).is_uneven());
            }
            // None at all where there should be some: a query far from what is allowed.
            assert!(seen(share, 100, |_, _| 0).is_uneven() == (share > 0.05), "{share}");
        }
        assert!(!seen(0.5, LISTS_MIN - 1, |_, rows| rows).is_uneven());
        assert!(!seen(1.0, 50, |_, rows| rows).is_uneven(), "everything is allowed");
    }
}
