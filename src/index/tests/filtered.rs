//! Searches among allowed points, against brute force among them: every metric and kind, filters of every size that have nothing to
//! do with the vectors, that leave one corner of them, or all but one; with updates and deletes in between.

use super::*;
use crate::index::SearchOutcome;

/// Which points of a model a filter leaves.
#[derive(Clone, Copy, Debug)]
enum Choice {
    /// One in so many, whatever the vectors.
    Random,
    /// The nearest to some vector.
    Corner,
    /// The farthest from it.
    Far,
}

impl Choice {
    fn of(self, metric: Metric, model: &Model, share: f64, rng: &mut SplitMix64) -> Model {
        let wanted = ((model.len() as f64 * share).round() as usize).max(1);
        let corner = &model.values().nth(rng.below(model.len())).expect("not empty").1;
        let mut ranked: Vec<(f32, PointId)> = match self {
            Choice::Random => model.keys().map(|id| (rng.below(1 << 20) as f32, *id)).collect(),
            Choice::Corner => model.iter().map(|(id, (_, v))| (distance(metric, corner, v), *id)).collect(),
            Choice::Far => model.iter().map(|(id, (_, v))| (-distance(metric, corner, v), *id)).collect(),
        };
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        ranked[..wanted].iter().map(|(_, id)| (*id, model[id].clone())).collect()
    }
}

fn allowed(whole: &Whole, chosen: &Model) -> Allowed {
    let mut allowed = Allowed::none(whole.points.ordinals_end());
    chosen.keys().for_each(|id| allowed.insert(whole.points.ordinal(*id).expect("a point")));
    allowed
}

fn search(whole: &Whole, query: &[f32], params: SearchParams, chosen: &Model) -> (SearchOutcome, FilterPlan) {
    whole.index.search_allowed(&whole.points, query, &params, &allowed(whole, chosen), &mut Scratch::new())
}

/// Changes a third of the model and takes away a tenth, in the index as well.
fn churn(whole: &mut Whole, model: &mut Model, generator: &mut Generator) {
    let ids: Vec<PointId> = model.keys().copied().collect();
    for (i, id) in ids.into_iter().enumerate() {
        if i % 3 == 0 {
            let vector = generator.vector();
            whole.upsert(id, 2, &vector);
            model.insert(id, (2, vector));
        } else if i % 10 == 1 {
            assert!(whole.remove(id));
            model.remove(&id);
        }
    }
}

#[test]
fn exact_plans_are_brute_force() {
    for metric in Metric::ALL {
        for kind in [IndexKind::Flat, IndexKind::IvfFlat, IndexKind::IvfPq, IndexKind::IvfInt8] {
            let mut generator = Generator::new(metric, 24, 20, 5);
            let mut model = generator.model(1500);
            let spec = small(metric, kind, 24);
            let mut whole = if kind == IndexKind::Flat { filled(&spec, &model) } else { trained(&spec, &model, 1) };
            let mut rng = SplitMix64::new(3);
            for round in 0..3 {
                for choice in [Choice::Random, Choice::Corner, Choice::Far] {
                    for share in [0.0001, 0.001, 0.01, 0.1, 0.5, 1.0] {
                        let chosen = choice.of(metric, &model, share, &mut rng);
                        let query = generator.vector();
                        let params = SearchParams { exact: round == 1, ..SearchParams::new(10) };
                        let (outcome, plan) = search(&whole, &query, params, &chosen);
                        assert!(plan != FilterPlan::Probe, "few points are scored one by one");
                        let found = finish(metric, &chosen, &query, 10, &outcome);
                        let case = (metric, kind, choice, share, round);
                        assert_eq!(found, brute_force(metric, &chosen, &query, 10), "{case:?}");
                    }
                }
                churn(&mut whole, &mut model, &mut generator);
            }
        }
    }
}

/// Rows that lists gave to others know their vectors less exactly, and lists that moved have other numbers and ranks.
#[test]
fn filtered_answers_hold_after_upkeep() {
    for metric in Metric::ALL {
        for kind in [IndexKind::IvfFlat, IndexKind::IvfPq, IndexKind::IvfInt8] {
            let mut generator = Generator::new(metric, 24, 20, 5);
            let mut model = generator.model(1500);
            let mut whole = trained(&small(metric, kind, 24), &model, 1);
            let mut rng = SplitMix64::new(3);
            let (mut renewed, mut found) = (0, 0);
            for _ in 0..3 {
                let chosen = Choice::Random.of(metric, &model, 0.2, &mut rng);
                // Measures how far neighbours lie in the lists that are about to go.
                whole.index.search_allowed_by_probing(&whole.points, &generator.vector(), &allowed(&whole, &chosen));
                generator.centres.iter_mut().flatten().for_each(|x| *x += 0.7);
                churn(&mut whole, &mut model, &mut generator);
                renewed += keep_up(&mut whole);
                for choice in [Choice::Random, Choice::Corner, Choice::Far] {
                    let chosen = choice.of(metric, &model, 0.2, &mut rng);
                    let query = generator.vector();
                    let truth = brute_force(metric, &chosen, &query, 10);
                    let (outcome, _) = search(&whole, &query, SearchParams::new(10), &chosen);
                    assert_eq!(finish(metric, &chosen, &query, 10, &outcome), truth, "{metric:?} {kind:?} {choice:?}");
                    let (outcome, _) =
                        whole.index.search_allowed_by_probing(&whole.points, &query, &allowed(&whole, &chosen));
                    let answer = finish(metric, &chosen, &query, 10, &outcome);
                    assert_eq!(answer.len(), 10);
                    found += truth.iter().filter(|hit| answer.contains(hit)).count();
                }
            }
            assert!(renewed > 10 && found >= 81, "{metric:?} {kind:?}: {renewed} lists renewed, {found} of 90 found");
        }
    }
}

