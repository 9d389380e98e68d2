//! Keeping posting lists in shape while rows come and go: lists that grew too large are split by local k-means, lists that shrank
//! are dissolved into their neighbours, lists whose centroid is no longer where their rows are get new ones together with
//! their like around them, and rows near a new centroid move to it. After LIRE (SPFresh: Xu et al., SOSP 2023, section 3): only
//! rows for which the nearest centroid may have changed are looked at, so a job costs the lists it touches, not the index.
//! A job is taken under the lock, run off it, installed under it, as [`super::FilingJob`]. Rows are taken from the lists themselves:
//! from int8, they carry their old rounding error into their new list, which remembers a bound of it.
//! Called by `vector_index` and `shard`.

mod arrangement;
mod moves;

use arrangement::{Parts, Plan, Seat};
use moves::{Moves, nearest_lists};

use super::kernels::{ByteRows, Kernels};
use super::kmeans::{Clustering, ListBounds};
use super::list::{Departed, LiveList};
use super::locations::Location;
use super::quantizer::{EncodeScratch, Quantizer};
use super::random::SplitMix64;
use super::rearrange::{ChangedList, Rearranged, all_sound};
use super::work::Work;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Rows of the lists that one job gives other centroids or dissolves, but for the first region: bounds what installing it costs.
const MOVED_ROWS_MAX: usize = 16_384;
/// Rows of the lists that one job looks at.
const LOOKED_AT_ROWS_MAX: usize = 1 << 18;
/// Lists around one that gets other centroids whose rows may be concerned (SPFresh looks at 64).
const NEIGHBOURS: usize = 32;
/// Of them, those that join it in its k-means, and those that do if they are worn, too. (A new cluster far from every old centroid
/// lies in pieces in several lists; with none joining, 60k rows of wholly new clusters were searched at a recall .07 lower.)
const JOINING_NEIGHBOURS: usize = 8;
const JOINING_WORN_NEIGHBOURS: usize = 16;
/// A list is worn when its rows' mean lies this far from its centroid: the square, as a share of their mean squared residual.
/// (A list just trained is off by about 1/64, the sample having had that many rows of it.)
const WORN: f32 = 0.1;

/// A consistent copy of what splitting and merging need. Pure and `Send`: run it on any thread.
pub struct ReshapeJob {
    pub(crate) epoch: u64,
    pub(crate) kernels: &'static Kernels,
    pub(crate) bounds: ListBounds,
    pub(crate) quantizer: Arc<Quantizer>,
    pub(crate) lists: Vec<LiveList>,
}

/// Where a row is now: list and slot.
type Origin = (usize, usize);

impl ReshapeJob {
    /// Splits, dissolves and moves. Cost: for each list split or dissolved about a millisecond at 100 dimensions, and a copy of the
    /// centroids; lists that nobody has verified yet are. `None` if a list of the index file is damaged, which is then noted.
    pub fn run(self) -> Option<Rearranged> {
        if !all_sound(&self.lists) {
            return None;
        }
        let plan = self.plan();
        let mut quantizer = self.quantizer.with_centroids(self.centroids(&plan), self.kernels);
        let arrivals = Moves { job: &self, plan: &plan, quantizer: &quantizer }.arrivals();
        let left: BTreeSet<Origin> = arrivals.values().flatten().copied().collect();
        let departed = self.departed(&plan, &left);
        let changed = self.build(&plan, &quantizer, &arrivals, &left);
        quantizer.learn_radii(self.radii(&plan, &changed, &departed), self.kernels);
        Some(Rearranged {
            epoch: self.epoch,
            lists: plan.seats.len(),
            quantizer: Arc::new(quantizer),
            changed,
            departed: departed.into_iter().collect(),
            sound: plan.sound,
            retired: Vec::new(),
            renewed_lists: plan.parts.unparted_rows.len(),
            dissolved_lists: plan.dissolved.len(),
        })
    }

    fn plan(&self) -> Plan {
        let mut plan = Plan { seats: (0..self.lists.len()).map(Seat::Kept).collect(), ..Plan::default() };
        let mut worn = BTreeSet::new();
        let (mut looked_at_rows, mut moved_rows) = (0, 0);
        for (number, list) in self.lists.iter().enumerate() {
            if list.live_rows < self.bounds.rows_min {
                if moved_rows < MOVED_ROWS_MAX {
                    moved_rows += list.live_rows;
                    plan.dissolved.push(number);
                }
            } else if list.is_due() && looked_at_rows < LOOKED_AT_ROWS_MAX {
                looked_at_rows += list.live_rows;
                if self.is_worn(number) {
                    worn.insert(number);
                } else {
                    plan.sound.push(number);
                }
            }
        }
        let too_large = (0..self.lists.len()).filter(|&number| self.lists[number].wants_split(self.bounds));
        let first: Vec<usize> = too_large.chain(worn.iter().copied()).collect();
        for number in first {
            let Some(lists) = self.region(number, &mut worn, &plan, moved_rows) else { continue };
            moved_rows += lists.iter().map(|&list| self.lists[list].live_rows).sum::<usize>();
            plan.renew(lists, self);
        }
        // Somebody has to take the rows.
        if plan.regions.is_empty() && plan.dissolved.len() == self.lists.len() {
            plan.dissolved.pop();
        }
        plan.take_seats();
        plan
    }

