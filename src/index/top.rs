//! The k nearest so far: hits are taken while not above the k-th distance seen and cut in batches, not one by one.
//! Called by `tail` and `search`.

use super::spec::Hit;

/// A bounded buffer of hits. Holds at most 2k + 64.
pub(crate) struct TopHits {
    k: usize,
    limit: f32,
    hits: Vec<Hit>,
}

impl TopHits {
    pub(crate) fn new(k: usize) -> TopHits {
        TopHits { k, limit: f32::INFINITY, hits: Vec::new() }
    }

    /// The same of those that are not farther than a limit.
    pub(crate) fn below(k: usize, limit: f32) -> TopHits {
        TopHits { limit, ..TopHits::new(k) }
    }

    /// How many are wanted.
    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// Whether a hit at this distance may be among the k nearest. (A distance that is no number orders last, but is a hit.)
    pub(crate) fn accepts(&self, distance: f32) -> bool {
        let above = distance > self.limit;
        !above
    }

    pub(crate) fn extend(&mut self, hit: Option<Hit>) {
        self.hits.extend(hit);
        if self.hits.len() >= 2 * self.k + 64 {
            self.cut();
        }
    }

    /// The k nearest of what others found.
    pub(crate) fn take_all(&mut self, others: impl Iterator<Item = TopHits>) {
        for hit in others.flat_map(TopHits::into_hits) {
            if self.accepts(hit.distance) {
                self.extend(Some(hit));
            }
        }
    }

    /// The k-th distance so far; infinite while there are not more than k.
    pub(crate) fn limit(&mut self) -> f32 {
        self.cut();
        self.limit
    }

    fn cut(&mut self) {
        if self.k > 0 && self.hits.len() > self.k {
            self.hits.select_nth_unstable_by(self.k - 1, Hit::order);
            self.limit = self.hits[self.k - 1].distance;
        }
        self.hits.truncate(self.k);
    }

    /// The k nearest, in no order.
    pub(crate) fn into_hits(mut self) -> Vec<Hit> {
        self.cut();
        self.hits
    }
}
