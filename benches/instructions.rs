//! What the gate of instruction counts runs under callgrind (scripts/instructions.sh): one case a process, prepared outside and run
//! inside `measured`, whose instructions alone are counted. A shared machine disturbs times, but not counts.
//!
//! `instructions` lists the cases, `instructions NAME` runs one with the kernels of VECTORSPHERE_SIMD.

use vectorsphere::index::{
    IndexSpec, RowSource, RowVisitor, Scratch, SearchParams, SourceError, TrainOptions, VectorIndex, bench_doors,
    kernels, train,
};
use vectorsphere::types::{Metric, PointId};

const DIMENSION: usize = 96;
const ROWS: usize = 5_000;
const QUERIES: usize = 20;

/// Kernels by name and size, and what they are part of.
const KERNELS: &[(&str, &str, &str)] = &[
    ("scan-8", "scan", "8 B"),
    ("scan-25", "scan", "25 B"),
    ("rerank", "dot_i8", "128"),
    ("exact", "l2", "128"),
    ("rotation", "hadamard", "64"),
    ("coarse", "scores_i8", "1x1024x128"),
    ("assign", "nearest_i8", "96x1024x128"),
    ("table", "code_dots", "50x2"),
    ("encode", "nearest_code", "50x2"),
];
const WHOLE: &[&str] = &["build-5k", "query"];

fn main() {
    // `cargo bench` adds flags of its own.
    let Some(name) = std::env::args().skip(1).find(|argument| !argument.starts_with('-')) else {
        KERNELS.iter().for_each(|(name, ..)| println!("{name}"));
        WHOLE.iter().for_each(|name| println!("{name}"));
        return;
    };
    let table = kernels::choose(std::env::var("VECTORSPHERE_SIMD").ok().as_deref());
    match name.as_str() {
        "build-5k" => build(),
        "query" => query(),
        _ => kernel(&name, table),
    }
}

/// The one function whose instructions are counted; the script knows its name.
#[inline(never)]
fn measured(run: &mut dyn FnMut()) {
    run();
}

fn kernel(name: &str, table: &str) {
    let Some((_, kernel, size)) = KERNELS.iter().find(|(known, ..)| *known == name) else {
        panic!("no case {name}: run without arguments for the list");
    };
    let cases = bench_doors::cases(table);
    let mut case =
        cases.into_iter().find(|case| case.kernel == *kernel && case.size == *size).expect("a case of this size");
    measured(&mut *case.run);
}

fn build() {
    let rows = Rows(numbers(1, ROWS));
    let mut built = None;
    measured(&mut || {
        built =
            Some(train(&spec(), &mut Rows(rows.0.clone()), &TrainOptions::new(1)).expect("rows that can be indexed"))
    });
    assert_eq!(built.map(|built| built.points.len()), Some(ROWS));
}

fn query() {
    let built = train(&spec(), &mut Rows(numbers(1, ROWS)), &TrainOptions::new(1)).expect("rows that can be indexed");
    let (points, index) = VectorIndex::of_built(spec(), built).expect("lists that fit");
    let (queries, mut scratch) = (numbers(2, QUERIES), Scratch::new());
    let params = SearchParams::new(10);
    let mut search = || {
        let one = |query: &[f32]| index.search(&points, query, &params, &mut scratch).hits.len();
        assert!(queries.chunks_exact(DIMENSION).map(one).all(|hits| hits >= 10));
    };
    // Once before, so that every buffer has its size.
    search();
    measured(&mut search);
}

fn spec() -> IndexSpec {
    IndexSpec::new(Metric::Euclidean, DIMENSION)
}

/// Clustered vectors: 60 centres, noise of a third of their spread.
fn numbers(seed: u64, rows: usize) -> Vec<f32> {
    const CENTRES: usize = 60;
    let (mut centres, mut chance) = (Chance(7), Chance(seed));
    let centres: Vec<f32> = (0..CENTRES * DIMENSION).map(|_| centres.unit()).collect();
    let mut vectors = Vec::with_capacity(rows * DIMENSION);
    for _ in 0..rows {
        let at = (chance.unit().abs() * CENTRES as f32) as usize % CENTRES * DIMENSION;
        vectors.extend(centres[at..at + DIMENSION].iter().map(|centre| centre + chance.unit() / 3.0));
    }
    vectors
}

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

struct Rows(Vec<f32>);

impl RowSource for Rows {
    fn rows_hint(&self) -> usize {
        self.0.len() / DIMENSION
    }

    fn visit(&mut self, visit: &mut RowVisitor<'_>) -> Result<(), SourceError> {
        (0..).zip(self.0.chunks_exact(DIMENSION)).for_each(|(row, vector)| visit(PointId::Num(row), 1, vector));
        Ok(())
    }
}
