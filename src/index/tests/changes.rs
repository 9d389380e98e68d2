//! Upserts, replacements and deletes, before, during and after training and filing, against a model.

use super::*;

/// An index and what should be in it.
pub(super) struct Pair {
    pub(super) whole: Whole,
    pub(super) model: Model,
    pub(super) generator: Generator,
    version: u64,
}

impl Pair {
    pub(super) fn new(spec: IndexSpec, seed: u64) -> Pair {
        let generator = Generator::new(spec.metric, spec.dimension, 6, seed);
        Pair { whole: Whole::new(&spec), model: Model::new(), generator, version: 0 }
    }

    pub(super) fn index(&self) -> &VectorIndex {
        &self.whole.index
    }

    /// Random changes over ids below `ids`, of which `deletes` in ten are deletes.
    pub(super) fn change(&mut self, count: usize, ids: usize, deletes: usize) {
        for _ in 0..count {
            let id = self.generator.id(ids);
            self.version += 1;
            if self.generator.rng.below(10) < deletes {
                assert_eq!(self.whole.remove(id), self.model.remove(&id).is_some());
            } else {
                let vector = self.generator.vector();
                self.whole.upsert(id, self.version, &vector);
                self.model.insert(id, (self.version, vector));
            }
        }
        self.check();
    }

    /// Every point is in the index once, at its version, and exhaustive searches are brute force.
    pub(super) fn check(&mut self) {
        assert_eq!((self.index().len(), self.whole.points.len()), (self.model.len(), self.model.len()));
        for (id, (version, _)) in &self.model {
            let ordinal = self.whole.points.ordinal(*id).expect("a point has an ordinal");
            assert_eq!(self.whole.points.get(ordinal), Some((*id, *version)));
            assert!(self.index().contains(ordinal));
        }
        let state = self.index().state();
        assert_eq!(state.rows, self.model.len());
        let metric = self.index().spec().metric;
        let mut scratch = Scratch::new();
        let k = self.model.len() + 5;
        let everything =
            SearchParams { k, nprobe: Some(usize::MAX), candidates: Some(usize::MAX), ..SearchParams::new(k) };
        for params in
            [everything, SearchParams { exact: true, ..everything }, SearchParams { k: 7, exact: true, ..everything }]
        {
            let query = self.generator.vector();
            let outcome = self.whole.search(&query, &params, &mut scratch);
            let answer = finish(metric, &self.model, &query, params.k, &outcome);
            assert_eq!(answer, brute_force(metric, &self.model, &query, params.k));
        }
    }

    pub(super) fn train(&mut self, changes_meanwhile: usize, ids: usize) {
        let view = self.model.clone();
        self.whole.index.training_started();
        assert!(
            !self.index().wants_training()
                && !self.index().wants_filing()
                && self.index().filing_job(&self.whole.points).is_none()
        );
        let spec = self.index().spec().clone();
        let sealed = train(&spec, &mut ModelSource(&view), &TrainOptions::new(5)).expect("rows to train on");
        self.change(changes_meanwhile, ids, 4);
        let installed = self.whole.install(sealed).expect("it fits");
        assert_eq!(installed.live_rows + installed.dead_rows, view.len());
        let current = view.iter().filter(|(id, row)| self.model.get(id).is_some_and(|r| r.0 == row.0)).count();
        // Rows that only moved within the tail stay there, too.
        assert!(installed.live_rows <= current && installed.live_rows * 10 >= current * 9, "{installed:?} {current}");
        assert_eq!(self.index().state().tail_rows, self.model.len() - installed.live_rows);
        self.check();
    }
}

#[test]
fn changes_before_during_and_after_training_and_filing() {
    for metric in Metric::ALL {
        for kind in [IndexKind::IvfFlat, IndexKind::IvfPq] {
            let mut pair = Pair::new(small(metric, kind, 10), 21);
            pair.change(900, 1500, 2);
            assert!(pair.index().wants_training());
            pair.train(150, 1500);
            assert!(!pair.index().wants_training());
            for round in 0..4 {
                pair.change(700, 1500, [1, 5, 8, 0][round]);
                let Some(job) = pair.index().filing_job(&pair.whole.points) else { panic!("a trained index can file") };
                // Filing while the index changes under it.
                let tail_before = pair.index().state().tail_rows;
                let moved = job.tail_rows();
                pair.change(120, 1500, 5);
                assert!(
                    pair.whole.index.install_rearranged(&mut job.run().expect("sound lists")),
                    "{metric:?} {kind:?} {round}"
                );
                assert!(moved == 0 || pair.index().state().tail_rows < tail_before);
                pair.check();
            }
            pair.train(200, 1500);
            pair.change(300, 1500, 5);
        }
    }
}

#[test]
fn a_flat_index_gives_memory_back() {
    let mut pair = Pair::new(small(Metric::Euclidean, IndexKind::Flat, 12), 3);
    pair.change(4000, 100_000, 0);
    let full = pair.index().memory_bytes();
    assert!(!pair.index().wants_training() && !pair.index().wants_filing());
    let ids: Vec<PointId> = pair.model.keys().copied().collect();
    for id in ids.iter().filter(|id| id.to_key()[16] % 8 != 0) {
        pair.whole.remove(*id);
        pair.model.remove(id);
    }
    pair.check();
    let row = 12 * 4 + 4;
    let (rows, tail) = (pair.model.len(), full - pair.index().memory_bytes());
    assert!(tail > (4000 - 2 * rows - 600) * row, "{full} bytes, {tail} of them given back, {rows} rows left");
    for (i, id) in ids.iter().enumerate() {
        pair.whole.upsert(*id, 1_000_000 + i as u64, &[0.5; 12]);
        pair.model.insert(*id, (1_000_000 + i as u64, vec![0.5; 12]));
    }
    pair.check();
}

