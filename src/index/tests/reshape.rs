//! Splitting, dissolving and moving rows between lists: nothing lost, nothing twice, sizes within bounds, the same bytes on every CPU,
//! and answers as good as a fresh build's after every vector was replaced.

use super::changes::Pair;
use super::*;

impl Pair {
    /// Runs the jobs the index wants, with `changes` made while each runs, until it wants none. How many of each it took.
    pub(super) fn upkeep(&mut self, changes: usize, ids: usize) -> (usize, usize) {
        let (mut filed, mut reshaped) = (0, 0);
        loop {
            let mut rearranged = if self.index().wants_filing() {
                filed += 1;
                self.index().filing_job(&self.whole.points).expect("trained").run().expect("sound lists")
            } else if self.index().wants_reshaping() {
                reshaped += 1;
                self.index().reshape_job().expect("trained").run().expect("sound lists")
            } else {
                return (filed, reshaped);
            };
            // Changes cease in the end, or it would never rest.
            if filed + reshaped < 8 {
                self.change(changes, ids, 4);
            }
            assert!(self.whole.index.install_rearranged(&mut rearranged));
            assert!(filed + reshaped < 100, "upkeep comes to rest: {:?}", self.index().state());
            self.check();
        }
    }

    fn assert_in_bounds(&self) {
        let bounds = self.index().spec().list_bounds();
        let lists = self.index().state().lists;
        let (least, most) = self.index().list_sizes().expect("trained");
        assert!(most <= bounds.rows_max, "{most} rows in a list");
        assert!(least >= bounds.rows_min || lists == 1, "{least} rows in one of {lists} lists");
        let dead = self.index().state().dead_rows;
        assert!(dead * 3 <= self.index().len() + lists * bounds.rows_aim, "{dead} dead rows");
    }

    fn move_centres(&mut self, by: f32) {
        self.generator.centres.iter_mut().flatten().for_each(|x| *x += by);
    }
}

#[test]
fn random_changes_with_upkeep_lose_nothing_and_stay_in_bounds() {
    let mut reshaped = 0;
    for metric in Metric::ALL {
        for kind in [IndexKind::IvfFlat, IndexKind::IvfPq] {
            let mut pair = Pair::new(small(metric, kind, 9), 31);
            pair.change(1200, 2000, 1);
            pair.train(100, 2000);
            for round in 0..6 {
                pair.move_centres([0.0, 0.5, 1.0][round % 3]);
                // Growth, then shrinkage.
                pair.change(800, 2500, [0, 0, 2, 4, 7, 9][round]);
                reshaped += pair.upkeep(60, 2500).1;
                pair.assert_in_bounds();
                if round == 3 {
                    pair.train(200, 2500);
                }
            }
        }
    }
    assert!(reshaped > 30, "{reshaped}");
}

/// Rows far from every list are filed all the same, and soon move to lists of their own: what they leave behind must not count.
#[test]
fn drift_is_that_of_the_rows_that_are_there() {
    for kind in IndexKind::TRAINED {
        let mut pair = Pair::new(small(Metric::Euclidean, kind, 10), 3);
        pair.change(2000, 1_000_000, 0);
        pair.train(0, 1_000_000);
        for _ in 0..3 {
            pair.move_centres(3.0);
            pair.change(600, 1_000_000, 3);
            pair.upkeep(0, 1);
            let sealed = pair.index().sealed().expect("trained");
            let (mut sum, mut rows) = (0.0, 0);
            let mut row = vec![0.0; 10];
            for (number, live) in sealed.lists.iter().enumerate() {
                for slot in live.live_slots() {
                    sealed.quantizer.stored_row(number, &live.list, slot, &mut row, kernels::active());
                    sum += f64::from(sealed.quantizer.stored_square(number, &row, kernels::active()));
                    rows += 1;
                }
            }
            let measured = (sum / f64::from(rows)) as f32 / sealed.quantizer.residual_mean;
            let drift = pair.index().state().drift;
            assert!((drift - measured).abs() < 0.03 * measured, "{kind:?}: {drift}, measured {measured}");
        }
    }
}

#[test]
fn an_index_may_shrink_to_nothing_and_grow_again() {
    let mut pair = Pair::new(small(Metric::Euclidean, IndexKind::IvfPq, 8), 4);
    pair.change(1500, 100_000, 0);
    pair.train(0, 100_000);
    let ids: Vec<PointId> = pair.model.keys().copied().collect();
    for (i, id) in ids.iter().enumerate() {
        assert!(pair.whole.remove(*id));
        pair.model.remove(id);
        if i % 100 == 0 {
            pair.upkeep(0, 1);
        }
    }
    pair.upkeep(0, 1);
    assert_eq!((pair.index().state().lists, pair.index().len()), (1, 0));
    pair.change(1500, 100_000, 0);
    pair.upkeep(0, 1);
    pair.assert_in_bounds();
    assert!(pair.index().state().lists > 10);
}

