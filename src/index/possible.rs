//! The rows that may be among the k nearest, by distances that are off by no more than a known error each: what an exact search
//! gives to whoever has the vectors. Called by `rerank` and `search`.

use super::rerank::Reranked;

/// Rows held before those are taken out that came to be too far, at least.
const ROOM_MIN: usize = 512;

/// Of all rows offered, those whose distance less its error is not above the k-th least of distances plus their errors. Which these
/// are depends neither on the order of the rows nor on how they were cut into parts that are joined.
#[derive(Debug, Default)]
pub(crate) struct Possible {
    k: usize,
    /// A row that begins beyond it is not among them.
    limit: f32,
    rows: Vec<Reranked>,
    /// So many are held when they are looked through.
    room: usize,
    offered: usize,
}

impl Possible {
    /// No rows yet.
    pub(crate) fn new(k: usize) -> Possible {
        let mut possible = Possible::default();
        possible.reset(k);
        possible
    }

    /// No rows yet, and those beyond a limit are known not to be among them.
    pub(crate) fn within(k: usize, limit: f32) -> Possible {
        Possible { limit, ..Possible::new(k) }
    }

    /// A row that begins beyond it is not among the rows of any set of which those offered are a part.
    pub(crate) fn limit(&mut self) -> f32 {
        self.cut();
        self.limit
    }

    /// No rows yet, for another query.
    pub(crate) fn reset(&mut self, k: usize) {
        self.rows.clear();
        (self.k, self.limit, self.room, self.offered) = (k, f32::INFINITY, ROOM_MIN.max(2 * k), 0);
    }

    #[inline]
    pub(crate) fn offer(&mut self, row: Reranked) {
        self.offered += 1;
        // What is no number is not beyond.
        let beyond = row.distance - row.error > self.limit;
        if !beyond {
            self.rows.push(row);
            if self.rows.len() >= self.room {
                self.cut();
                self.room = ROOM_MIN.max(2 * self.rows.len()).max(2 * self.k);
            }
        }
    }

    /// Offers what is left of the rows offered to another.
    pub(crate) fn join(&mut self, other: Possible) {
        let offered = self.offered + other.offered;
        other.rows.into_iter().for_each(|row| self.offer(row));
        self.offered = offered;
    }

    /// Rows that were offered.
    pub(crate) fn offered(&self) -> usize {
        self.offered
    }

    /// The rows.
    pub(crate) fn finish(&mut self) -> &[Reranked] {
        self.cut();
        &self.rows
    }

    fn cut(&mut self) {
        if self.k == 0 {
            self.rows.clear();
        }
        if self.k < self.rows.len() {
            let upper = |row: &Reranked| row.distance + row.error;
            let (_, kth, _) = self.rows.select_nth_unstable_by(self.k - 1, |a, b| upper(a).total_cmp(&upper(b)));
            let limit = upper(kth);
            self.limit = if limit < self.limit { limit } else { self.limit };
            let limit = self.limit;
            let beyond = |row: &Reranked| row.distance - row.error > limit;
            self.rows.retain(|row| !beyond(row));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By the definition.
    fn by_definition(k: usize, rows: &[Reranked]) -> Vec<u32> {
        let mut upper: Vec<f32> = rows.iter().map(|row| row.distance + row.error).collect();
        upper.sort_by(f32::total_cmp);
        let limit = if k == 0 { f32::NEG_INFINITY } else { upper.get(k - 1).copied().unwrap_or(f32::INFINITY) };
        rows.iter().filter(|row| row.distance - row.error <= limit).map(|row| row.slot).collect()
    }

    proptest! {
        #[test]
        fn what_is_left_is_as_defined_however_it_is_cut(
            numbers in prop::collection::vec((0u16..2000, 0u8..60), 0..4000), k in 0usize..700, cuts in prop::collection::vec(0usize..4000, 0..6),
        ) {
            let rows: Vec<Reranked> = (0..).zip(&numbers).map(|(slot, &(distance, error))| {
                Reranked { distance: f32::from(distance), error: f32::from(error), list: 0, slot }
            }).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(rows.len())).chain([0, rows.len()]).collect();
            cuts.sort_unstable();
            let mut joined = Possible::new(k);
            for part in cuts.windows(2) {
                let mut possible = Possible::new(k);
                rows[part[0]..part[1]].iter().for_each(|row| possible.offer(*row));
                joined.join(possible);
            }
            let mut found: Vec<u32> = joined.finish().iter().map(|row| row.slot).collect();
            found.sort_unstable();
            prop_assert_eq!(joined.offered(), rows.len());
            prop_assert_eq!(found, by_definition(k, &rows));
        }
    }
}