/// Files and reshapes until there is nothing to do; returns the lists that were renewed.
fn keep_up(whole: &mut Whole) -> usize {
    let mut renewed = 0;
    for _ in 0..50 {
        if !whole.index.wants_filing() && !whole.index.wants_reshaping() {
            return renewed;
        }
        let mut arranged = whole.index.arrange_job(&whole.points).expect("trained").run().expect("sound lists");
        renewed += arranged.renewed_lists();
        assert!(whole.index.install_arranged(&mut arranged));
    }
    panic!("upkeep comes to rest: {:?}", whole.index.state());
}

#[test]
fn probing_finds_k_where_k_match_and_nearly_always_the_nearest() {
    let (rows, searches) = if cfg!(debug_assertions) { (4_000, 12) } else { (20_000, 40) };
    for metric in Metric::ALL {
        for kind in [IndexKind::IvfFlat, IndexKind::IvfPq, IndexKind::IvfInt8, IndexKind::IvfBinary] {
            let mut generator = Generator::new(metric, 32, 60, 8);
            let mut model = generator.model(rows);
            let spec = IndexSpec { flat_rows_max: 1_000, list_rows: 128, ..IndexSpec::new(metric, 32) };
            let mut whole = trained(&IndexSpec { kind, ..spec }, &model, 2);
            churn(&mut whole, &mut model, &mut generator);
            let mut rng = SplitMix64::new(9);
            let mut all = (0, 0);
            for choice in [Choice::Random, Choice::Corner, Choice::Far] {
                for share in [0.01, 0.1, 0.5, 1.0] {
                    let chosen = choice.of(metric, &model, share, &mut rng);
                    let (mut found, mut wanted) = (0, 0);
                    for _ in 0..searches {
                        let query = generator.vector();
                        let (outcome, plan) =
                            whole.index.search_allowed_by_probing(&whole.points, &query, &allowed(&whole, &chosen));
                        assert_eq!(plan, FilterPlan::Probe);
                        let answer = finish(metric, &chosen, &query, 10, &outcome);
                        let truth = brute_force(metric, &chosen, &query, 10);
                        assert_eq!(answer.len(), truth.len(), "as many as match, up to k");
                        found += truth.iter().filter(|hit| answer.contains(hit)).count();
                        wanted += truth.len();
                    }
                    let recall = found as f64 / wanted as f64;
                    assert!(recall >= 0.9, "{metric:?} {kind:?} {choice:?} {share}: {recall}");
                    all = (all.0 + found, all.1 + wanted);
                }
            }
            let recall = all.0 as f64 / all.1 as f64;
            assert!(recall >= 0.95, "{metric:?} {kind:?}: {recall}");
        }
    }
}

#[test]
fn lists_wanted_by_the_caller_are_a_least_where_k_are_not_found() {
    let mut generator = Generator::new(Metric::Euclidean, 16, 30, 4);
    let model = generator.model(20_000);
    let spec = IndexSpec { flat_rows_max: 1_000, list_rows: 64, ..IndexSpec::new(Metric::Euclidean, 16) };
    let whole = trained(&spec, &model, 2);
    let chosen = Choice::Corner.of(Metric::Euclidean, &model, 0.5, &mut SplitMix64::new(2));
    for _ in 0..20 {
        let query = generator.vector();
        let params = SearchParams { nprobe: Some(1), ..SearchParams::new(50) };
        let (outcome, plan) = search(&whole, &query, params, &chosen);
        assert_eq!(plan, FilterPlan::Probe);
        assert_eq!(finish(Metric::Euclidean, &chosen, &query, 50, &outcome).len(), 50);
    }
}

#[test]
fn nothing_allowed_finds_nothing() {
    let mut generator = Generator::new(Metric::Dot, 8, 3, 4);
    let model = generator.model(2_000);
    let whole = trained(&small(Metric::Dot, IndexKind::IvfPq, 8), &model, 2);
    for exact in [false, true] {
        let params = SearchParams { exact, ..SearchParams::new(5) };
        let none = Allowed::none(whole.points.ordinals_end());
        let query = generator.vector();
        let found = whole.index.search_allowed(&whole.points, &query, &params, &none, &mut Scratch::new()).0;
        assert!(found.hits.is_empty());
        assert!(whole.index.search_allowed_by_probing(&whole.points, &query, &none).0.hits.is_empty());
    }
}