#[test]
fn rows_that_are_all_the_same_cannot_be_parted_and_are_not_tried_for_ever() {
    for metric in Metric::ALL {
        let mut pair = Pair::new(small(metric, IndexKind::IvfPq, 8), 4);
        pair.change(500, 100_000, 0);
        pair.train(0, 100_000);
        for i in 0..1000u64 {
            let vector = vec![8f32.sqrt().recip(); 8];
            pair.whole.upsert(PointId::Num(1_000_000 + i), 1_000_000, &vector);
            pair.model.insert(PointId::Num(1_000_000 + i), (1_000_000, vector));
        }
        pair.upkeep(0, 1);
        assert!(pair.index().list_sizes().is_some_and(|(_, most)| most > 700), "{:?}", pair.index().list_sizes());
    }
}

#[test]
fn a_reshaping_of_another_epoch_is_not_installed() {
    let mut pair = Pair::new(small(Metric::Dot, IndexKind::IvfPq, 10), 3);
    pair.change(1000, 2000, 0);
    pair.train(0, 2000);
    pair.change(1500, 20_000, 0);
    let filing = pair.index().filing_job(&pair.whole.points).expect("trained");
    let (first, second) = (pair.index().reshape_job().expect("trained"), pair.index().reshape_job().expect("trained"));
    assert!(pair.whole.index.install_rearranged(&mut first.run().expect("sound lists")));
    assert!(!pair.whole.index.install_rearranged(&mut second.run().expect("sound lists")));
    assert!(!pair.whole.index.install_rearranged(&mut filing.run().expect("sound lists")));
    pair.whole.index.training_started();
    assert!(!pair.index().wants_reshaping() && pair.index().reshape_job().is_none());
    pair.whole.index.training_abandoned();
    pair.check();
}

#[test]
fn every_cpu_reshapes_to_the_same_bytes() {
    for (metric, kind, dimension) in [(Metric::Euclidean, IndexKind::IvfPq, 21), (Metric::Dot, IndexKind::IvfFlat, 10)]
    {
        let of = |kernels: &'static Kernels| {
            let spec = small(metric, kind, dimension);
            let mut generator = Generator::new(metric, dimension, 8, 5);
            let model = generator.model(1000);
            let built =
                train_with(kernels, &spec, &mut ModelSource(&model), &TrainOptions::new(2)).expect("rows to train on");
            let mut whole = Whole { points: Points::new(), index: VectorIndex::with_kernels(spec, kernels) };
            model.iter().for_each(|(id, (version, vector))| whole.upsert(*id, *version, vector));
            whole.index.training_started();
            whole.install(built).expect("it fits");
            let mut reshaped = 0;
            for i in 0..4000u64 {
                generator.centres.iter_mut().flatten().for_each(|x| *x += 0.001);
                whole.upsert(PointId::Num(i * 7919 % 1500), i, &generator.vector());
                if whole.index.wants_filing() {
                    let mut filed = whole.index.filing_job(&whole.points).expect("trained").run().expect("sound lists");
                    assert!(whole.index.install_rearranged(&mut filed));
                }
                if whole.index.wants_reshaping() {
                    let mut job = whole.index.reshape_job().expect("trained").run().expect("sound lists");
                    reshaped += usize::from(job.moved_rows() > 0);
                    assert!(whole.index.install_rearranged(&mut job));
                }
            }
            assert!(reshaped > 3, "{reshaped}");
            whole.bytes()
        };
        let mut tables = kernels::available().into_iter();
        let expected = of(tables.next().expect("the definition"));
        for kernels in tables {
            assert!(of(kernels) == expected, "{} {metric:?} {kind:?}", kernels.name);
        }
    }
}

#[test]
fn after_replacing_every_vector_answers_are_as_good_as_a_fresh_builds() {
    for drifts in [false, true] {
        let spec = IndexSpec { list_rows: 64, tail_rows_max: 512, ..small(Metric::Euclidean, IndexKind::IvfPq, 16) };
        let mut old = Generator::new(Metric::Euclidean, 16, 60, 5);
        let mut new = Generator::new(Metric::Euclidean, 16, 60, if drifts { 6 } else { 5 });
        let mut model = old.model(6000);
        let mut whole = trained(&spec, &model, 1);
        for i in 0..6000u64 {
            let (id, vector) = (PointId::Num(i * 1009 % 6000), new.vector());
            whole.upsert(id, 2, &vector);
            model.insert(id, (2, vector));
            if whole.index.wants_filing() {
                let mut filed = whole.index.filing_job(&whole.points).expect("trained").run().expect("sound lists");
                assert!(whole.index.install_rearranged(&mut filed));
            }
            if whole.index.wants_reshaping() {
                let mut reshaped = whole.index.reshape_job().expect("trained").run().expect("sound lists");
                assert!(whole.index.install_rearranged(&mut reshaped));
            }
        }
        if whole.index.wants_recalibration() {
            recalibrate(&mut whole);
        }
        let fresh = trained(&spec, &model, 2);
        let queries: Vec<_> = (0..200).map(|_| new.vector()).collect();
        let truth = Truth::new(Metric::Euclidean, &model, queries, 10);
        let [kept, built] = [&whole, &fresh].map(|index| truth.recall(index, &model, SearchParams::new(10)));
        assert!(kept >= built - 0.01, "drifts: {drifts}: {kept} kept, {built} built");
        assert!(!whole.index.wants_training(), "{:?}", whole.index.state());
    }
}

