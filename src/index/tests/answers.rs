//! What searches find: against brute force, for every kind, metric and kernel. Run by `cargo test index::`.

use super::*;

const KINDS: [IndexKind; 5] =
    [IndexKind::Flat, IndexKind::IvfFlat, IndexKind::IvfPq, IndexKind::IvfBinary, IndexKind::IvfInt8];

fn trained_or_flat(spec: &IndexSpec, model: &Model) -> Whole {
    if spec.kind == IndexKind::Flat { filled(spec, model) } else { trained(spec, model, 1) }
}

#[test]
fn all_lists_and_a_full_rerank_are_brute_force() {
    for metric in Metric::ALL {
        for kind in KINDS {
            for dimension in [1, 3, 20, 64, 101] {
                let mut generator = Generator::new(metric, dimension, 12, 5);
                let model = generator.model(700);
                let index = trained_or_flat(&small(metric, kind, dimension), &model);
                let everything = SearchParams {
                    k: 400,
                    nprobe: Some(usize::MAX),
                    candidates: Some(usize::MAX),
                    ..SearchParams::new(400)
                };
                let mut scratch = Scratch::new();
                for _ in 0..5 {
                    let query = generator.vector();
                    let outcome = index.search(&query, &everything, &mut scratch);
                    let answer = finish(metric, &model, &query, 400, &outcome);
                    assert_eq!(answer, brute_force(metric, &model, &query, 400), "{metric:?} {kind:?} {dimension}");
                }
            }
        }
    }
}

#[test]
fn an_exact_search_is_brute_force_without_returning_everything() {
    for metric in Metric::ALL {
        for kind in KINDS {
            let mut generator = Generator::new(metric, 40, 30, 9);
            let model = generator.model(2000);
            let index = trained_or_flat(&small(metric, kind, 40), &model);
            let mut scratch = Scratch::new();
            for k in [1, 10, 50] {
                let query = generator.vector();
                let outcome = index.search(&query, &SearchParams { exact: true, ..SearchParams::new(k) }, &mut scratch);
                assert!(outcome.hits.len() < 1000, "{metric:?} {kind:?}: {} hits for {k}", outcome.hits.len());
                let answer = finish(metric, &model, &query, k, &outcome);
                assert_eq!(answer, brute_force(metric, &model, &query, k), "{metric:?} {kind:?} {k}");
            }
        }
    }
}

#[test]
fn zero_vectors_under_cosine_are_as_far_as_their_distance_says() {
    let mut generator = Generator::new(Metric::Cosine, 16, 8, 3);
    let mut model = generator.model(600);
    for i in 0..20 {
        model.insert(PointId::Num(i * 7), (1, vec![0.0; 16]));
    }
    let index = trained(&small(Metric::Cosine, IndexKind::IvfPq, 16), &model, 1);
    let mut scratch = Scratch::new();
    for query in [generator.vector(), vec![0.0; 16]] {
        let params = SearchParams { exact: true, ..SearchParams::new(10) };
        let answer = finish(Metric::Cosine, &model, &query, 10, &index.search(&query, &params, &mut scratch));
        assert_eq!(answer, brute_force(Metric::Cosine, &model, &query, 10));
    }
}

#[test]
fn approximate_distances_are_near_the_exact_ones() {
    for metric in Metric::ALL {
        let mut generator = Generator::new(metric, 48, 20, 4);
        let model = generator.model(1500);
        let index = trained(&small(metric, IndexKind::IvfPq, 48), &model, 1);
        let mut scratch = Scratch::new();
        let query = generator.vector();
        for hit in index.search(&query, &SearchParams::new(10), &mut scratch).hits {
            let exact = distance(metric, &query, &model[&hit.id].1);
            assert!((hit.distance - exact).abs() <= 0.02 * exact.abs().max(0.1), "{metric:?}: {hit:?}, exact {exact}");
        }
    }
}

#[test]
fn recall_at_the_defaults_is_at_least_095() {
    let rows = if cfg!(debug_assertions) { 3_000 } else { 30_000 };
    for metric in Metric::ALL {
        let mut generator = Generator::new(metric, 32, 100, 8);
        let model = generator.model(rows);
        let queries: Vec<_> = (0..1000).map(|_| generator.vector()).collect();
        let truth = Truth::new(metric, &model, queries, 10);
        for kind in IndexKind::TRAINED {
            let mut index =
                trained(&IndexSpec { kind, flat_rows_max: rows - 1, ..IndexSpec::new(metric, 32) }, &model, 2);
            assert!(!index.index.wants_training());
            let got = truth.recall(&index, &model, SearchParams::new(10));
            // The plan promises the target with 98 % confidence, learnt from 256 rows: a hundredth is left to chance.
            assert!(got >= 0.94, "{metric:?} {kind:?}: {got}, {:?}", index.index.state());
            assert!(index.remove(PointId::Num(0)) && !index.remove(PointId::Num(0)));
        }
    }
}

