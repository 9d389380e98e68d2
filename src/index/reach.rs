//! How far beyond the k-th nearest row the centroids of the nearest rows lie: when a filtered search has seen enough. The number of
//! lists that an ordinary search needs says nothing where a filter leaves one row in fifty, or all rows in one corner; this does.
//!
//! A row x of the list with centroid c has `|q−c|² = |q−x|² + |r|² + 2⟨q−x, r⟩`, r = x − c, and the last term is about
//! `2 · |q−x| · |r| · g/√d`, g normal and d the dimensions in which the data varies. So a search whose k-th nearest is at τ visits
//! the lists ranked up to `τ + R² + 2κ · √τ · R`, R the mean |r|; for inner products with a query of length 1 up to `τ + κ · R`. κ is
//! measured on the lists themselves, with the ranks they have (which need not be the plain distance of the centroid): rows are
//! queries. What an even filter allows is rows of a sample; what one allows that follows the vectors is all rows of lists that lie
//! together, as many as such a filter leaves: the nearest of many rows are those whose residuals point to the query the most, so the
//! nearest of a few rows would need less. Called by `train` and `arrange` (measuring), `filtered` and `search`.

use super::kernels::Kernels;
use super::search::Lists;
use crate::types::Metric;

/// Rows sampled.
const SAMPLE_ROWS: usize = 4096;
/// Sample rows that are queries.
const QUERIES: usize = 64;
/// Neighbours of each that should be reached.
const NEIGHBOURS: usize = 10;
/// Corners that a correlated filter leaves, and the rows of each: one in so many of all rows, and not more than this.
const CORNERS: usize = 4;
const CORNER_SHARE: usize = 16;
const CORNER_ROWS_MAX: usize = 16_384;
/// Fewer of long rows: so many numbers in all, but this many rows at least.
const CORNER_NUMBERS_MAX: usize = 1 << 21;
const CORNER_ROWS_MIN: usize = 1024;
/// Of the neighbours that a recall allows to be missed, the share that may be out of reach; the codes lose some, too. Less of even
/// filters, which are measured on a sample: the nearest of all rows would need somewhat more.
const EVEN_MISSED_SHARE: f32 = 0.1;
const CORNER_MISSED_SHARE: f32 = 0.5;

/// An exact distance in the measure by which lists are ranked: squared L2 or the negative inner product. Of an L1 distance what it
/// is on average over directions.
pub(crate) fn scanned_distance(metric: Metric, dimension: usize, distance: f32) -> f32 {
    match metric {
        Metric::Cosine => 2.0 * distance,
        Metric::Euclidean | Metric::Dot => distance,
        Metric::Manhattan => distance * distance * std::f32::consts::FRAC_PI_2 / dimension as f32,
    }
}

/// The κ that neighbours needed, ascending.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reach {
    /// Of filters that have nothing to do with the vectors.
    even: Vec<f32>,
    /// Of filters that leave one corner.
    corners: Vec<f32>,
}

impl Reach {
    /// Measures on the lists' rows. Cost: some tens of milliseconds, at most 160 million components compared at 128 dimensions.
    pub(crate) fn measure(lists: Lists<'_>, kernels: &Kernels) -> Reach {
        let sample = Sample::take(lists, kernels);
        let step = sample.len().div_ceil(QUERIES).max(1);
        let queries: Vec<usize> = (0..sample.len()).step_by(step).collect();
        let mut even = Vec::new();
        let mut corners = Vec::new();
        for &query in &queries {
            sample.needs(&sample, query, &mut even);
        }
        for (number, centre) in (0..sample.len()).step_by(sample.len().div_ceil(CORNERS).max(1)).enumerate() {
            let corner = Sample::around(lists, sample.places[centre].0, kernels);
            // Queries from everywhere, far from the corner or not.
            queries.iter().skip(number).step_by(CORNERS).for_each(|&query| corner.needs(&sample, query, &mut corners));
        }
        even.sort_unstable_by(f32::total_cmp);
        corners.sort_unstable_by(f32::total_cmp);
        Reach { even, corners }
    }