#[test]
fn dead_rows_are_compacted() {
    let mut pair = Pair::new(small(Metric::Euclidean, IndexKind::IvfPq, 10), 3);
    pair.change(1000, 100_000, 0);
    pair.train(0, 100_000);
    let ids: Vec<PointId> = pair.model.keys().copied().step_by(2).collect();
    for id in ids {
        assert!(pair.whole.remove(id));
        pair.model.remove(&id);
    }
    assert!(pair.index().wants_filing());
    assert!(pair.index().state().dead_rows > 400);
    let job = pair.index().filing_job(&pair.whole.points).expect("trained");
    assert!(pair.whole.index.install_rearranged(&mut job.run().expect("sound lists")));
    assert!(!pair.index().wants_filing());
    assert!(pair.index().state().dead_rows < 100, "{:?}", pair.index().state());
    pair.check();
}

#[test]
fn a_job_of_another_epoch_is_not_installed() {
    let mut pair = Pair::new(small(Metric::Dot, IndexKind::IvfPq, 10), 3);
    pair.change(1000, 2000, 0);
    pair.train(0, 2000);
    pair.change(600, 2000, 0);
    let (first, second) = (
        pair.index().filing_job(&pair.whole.points).expect("trained"),
        pair.index().filing_job(&pair.whole.points).expect("trained"),
    );
    assert!(pair.whole.index.install_rearranged(&mut first.run().expect("sound lists")));
    assert!(!pair.whole.index.install_rearranged(&mut second.run().expect("sound lists")));
    pair.check();
}

#[test]
fn lists_that_lack_filed_rows_are_refused() {
    let mut pair = Pair::new(small(Metric::Dot, IndexKind::IvfPq, 10), 3);
    pair.change(1000, 2000, 0);
    let stale =
        train(pair.index().spec(), &mut ModelSource(&pair.model), &TrainOptions::new(5)).expect("rows to train on");
    pair.train(0, 2000);
    pair.change(900, 50_000, 0);
    let job = pair.index().filing_job(&pair.whole.points).expect("trained");
    let filed = job.tail_rows();
    assert!(pair.whole.index.install_rearranged(&mut job.run().expect("sound lists")) && filed > 0);
    assert_eq!(pair.whole.install(stale.clone()), Err(InstallError::NoTraining));
    pair.whole.index.training_started();
    assert!(matches!(pair.whole.install(stale), Err(InstallError::NotCovered { rows }) if rows >= filed));
    pair.whole.index.training_abandoned();
    pair.check();
    let other = small(Metric::Euclidean, IndexKind::IvfPq, 10);
    let other = train(&other, &mut ModelSource(&pair.model), &TrainOptions::new(5)).expect("rows to train on");
    pair.whole.index.training_started();
    assert_eq!(pair.whole.install(other), Err(InstallError::Specification));
    pair.whole.index.training_abandoned();
    pair.check();
}

#[test]
fn a_restored_index_is_the_saved_one_and_what_came_after() {
    let mut pair = Pair::new(small(Metric::Cosine, IndexKind::IvfPq, 10), 3);
    pair.change(1000, 2000, 0);
    pair.train(0, 2000);
    pair.change(500, 2000, 3);
    let job = pair.index().filing_job(&pair.whole.points).expect("trained");
    assert!(pair.whole.index.install_rearranged(&mut job.run().expect("sound lists")));
    let bytes = pair.whole.bytes();
    pair.change(300, 2000, 3);
    let spec = pair.index().spec().clone();
    pair.whole = Whole::of_bytes(&spec, &bytes).expect("its own bytes").0;
    let known: Vec<_> = pair.whole.points.iter().collect();
    let model = pair.model.clone();
    for (ordinal, id, version) in known {
        if model.get(&id).is_none_or(|row| row.0 != version) {
            pair.whole.index.remove(ordinal);
            pair.whole.points.remove(id);
        }
    }
    for (id, (version, vector)) in &model {
        if !pair.whole.points.ordinal(*id).is_some_and(|ordinal| pair.index().contains(ordinal)) {
            pair.whole.upsert(*id, *version, vector);
        }
    }
    assert!(pair.index().state().tail_rows < model.len() / 2);
    pair.check();
    pair.change(300, 2000, 3);
}

#[test]
fn growth_and_drift_want_training() {
    let spec = small(Metric::Euclidean, IndexKind::IvfPq, 10);
    let mut pair = Pair::new(spec.clone(), 3);
    pair.change(400, 1_000_000, 0);
    pair.train(0, 1_000_000);
    pair.change(500, 1_000_000, 0);
    assert!(pair.index().wants_training(), "{:?}", pair.index().state());

    let mut pair = Pair::new(spec, 3);
    pair.change(3000, 1_000_000, 0);
    pair.train(0, 1_000_000);
    // Rows elsewhere: the lists follow. Rows spread wider: they cannot.
    pair.generator.centres.iter_mut().flatten().for_each(|x| *x += 3.0);
    pair.change(1500, 1_000_000, 0);
    pair.upkeep(0, 1);
    assert!(pair.index().state().drift < 1.2 && !pair.index().wants_training(), "{:?}", pair.index().state());
    pair.generator.spread *= 2.0;
    pair.change(1400, 1_000_000, 0);
    pair.upkeep(0, 1);
    assert!(pair.index().state().drift > 1.2 && pair.index().wants_training(), "{:?}", pair.index().state());
}