#[test]
fn rows_without_structure_are_found_too() {
    let rows = if cfg!(debug_assertions) { 2_000 } else { 20_001 };
    let mut generator = Generator::new(Metric::Euclidean, 64, 1, 8);
    let model = generator.model(rows);
    let index = trained(&IndexSpec::new(Metric::Euclidean, 64), &model, 2);
    let queries: Vec<_> = (0..100).map(|_| generator.vector()).collect();
    let got = Truth::new(Metric::Euclidean, &model, queries, 10).recall(&index, &model, SearchParams::new(10));
    assert!(got >= 0.95, "{got}, {:?}", index.index.state());
}

#[test]
fn degenerate_rows_are_indexed() {
    // All the same; two values; one row: lists, codes and calibration have nothing to go by.
    for values in [1usize, 2] {
        let spec = small(Metric::Euclidean, IndexKind::IvfPq, 8);
        let model: Model = (0..500u64).map(|i| (PointId::Num(i), (1, vec![(i as usize % values) as f32; 8]))).collect();
        let index = trained(&spec, &model, 1);
        let answer = index.search(&[0.0; 8], &SearchParams::new(10), &mut Scratch::new());
        let answer = finish(Metric::Euclidean, &model, &[0.0; 8], 10, &answer);
        assert_eq!(answer.len(), 10);
        assert!(answer.iter().all(|hit| hit.1 == 0.0), "{values}: {answer:?}");
    }
    let spec = small(Metric::Dot, IndexKind::IvfPq, 2);
    let model = Model::from([(PointId::Num(4), (9, vec![1.0, 2.0]))]);
    let index = trained(&spec, &model, 1);
    let outcome = index.search(&[1.0, 1.0], &SearchParams::new(3), &mut Scratch::new());
    assert_eq!(finish(Metric::Dot, &model, &[1.0, 1.0], 3, &outcome), [(PointId::Num(4), -3.0)]);
}

#[test]
fn magnitudes_that_overflow_do_not_panic() {
    for metric in Metric::ALL {
        let spec = small(metric, IndexKind::IvfPq, 4);
        let big = |i: u64| if i.is_multiple_of(3) { f32::MAX } else { -1e25 };
        let model: Model = (0..400).map(|i| (PointId::Num(i), (1, vec![big(i), 1.0, 0.0, i as f32]))).collect();
        let index = trained(&spec, &model, 1);
        for exact in [false, true] {
            let params = SearchParams { exact, ..SearchParams::new(5) };
            assert!(index.search(&[f32::MAX; 4], &params, &mut Scratch::new()).hits.len() >= 5);
        }
    }
}

#[test]
fn nothing_is_found_in_nothing() {
    let spec = small(Metric::Euclidean, IndexKind::IvfPq, 4);
    let empty = Whole::new(&spec);
    assert!(
        empty.index.is_empty() && empty.search(&[0.0; 4], &SearchParams::new(5), &mut Scratch::new()).hits.is_empty()
    );
    assert!(matches!(train(&spec, &mut ModelSource(&Model::new()), &TrainOptions::new(1)), Err(TrainError::NoRows)));
    let wrong = Model::from([(PointId::Num(1), (1, vec![0.0; 3]))]);
    let refused = train(&spec, &mut ModelSource(&wrong), &TrainOptions::new(1));
    assert!(matches!(refused, Err(TrainError::Dimension { expected: 4, got: 3, .. })));
    let flat = IndexSpec { kind: IndexKind::Flat, ..spec.clone() };
    assert!(matches!(train(&flat, &mut ModelSource(&wrong), &TrainOptions::new(1)), Err(TrainError::Flat)));
    let model = Generator::new(Metric::Euclidean, 4, 3, 1).model(400);
    let index = trained(&spec, &model, 1);
    assert!(index.search(&[0.0; 4], &SearchParams::new(0), &mut Scratch::new()).hits.is_empty());
    let exact = SearchParams { exact: true, ..SearchParams::new(0) };
    assert!(index.search(&[0.0; 4], &exact, &mut Scratch::new()).hits.is_empty());
}