    /// All of it as numbers, for a file.
    pub(crate) fn numbers(&self) -> [&[f32]; 2] {
        [&self.even, &self.corners]
    }

    /// What [`Reach::numbers`] gave; `None` if they are no such numbers.
    pub(crate) fn from_numbers([even, corners]: [Vec<f32>; 2]) -> Option<Reach> {
        let is_valid = |numbers: &[f32]| numbers.iter().all(|x| x.is_finite()) && numbers.is_sorted();
        (is_valid(&even) && is_valid(&corners)).then_some(Reach { even, corners })
    }

    /// The κ that reaches enough of the neighbours for this recall.
    pub(crate) fn kappa(&self, recall: f32) -> Kappa {
        let missed = (1.0 - recall).clamp(0.0, 1.0);
        let even = quantile(&self.even, 1.0 - EVEN_MISSED_SHARE * missed);
        let uneven = quantile(&self.corners, 1.0 - CORNER_MISSED_SHARE * missed);
        Kappa { even, uneven: uneven.max(even) }
    }
}

/// κ of filters that have nothing to do with the vectors, and of those that have; never less.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kappa {
    pub(crate) even: f32,
    pub(crate) uneven: f32,
}

/// How much farther than the k-th nearest row, found at `kth`, lists may rank that are still to be visited. `residual` is the root
/// mean square of the rows' residuals.
pub(crate) fn margin(kappa: f32, kth: f32, residual: f32, is_dot: bool) -> f32 {
    if is_dot { kappa * residual } else { residual * residual + kappa * scale(kth, residual) }
}

/// What κ counts: a standard deviation of `|q−c|²`, but for the dimensions.
fn scale(kth: f32, residual: f32) -> f32 {
    2.0 * kth.max(0.0).sqrt() * residual
}

/// The value that this share does not exceed; 0 of none.
fn quantile(ascending: &[f32], share: f32) -> f32 {
    let last = ascending.len().saturating_sub(1);
    ascending.get((last as f32 * share).ceil() as usize).copied().unwrap_or(0.0)
}

/// Some rows, as their int8 forms have them, and their lists.
struct Sample<'a> {
    lists: Lists<'a>,
    kernels: &'a Kernels,
    /// Projected, `d` numbers a row.
    rows: Vec<f32>,
    /// List and slot of each.
    places: Vec<(usize, usize)>,
    /// What a row lacks to be a projected query: the rotated mean for inner products, else zeros.
    query_shift: Vec<f32>,
    residual: f32,
}

