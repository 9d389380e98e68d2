//! The query path end to end, on one thread: `cargo bench --bench query`. On 100,000 × 128 clustered vectors made from a seed, and, if
//! `BENCH_BASE` and `BENCH_QUERY` name .npy files of f32, on those (`BENCH_METRIC`: euclidean by default). The kernels are those of
//! VECTORSPHERE_SIMD. One iteration is one query; f32 re-scoring of the hits is part of it. Recall is printed beside, against an
//! exact search of the same index.

use criterion::{Criterion, Throughput};
use std::time::Duration;
use vectorsphere::index::{
    Hit, IndexSpec, Points, RowSource, RowVisitor, Scratch, SearchParams, SourceError, TrainOptions, VectorIndex,
    distance, kernels, normalize, train,
};
use vectorsphere::types::{Metric, PointId};

const K: usize = 10;
const QUERIES_MAX: usize = 500;

fn main() {
    println!("kernels: {}", kernels::choose(std::env::var("VECTORSPHERE_SIMD").ok().as_deref()));
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
        .without_plots()
        .configure_from_args();
    let mut chance = Chance(1);
    let (base, queries) = (clustered(&mut chance, 100_000), clustered(&mut chance, QUERIES_MAX));
    Bench::new("clustered-100k-128", Metric::Euclidean, 128, base, queries).run(&mut criterion);
    if let (Ok(base), Ok(query)) = (std::env::var("BENCH_BASE"), std::env::var("BENCH_QUERY")) {
        let metric = match std::env::var("BENCH_METRIC").as_deref() {
            Ok("cosine") => Metric::Cosine,
            Ok("dot") => Metric::Dot,
            Ok("manhattan") => Metric::Manhattan,
            Ok("euclidean") | Err(_) => Metric::Euclidean,
            Ok(other) => panic!("BENCH_METRIC: {other} is no metric"),
        };
        let ((base, dimension), (query, query_dimension)) = (read_npy(&base), read_npy(&query));
        assert_eq!(dimension, query_dimension, "base and queries of one dimension");
        Bench::new("files", metric, dimension, base, query).run(&mut criterion);
    }
    criterion.final_summary();
}

struct Bench {
    name: &'static str,
    metric: Metric,
    dimension: usize,
    base: Vec<f32>,
    queries: Vec<f32>,
    points: Points,
    index: VectorIndex,
}

impl Bench {
    fn new(name: &'static str, metric: Metric, dimension: usize, mut base: Vec<f32>, mut queries: Vec<f32>) -> Bench {
        queries.truncate(QUERIES_MAX * dimension);
        if metric == Metric::Cosine {
            base.chunks_exact_mut(dimension).chain(queries.chunks_exact_mut(dimension)).for_each(|row| {
                normalize(row);
            });
        }
        let spec = IndexSpec::new(metric, dimension);
        let built = train(&spec, &mut Rows { values: &base, dimension }, &TrainOptions::new(1))
            .expect("rows that can be indexed");
        let (points, index) = VectorIndex::of_built(spec, built).expect("lists that fit");
        Bench { name, metric, dimension, base, queries, points, index }
    }

    fn run(&self, criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group(self.name);
        group.throughput(Throughput::Elements(1));
        let default = SearchParams::new(K);
        let mut settings = vec![("calibrated".to_owned(), default)];
        for (nprobe, candidates) in [(8, 64), (32, 128), (128, 400)] {
            let params = SearchParams { nprobe: Some(nprobe), candidates: Some(candidates), ..default };
            settings.push((format!("nprobe {nprobe}, {candidates} candidates"), params));
        }
        for (name, params) in settings {
            println!("{} {name}: recall@{K} {:.4}", self.name, self.recall(&params));
            let (mut scratch, mut queries) = (Scratch::new(), self.queries.chunks_exact(self.dimension).cycle());
            group.bench_function(&name, |bencher| {
                bencher.iter(|| self.search(queries.next().expect("a query"), &params, &mut scratch));
            });
        }
        group.finish();
    }

    fn search(&self, query: &[f32], params: &SearchParams, scratch: &mut Scratch) -> Vec<Hit> {
        let mut hits = self.index.search(&self.points, query, params, scratch).hits;
        for hit in hits.iter_mut().filter(|hit| !hit.exact) {
            let PointId::Num(row) = hit.id else { panic!("ids are row numbers") };
            hit.distance = distance(self.metric, query, &self.base[row as usize * self.dimension..][..self.dimension]);
        }
        hits.sort_unstable_by(Hit::order);
        hits.truncate(K);
        hits
    }

    /// The share of the true nearest found; whoever is as near as the farthest of them counts as one.
    fn recall(&self, params: &SearchParams) -> f64 {
        let exact = SearchParams { exact: true, ..SearchParams::new(K) };
        let (mut scratch, mut found, mut wanted) = (Scratch::new(), 0, 0);
        for query in self.queries.chunks_exact(self.dimension).take(200) {
            let truth = self.search(query, &exact, &mut scratch);
            let limit = truth.last().map_or(f32::INFINITY, |hit| hit.distance);
            let hits = self.search(query, params, &mut scratch);
            found += hits.iter().filter(|hit| hit.distance <= limit).count();
            wanted += truth.len();
        }
        found as f64 / wanted as f64
    }
}

struct Rows<'a> {
    values: &'a [f32],
    dimension: usize,
}

impl RowSource for Rows<'_> {
    fn rows_hint(&self) -> usize {
        self.values.len() / self.dimension
    }

    fn visit(&mut self, visit: &mut RowVisitor<'_>) -> Result<(), SourceError> {
        (0..).zip(self.values.chunks_exact(self.dimension)).for_each(|(row, v)| visit(PointId::Num(row), 1, v));
        Ok(())
    }
}

/// `rows` × 128: a thousand centres drawn uniformly, noise of half their spread.
fn clustered(chance: &mut Chance, rows: usize) -> Vec<f32> {
    const CENTRES: u64 = 1_000;
    let centre = |at: u64| {
        let mut chance = Chance(at << 32);
        (0..128).map(move |_| chance.unit())
    };
    let mut vectors = Vec::with_capacity(rows * 128);
    for _ in 0..rows {
        let at = chance.next() % CENTRES;
        vectors.extend(centre(at).map(|c| c + 0.5 * chance.unit()));
    }
    vectors
}

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [−1, 1).
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// The numbers and the columns of an .npy file (version 1, little-endian f32, C order).
fn read_npy(path: &str) -> (Vec<f32>, usize) {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert!(bytes.starts_with(b"\x93NUMPY\x01"), "{path}: no .npy file of version 1");
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = String::from_utf8_lossy(&bytes[10..end]).into_owned();
    assert!(header.contains("'<f4'") && header.contains("'fortran_order': False"), "{path}: {header}");
    let shape = header.split(['(', ')']).nth(1).unwrap_or_default();
    let columns = shape.split(',').nth(1).and_then(|columns| columns.trim().parse().ok());
    let values = bytes[end..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    (values, columns.unwrap_or_else(|| panic!("{path}: expected two dimensions: {header}")))
}
