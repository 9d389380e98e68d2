//! Centroids of the posting lists: two-level k-means (√k first, then seats by mass), then one balancing pass. Deterministic: rows
//! are summed in order, ties go to the lowest centroid. Called by `train`.

use super::assigner::{AssignScratch, Assigner};
use super::kernels::{BytePanels, ByteSlice, Nearest};
use super::random::SplitMix64;
use super::work::Work;
use std::ops::Range;

const ITERATIONS: usize = 8;
/// Rows a centroid is trained on at most, at the first level.
const COARSE_ROWS_PER_CENTROID: usize = 256;
/// Rows assigned in one piece.
const PART_ROWS: usize = 1024;

/// Rows, in f32 and in int8, and what works on them.
#[derive(Clone, Copy)]
pub(crate) struct Clustering<'a> {
    pub(crate) rows: &'a [f32],
    pub(crate) bytes: ByteSlice<'a>,
    pub(crate) dimension: usize,
    pub(crate) work: Work<'a>,
}

impl<'a> Clustering<'a> {
    pub(crate) fn len(&self) -> usize {
        self.rows.len() / self.dimension
    }

    fn row(&self, i: usize) -> &'a [f32] {
        &self.rows[i * self.dimension..(i + 1) * self.dimension]
    }

    /// The first `count` rows.
    pub(crate) fn head(&self, count: usize) -> Clustering<'a> {
        let count = count.min(self.len());
        Clustering { rows: &self.rows[..count * self.dimension], bytes: self.bytes.slice(0..count), ..*self }
    }

    /// Pieces of a fixed size.
    fn parts(&self) -> impl Iterator<Item = Range<usize>> + Send + use<> {
        let count = self.len();
        (0..count).step_by(PART_ROWS).map(move |start| start..count.min(start + PART_ROWS))
    }

    /// The nearest centroid of each row.
    pub(crate) fn assign(&self, centroids: &[f32]) -> Vec<u32> {
        let assigner = Assigner::new(centroids, self.dimension, self.len(), self.work);
        let assigned = self.work.parallel(self.parts(), |part| {
            assigner.nearest(self.bytes.slice(part), &mut AssignScratch::default(), self.work.kernels)
        });
        assigned.concat()
    }

    /// The rows of each centroid.
    pub(crate) fn members(&self, centroids: &[f32]) -> Vec<Vec<u32>> {
        let mut members = vec![Vec::new(); centroids.len() / self.dimension];
        for (i, &c) in self.assign(centroids).iter().enumerate() {
            members[c as usize].push(i as u32);
        }
        members
    }

    /// Lloyd's algorithm from `k` random rows; `min(k, rows)` centroids. Cost: 8 · rows · k · d products of int8.
    pub(crate) fn lloyd(&self, k: usize, rng: &mut SplitMix64) -> Vec<f32> {
        let picked = rng.sample(self.len(), k);
        let mut centroids: Vec<f32> = picked.iter().flat_map(|&i| self.row(i)).copied().collect();
        if picked.len() <= 1 {
            return self.mean().unwrap_or_default();
        }
        for _ in 0..ITERATIONS {
            if self.work.is_cancelled() {
                break;
            }
            let nearest = self.nearest_of_few(&centroids);
            let counts = self.update(&mut centroids, &nearest);
            self.reseed_empty(&mut centroids, counts);
        }
        centroids
    }

    /// The nearest centroid of each row, by comparing every row with every centroid.
    fn nearest_of_few(&self, centroids: &[f32]) -> Vec<u32> {
        let kernels = self.work.kernels;
        let panels = BytePanels::new(centroids, self.dimension, kernels);
        let assigned = self.work.parallel(self.parts(), |part| {
            let picked: Vec<u32> = (0..part.len() as u32).collect();
            let mut nearest = vec![Nearest::NONE; part.len()];
            (kernels.nearest_i8)(&panels, 0..panels.panels(), self.bytes.slice(part), &picked, &mut nearest);
            nearest.iter().map(|nearest| nearest.least()).collect::<Vec<_>>()
        });
        assigned.concat()
    }

    fn mean(&self) -> Option<Vec<f32>> {
        let mut centroid = vec![0f32; self.dimension];
        if self.len() == 0 {
            return None;
        }
        self.update(&mut centroid, &vec![0; self.len()]);
        Some(centroid)
    }

    /// Moves each centroid to the mean of its rows; returns their counts. One without rows stays. Each sum runs over its rows in
    /// order, so that it does not matter which thread has which centroids.
    fn update(&self, centroids: &mut [f32], nearest: &[u32]) -> Vec<usize> {
        let d = self.dimension;
        let share = (centroids.len() / d).div_ceil(self.work.threads());
        let parts = centroids.chunks_mut(share * d).zip((0..).step_by(share));
        self.work.parallel(parts, |(centroids, first)| self.update_span(centroids, first, nearest)).concat()
    }

    /// The same for the centroids from number `first` on.
    fn update_span(&self, centroids: &mut [f32], first: usize, nearest: &[u32]) -> Vec<usize> {
        let d = self.dimension;
        let mut sums = vec![0f32; centroids.len()];
        let mut counts = vec![0usize; centroids.len() / d];
        for (i, &c) in nearest.iter().enumerate() {
            let Some(c) = (c as usize).checked_sub(first).filter(|&c| c < counts.len()) else { continue };
            counts[c] += 1;
            let sum = &mut sums[c * d..(c + 1) * d];
            sum.iter_mut().zip(self.row(i)).for_each(|(s, x)| *s += x);
        }
        for ((centroid, sum), &count) in centroids.chunks_exact_mut(d).zip(sums.chunks_exact(d)).zip(&counts) {
            if count > 0 {
                let n = count as f32;
                centroid.iter_mut().zip(sum).for_each(|(c, s)| *c = s / n);
            }
        }
        counts
    }

    /// Puts each centroid without rows next to the one with most, and counts half of its rows as moved.
    fn reseed_empty(&self, centroids: &mut [f32], mut counts: Vec<usize>) {
        let d = self.dimension;
        for empty in 0..counts.len() {
            if counts[empty] > 0 {
                continue;
            }
            let Some(largest) = (0..counts.len()).max_by_key(|&c| (counts[c], std::cmp::Reverse(c))) else { return };
            for t in 0..d {
                let nudge = if t % 2 == 0 { 1.0 / 1024.0 } else { -1.0 / 1024.0 };
                let v = centroids[largest * d + t];
                centroids[empty * d + t] = v + v * nudge;
                centroids[largest * d + t] = v - v * nudge;
            }
            counts[empty] = counts[largest] / 2;
            counts[largest] -= counts[empty];
        }
    }

    /// About `k` centroids in O(rows · √k · d): √k by [`Clustering::lloyd`], then each part split by its share of rows.
    pub(crate) fn two_level(&self, k: usize, rng: &mut SplitMix64) -> Vec<f32> {
        let coarse = (k as f32).sqrt().round_ties_even() as usize;
        if coarse < 2 {
            return self.lloyd(k.max(1), rng);
        }
        let members = self.members(&self.head(coarse * COARSE_ROWS_PER_CENTROID).lloyd(coarse, rng));
        let seats = seats_by_mass(&members.iter().map(Vec::len).collect::<Vec<_>>(), k);
        let parts: Vec<_> = members.iter().zip(seats).map(|(rows, seats)| (rows, seats, rng.fork())).collect();
        self.work.parallel(parts, |(rows, seats, mut rng)| self.split(rows, seats, &mut rng)).concat()
    }

    /// The rows of `members` as `k` centroids, on one thread.
    fn split(&self, members: &[u32], k: usize, rng: &mut SplitMix64) -> Vec<f32> {
        let rows: Vec<f32> = members.iter().flat_map(|&i| self.row(i as usize)).copied().collect();
        let bytes = self.bytes.gather(members);
        let part = Clustering { rows: &rows, bytes: bytes.all(), work: self.work.on_one_thread(), ..*self };
        part.lloyd(k, rng)
    }

    /// Splits centroids with more than `rows_max` of these rows into as many as bring them to `rows_aim`, and drops those with
    /// fewer than `rows_min` (their rows go to neighbours at the next assignment). Never drops the last.
    pub(crate) fn balance(&self, centroids: &[f32], bounds: ListBounds, rng: &mut SplitMix64) -> Vec<f32> {
        let members = self.members(centroids);
        let lists = centroids.chunks_exact(self.dimension).zip(&members);
        let lists: Vec<_> = lists.map(|(centroid, rows)| (centroid, rows, rng.fork())).collect();
        let balanced = self.work.parallel(lists, |(centroid, rows, mut rng)| match rows.len() {
            n if n > bounds.rows_max => self.split(rows, n.div_ceil(bounds.rows_aim.max(1)), &mut rng),
            n if n >= bounds.rows_min => centroid.to_vec(),
            _ => Vec::new(),
        });
        let balanced = balanced.concat();
        if balanced.is_empty() { centroids.to_vec() } else { balanced }
    }
}

