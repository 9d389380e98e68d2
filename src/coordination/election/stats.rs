//! Figures of an election, as one candidate sees it. Called by `election`; shown by `node`.

use crate::rt::time::Instant;
use std::time::Duration;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ElectionStats {
    /// The greatest term seen.
    pub term: u64,
    /// How often another reign was seen to begin, the first one excluded.
    pub changes: u64,
    /// How long nobody reigned before the last change, as seen here.
    pub gap: Duration,
    /// Since when nobody reigns.
    pub(super) vacant_since: Option<Instant>,
}

impl ElectionStats {
    /// Nobody reigns.
    pub(super) fn vacant(&mut self, now: Instant) {
        self.vacant_since.get_or_insert(now);
    }

    /// Somebody reigns.
    pub(super) fn reigns(&mut self, term: u64, now: Instant) {
        if term > self.term {
            if self.term > 0 {
                self.changes += 1;
                self.gap = self.vacant_since.map_or(Duration::ZERO, |since| now - since);
            }
            self.term = term;
        }
        self.vacant_since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_and_gaps_are_counted_by_terms() {
        let at = |ms| Instant::START + Duration::from_millis(ms);
        let mut stats = ElectionStats::default();
        stats.vacant(at(0));
        stats.reigns(3, at(10));
        assert_eq!((stats.term, stats.changes, stats.gap), (3, 0, Duration::ZERO));
        stats.vacant(at(20));
        stats.vacant(at(30));
        stats.reigns(4, at(50));
        stats.reigns(4, at(60));
        assert_eq!((stats.term, stats.changes, stats.gap), (4, 1, Duration::from_millis(30)));
        stats.reigns(5, at(70));
        assert_eq!((stats.changes, stats.gap), (2, Duration::ZERO), "nobody was seen to be gone");
    }
}
