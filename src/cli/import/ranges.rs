//! Which rows of a file are done, as disjoint ranges: batches are acknowledged out of order, so one number is not enough.
//! Called by `checkpoint` and `batch`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A set of row numbers, kept as ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct RowRanges(BTreeMap<u64, u64>);

impl RowRanges {
    /// Adds the rows from `start` up to but not including `end`.
    pub fn insert(&mut self, mut start: u64, mut end: u64) {
        if start >= end {
            return;
        }
        // Everything that overlaps or touches is swallowed; at most one range begins before `start` and reaches it.
        let touching = self.0.range(..=end).rev().take_while(|(_, reach)| **reach >= start);
        for (from, _) in touching.map(|(from, reach)| (*from, *reach)).collect::<Vec<_>>() {
            let reach = self.0.remove(&from).expect("invariant: just found");
            (start, end) = (start.min(from), end.max(reach));
        }
        self.0.insert(start, end);
    }

    /// If `row` is in the set, the first row after it that is not.
    pub fn end_of(&self, row: u64) -> Option<u64> {
        self.0.range(..=row).next_back().map(|(_, end)| *end).filter(|end| *end > row)
    }

    /// The first row after `row` that is in the set.
    pub fn next_start(&self, row: u64) -> Option<u64> {
        self.0.range(row..).next().map(|(start, _)| *start)
    }

    /// How many rows the set has.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<(u64, u64)>> for RowRanges {
    fn from(pairs: Vec<(u64, u64)>) -> RowRanges {
        let mut ranges = RowRanges::default();
        pairs.into_iter().for_each(|(start, end)| ranges.insert(start, end));
        ranges
    }
}

impl From<RowRanges> for Vec<(u64, u64)> {
    fn from(ranges: RowRanges) -> Vec<(u64, u64)> {
        ranges.0.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn agrees_with_a_set_of_rows(pairs in prop::collection::vec((0u64..60, 0u64..12), 0..20)) {
            let mut ranges = RowRanges::default();
            let mut rows = BTreeSet::new();
            for (start, length) in pairs {
                ranges.insert(start, start + length);
                rows.extend(start..start + length);
            }
            prop_assert_eq!(ranges.count(), rows.len() as u64);
            for row in 0..75 {
                let end = (row..).find(|row| !rows.contains(row)).filter(|end| *end > row);
                prop_assert_eq!(ranges.end_of(row), end);
                prop_assert_eq!(ranges.next_start(row).is_some(), ranges.0.keys().any(|start| *start >= row));
            }
            let kept: Vec<(u64, u64)> = ranges.clone().into();
            prop_assert!(kept.windows(2).all(|pair| pair[0].1 < pair[1].0));
            prop_assert_eq!(RowRanges::from(kept), ranges);
        }
    }
}
