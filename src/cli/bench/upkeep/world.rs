//! The vectors of the upkeep measurement: those there at first, those that replace them one for one, and queries of both kinds.
//! The same arguments give the same vectors. Called by `upkeep`.

use crate::index::normalize;
use crate::types::Metric;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

/// Synthetic clusters of each kind, and how far their vectors lie around their centres.
const CLUSTERS: usize = 400;
const SPREAD: f32 = 0.6;

/// Row `i` is vector `i` at first, and vector `rows + i` once it is replaced.
pub struct World {
    pub metric: Metric,
    dimension: usize,
    rows: usize,
    vectors: Vec<f32>,
    /// Queries like the first vectors, then as many like the others.
    queries: Vec<f32>,
}

/// What synthetic vectors are wanted.
pub struct Synthetic {
    pub rows: usize,
    pub dimension: usize,
    pub queries: usize,
    pub drift: bool,
}

impl World {
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The vector a row has at a version: 1 at first, then 2.
    pub fn vector(&self, row: u64, version: u64) -> &[f32] {
        let at = row as usize + (version as usize - 1) * self.rows;
        &self.vectors[at * self.dimension..(at + 1) * self.dimension]
    }

    /// As many queries as there are of a kind: of each kind the share that the rows have when so many are replaced.
    pub fn queries(&self, replaced: usize) -> Vec<&[f32]> {
        let count = self.queries.len() / self.dimension / 2;
        let new = (count as f64 * replaced as f64 / self.rows as f64) as usize;
        let query = |at: usize| &self.queries[at * self.dimension..(at + 1) * self.dimension];
        (0..count - new).map(query).chain((count..count + new).map(query)).collect()
    }

    /// The vectors of a file, in random order; with `drift` first those on one side of a random plane, then those on the other.
    pub fn of_file(
        values: Vec<f32>,
        dimension: usize,
        metric: Metric,
        (rows, queries): (usize, usize),
        drift: bool,
        seed: u64,
    ) -> World {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut order: Vec<usize> = (0..values.len() / dimension).collect();
        order.shuffle(&mut rng);
        order.truncate(2 * (rows + queries));
        if drift {
            let normal: Vec<f32> = (0..dimension).map(|_| normal(&mut rng)).collect();
            let side = |at: usize| -> f32 {
                values[at * dimension..(at + 1) * dimension].iter().zip(&normal).map(|(x, n)| x * n).sum()
            };
            order.sort_by(|&a, &b| side(a).total_cmp(&side(b)).then(a.cmp(&b)));
            let (first, second) = order.split_at_mut(rows + queries);
            first.shuffle(&mut rng);
            second.shuffle(&mut rng);
        }
        let gather = |parts: [&[usize]; 2]| -> Vec<f32> {
            let rows = parts.into_iter().flatten();
            rows.flat_map(|&at| &values[at * dimension..(at + 1) * dimension]).copied().collect()
        };
        let (first, second) = order.split_at(rows + queries);
        let vectors = gather([&first[..rows], &second[..rows]]);
        World { metric, dimension, rows, vectors, queries: gather([&first[rows..], &second[rows..]]) }
    }
}

impl Synthetic {
    /// Clusters; with drift those of the second kind are others.
    pub fn world(&self, metric: Metric, seed: u64) -> World {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut centres = |_: usize| -> Vec<f32> { (0..CLUSTERS * self.dimension).map(|_| normal(&mut rng)).collect() };
        let mut kinds = [centres(0), centres(1)];
        if !self.drift {
            kinds[1] = kinds[0].clone();
        }
        let mut of = |kind: usize, count: usize| -> Vec<f32> {
            (0..count).flat_map(|_| self.vector(metric, &kinds[kind], &mut rng)).collect()
        };
        let vectors = [of(0, self.rows), of(1, self.rows)].concat();
        let queries = [of(0, self.queries), of(1, self.queries)].concat();
        World { metric, dimension: self.dimension, rows: self.rows, vectors, queries }
    }

    fn vector(&self, metric: Metric, centres: &[f32], rng: &mut StdRng) -> Vec<f32> {
        let cluster = rng.random_range(0..CLUSTERS);
        let centre = &centres[cluster * self.dimension..(cluster + 1) * self.dimension];
        let mut vector: Vec<f32> = centre.iter().map(|c| c + SPREAD * normal(rng)).collect();
        if metric == Metric::Cosine {
            normalize(&mut vector);
        }
        vector
    }
}

/// About normally distributed: the sum of twelve uniform numbers.
fn normal(rng: &mut StdRng) -> f32 {
    (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0
}