    /// The list and those near it that join it, as long as rows may be moved; none if it is in another region already.
    fn region(&self, number: usize, worn: &mut BTreeSet<usize>, plan: &Plan, moved: usize) -> Option<Vec<usize>> {
        let mut rows = moved + self.lists[number].live_rows;
        if plan.is_taken(number) || (moved > 0 && rows > MOVED_ROWS_MAX) {
            return None;
        }
        let is_worn = worn.remove(&number);
        let mut lists = vec![number];
        let centroid = self.quantizer.lifted_centroid(number);
        let nearest = nearest_lists(&self.quantizer, centroid, JOINING_WORN_NEIGHBOURS, self.kernels);
        for (rank, near) in nearest.into_iter().enumerate() {
            let joins = near != number && (worn.contains(&near) || is_worn && rank <= JOINING_NEIGHBOURS);
            if joins && !plan.is_taken(near) && rows + self.lists[near].live_rows <= MOVED_ROWS_MAX {
                rows += self.lists[near].live_rows;
                worn.remove(&near);
                lists.push(near);
            }
        }
        Some(lists)
    }

    /// Whether the mean of the list's rows is not where its centroid is.
    fn is_worn(&self, number: usize) -> bool {
        let d = self.quantizer.space();
        let centroid = self.quantizer.lifted_centroid(number);
        let rows = self.gather(number);
        let squares: f32 = rows.chunks_exact(d).map(|row| (self.kernels.l2)(row, centroid)).sum();
        let count = self.lists[number].live_rows as f32;
        (self.kernels.l2)(&mean(&rows, d), centroid) > WORN * squares / count
    }

    /// Centroids for the rows of lists, by k-means: as many as bring lists to the size aimed at, but for those that would be about to
    /// be dissolved; parts that are still too large are parted again, if they can be (the rows may all be the same).
    fn part(&self, rows: &[f32], rng: &mut SplitMix64, out: &mut Parts) {
        let d = self.quantizer.space();
        let centred = Centred::new(rows, d, self.kernels);
        let clustering = centred.clustering();
        let mut parts = clustering.lloyd((rows.len() / d).div_ceil(self.bounds.rows_aim), rng);
        let members = loop {
            let mut members = vec![Vec::new(); parts.len() / d];
            for (row, &part) in rows.chunks_exact(d).zip(&clustering.assign(&parts)) {
                members[part as usize].extend(row);
            }
            let least = (0..members.len()).min_by_key(|&part| members[part].len());
            match least.filter(|&part| members[part].len() < self.bounds.rows_min * d && members.len() > 1) {
                Some(least) => drop(parts.drain(least * d..(least + 1) * d)),
                None => break members,
            }
        };
        for (part, rows) in parts.chunks_exact(d).zip(&members) {
            let is_too_large = rows.len() > self.bounds.rows_max * d;
            if is_too_large && members.len() > 1 {
                self.part(rows, rng, out);
            } else {
                out.centroids.extend(part.iter().zip(&centred.mean).map(|(x, m)| x + m));
                out.unparted_rows.push(if is_too_large { rows.len() / d } else { 0 });
            }
        }
    }

    /// The live rows of a list in the space of the centroids.
    fn gather(&self, number: usize) -> Vec<f32> {
        let d = self.quantizer.space();
        let live = &self.lists[number];
        let mut rows = vec![0f32; live.live_rows * d];
        for (slot, row) in live.live_slots().zip(rows.chunks_exact_mut(d)) {
            self.quantizer.stored_row(number, &live.list, slot, row, self.kernels);
        }
        rows
    }

    fn centroids(&self, plan: &Plan) -> Vec<f32> {
        let d = self.quantizer.space();
        let centroid = |seat: &Seat| match *seat {
            Seat::Kept(number) => self.quantizer.lifted_centroid(number),
            Seat::Part(part) => &plan.parts.centroids[part * d..(part + 1) * d],
        };
        plan.seats.iter().flat_map(centroid).copied().collect()
    }

