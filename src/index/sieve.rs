//! Tells with int8 products which held-out rows a row may be near to, so that exact distances are computed for few. It never loses
//! a neighbour: estimates carry a bound on their error (Cauchy–Schwarz on what rounding left out). Called by `truth`.

use super::kernels::{BytePanels, ByteSlice, Kernels};
use super::kmeans::Clustering;
use super::quantizer::Quantizer;
use crate::types::Metric;

/// Rows of the sample that the first limits are taken from.
const SAMPLE_ROWS: usize = 16_384;
/// Rows scored together.
const BLOCK: usize = 256;
/// The most by which rounding to int8 moves a number, in steps: a half, and what f32 adds to it.
const HALF_STEP: f32 = 0.501;
/// The most by which f32 arithmetic moves a distance, in squares of the lengths.
const ROUNDING: f32 = 1e-4;

/// The held-out rows as columns. An estimate of a distance is `score + square`, where the score is the kernel's and the square
/// that of the projected row (euclidean) or 0.
pub(crate) struct Sieve {
    panels: BytePanels,
    metric: Metric,
    count: usize,
    /// Of each query what a distance must not exceed.
    limits: Vec<f32>,
    /// The longest query, and the largest error of one's rounding.
    length_max: f32,
    error_max: f32,
    base_max: f32,
}

/// What the estimates of a row lack: `square` is to be added, and then they are off by at most `slack`.
#[derive(Clone, Copy)]
struct RowTerms {
    square: f32,
    slack: f32,
}

impl Sieve {
    /// None for L1, which is no product. `queries` are as stored, one after another; `sample` holds projected rows, none of them
    /// a query; `neighbours` of each query are wanted.
    pub(crate) fn new(
        queries: &[f32],
        quantizer: &Quantizer,
        sample: Clustering<'_>,
        neighbours: usize,
    ) -> Option<Sieve> {
        let (d, space, metric) = (quantizer.dimension, quantizer.space(), quantizer.metric);
        let kernels = sample.work.kernels;
        if metric == Metric::Manhattan || queries.is_empty() {
            return None;
        }
        let mut vectors = vec![0f32; queries.len() / d * space];
        for (query, projected) in queries.chunks_exact(d).zip(vectors.chunks_exact_mut(space)) {
            if metric == Metric::Euclidean {
                quantizer.project_row(query, projected, kernels);
                continue;
            }
            // The product of a centred row with a query that is not differs from the true one by a number of the query's. A
            // height of rows meets a zero.
            projected[..d].copy_from_slice(query);
            quantizer.rotation.apply(&mut projected[..d], kernels);
        }
        let mut panels = BytePanels::new(&vectors, space, kernels);
        let largest = |numbers: &[f32]| numbers.iter().fold(0f32, |most, &n| if n > most { n } else { most });
        let count = queries.len() / d;
        let length_max = largest(&panels.bases[..count]).sqrt();
        let error_max = HALF_STEP * largest(&panels.steps) * (space as f32).sqrt();
        if metric != Metric::Euclidean {
            let one = if metric == Metric::Cosine { 1.0 } else { 0.0 };
            let queries = queries.chunks_exact(d);
            panels.bases.iter_mut().zip(queries).for_each(|(b, q)| *b = one - (kernels.dot)(q, &quantizer.mean));
        }
        let base_max = panels.bases[..count].iter().fold(0f32, |most, b| if b.abs() > most { b.abs() } else { most });
        let limits = vec![f32::INFINITY; count];
        let mut sieve = Sieve { panels, metric, count, limits, length_max, error_max, base_max };
        sieve.limits = sieve.limits_of(sample.head(SAMPLE_ROWS), neighbours);
        Some(sieve)
    }

    /// Of each query a distance within which it has at least so many of the sample's rows; infinite if there are not so many.
    fn limits_of(&self, sample: Clustering<'_>, neighbours: usize) -> Vec<f32> {
        let (d, kernels) = (sample.dimension, sample.work.kernels);
        let mut bounds: Vec<Vec<f32>> = vec![Vec::new(); self.count];
        for start in (0..sample.len()).step_by(BLOCK) {
            let end = sample.len().min(start + BLOCK);
            let rows = &sample.rows[start * d..end * d];
            self.score(rows, sample.bytes.slice(start..end), kernels, |_, scores, terms| {
                for (held, &score) in bounds.iter_mut().zip(scores) {
                    held.push(score + terms.square + terms.slack);
                    if held.len() >= 2 * neighbours {
                        held.select_nth_unstable_by(neighbours - 1, f32::total_cmp);
                        held.truncate(neighbours);
                    }
                }
            });
        }
        let limit = |mut held: Vec<f32>| match held.len() < neighbours {
            true => f32::INFINITY,
            false => *held.select_nth_unstable_by(neighbours - 1, f32::total_cmp).1,
        };
        bounds.into_iter().map(limit).collect()
    }

    /// Calls `found` with each row and query that may be as near as the query's limit, rows ascending, then queries. `rows` are
    /// projected.
    pub(crate) fn sift(
        &self,
        rows: &[f32],
        bytes: ByteSlice<'_>,
        kernels: &Kernels,
        mut found: impl FnMut(usize, usize),
    ) {
        let d = self.panels.dimension;
        for (block, rows) in rows.chunks(BLOCK * d).enumerate() {
            let first = block * BLOCK;
            let bytes = bytes.slice(first..first + rows.len() / d);
            self.score(rows, bytes, kernels, |i, scores, terms| {
                let room = terms.slack - terms.square;
                for (part, (scores, limits)) in scores.chunks(16).zip(self.limits.chunks(16)).enumerate() {
                    let beyond = |(score, limit): (&f32, &f32)| *score > limit + room;
                    // "Not beyond" rather than "within": what is no number is looked at.
                    if !scores.iter().zip(limits).fold(true, |all, pair| all & beyond(pair)) {
                        let near = scores.iter().zip(limits).enumerate().filter(|&(_, pair)| !beyond(pair));
                        near.for_each(|(j, _)| found(first + i, part * 16 + j));
                    }
                }
            });
        }
    }

    /// A query's limit is at most this from now on.
    pub(crate) fn lower(&mut self, query: usize, limit: f32) {
        if limit < self.limits[query] {
            self.limits[query] = limit;
        }
    }

    /// Gives each row's scores for the real queries and its terms to `take`.
    fn score(
        &self,
        rows: &[f32],
        bytes: ByteSlice<'_>,
        kernels: &Kernels,
        mut take: impl FnMut(usize, &[f32], RowTerms),
    ) {
        let (d, columns) = (self.panels.dimension, self.panels.columns_padded());
        let factor = if self.metric == Metric::Euclidean { -2.0 } else { -1.0 };
        let mut scores = vec![0f32; bytes.len() * columns];
        (kernels.scores_i8)(&self.panels, bytes, factor, &mut scores);
        for (i, (row, scores)) in rows.chunks_exact(d).zip(scores.chunks_exact(columns)).enumerate() {
            let square = (kernels.dot)(row, row);
            let (length, error) = (square.sqrt(), HALF_STEP * bytes.step(i) * (d as f32).sqrt());
            let rounding = ROUNDING * (square + self.length_max * self.length_max + self.base_max);
            let slack = -factor * (error * self.length_max + (length + error) * self.error_max) + rounding;
            let square = if self.metric == Metric::Euclidean { square } else { 0.0 };
            take(i, &scores[..self.count], RowTerms { square, slack });
        }
    }
}
