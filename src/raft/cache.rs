//! How much of their logs all groups of a node keep in memory together. Each group's mirror holds a share and tells it what it
//! keeps; while all of them are over the node's bound, a group that has applied something keeps no more than an even part.
//! Promises: together they keep at most the bound, and as much again until groups at rest have let go of theirs, beside what
//! is not applied yet, which has bounds of its own. Used by `storage`, made by `multi`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What a node's groups keep. Cheap to clone.
#[derive(Clone)]
pub(super) struct NodeCache {
    totals: Arc<Totals>,
}

/// Plain sums: nothing else hangs on their order.
struct Totals {
    bytes_max: usize,
    bytes: AtomicUsize,
    groups: AtomicUsize,
}

impl NodeCache {
    pub(super) fn new(bytes_max: usize) -> NodeCache {
        NodeCache { totals: Arc::new(Totals { bytes_max, bytes: AtomicUsize::new(0), groups: AtomicUsize::new(0) }) }
    }

    /// The share of one more group, until it is dropped.
    pub(super) fn share(&self) -> CacheShare {
        self.totals.groups.fetch_add(1, Relaxed);
        CacheShare { totals: self.totals.clone(), bytes: 0 }
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.totals.bytes.load(Relaxed)
    }
}

/// What one group keeps.
pub(super) struct CacheShare {
    totals: Arc<Totals>,
    bytes: usize,
}

impl CacheShare {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.totals.bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn remove(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.totals.bytes.fetch_sub(bytes, Relaxed);
    }

    /// Nothing is kept any more.
    pub(super) fn clear(&mut self) {
        self.remove(self.bytes);
    }

    /// What this group may keep now of what it could let go of, if `bytes_max` is its own bound.
    pub(super) fn limit(&self, bytes_max: usize) -> usize {
        let Totals { bytes_max: all_max, bytes, groups } = &*self.totals;
        if bytes.load(Relaxed) <= *all_max {
            return bytes_max;
        }
        bytes_max.min(all_max / groups.load(Relaxed).max(1))
    }
}

impl Drop for CacheShare {
    fn drop(&mut self) {
        self.clear();
        self.totals.groups.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_their_own_bound_until_all_together_are_over_the_nodes() {
        let cache = NodeCache::new(1000);
        let (mut one, mut other) = (cache.share(), cache.share());
        one.add(700);
        other.add(300);
        assert_eq!((one.limit(800), other.limit(800)), (800, 800));
        other.add(1);
        assert_eq!((one.limit(800), other.limit(800), other.limit(10)), (500, 500, 10));
        one.remove(1);
        assert_eq!((one.limit(800), cache.bytes()), (800, 1000));
        other.add(500);
        assert_eq!(one.limit(800), 500);
        drop(other);
        assert_eq!((one.limit(800), cache.bytes(), one.bytes()), (800, 699, 699));
        one.clear();
        assert_eq!((one.bytes(), cache.bytes()), (0, 0));
    }
}
