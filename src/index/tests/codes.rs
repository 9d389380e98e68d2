//! The kinds of codes: what they promise of recall, of size and of the last pass, at any dimension. Run by `cargo test index::`.

use super::super::list::Rows;
use super::*;
use crate::types::Rerank;

/// Everything codes may be: kind and dimensions a 4-bit code stands for.
const CODES: [(IndexKind, usize); 6] = [
    (IndexKind::IvfFlat, 2),
    (IndexKind::IvfPq, 2),
    (IndexKind::IvfPq, 4),
    (IndexKind::IvfPq, 8),
    (IndexKind::IvfBinary, 4),
    (IndexKind::IvfInt8, 2),
];

fn spec_of((kind, subspace_width): (IndexKind, usize), metric: Metric, dimension: usize) -> IndexSpec {
    IndexSpec { subspace_width, calibration_queries: 64, ..small(metric, kind, dimension) }
}

#[test]
fn every_code_reaches_its_recall_at_any_dimension() {
    let dimensions: &[usize] = if cfg!(debug_assertions) { &[1, 7, 33] } else { &[1, 3, 7, 33, 100, 129] };
    for metric in Metric::ALL {
        for &dimension in dimensions {
            let mut generator = Generator::new(metric, dimension, 40, 8);
            let model = generator.model(2_000);
            let queries: Vec<_> = (0..100).map(|_| generator.vector()).collect();
            let truth = Truth::new(metric, &model, queries, 10);
            for code in CODES {
                let index = trained(&spec_of(code, metric, dimension), &model, 2);
                let got = truth.recall(&index, &model, SearchParams::new(10));
                assert!(got >= 0.95, "{metric:?} {code:?} {dimension}: {got}, {:?}", index.index.state());
            }
        }
    }
}

#[test]
fn long_rows_are_found_by_their_inner_product() {
    // Lengths over two orders of magnitude, of any direction: the answers are long rows that are near no query.
    let (rows, dimension) = (if cfg!(debug_assertions) { 3_000 } else { 12_000 }, 24);
    let mut generator = Generator::new(Metric::Dot, dimension, 60, 8);
    let mut model = generator.model(rows);
    for (_, vector) in model.values_mut() {
        let length = 10f32.powi(generator.rng.below(3) as i32 - 1) * (1.0 + generator.rng.below(100) as f32 / 25.0);
        vector.iter_mut().for_each(|x| *x *= length);
    }
    // The length of a query changes nothing.
    let scaled = |scale: f32, mut vector: Vec<f32>| {
        vector.iter_mut().for_each(|x| *x *= scale);
        vector
    };
    let queries: Vec<_> =
        [1e-6, 1.0, 1e6].into_iter().cycle().take(99).map(|scale| scaled(scale, generator.vector())).collect();
    let truth = Truth::new(Metric::Dot, &model, queries.clone(), 10);
    for code in CODES {
        let index = trained(&spec_of(code, Metric::Dot, dimension), &model, 2);
        let got = truth.recall(&index, &model, SearchParams::new(10));
        let state = index.index.state();
        assert!(got >= 0.95, "{code:?}: {got}, {state:?}");
        let mut scratch = Scratch::new();
        let probed = |query: &Vec<f32>| index.search(query, &SearchParams::new(10), &mut scratch).stats.lists_probed;
        let probed: usize = queries.iter().map(probed).sum();
        assert!(probed * 2 < state.lists * queries.len(), "{code:?}: {probed} lists, {state:?}");
    }
}

#[test]
fn codes_are_as_small_as_promised() {
    let dimension = 128;
    let model = Generator::new(Metric::Euclidean, dimension, 10, 77).model(900);
    // Bits of code a dimension; binary: 32 times smaller than f32.
    for (code, bits) in CODES.into_iter().zip([0.0, 2.0, 1.0, 0.5, 1.0, 0.0]) {
        let spec = spec_of(code, Metric::Euclidean, dimension);
        let built = train(&spec, &mut ModelSource(&model), 1).expect("rows to train on");
        for live in &built.sealed.lists {
            let blocks = live.list.len().div_ceil(kernels::BLOCK_ROWS);
            match &live.list.rows {
                Rows::Exact(vectors) => assert_eq!(vectors.len(), live.list.len() * dimension),
                Rows::Coded(rows) => {
                    // 4 bytes of factors a row; none where there are no codes.
                    let code_bytes = (dimension as f32 * bits / 8.0) as usize;
                    let row_bytes = code_bytes + if bits > 0.0 { 4 } else { 0 };
                    assert_eq!(rows.blocks.len(), blocks * kernels::BLOCK_ROWS * row_bytes, "{code:?}");
                    assert_eq!(rows.records.len(), live.list.len() * (8 + dimension), "{code:?}");
                }
            }
        }
    }
}

#[test]
fn int8_distances_stand_where_the_specification_says_so() {
    for metric in Metric::ALL {
        for code in CODES.into_iter().filter(|code| code.0 != IndexKind::IvfFlat) {
            let spec = IndexSpec { rerank: Rerank::Int8, ..spec_of(code, metric, 40) };
            let mut generator = Generator::new(metric, 40, 40, 8);
            let model = generator.model(2_000);
            let index = trained(&spec, &model, 2);
            let mut scratch = Scratch::new();
            let mut found = 0;
            for _ in 0..30 {
                let query = generator.vector();
                let outcome = index.search(&query, &SearchParams::new(10), &mut scratch);
                assert!(outcome.settled && outcome.hits.len() == 10, "{metric:?} {code:?}");
                let truth = brute_force(metric, &model, &query, 10);
                found += outcome.hits.iter().filter(|hit| truth.iter().any(|t| t.0 == hit.id)).count();
                for hit in &outcome.hits {
                    let exact = distance(metric, &query, &model[&hit.id].1);
                    let near = 0.02 * exact.abs().max(0.1);
                    assert!((hit.distance - exact).abs() <= near, "{metric:?} {code:?}: {hit:?}, exact {exact}");
                }
                let exactly = SearchParams { exact: true, ..SearchParams::new(10) };
                let outcome = index.search(&query, &exactly, &mut scratch);
                assert!(!outcome.settled, "who asks for exact distances gets them");
                assert_eq!(finish(metric, &model, &query, 10, &outcome), truth);
            }
            assert!(found >= 280, "{metric:?} {code:?}: {found} of 300");
        }
    }
}

#[test]
fn an_index_of_other_codes_is_refused() {
    let model = Generator::new(Metric::Euclidean, 8, 10, 77).model(900);
    let asked = spec_of((IndexKind::IvfPq, 2), Metric::Euclidean, 8);
    let others = [
        spec_of((IndexKind::IvfPq, 4), Metric::Euclidean, 8),
        spec_of((IndexKind::IvfBinary, 2), Metric::Euclidean, 8),
        IndexSpec { rerank: Rerank::Int8, ..asked.clone() },
    ];
    for other in others {
        let built = train(&other, &mut ModelSource(&model), 1).expect("rows to train on");
        let sealed = Sealed::decode(&built.sealed.encode()).expect("its own bytes");
        assert!(sealed.quantizer.fits(&other) && !sealed.quantizer.fits(&asked));
        let restored = VectorIndex::restore(asked.clone(), &built.points, sealed);
        assert!(matches!(restored.err(), Some(InstallError::Specification)));
    }
}
