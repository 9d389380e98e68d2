//! The order in which lists are visited: by the distance of their centroid, and a wide list later than a dense one. A row of a
//! list is on average as far as `|q − c|² + R²`, R² being the mean square of the list's residuals; its nearest row is nearer. What
//! share of R² to add is measured when the lists are built. It costs a search nothing: the sum is part of the rank's base.
//! Called by `train`.

use super::kernels::{Kernels, order_bits};
use super::list::{LiveList, Rows};
use super::plan::CALIBRATED_K;
use super::quantizer::Quantizer;
use super::search::{Lists, Scratch};
use super::trace::homes;
use super::truth::GroundTruth;
use crate::types::Metric;

/// Shares of R² tried.
const SHARES: [f32; 9] = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8];
/// The share of the true neighbours that the lists visited must hold when orders are compared.
const COVERAGE: f64 = 0.95;
/// What a share must save to be preferred to none.
const GAIN_MIN: f64 = 0.01;

/// What to add to each list's rank: of those tried the one with which the true neighbours of the held-out rows are found in the
/// fewest rows. On word embeddings (glove100) a fifth fewer than by centroids alone. Zeros where lists are ranked by inner
/// product, of which R² is no part.
pub(crate) fn penalties(lists: Lists<'_>, truth: &GroundTruth, kernels: &'static Kernels) -> Vec<f32> {
    let squares = mean_squares(lists, kernels);
    let none = vec![0.0; squares.len()];
    if lists.quantizer.metric == Metric::Dot || truth.queries.is_empty() {
        return none;
    }
    let mut orders = Orders::new(lists, truth, kernels);
    let mut best = (orders.cost(&none) * (1.0 - GAIN_MIN), none);
    for share in &SHARES[1..] {
        let penalties: Vec<f32> = squares.iter().map(|square| share * square).collect();
        let cost = orders.cost(&penalties);
        if cost < best.0 {
            best = (cost, penalties);
        }
    }
    best.1
}

/// The mean square of each list's residuals.
fn mean_squares(lists: Lists<'_>, kernels: &Kernels) -> Vec<f32> {
    let of = |(i, live): (usize, &LiveList)| {
        let sum = match &live.list.rows {
            Rows::Coded(rows) => {
                let square = |slot| {
                    let row = rows.byte_row(slot, lists.quantizer.dimension);
                    let sum: i32 = row.bytes.iter().map(|&byte| i32::from(byte as i8) * i32::from(byte as i8)).sum();
                    sum as f32 * (row.step * row.step)
                };
                (0..live.list.len()).map(|slot| f64::from(square(slot))).sum::<f64>()
            }
            Rows::Exact(vectors) => {
                let centre = centre(lists.quantizer, i);
                vectors.chunks_exact(centre.len()).map(|vector| f64::from((kernels.l2)(vector, &centre))).sum()
            }
        };
        (sum / live.list.len().max(1) as f64) as f32
    };
    lists.lists.iter().enumerate().map(of).collect()
}

/// A centroid in the space of f32 rows, which are not rotated.
fn centre(quantizer: &Quantizer, list: usize) -> Vec<f32> {
    quantizer.centroid(list).iter().zip(&quantizer.mean).map(|(c, mean)| c + mean).collect()
}

/// What is needed of the held-out rows to judge an order.
struct Orders<'a> {
    lists: Lists<'a>,
    /// Of each query the rank of every list by its centroid.
    scores: Vec<Vec<f32>>,
    /// Of each query and calibrated k the lists of its true neighbours, one entry a neighbour.
    neighbours: Vec<[Vec<u32>; CALIBRATED_K.len()]>,
    order: Vec<u64>,
}

impl<'a> Orders<'a> {
    fn new(lists: Lists<'a>, truth: &GroundTruth, kernels: &'static Kernels) -> Orders<'a> {
        let homes = homes(lists, truth);
        let mut scratch = Scratch::with_kernels(kernels);
        let scores = |query: &[f32], scratch: &mut Scratch| lists.scores(query, scratch)[..lists.lists.len()].to_vec();
        Orders {
            lists,
            scores: truth.queries.iter().map(|query| scores(&query.vector, &mut scratch)).collect(),
            neighbours: truth
                .queries
                .iter()
                .map(|query| {
                    CALIBRATED_K.map(|k| query.true_ids(k).map(|id| homes.get(&id).map_or(0, |home| home.0)).collect())
                })
                .collect(),
            order: Vec::new(),
        }
    }

    /// Rows visited, on average over queries, until the lists hold [`COVERAGE`] of the neighbours of all: summed over the
    /// calibrated k.
    fn cost(&mut self, penalties: &[f32]) -> f64 {
        let lists = self.lists.lists.len();
        let mut rows_at = vec![0usize; lists];
        let mut found_at = [(); CALIBRATED_K.len()].map(|()| vec![0usize; lists]);
        let mut place = vec![0u32; lists];
        for (scores, neighbours) in self.scores.iter().zip(&self.neighbours) {
            let ranked = scores.iter().zip(penalties).zip(0u64..);
            self.order.clear();
            self.order
                .extend(ranked.map(|((score, penalty), list)| u64::from(order_bits(score + penalty)) << 32 | list));
            self.order.sort_unstable();
            for (at, &packed) in self.order.iter().enumerate() {
                let list = packed as u32 as usize;
                place[list] = at as u32;
                rows_at[at] += self.lists.lists[list].live_rows;
            }
            for (found_at, neighbours) in found_at.iter_mut().zip(neighbours) {
                neighbours.iter().for_each(|&list| found_at[place[list as usize] as usize] += 1);
            }
        }
        found_at.iter().map(|found_at| rows_until_covered(found_at, &rows_at) / self.scores.len() as f64).sum()
    }
}

fn rows_until_covered(found_at: &[usize], rows_at: &[usize]) -> f64 {
    let wanted = found_at.iter().sum::<usize>() as f64 * COVERAGE;
    let (mut found, mut rows) = (0, 0);
    for (more, visited) in found_at.iter().zip(rows_at) {
        if found as f64 >= wanted {
            break;
        }
        found += more;
        rows += visited;
    }
    rows as f64
}
