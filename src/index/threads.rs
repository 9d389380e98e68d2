//! Which threads a search may use, and into which parts it is cut for them. Most searches are over before another thread could begin:
//! those are left alone. What is found never depends on it: parts are put together in their order, by rules that do not ask
//! who worked on them or where they were cut. Called by `search`, `filtered` and `tail`.

use crate::rt;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Work below which nothing is handed over. A helper comes after 5 to 20 µs and finds nothing in its caches; at 200 µs the gain was
/// as often a loss, see benches/README.md.
const SPREAD_NANOS_MIN: usize = 400_000;
/// Work of a part: long against taking it and putting together what is found, short against waiting for the last one.
const PART_NANOS: Range<usize> = 20_000..250_000;
/// Parts that a thread gets of work between those bounds.
const PARTS_A_THREAD: usize = 8;

/// What an exact distance of so many dimensions takes, where rows come from memory.
pub(crate) fn exact_nanos(dimension: usize) -> usize {
    2 + dimension / 4
}

/// What an int8 distance with its error bound takes.
pub(crate) fn bounded_nanos(dimension: usize) -> usize {
    12 + dimension / 8
}

/// What it takes to find and score a row that comes out of the blue: mostly a wait for memory.
pub(crate) fn gathered_nanos(dimension: usize) -> usize {
    40 + dimension / 8
}

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The caller's alone.
    #[default]
    One,
    /// And those of cores that are idle when a search comes to work that pays.
    Idle,
    /// So many, however small the work is: for tests.
    #[cfg(test)]
    Exactly(usize),
}

impl Threads {
    /// Whether work that takes one thread about so many ns is to be cut into parts now.
    pub(crate) fn pays(self, nanos: impl FnOnce() -> usize) -> bool {
        match self {
            Threads::One => false,
            Threads::Idle => nanos() >= SPREAD_NANOS_MIN && rt::compute::idle_cores() > 0,
            #[cfg(test)]
            Threads::Exactly(_) => true,
        }
    }

    /// How many of `items`, which together take one thread about so long, are a part.
    pub(crate) fn items_a_part(self, items: usize, nanos: usize) -> usize {
        #[cfg(test)]
        if let Threads::Exactly(threads) = self {
            return items.div_ceil(3 * threads).max(1);
        }
        let threads = 1 + rt::compute::idle_cores();
        let part = (nanos / (PARTS_A_THREAD * threads)).clamp(PART_NANOS.start, PART_NANOS.end);
        (items * part).div_ceil(nanos.max(1)).max(1)
    }

    /// Works on the parts from 0 to `parts`, begun in this order; results in the order of the parts.
    pub(crate) fn run<T: Send>(self, parts: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
        match self {
            Threads::One => (0..parts).map(work).collect(),
            Threads::Idle => rt::compute::spread(parts, work),
            #[cfg(test)]
            Threads::Exactly(threads) => rt::compute::parallel(threads, 0..parts, work),
        }
    }

    /// Works on ranges of `size` items each.
    pub(crate) fn over<T: Send>(self, items: usize, size: usize, work: impl Fn(Range<usize>) -> T + Sync) -> Vec<T> {
        self.run(items.div_ceil(size), |part| work(part * size..items.min((part + 1) * size)))
    }
}

/// The least distance beyond which some part has found that nothing matters: what is farther does not matter to any part. It saves work
/// and changes no result, whenever it is read.
#[derive(Debug)]
pub(crate) struct SharedLimit(AtomicU32);

impl SharedLimit {
    pub(crate) fn new(limit: f32) -> SharedLimit {
        SharedLimit(AtomicU32::new(limit.to_bits()))
    }

    pub(crate) fn get(&self) -> f32 {
        f32::from_bits(self.0.load(Relaxed))
    }

    pub(crate) fn lower(&self, limit: f32) {
        let lower = |bits: u32| (limit < f32::from_bits(bits)).then_some(limit.to_bits());
        let _is_higher = self.0.fetch_update(Relaxed, Relaxed, lower);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_all_items_in_order_and_short_work_is_left_alone() {
        for threads in [Threads::One, Threads::Idle, Threads::Exactly(3)] {
            for (items, nanos) in [(0, 0), (1, 500_000), (7, 1), (1000, 3_000_000), (40, usize::MAX / 64)] {
                let size = threads.items_a_part(items, nanos);
                let ranges = threads.over(items, size, |range| range);
                assert_eq!(ranges.into_iter().flatten().collect::<Vec<_>>(), (0..items).collect::<Vec<_>>());
            }
        }
        assert!(!Threads::One.pays(|| usize::MAX) && !Threads::Idle.pays(|| SPREAD_NANOS_MIN - 1));
    }

    #[test]
    fn a_limit_only_falls() {
        let limit = SharedLimit::new(f32::INFINITY);
        for (offered, expected) in [(3.0, 3.0), (5.0, 3.0), (f32::NAN, 3.0), (-1.0, -1.0), (-0.5, -1.0)] {
            limit.lower(offered);
            assert_eq!(limit.get(), expected);
        }
    }
}
