//! The index as a whole against oracles: brute force for answers, a `BTreeMap` for what is in it, bytes for determinism.

mod answers;
mod arrange;
mod bytes;
mod changes;
mod codes;
mod filtered;
mod reshape;
mod threads;

use super::kernels::{self, Kernels};
use super::random::SplitMix64;
use super::train::train_with;
use super::*;
use crate::types::{Metric, PointId, VectorName};
use std::collections::BTreeMap;

/// Points by id: version and vector.
type Model = BTreeMap<PointId, (u64, Vec<f32>)>;

/// A model as a source of rows.
struct ModelSource<'a>(&'a Model);

impl RowSource for ModelSource<'_> {
    fn rows_hint(&self) -> usize {
        self.0.len()
    }

    fn visit(&mut self, visit: &mut RowVisitor<'_>) -> Result<(), SourceError> {
        self.0.iter().for_each(|(id, (version, vector))| visit(*id, *version, vector));
        Ok(())
    }
}

/// A number of about the normal distribution (the sum of four uniform ones).
fn noise(rng: &mut SplitMix64) -> f32 {
    (0..4).map(|_| rng.below(1 << 20) as f32 / (1 << 20) as f32 - 0.5).sum::<f32>() * 1.7
}

/// Vectors around random centres; of unit length for cosine.
struct Generator {
    rng: SplitMix64,
    centres: Vec<Vec<f32>>,
    metric: Metric,
    /// Of the vectors around their centre.
    spread: f32,
}

impl Generator {
    fn new(metric: Metric, dimension: usize, centres: usize, seed: u64) -> Generator {
        let mut rng = SplitMix64::new(seed);
        let centres = (0..centres).map(|_| (0..dimension).map(|_| noise(&mut rng)).collect()).collect();
        Generator { rng, centres, metric, spread: 0.6 }
    }

    fn vector(&mut self) -> Vec<f32> {
        let centre = self.rng.below(self.centres.len());
        let mut vector: Vec<f32> = self.centres[centre].clone();
        vector.iter_mut().for_each(|x| *x += self.spread * noise(&mut self.rng));
        if self.metric == Metric::Cosine {
            normalize(&mut vector);
        }
        vector
    }

    fn id(&mut self, below: usize) -> PointId {
        match self.rng.below(below) {
            n if n % 5 == 0 => PointId::Uuid(uuid::Uuid::from_u128(n as u128)),
            n => PointId::Num(n as u64),
        }
    }

    fn model(&mut self, rows: usize) -> Model {
        (0..rows).map(|i| (PointId::Num(i as u64), (1, self.vector()))).collect()
    }
}

/// A small specification that trains early, with everything that decides sizes scaled down.
fn small(metric: Metric, kind: IndexKind, dimension: usize) -> IndexSpec {
    IndexSpec {
        kind,
        flat_rows_max: 300,
        list_rows: 40,
        tail_rows_max: 300,
        calibration_queries: 40,
        ..IndexSpec::new(metric, dimension)
    }
}

/// An index with the points it knows by ordinal: what a shard with one vector has.
struct Whole {
    points: Points,
    index: VectorIndex,
}

impl Whole {
    fn new(spec: &IndexSpec) -> Whole {
        Whole { points: Points::new(), index: VectorIndex::new(spec.clone()) }
    }

    /// Just built, with every row live.
    fn of(spec: &IndexSpec, built: Built) -> Whole {
        let (points, index) = VectorIndex::of_built(spec.clone(), built).expect("the same specification");
        Whole { points, index }
    }

    /// From the bytes of a file; also what tells of damage found later.
    fn of_bytes(spec: &IndexSpec, bytes: &[u8]) -> Result<(Whole, Damage), IndexFileError> {
        let damage = Damage::default();
        let image = open(bytes, &damage)?;
        let saved = image.parts.into_iter().next().ok_or(IndexFileError::Magic)?;
        let index = VectorIndex::open(spec.clone(), saved).map_err(|_| IndexFileError::Magic)?;
        Ok((Whole { points: image.points, index }, damage))
    }

    fn bytes(&self) -> Vec<u8> {
        bytes_of(&self.points, self.index.sealed().expect("trained"))
    }

    fn upsert(&mut self, id: PointId, version: u64, vector: &[f32]) {
        let ordinal = self.points.put(id, version);
        self.index.upsert(ordinal, vector);
    }

