//! Stand-in for the index room while it is being written on its own branch: exact search only.

use crate::types::{Metric, PointId};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexKind {
    Flat,
    IvfFlat,
    IvfPq,
}
#[derive(Clone, Debug)]
pub struct IndexSpec {
    pub metric: Metric,
    pub dimension: usize,
    pub kind: IndexKind,
    pub flat_rows_max: usize,
}
impl IndexSpec {
    pub fn new(metric: Metric, dimension: usize) -> Self {
        Self { metric, dimension, kind: IndexKind::IvfPq, flat_rows_max: 20_000 }
    }
}
pub struct VectorIndex {
    spec: IndexSpec,
    rows: BTreeMap<PointId, (u64, Vec<f32>)>,
}
#[derive(Clone, Debug, Default)]
pub struct IndexState {
    pub rows: usize,
    pub tail_rows: usize,
    pub dead_rows: usize,
    pub lists: usize,
    pub memory_bytes: usize,
    pub estimated_recall: f32,
}
#[derive(Default)]
pub struct Scratch;
#[derive(Clone, Copy, Debug)]
pub struct SearchParams {
    pub k: usize,
    pub nprobe: Option<usize>,
    pub candidates: Option<usize>,
    pub exact: bool,
}
impl SearchParams {
    pub fn new(k: usize) -> Self {
        Self { k, nprobe: None, candidates: None, exact: false }
    }
}
#[derive(Clone, Debug)]
pub struct Hit {
    pub id: PointId,
    pub version: u64,
    pub distance: f32,
    pub exact: bool,
}
#[derive(Clone, Debug, Default)]
pub struct SearchStats {
    pub lists_probed: usize,
    pub codes_scanned: usize,
    pub reranked: usize,
    pub tail_scanned: usize,
}
pub struct SearchOutcome {
    pub hits: Vec<Hit>,
    pub stats: SearchStats,
}
#[derive(Clone)]
pub struct Sealed;
pub struct FilingJob;
pub struct Filed;
#[derive(Debug, thiserror::Error)]
#[error("bad index file")]
pub struct IndexFileError;
impl Sealed {
    pub fn encode(&self) -> Vec<u8> {
        vec![]
    }
    pub fn decode(_: &[u8]) -> Result<Sealed, IndexFileError> {
        Err(IndexFileError)
    }
    pub fn len(&self) -> usize {
        0
    }
}
impl FilingJob {
    pub fn run(self) -> Filed {
        Filed
    }
}
pub trait Rows {
    fn for_each(&mut self, visit: &mut dyn FnMut(PointId, u64, &[f32]));
}
pub fn train(_: &IndexSpec, _: &mut dyn Rows, _seed: u64) -> Sealed {
    Sealed
}
impl VectorIndex {
    pub fn new(spec: IndexSpec) -> Self {
        Self { spec, rows: BTreeMap::new() }
    }
    pub fn spec(&self) -> &IndexSpec {
        &self.spec
    }
    pub fn len(&self) -> usize {
        self.rows.len()
    }
    pub fn memory_bytes(&self) -> usize {
        self.rows.len() * (self.spec.dimension * 4 + 48)
    }
    pub fn state(&self) -> IndexState {
        IndexState { rows: self.len(), tail_rows: self.len(), memory_bytes: self.memory_bytes(), ..Default::default() }
    }
    pub fn upsert(&mut self, id: PointId, version: u64, v: &[f32]) {
        self.rows.insert(id, (version, v.to_vec()));
    }
    pub fn remove(&mut self, id: PointId) -> bool {
        self.rows.remove(&id).is_some()
    }
    pub fn search(&self, q: &[f32], p: &SearchParams, _: &mut Scratch) -> SearchOutcome {
        let mut hits: Vec<Hit> = self
            .rows
            .iter()
            .map(|(id, (version, v))| Hit {
                id: *id,
                version: *version,
                distance: distance(self.spec.metric, q, v),
                exact: true,
            })
            .collect();
        hits.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.id.cmp(&b.id)));
        hits.truncate(p.k);
        SearchOutcome { hits, stats: SearchStats { tail_scanned: self.len(), ..Default::default() } }
    }
    pub fn wants_training(&self) -> bool {
        false
    }
    pub fn wants_filing(&self) -> bool {
        false
    }
    pub fn install(&mut self, _: Sealed) {}
    pub fn restore(&mut self, _: Sealed) -> Result<(), IndexFileError> {
        Ok(())
    }
    pub fn filing_job(&self) -> Option<FilingJob> {
        None
    }
    pub fn install_filed(&mut self, _: Filed) {}
    pub fn sealed(&self) -> Option<Sealed> {
        None
    }
    pub fn oldest_tail_version(&self) -> Option<u64> {
        self.rows.values().map(|r| r.0).min()
    }
}
pub fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f32 {
    let pairs = a.iter().zip(b);
    match metric {
        Metric::Cosine => 1.0 - pairs.map(|(a, b)| a * b).sum::<f32>(),
        Metric::Dot => -pairs.map(|(a, b)| a * b).sum::<f32>(),
        Metric::Euclidean => pairs.map(|(a, b)| (a - b) * (a - b)).sum(),
        Metric::Manhattan => pairs.map(|(a, b)| (a - b).abs()).sum(),
    }
}
pub fn normalize(v: &mut [f32]) -> f32 {
    let n = v.iter().map(|c| c * c).sum::<f32>().sqrt();
    v.iter_mut().for_each(|c| *c /= n);
    n
}