/// Sizes of lists, in rows of the sample.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListBounds {
    pub(crate) rows_min: usize,
    pub(crate) rows_aim: usize,
    pub(crate) rows_max: usize,
}

/// Splits `total` seats over parts in proportion to their mass (Webster's method): one for every part that has any.
fn seats_by_mass(masses: &[usize], total: usize) -> Vec<usize> {
    let mut seats: Vec<usize> = masses.iter().map(|&m| usize::from(m > 0)).collect();
    let mut given: usize = seats.iter().sum();
    let quotient = |mass: usize, seats: usize| mass as f64 / (2 * seats + 1) as f64;
    let mut queue: std::collections::BTreeSet<(u64, std::cmp::Reverse<usize>)> = std::collections::BTreeSet::new();
    for (i, &mass) in masses.iter().enumerate().filter(|&(_, &mass)| mass > 1) {
        // Positive floats order as their bits.
        queue.insert((quotient(mass, seats[i]).to_bits(), std::cmp::Reverse(i)));
    }
    while given < total {
        let Some((_, std::cmp::Reverse(i))) = queue.pop_last() else { break };
        seats[i] += 1;
        given += 1;
        if seats[i] < masses[i] {
            queue.insert((quotient(masses[i], seats[i]).to_bits(), std::cmp::Reverse(i)));
        }
    }
    seats
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::kernels::{self, ByteRows};

    fn blobs(count: usize) -> Vec<f32> {
        let mut rng = SplitMix64::new(3);
        (0..count).flat_map(|i| [(i % 10) as f32 * 100.0, 0.0].map(|c| c + rng.below(100) as f32 / 100.0)).collect()
    }

    #[test]
    fn separated_blobs_get_a_centroid_each() {
        let rows = blobs(2000);
        let work = Work::alone(kernels::active());
        let bytes = ByteRows::new(&rows, 2, work.kernels);
        let clustering = Clustering { rows: &rows, bytes: bytes.all(), dimension: 2, work };
        let centroids = clustering.two_level(40, &mut SplitMix64::new(1));
        assert!(centroids.len() / 2 >= 36, "{}", centroids.len() / 2);
        for blob in 0..10 {
            let x = blob as f32 * 100.0 + 0.5;
            assert!(centroids.chunks(2).any(|c| (c[0] - x).abs() < 1.0), "blob {blob}");
        }
    }

    #[test]
    fn identical_rows_do_not_break_it() {
        let rows = vec![0.25f32; 3 * 500];
        let work = Work::alone(kernels::active());
        let bytes = ByteRows::new(&rows, 3, work.kernels);
        let clustering = Clustering { rows: &rows, bytes: bytes.all(), dimension: 3, work };
        let centroids = clustering.two_level(16, &mut SplitMix64::new(1));
        assert!(!centroids.is_empty() && centroids.iter().all(|c| c.is_finite()));
    }

    #[test]
    fn balance_splits_and_drops() {
        let mut rows = vec![0f32; 0];
        for i in 0..1000 {
            rows.extend([i as f32 / 1000.0, 0.0]);
        }
        rows.extend([500.0, 0.0]);
        let work = Work::alone(kernels::active());
        let bytes = ByteRows::new(&rows, 2, work.kernels);
        let clustering = Clustering { rows: &rows, bytes: bytes.all(), dimension: 2, work };
        let bounds = ListBounds { rows_min: 5, rows_aim: 100, rows_max: 300 };
        let balanced = clustering.balance(&[0.5, 0.0, 500.0, 0.0], bounds, &mut SplitMix64::new(2));
        assert!(balanced.len() / 2 >= 8, "{balanced:?}");
        assert!(balanced.chunks(2).all(|c| c[0] < 2.0), "the list of one row is gone: {balanced:?}");
    }

    #[test]
    fn seats_follow_mass() {
        assert_eq!(seats_by_mass(&[0, 100, 300], 8), [0, 2, 6]);
        assert_eq!(seats_by_mass(&[1, 1], 8), [1, 1]);
    }
}
