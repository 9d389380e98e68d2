//! What a reshaping decides before any row is encoded: which lists get new centroids together, which are dissolved, and which number each
//! list and each new centroid has afterwards. Numbers stay dense. Called by `reshape` and `moves`.

use super::ReshapeJob;
use crate::index::random::SplitMix64;
use std::collections::BTreeSet;

/// What will be at a number of the new arrangement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seat {
    /// A list of now, by its number of now.
    Kept(usize),
    /// Part of a split list, by its place among all parts.
    Part(usize),
}

/// The new arrangement before any row is encoded.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) seats: Vec<Seat>,
    /// Centroids of the parts.
    pub(super) parts: Parts,
    pub(super) regions: Vec<Region>,
    pub(super) dissolved: Vec<usize>,
    /// Lists that were looked at and stay as they are.
    pub(super) sound: Vec<usize>,
}

/// Centroids made by k-means.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) centroids: Vec<f32>,
    /// Of each, how many rows it was made for if they are too many but cannot be parted; else 0.
    pub(super) unparted_rows: Vec<usize>,
}

/// Lists whose rows get new centroids together.
#[derive(Default)]
pub(super) struct Region {
    pub(super) lists: Vec<usize>,
    /// Places of the new centroids among all parts, and the seats they got.
    pub(super) parts: Vec<usize>,
    pub(super) seats: Vec<usize>,
}

impl Plan {
    pub(super) fn is_taken(&self, number: usize) -> bool {
        self.dissolved.contains(&number) || self.regions.iter().any(|region| region.lists.contains(&number))
    }

    /// Whether a list of now keeps its number and centroid.
    pub(super) fn keeps(&self, number: usize) -> bool {
        self.seats.get(number) == Some(&Seat::Kept(number))
    }

    /// Gives the rows of lists new centroids.
    pub(super) fn renew(&mut self, lists: Vec<usize>, job: &ReshapeJob) {
        let rows: Vec<f32> = lists.iter().flat_map(|&number| job.gather(number)).collect();
        let first = self.parts.unparted_rows.len();
        job.part(&rows, &mut SplitMix64::new((lists[0] as u64) << 32 | rows.len() as u64), &mut self.parts);
        let parts = (first..self.parts.unparted_rows.len()).collect();
        self.regions.push(Region { lists, parts, seats: Vec::new() });
    }

    /// Gives the new centroids their seats: those of the lists they come from and of dissolved lists, then new ones. Seats left
    /// over are taken by the last lists, so that numbers stay dense.
    pub(super) fn take_seats(&mut self) {
        let renewed = self.regions.iter().flat_map(|region| &region.lists);
        let mut free: BTreeSet<usize> = renewed.chain(&self.dissolved).copied().collect();
        for &part in self.regions.iter().flat_map(|region| &region.parts) {
            match free.pop_first() {
                Some(seat) => self.seats[seat] = Seat::Part(part),
                None => self.seats.push(Seat::Part(part)),
            }
        }
        while let Some(last) = free.pop_last() {
            // Whatever is behind the last free seat is taken: the last list of all moves there.
            self.seats.swap_remove(last);
        }
        let mut seat_of = vec![0; self.regions.iter().map(|region| region.parts.len()).sum()];
        for (seat, held) in self.seats.iter().enumerate() {
            if let Seat::Part(part) = *held {
                seat_of[part] = seat;
            }
        }
        for region in &mut self.regions {
            region.seats = region.parts.iter().map(|&part| seat_of[part]).collect();
        }
    }
}