    /// What lists lost that keep their number, with what they had lost before.
    fn departed(&self, plan: &Plan, left: &BTreeSet<Origin>) -> BTreeMap<usize, Departed> {
        let mut departed = BTreeMap::new();
        let mut row = vec![0.0; self.quantizer.space()];
        for &(number, slot) in left.iter().filter(|&&(number, _)| plan.keeps(number)) {
            let live = &self.lists[number];
            self.quantizer.stored_row(number, &live.list, slot, &mut row, self.kernels);
            let square = self.quantizer.stored_square(number, &row, self.kernels);
            departed.entry(number).or_insert(live.departed).add(square);
        }
        departed
    }

    /// The roots of the lists' mean squared residuals.
    fn radii(&self, plan: &Plan, changed: &[ChangedList], departed: &BTreeMap<usize, Departed>) -> Vec<f32> {
        let lost = |number: usize| departed.get(&number).copied().unwrap_or(self.lists[number].departed);
        let kept = |seat: &Seat| match *seat {
            Seat::Kept(number) => lost(number).others_mean(&self.lists[number].list),
            Seat::Part(_) => 0.0,
        };
        let mut means: Vec<f64> = plan.seats.iter().map(kept).collect();
        for ChangedList { list, rows, kept, .. } in changed {
            let lost = if *kept == 0 { Departed::default() } else { lost(*list) };
            means[*list] = lost.others_mean(rows);
        }
        means.into_iter().map(|mean| (mean as f32).sqrt()).collect()
    }

    /// The lists that change: with new rows, or under a new number.
    fn build(
        &self,
        plan: &Plan,
        quantizer: &Quantizer,
        arrivals: &BTreeMap<usize, Vec<Origin>>,
        left: &BTreeSet<Origin>,
    ) -> Vec<ChangedList> {
        let none = Vec::new();
        let mut scratch = Reencode { row: vec![0.0; self.quantizer.space()], encode: EncodeScratch::default() };
        let mut changed = Vec::new();
        for (number, &seat) in plan.seats.iter().enumerate() {
            let arriving = arrivals.get(&number).unwrap_or(&none);
            if arriving.is_empty() && seat == Seat::Kept(number) {
                continue;
            }
            let mut list = match seat {
                Seat::Part(_) => ChangedList::rewritten(number, quantizer.empty_list()),
                Seat::Kept(old) => {
                    ChangedList::reopened(number, old, &self.lists[old], left, (&self.quantizer, self.kernels))
                }
            };
            for &origin in arriving {
                self.move_row(quantizer, origin, number, &mut list, &mut scratch);
            }
            if let Seat::Part(part) = seat {
                (list.changed_rows, list.unparted_rows) = (0, plan.parts.unparted_rows[part]);
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
        let rows = list.arrive(Location::List { list: from as u32, slot: slot as u32 });
        quantizer.push_again((old, slot), (&scratch.row, lack), (number, rows), &mut scratch.encode, self.kernels);
    }
}

/// Rows seen from their mean. Rounding to int8 errs by a share of a row's length, so rows far from the origin, as those of a
/// collection that drifted are, would be taken to the wrong centroid.
struct Centred {
    mean: Vec<f32>,
    rows: Vec<f32>,
    bytes: ByteRows,
    kernels: &'static Kernels,
}

impl Centred {
    fn new(rows: &[f32], dimension: usize, kernels: &'static Kernels) -> Centred {
        let mean = mean(rows, dimension);
        let rows: Vec<f32> =
            rows.chunks_exact(dimension).flat_map(|row| row.iter().zip(&mean).map(|(x, m)| x - m)).collect();
        let bytes = ByteRows::new(&rows, dimension, kernels);
        Centred { mean, rows, bytes, kernels }
    }

    fn clustering(&self) -> Clustering<'_> {
        let work = Work::alone(self.kernels);
        Clustering { rows: &self.rows, bytes: self.bytes.all(), dimension: self.mean.len(), work }
    }
}

/// Of rows; zeros without any.
fn mean(rows: &[f32], dimension: usize) -> Vec<f32> {
    let mut sums = vec![0f32; dimension];
    for row in rows.chunks_exact(dimension) {
        sums.iter_mut().zip(row).for_each(|(s, x)| *s += x);
    }
    let count = (rows.len() / dimension).max(1) as f32;
    sums.iter_mut().for_each(|s| *s /= count);
    sums
}

struct Reencode {
    row: Vec<f32>,
    encode: EncodeScratch,
}

impl LiveList {
    /// Too large, and not found to be impossible to part at about this size.
    pub(crate) fn wants_split(&self, bounds: ListBounds) -> bool {
        self.live_rows > bounds.rows_max.max(self.unparted_rows * 2)
    }

    /// So many rows came and went since it was looked at that its centroid may be elsewhere.
    pub(crate) fn is_due(&self) -> bool {
        self.changed_rows * 4 > self.live_rows
    }
}
