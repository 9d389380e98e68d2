//! Which rows go where when centroids change: only rows for which the nearest centroid may have changed are looked at (SPFresh, section
//! 3). Called by `reshape`.

use super::arrangement::{Plan, Seat};
use super::{Centred, NEIGHBOURS, Origin, ReshapeJob};
use crate::index::kernels::Kernels;
use crate::index::quantizer::Quantizer;
use std::collections::{BTreeMap, BTreeSet};

/// The lists whose centroids are nearest to a point, nearest first.
pub(super) fn nearest_lists(quantizer: &Quantizer, point: &[f32], count: usize, kernels: &Kernels) -> Vec<usize> {
    let lists = 0..quantizer.lists();
    let scores: Vec<f32> = lists.clone().map(|list| (kernels.l2)(point, quantizer.lifted_centroid(list))).collect();
    let mut order: Vec<usize> = lists.collect();
    let nearer = |a: &usize, b: &usize| scores[*a].total_cmp(&scores[*b]).then(a.cmp(b));
    if count < order.len() {
        order.select_nth_unstable_by(count, nearer);
        order.truncate(count);
    }
    order.sort_unstable_by(nearer);
    order
}

/// Decides which rows go where.
pub(super) struct Moves<'a> {
    pub(super) job: &'a ReshapeJob,
    pub(super) plan: &'a Plan,
    /// With the new centroids.
    pub(super) quantizer: &'a Quantizer,
}

impl Moves<'_> {
    /// For each seat the rows that come to it: all rows of renewed and dissolved lists, and those rows of lists around a renewed one
    /// that are nearer to a new centroid than to their own.
    pub(super) fn arrivals(&self) -> BTreeMap<usize, Vec<Origin>> {
        let mut arrivals = BTreeMap::new();
        let mut visitors: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for region in &self.plan.regions {
            for &number in &region.lists {
                self.scatter(number, &region.seats, &mut visitors, &mut arrivals);
            }
        }
        for &number in &self.plan.dissolved {
            self.scatter(number, &[], &mut visitors, &mut arrivals);
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

    /// Sends the rows of a list to the nearest of the lists around it and of the parts that took its place, which visit the
    /// lists around.
    fn scatter(
        &self,
        number: usize,
        parts: &[usize],
        visitors: &mut BTreeMap<usize, BTreeSet<usize>>,
        arrivals: &mut BTreeMap<usize, Vec<Origin>>,
    ) {
        let centroid = self.job.quantizer.lifted_centroid(number);
        let mut near: BTreeSet<usize> =
            nearest_lists(self.quantizer, centroid, NEIGHBOURS, self.job.kernels).into_iter().collect();
        for &seat in &near {
            visitors.entry(seat).or_default().extend(parts);
        }
        near.extend(parts);
        self.assign(number, &near.into_iter().collect::<Vec<_>>(), None, arrivals);
    }

    /// Assigns the live rows of a list to the nearest of `seats`; those of `stay` do not move.
    fn assign(&self, number: usize, seats: &[usize], stay: Option<usize>, arrivals: &mut BTreeMap<usize, Vec<Origin>>) {
        let centred = Centred::new(&self.job.gather(number), self.quantizer.space(), self.job.kernels);
        let near = |&seat| self.quantizer.lifted_centroid(seat).iter().zip(&centred.mean).map(|(x, m)| x - m);
        let nearest = centred.clustering().assign(&seats.iter().flat_map(near).collect::<Vec<f32>>());
        for (slot, nearest) in self.job.lists[number].live_slots().zip(nearest) {
            let seat = seats[nearest as usize];
            if stay != Some(seat) {
                arrivals.entry(seat).or_default().push((number, slot));
            }
        }
    }
}
