//! How far beyond the k-th nearest row the centroids of the nearest rows lie: when a filtered search has seen enough. The number of
//! lists that an ordinary search needs says nothing where a filter leaves one row in fifty, or all rows in one corner; this does.
//!
//! A row x of the list with centroid c has `|q−c|² = |q−x|² + |r|² + 2⟨q−x, r⟩`, r = x − c, and the last term is about
//! `2 · |q−x| · |r| · g/√d`, g normal and d the dimensions in which the data varies. So a search whose k-th nearest is at τ visits
//! the lists ranked up to `τ + R² + 2κ · √τ · R`, R the mean |r|; for inner products with a query of length 1 up to `τ + κ · R`. κ is
//! measured on the lists themselves, with the ranks they have (which need not be the plain distance of the centroid): rows are
//! queries, rows of a sample are what a filter allows. Called by `train` and `arrange` (measuring), `filtered` and `search`.

use super::kernels::Kernels;
use super::search::Lists;
use crate::types::Metric;

/// Rows sampled.
const SAMPLE_ROWS: usize = 4096;
/// Sample rows that are queries.
const QUERIES: usize = 64;
/// Neighbours of each that should be reached.
const NEIGHBOURS: usize = 10;
/// One sample row in so many, nearest to one of them, is what a correlated filter allows.
const CORNER_SHARE: usize = 16;
/// Of the neighbours that a recall allows to be missed, the share that may be out of reach; the codes lose some, too.
const MISSED_SHARE: f32 = 0.2;

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
    /// Measures on the lists' rows. Cost: a few milliseconds, some 10 million components compared at 128 dimensions.
    pub(crate) fn measure(lists: Lists<'_>, kernels: &Kernels) -> Reach {
        let sample = Sample::take(lists, kernels);
        let everywhere: Vec<usize> = (0..sample.len()).collect();
        let step = sample.len().div_ceil(QUERIES).max(1);
        let mut even = Vec::new();
        let mut corners = Vec::new();
        for query in everywhere.iter().copied().step_by(step) {
            sample.needs(query, &everywhere, &mut even);
            // Some other row's corner, far from the query or not.
            let corner = sample.corner((query * 7 + sample.len() / 3) % sample.len());
            sample.needs(query, &corner, &mut corners);
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
    pub(crate) fn kappa(&self, recall: f32) -> f32 {
        let reached = 1.0 - MISSED_SHARE * (1.0 - recall).clamp(0.0, 1.0);
        quantile(&self.even, reached).max(quantile(&self.corners, reached))
    }
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
    homes: Vec<usize>,
    /// What a row lacks to be a projected query: the rotated mean for inner products, else zeros.
    query_shift: Vec<f32>,
    residual: f32,
}

impl<'a> Sample<'a> {
    fn take(lists: Lists<'a>, kernels: &'a Kernels) -> Sample<'a> {
        let quantizer = lists.quantizer;
        let live: usize = lists.lists.iter().map(|list| list.live_rows).sum();
        let step = live.div_ceil(SAMPLE_ROWS).max(1);
        let sound = lists.lists.iter().enumerate().filter(|(_, list)| list.list.is_sound());
        let slots = sound.flat_map(|(home, list)| list.live_slots().map(move |slot| (home, slot)));
        let (mut rows, mut homes) = (Vec::new(), Vec::new());
        for (home, slot) in slots.step_by(step) {
            lists.reconstruct(home, slot, &mut rows, kernels);
            homes.push(home);
        }
        let mut query_shift = vec![0.0; quantizer.dimension];
        if quantizer.metric == Metric::Dot {
            quantizer.project_query(&quantizer.mean, &mut query_shift, kernels);
        }
        Sample { lists, kernels, rows, homes, query_shift, residual: quantizer.residual_mean.max(0.0).sqrt() }
    }

    fn len(&self) -> usize {
        self.homes.len()
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

    /// The rows nearest to one of them.
    fn corner(&self, centre: usize) -> Vec<usize> {
        let mut near: Vec<(f32, usize)> =
            (0..self.len()).map(|i| ((self.kernels.l2)(self.row(centre), self.row(i)), i)).collect();
        let wanted = (self.len() / CORNER_SHARE).max(NEIGHBOURS + 1).min(near.len());
        near.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        near[..wanted].iter().map(|(_, i)| *i).collect()
    }

    /// Appends the κ that each neighbour of `query` among `rows` needs to be reached.
    fn needs(&self, query: usize, rows: &[usize], needed: &mut Vec<f32>) {
        let vector: Vec<f32> = self.row(query).iter().zip(&self.query_shift).map(|(x, shift)| x + shift).collect();
        let others = rows.iter().copied().filter(|&i| i != query);
        let mut near: Vec<((f32, f32), usize)> = others.map(|i| (self.distances(&vector, self.row(i)), i)).collect();
        near.sort_unstable_by(|a, b| a.0.0.total_cmp(&b.0.0).then(a.1.cmp(&b.1)));
        near.truncate(NEIGHBOURS);
        let kth = near.iter().map(|((_, scanned), _)| *scanned).fold(f32::NEG_INFINITY, f32::max);
        let quantizer = self.lists.quantizer;
        let query_scale = quantizer.query_scale(&vector, self.kernels);
        for (_, row) in near {
            let home = self.homes[row];
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
