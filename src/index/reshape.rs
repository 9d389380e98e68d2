//! Keeping posting lists of a size: lists that grew too large are split by local k-means, lists that shrank are dissolved into
//! their neighbours, and rows near a new centroid move to it. After LIRE (SPFresh: Xu et al., SOSP 2023, section 3): only rows
//! for which the nearest centroid may have changed are looked at, so a job costs the lists it touches, not the index.
//! A job is taken under the lock, run off it, installed under it, as [`super::FilingJob`]. Rows are taken from the lists themselves:
//! from int8, they carry their old rounding error into their new list, which remembers a bound of it. Called by `vector_index` and `shard`.

use super::kernels::{Kernels, Panels};
use super::kmeans::{Clustering, ListBounds};
use super::list::LiveList;
use super::quantizer::{EncodeScratch, Quantizer};
use super::random::SplitMix64;
use super::rearrange::{ChangedList, Location, Rearranged};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Rows of the lists that one job splits or dissolves, but for the first: bounds what installing it costs.
const JOB_ROWS_MAX: usize = 16_384;
/// Lists around a split or dissolved one whose rows may be concerned (SPFresh found 64 enough; the rows that moved from farther away
/// were too few to see in the recall).
const NEIGHBOURS: usize = 32;

/// A consistent copy of what splitting and merging need. Pure and `Send`: run it on any thread.
pub struct ReshapeJob {
    pub(crate) epoch: u64,
    pub(crate) kernels: &'static Kernels,
    pub(crate) bounds: ListBounds,
    pub(crate) quantizer: Arc<Quantizer>,
    pub(crate) lists: Vec<LiveList>,
}

/// What will be at a number of the new arrangement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seat {
    /// A list of now, by its number of now.
    Kept(usize),
    /// Part of a split list, by its place among all parts.
    Part(usize),
}

/// Where a row is now: list and slot.
type Origin = (usize, usize);

/// The new arrangement before any row is encoded.
struct Plan {
    seats: Vec<Seat>,
    /// Centroids of the parts.
    parts: Vec<f32>,
    /// Of each split list, the seats of its parts.
    split: BTreeMap<usize, Vec<usize>>,
    dissolved: Vec<usize>,
    /// Lists that are too large but cannot be parted.
    refused: Vec<usize>,
}

impl ReshapeJob {
    /// Splits, dissolves and moves. Cost: for each list split or dissolved about a millisecond at 100 dimensions, and a copy of the
    /// centroids.
    pub fn run(self) -> Rearranged {
        let plan = self.plan();
        let quantizer = Arc::new(self.quantizer.with_centroids(self.centroids(&plan), self.kernels));
        let arrivals = Moves { job: &self, plan: &plan, quantizer: &quantizer }.arrivals();
        let changed = self.build(&plan, &quantizer, &arrivals);
        Rearranged {
            epoch: self.epoch,
            lists: plan.seats.len(),
            quantizer,
            changed,
            refused: plan.refused,
            residual_sum: 0.0,
            filed_rows: 0,
        }
    }

    fn plan(&self) -> Plan {
        let mut plan = Plan {
            seats: (0..self.lists.len()).map(Seat::Kept).collect(),
            parts: Vec::new(),
            split: BTreeMap::new(),
            dissolved: Vec::new(),
            refused: Vec::new(),
        };
        let d = self.quantizer.dimension;
        let mut parted: Vec<(usize, Vec<usize>)> = Vec::new();
        let mut rows = 0;
        for (number, list) in self.lists.iter().enumerate() {
            if rows > 0 && rows + list.live_rows > JOB_ROWS_MAX {
                continue;
            }
            if list.wants_split(self.bounds) {
                rows += list.live_rows;
                let centroids = self.part(number);
                let first = plan.parts.len() / d;
                let count = centroids.len() / d;
                if count < 2 {
                    plan.refused.push(number);
                    continue;
                }
                plan.parts.extend(centroids);
                parted.push((number, (first..first + count).collect()));
            } else if list.live_rows < self.bounds.rows_min {
                rows += list.live_rows;
                plan.dissolved.push(number);
            }
        }
        // Somebody has to take the rows.
        if parted.is_empty() && plan.dissolved.len() == self.lists.len() {
            plan.dissolved.pop();
        }
        plan.take_seats(&parted);
        plan
    }