/// The plans promise what they do: a higher target finds more, on queries that were not held out, and costs more; beyond what any
/// plan reached the search is exact.
#[test]
fn recall_targets_are_met() {
    for metric in Metric::ALL {
        for kind in [IndexKind::IvfFlat, IndexKind::IvfPq] {
            let mut generator = Generator::new(metric, 24, 60, 21);
            let model = generator.model(4000);
            let spec = IndexSpec { calibration_queries: 200, ..small(metric, kind, 24) };
            let index = trained(&spec, &model, 4);
            let queries: Vec<_> = (0..100).map(|_| generator.vector()).collect();
            let truth = Truth::new(metric, &model, queries.clone(), 10);
            let mut work_before = 0;
            for target in [0.5, 0.8, 0.9, 0.95, 0.97, 0.99, 1.0] {
                let params = SearchParams { recall_target: Some(target), ..SearchParams::new(10) };
                let found = truth.recall(&index, &model, params);
                assert!(found >= target - 0.02, "{metric:?} {kind:?}: {found} for {target}");
                let mut scratch = Scratch::new();
                let outcomes: Vec<_> = queries.iter().map(|q| index.search(q, &params, &mut scratch)).collect();
                let plan = outcomes[0].plan;
                assert!(plan.estimated_recall >= target && (plan.exact || target < 1.0), "{plan:?} for {target}");
                assert!(outcomes.iter().all(|o| plan.exact || o.stats.lists_probed <= plan.nprobe));
                let work = outcomes.iter().map(|o| o.stats.codes_scanned + o.stats.reranked).sum::<usize>();
                assert!(work >= work_before, "{metric:?} {kind:?}: {work} for {target}, {work_before} for less");
                work_before = work;
            }
        }
    }
}

/// What is read off the traces is what searches do.
#[test]
fn the_calibrated_recall_is_that_of_real_searches() {
    for metric in [Metric::Cosine, Metric::Euclidean, Metric::Dot] {
        let mut generator = Generator::new(metric, 24, 60, 22);
        let model = generator.model(4000);
        let spec = IndexSpec { calibration_queries: 400, ..small(metric, IndexKind::IvfPq, 24) };
        let index = trained(&spec, &model, 4);
        let queries: Vec<_> = model.values().step_by(10).map(|(_, vector)| vector.clone()).collect();
        let truth = Truth::new(metric, &model, queries.clone(), 11);
        for nprobe in [1, 2, 5, 20] {
            let params = SearchParams { nprobe: Some(nprobe), ..SearchParams::new(10) };
            let estimated = index.search(&queries[0], &params, &mut Scratch::new()).plan.estimated_recall;
            let found = truth.recall(&index, &model, SearchParams { k: 11, ..params });
            // The row itself is always found.
            let found = (found * 11.0 - 1.0) / 10.0;
            // By inner product a row need not be its own nearest, and many queries share their neighbours.
            let below = if metric == Metric::Dot { 0.04 } else { 0.01 };
            assert!(
                (estimated - below..estimated + 0.08).contains(&found),
                "{metric:?}: {found}, estimated {estimated}"
            );
        }
    }
}

#[test]
fn a_given_nprobe_is_kept_whatever_the_target() {
    let mut generator = Generator::new(Metric::Euclidean, 16, 20, 2);
    let model = generator.model(2000);
    let index = trained(&small(Metric::Euclidean, IndexKind::IvfPq, 16), &model, 1);
    let mut scratch = Scratch::new();
    let mut candidates_before = 0;
    for nprobe in [1, 3, 10, 30] {
        let params = SearchParams { nprobe: Some(nprobe), recall_target: Some(1.0), ..SearchParams::new(10) };
        let outcome = index.search(&generator.vector(), &params, &mut scratch);
        assert_eq!((outcome.stats.lists_probed, outcome.plan.nprobe), (nprobe, nprobe));
        assert!(outcome.plan.candidates >= candidates_before && outcome.plan.recall_target.is_none());
        candidates_before = outcome.plan.candidates;
    }
}

#[test]
fn a_batch_gives_the_answers_of_single_searches() {
    for metric in Metric::ALL {
        for kind in KINDS {
            let mut generator = Generator::new(metric, 24, 30, 11);
            let model = generator.model(3000);
            let mut index = trained_or_flat(&small(metric, kind, 24), &model);
            // A tail, and a query at a row.
            for i in 0..40 {
                index.upsert(PointId::Num(90_000 + i), 1, &generator.vector());
            }
            let queries: Vec<Vec<f32>> = (0..300).map(|_| generator.vector()).collect();
            let slices: Vec<&[f32]> = queries.iter().map(Vec::as_slice).collect();
            for (nprobe, candidates) in
                [(None, None), (Some(1), Some(1)), (Some(20), Some(30)), (Some(1000), Some(5000))]
            {
                let params = SearchParams { nprobe, candidates, ..SearchParams::new(10) };
                let mut scratch = Scratch::new();
                let batch = index.index.search_batch(&index.points, &slices, &params, &mut scratch);
                assert_eq!(batch.len(), slices.len());
                for (query, outcome) in slices.iter().zip(batch) {
                    assert_eq!(outcome, index.search(query, &params, &mut scratch), "{metric:?} {kind:?} {nprobe:?}");
                }
            }
        }
    }
}