    fn remove(&mut self, id: PointId) -> bool {
        let Some(ordinal) = self.points.ordinal(id) else { return false };
        assert!(self.index.remove(ordinal) && !self.index.remove(ordinal));
        self.points.remove(id) == Some(ordinal)
    }

    /// As the shard does: whatever the index thinks of it.
    fn remove_if_there(&mut self, id: PointId) {
        if let Some(ordinal) = self.points.ordinal(id) {
            self.index.remove(ordinal);
            self.points.remove(id);
        }
    }

    fn install(&mut self, built: Built) -> Result<Installed, InstallError> {
        self.index.install(&self.points, built)
    }

    fn search(&self, query: &[f32], params: &SearchParams, scratch: &mut Scratch) -> SearchOutcome {
        self.index.search(&self.points, query, params, scratch)
    }
}

/// The bytes of the file of one index.
fn bytes_of(points: &Points, sealed: Sealed) -> Vec<u8> {
    let mut bytes = Vec::new();
    let name = VectorName::new("v").expect("a name");
    write_image(&mut bytes, points, &[(name, sealed)]).expect("a Vec takes everything");
    bytes
}

/// As mapping a file of these bytes.
fn open(bytes: &[u8], damage: &Damage) -> Result<Image, IndexFileError> {
    let block = Block::copied(bytes.len(), [(0, bytes)].into_iter()).expect("memory");
    Image::open(&block, damage)
}

fn filled(spec: &IndexSpec, model: &Model) -> Whole {
    let mut whole = Whole::new(spec);
    model.iter().for_each(|(id, (version, vector))| whole.upsert(*id, *version, vector));
    whole
}

fn trained(spec: &IndexSpec, model: &Model, seed: u64) -> Whole {
    let mut whole = filled(spec, model);
    whole.index.training_started();
    let built = train(spec, &mut ModelSource(model), &TrainOptions::new(seed)).expect("rows to train on");
    whole.install(built).expect("the same specification");
    whole
}

/// The true k nearest: distances and ids, by brute force.
fn brute_force(metric: Metric, model: &Model, query: &[f32], k: usize) -> Vec<(PointId, f32)> {
    let mut all: Vec<_> = model.iter().map(|(id, (_, v))| (*id, distance(metric, query, v))).collect();
    all.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
    all.truncate(k);
    all
}

/// What the shard does with an outcome: scores in f32 what is not exact, sorts, cuts. Checks on the way that every hit is a live
/// row at its current version, that none is there twice, and that exact distances are right to the bit.
fn finish(metric: Metric, model: &Model, query: &[f32], k: usize, outcome: &SearchOutcome) -> Vec<(PointId, f32)> {
    assert!(outcome.hits.is_sorted_by(|a, b| a.order(b).is_lt()), "ordered, no id twice at a distance");
    let mut found = Vec::new();
    for hit in &outcome.hits {
        let (version, vector) = model.get(&hit.id).expect("a hit is a live point");
        assert_eq!(hit.version, *version, "a hit is the current version");
        let exact = distance(metric, query, vector);
        assert!(!hit.exact || hit.distance.to_bits() == exact.to_bits());
        found.push((hit.id, exact));
    }
    found.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
    let before = found.len();
    found.dedup_by_key(|f| f.0);
    assert_eq!(before, found.len(), "no point twice");
    found.truncate(k);
    found
}

/// Queries and their true nearest.
struct Truth {
    queries: Vec<Vec<f32>>,
    nearest: Vec<Vec<(PointId, f32)>>,
}

impl Truth {
    fn new(metric: Metric, model: &Model, queries: Vec<Vec<f32>>, k: usize) -> Truth {
        let nearest = queries.iter().map(|query| brute_force(metric, model, query, k)).collect();
        Truth { queries, nearest }
    }

    /// The share of the nearest that searches at these parameters find.
    fn recall(&self, index: &Whole, model: &Model, params: SearchParams) -> f32 {
        let metric = index.index.spec().metric;
        let mut scratch = Scratch::new();
        let (mut found, mut wanted) = (0, 0);
        for (query, nearest) in self.queries.iter().zip(&self.nearest) {
            let answer = finish(metric, model, query, params.k, &index.search(query, &params, &mut scratch));
            wanted += nearest.len();
            found += nearest.iter().filter(|t| answer.contains(t)).count();
        }
        found as f32 / wanted as f32
    }
}