    /// Centroids of the parts of a list, by k-means over its rows: as many as bring them to the size aimed at, but for those that
    /// would be about to be dissolved. One or none: the rows cannot be parted (they may all be the same).
    fn part(&self, number: usize) -> Vec<f32> {
        let d = self.quantizer.dimension;
        let rows = self.gather(number);
        let clustering = Clustering { rows: &rows, dimension: d, kernels: self.kernels };
        let count = rows.len() / d;
        let mut rng = SplitMix64::new((number as u64) << 32 | count as u64);
        let mut centroids = clustering.lloyd(count.div_ceil(self.bounds.rows_aim.max(1)).max(2), &mut rng);
        loop {
            let mut sizes = vec![0usize; centroids.len() / d];
            clustering.assign(&centroids).iter().for_each(|&c| sizes[c as usize] += 1);
            let Some((least, &size)) = sizes.iter().enumerate().min_by_key(|&(_, size)| size) else { return centroids };
            if size >= 2 * self.bounds.rows_min || sizes.len() == 1 {
                return centroids;
            }
            centroids.drain(least * d..(least + 1) * d);
        }
    }

    /// The live rows of a list in the space of the centroids.
    fn gather(&self, number: usize) -> Vec<f32> {
        let d = self.quantizer.dimension;
        let live = &self.lists[number];
        let mut rows = vec![0f32; live.live_rows * d];
        for (slot, row) in live.live_slots().zip(rows.chunks_exact_mut(d)) {
            self.quantizer.stored_row(number, &live.list, slot, row, self.kernels);
        }
        rows
    }

    fn centroids(&self, plan: &Plan) -> Vec<f32> {
        let d = self.quantizer.dimension;
        let centroid = |seat: &Seat| match *seat {
            Seat::Kept(number) => self.quantizer.centroid(number),
            Seat::Part(part) => &plan.parts[part * d..(part + 1) * d],
        };
        plan.seats.iter().flat_map(centroid).copied().collect()
    }

    /// The lists that change: with new rows, or under a new number.
    fn build(&self, plan: &Plan, quantizer: &Quantizer, arrivals: &BTreeMap<usize, Vec<Origin>>) -> Vec<ChangedList> {
        let left: BTreeSet<Origin> = arrivals.values().flatten().copied().collect();
        let none = Vec::new();
        let mut scratch = Reencode { row: vec![0.0; self.quantizer.dimension], encode: EncodeScratch::default() };
        let mut changed = Vec::new();
        for (number, &seat) in plan.seats.iter().enumerate() {
            let arriving = arrivals.get(&number).unwrap_or(&none);
            if arriving.is_empty() && seat == Seat::Kept(number) {
                continue;
            }
            let mut list = match seat {
                Seat::Part(_) => ChangedList::rewritten(number, quantizer.empty_list()),
                Seat::Kept(old) => {
                    ChangedList::reopened(number, old, &self.lists[old], &left, self.quantizer.dimension)
                }
            };
            for &origin in arriving {
                self.move_row(quantizer, origin, number, &mut list, &mut scratch);
            }
            changed.push(list);
        }
        changed.iter_mut().for_each(ChangedList::close);
        changed
    }

    /// Encodes a row anew at the end of another list.
    fn move_row(
        &self,
        quantizer: &Quantizer,
        (from, slot): Origin,
        number: usize,
        list: &mut ChangedList,
        scratch: &mut Reencode,
    ) {
        let old = &self.lists[from].list;
        let lack = self.quantizer.stored_row(from, old, slot, &mut scratch.row, self.kernels);
        let rows = list.rows_mut();
        quantizer.push_again((old, slot), (&scratch.row, lack), (number, rows), &mut scratch.encode, self.kernels);
        list.origins.push(Location::List { list: from as u32, slot: slot as u32 });
    }
}

struct Reencode {
    row: Vec<f32>,
    encode: EncodeScratch,
}