fn recalibrate(whole: &mut Whole) {
    let job = whole.index.recalibration_job(&whole.points).expect("trained");
    let recalibrated = job.run(2, &|| false).expect("sound lists, not cancelled");
    assert!(whole.index.install_recalibrated(recalibrated) && !whole.index.wants_recalibration());
}

/// What a training measures on vectors a job reads off the lists: nearly the same, for every metric and kind.
#[test]
fn plans_from_the_lists_are_those_of_a_training() {
    let (rows, queries) = if cfg!(debug_assertions) { (2000, 60) } else { (6000, 200) };
    for metric in Metric::ALL {
        for kind in [IndexKind::IvfFlat, IndexKind::IvfPq, IndexKind::IvfBinary] {
            let spec = IndexSpec { calibration_queries: 128, ..small(metric, kind, 16) };
            let mut generator = Generator::new(metric, 16, 30, 9);
            let model = generator.model(rows);
            let mut whole = trained(&spec, &model, 1);
            // Dead rows are nobody's neighbours.
            for n in 0..40 {
                whole.upsert(PointId::Num(n), 1, &model[&PointId::Num(n)].1);
            }
            let queries: Vec<_> = (0..queries).map(|_| generator.vector()).collect();
            let truth = Truth::new(metric, &model, queries, 10);
            let before = whole.index.plan(&SearchParams::new(10));
            recalibrate(&mut whole);
            let after = whole.index.plan(&SearchParams::new(10));
            assert_eq!(before.exact, after.exact, "{metric:?} {kind:?}");
            assert!((before.estimated_recall - after.estimated_recall).abs() < 0.03, "{before:?} {after:?}");
            assert!(after.nprobe <= before.nprobe * 2 && before.nprobe <= after.nprobe * 2, "{before:?} {after:?}");
            let recall = truth.recall(&whole, &model, SearchParams::new(10));
            assert!(recall >= 0.94, "{metric:?} {kind:?}: {recall} with {after:?}");
        }
    }
}

#[test]
fn plans_are_chosen_anew_when_many_lists_are_others_and_a_restart_does_not_forget_it() {
    let mut pair = Pair::new(small(Metric::Euclidean, IndexKind::IvfPq, 10), 3);
    pair.change(2000, 1_000_000, 0);
    pair.train(0, 1_000_000);
    assert!(!pair.index().wants_recalibration());
    let stale = pair.index().recalibration_job(&pair.whole.points).expect("trained");
    pair.move_centres(3.0);
    pair.change(1000, 1_000_000, 0);
    pair.upkeep(0, 1);
    assert!(pair.index().wants_recalibration(), "{:?}", pair.index().state());
    let stale = stale.run(1, &|| false).expect("sound lists");
    assert!(!pair.whole.index.install_recalibrated(stale) && pair.index().wants_recalibration());
    let cancelled = pair.index().recalibration_job(&pair.whole.points).expect("trained");
    assert!(cancelled.run(1, &|| true).is_none());
    let (spec, bytes) = (pair.index().spec().clone(), pair.whole.bytes());
    let (mut opened, _) = Whole::of_bytes(&spec, &bytes).expect("its own bytes");
    assert!(opened.index.wants_recalibration());
    recalibrate(&mut opened);
    let again = Whole::of_bytes(&spec, &opened.bytes()).expect("its own bytes").0;
    assert!(!again.index.wants_recalibration());
    let params = SearchParams::new(10);
    assert_eq!(again.index.plan(&params), opened.index.plan(&params));
    recalibrate(&mut pair.whole);
    pair.check();
}

/// Rows of one kind replaced little by little make every list due now and then, each at its own time: a job for each would do little
/// but copy the centroids.
#[test]
fn lists_that_are_due_are_looked_at_together() {
    let mut pair = Pair::new(small(Metric::Euclidean, IndexKind::IvfPq, 10), 7);
    pair.change(4000, 4000, 0);
    pair.train(0, 4000);
    let lists = pair.index().lists();
    let (mut filed, mut reshaped) = (0, 0);
    for _ in 0..200 {
        pair.change(20, 4000, 0);
        let more = pair.upkeep(0, 4000);
        (filed, reshaped) = (filed + more.0, reshaped + more.1);
        // What waits is little: no more than one list in 32 may not be as its rows are.
        let due = pair.index().sealed().expect("trained").lists.iter().filter(|list| list.is_due()).count();
        assert!(due * 32 <= pair.index().lists(), "{due} of {} lists are due", pair.index().lists());
    }
    assert!(filed >= 10 && reshaped >= 3, "{filed} filings, {reshaped} reshapings of {lists} lists");
    assert!(reshaped <= 4 * filed, "{filed} filings, {reshaped} reshapings of {lists} lists");
    pair.assert_in_bounds();
}