impl<'a> Sample<'a> {
    /// Rows of all lists.
    fn take(lists: Lists<'a>, kernels: &'a Kernels) -> Sample<'a> {
        let live: usize = lists.lists.iter().map(|list| list.live_rows).sum();
        let step = live.div_ceil(SAMPLE_ROWS).max(1);
        let sound = lists.lists.iter().enumerate().filter(|(_, list)| list.list.is_sound());
        let slots = sound.flat_map(|(home, list)| list.live_slots().map(move |slot| (home, slot)));
        Sample::of(lists, slots.step_by(step).collect(), kernels)
    }

    /// All rows of the lists nearest to one of them, as many as a corner has.
    fn around(lists: Lists<'a>, centre: usize, kernels: &'a Kernels) -> Sample<'a> {
        let quantizer = lists.quantizer;
        let distance = |list| (kernels.l2)(quantizer.centroid(centre), quantizer.centroid(list));
        let sound = lists.lists.iter().enumerate().filter(|(_, list)| list.list.is_sound());
        let mut near: Vec<(f32, usize)> = sound.map(|(list, _)| (distance(list), list)).collect();
        near.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let live: usize = lists.lists.iter().map(|list| list.live_rows).sum();
        let most = (CORNER_NUMBERS_MAX / quantizer.space()).clamp(CORNER_ROWS_MIN, CORNER_ROWS_MAX);
        let wanted = (live / CORNER_SHARE).clamp(NEIGHBOURS + 1, most);
        let slots = near.iter().flat_map(|&(_, list)| lists.lists[list].live_slots().map(move |slot| (list, slot)));
        Sample::of(lists, slots.take(wanted).collect(), kernels)
    }

    fn of(lists: Lists<'a>, places: Vec<(usize, usize)>, kernels: &'a Kernels) -> Sample<'a> {
        let quantizer = lists.quantizer;
        let mut rows = Vec::with_capacity(places.len() * quantizer.space());
        places.iter().for_each(|&(home, slot)| lists.reconstruct(home, slot, &mut rows, kernels));
        let mut query_shift = vec![0.0; quantizer.dimension];
        if quantizer.metric == Metric::Dot {
            quantizer.project_query(&quantizer.mean, &mut query_shift, kernels);
        }
        Sample { lists, kernels, rows, places, query_shift, residual: quantizer.residual_mean.max(0.0).sqrt() }
    }

    fn len(&self) -> usize {
        self.places.len()
    }

    fn row(&self, i: usize) -> &[f32] {
        let d = self.query_shift.len();
        &self.rows[i * d..(i + 1) * d]
    }

    /// The distance that decides which rows are neighbours, and the one that lists are ranked and codes are scanned by.
    fn distances(&self, query: &[f32], row: &[f32]) -> (f32, f32) {
        match self.lists.quantizer.metric {
            Metric::Dot => {
                let distance = -(self.kernels.dot)(query, row);
                (distance, distance)
            }
            Metric::Manhattan => {
                let distance = (self.kernels.l1)(query, row);
                // Searches of IVF-Flat lists know L1 distances only.
                let scanned = match self.lists.quantizer.codebook {
                    Some(_) => (self.kernels.l2)(query, row),
                    None => scanned_distance(Metric::Manhattan, row.len(), distance),
                };
                (distance, scanned)
            }
            Metric::Cosine | Metric::Euclidean => {
                let distance = (self.kernels.l2)(query, row);
                (distance, distance)
            }
        }
    }

    /// Appends the κ that each neighbour of a row of `queries` needs to be reached.
    fn needs(&self, queries: &Sample<'_>, query: usize, needed: &mut Vec<f32>) {
        let shifted = queries.row(query).iter().zip(&self.query_shift);
        let vector: Vec<f32> = shifted.map(|(x, shift)| x + shift).collect();
        let others = (0..self.len()).filter(|&i| self.places[i] != queries.places[query]);
        let mut near: Vec<((f32, f32), usize)> = others.map(|i| (self.distances(&vector, self.row(i)), i)).collect();
        let nearer = |a: &((f32, f32), usize), b: &((f32, f32), usize)| a.0.0.total_cmp(&b.0.0).then(a.1.cmp(&b.1));
        if near.len() > NEIGHBOURS {
            near.select_nth_unstable_by(NEIGHBOURS, nearer);
        }
        near.truncate(NEIGHBOURS);
        let kth = near.iter().map(|((_, scanned), _)| *scanned).fold(f32::NEG_INFINITY, f32::max);
        let quantizer = self.lists.quantizer;
        let query_scale = quantizer.query_scale(&vector, self.kernels);
        for (_, row) in near {
            let home = self.places[row].0;
            let base = quantizer.list_base(&vector, home, self.kernels);
            let rank = quantizer.rank(home, base, query_scale);
            let (gap, scale) = match quantizer.metric {
                Metric::Dot => (rank - kth * query_scale, self.residual),
                _ => (rank - kth - self.residual * self.residual, scale(kth, self.residual)),
            };
            if scale > 0.0 && gap.is_finite() {
                needed.push(gap / scale);
            }
        }
    }
}

impl Lists<'_> {
    /// Appends a row, projected, to `out`: an IVF-PQ row as its int8 form has it.
    fn reconstruct(self, list: usize, slot: usize, out: &mut Vec<f32>, kernels: &Kernels) {
        let at = out.len();
        out.resize(at + self.quantizer.space(), 0.0);
        self.quantizer.stored_row(list, &self.lists[list].list, slot, &mut out[at..], kernels);
        out.truncate(at + self.quantizer.dimension);
    }
}