impl Plan {
    /// Gives the parts of each split list their seats: its own, those of dissolved lists, new ones. Seats left over are taken by
    /// the last lists, so that numbers stay dense.
    fn take_seats(&mut self, parted: &[(usize, Vec<usize>)]) {
        let mut free: BTreeSet<usize> = self.dissolved.iter().copied().collect();
        for (number, parts) in parted {
            for (i, &part) in parts.iter().enumerate() {
                match if i == 0 { Some(*number) } else { free.pop_first() } {
                    Some(seat) => self.seats[seat] = Seat::Part(part),
                    None => self.seats.push(Seat::Part(part)),
                }
            }
        }
        while let Some(last) = free.pop_last() {
            // Whatever is behind the last free seat is taken: the last list of all moves there.
            self.seats.swap_remove(last);
        }
        let taken = self.seats.iter().enumerate();
        let seat_of: BTreeMap<usize, usize> = taken
            .filter_map(|(seat, held)| if let Seat::Part(part) = *held { Some((part, seat)) } else { None })
            .collect();
        self.split = parted.iter().map(|(number, parts)| (*number, parts.iter().map(|p| seat_of[p]).collect())).collect();
    }
}

/// Decides which rows go where.
struct Moves<'a> {
    job: &'a ReshapeJob,
    plan: &'a Plan,
    /// With the new centroids.
    quantizer: &'a Quantizer,
}

impl Moves<'_> {
    /// For each seat the rows that come to it: all rows of split and dissolved lists, and those rows of lists around a split one
    /// that are nearer to a part of it than to their own centroid.
    fn arrivals(&self) -> BTreeMap<usize, Vec<Origin>> {
        let mut arrivals = BTreeMap::new();
        let mut visitors: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        let own = [].as_slice();
        let split = self.plan.split.iter().map(|(&number, parts)| (number, parts.as_slice()));
        for (number, parts) in split.chain(self.plan.dissolved.iter().map(|&number| (number, own))) {
            let mut near: BTreeSet<usize> = self.neighbours(number).into_iter().collect();
            for &seat in &near {
                if let Seat::Kept(_) = self.plan.seats[seat] {
                    visitors.entry(seat).or_default().extend(parts);
                }
            }
            near.extend(parts);
            self.assign(number, &near.into_iter().collect::<Vec<_>>(), None, &mut arrivals);
        }
        for (seat, parts) in visitors {
            let Seat::Kept(number) = self.plan.seats[seat] else { continue };
            // First its own: at equal distance a row stays.
            let near: Vec<usize> = std::iter::once(seat).chain(parts).collect();
            if near.len() > 1 {
                self.assign(number, &near, Some(seat), &mut arrivals);
            }
        }
        arrivals
    }

    /// The seats nearest to a list of before.
    fn neighbours(&self, number: usize) -> Vec<usize> {
        let panels = &self.quantizer.panels;
        let mut scores = vec![0f32; panels.columns_padded()];
        let centroid = self.job.quantizer.centroid(number);
        (self.job.kernels.scores)(panels, centroid, &panels.norms, -2.0, &mut scores);
        let mut order: Vec<usize> = (0..panels.columns).collect();
        let count = NEIGHBOURS.min(order.len());
        let nearer = |a: &usize, b: &usize| scores[*a].total_cmp(&scores[*b]).then(a.cmp(b));
        if count < order.len() {
            order.select_nth_unstable_by(count, nearer);
            order.truncate(count);
        }
        order
    }

    /// Assigns the live rows of a list to the nearest of `seats`; those of `stay` do not move.
    fn assign(&self, number: usize, seats: &[usize], stay: Option<usize>, arrivals: &mut BTreeMap<usize, Vec<Origin>>) {
        let centroids: Vec<f32> = seats.iter().flat_map(|&seat| self.quantizer.centroid(seat)).copied().collect();
        let panels = Panels::new(&centroids, self.quantizer.dimension, self.job.kernels);
        let rows = self.job.gather(number);
        let live = &self.job.lists[number];
        let mut nearest = vec![0u32; live.live_rows];
        (self.job.kernels.assign)(&panels, &rows, &mut nearest);
        for (slot, nearest) in live.live_slots().zip(nearest) {
            let seat = seats[nearest as usize];
            if stay != Some(seat) {
                arrivals.entry(seat).or_default().push((number, slot));
            }
        }
    }
}

impl LiveList {
    /// Too large, and not found to be impossible to part at about this size.
    pub(crate) fn wants_split(&self, bounds: ListBounds) -> bool {
        self.live_rows > bounds.rows_max && self.live_rows > self.unparted_rows * 2
    }
}
