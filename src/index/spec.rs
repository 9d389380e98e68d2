//! What an index is told and what it answers: its specification, a search's parameters, hits and statistics.
//! Plain data; called by `shard` and by every file of this room.

use super::kmeans::ListBounds;
use super::points::Points;
use super::product::Codebook;
use crate::types::{Metric, PointId, Rerank};

/// How the vectors are organised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexKind {
    /// Every row in f32, every search exact.
    Flat,
    /// Posting lists of f32 rows: exact distances within the lists probed.
    IvfFlat,
    /// Posting lists of 4-bit product-quantised codes and int8 rows. The default.
    IvfPq,
    /// Posting lists of one sign a dimension (RaBitQ: Gao and Long 2024) and int8 rows. Nothing of the code is trained, so it
    /// fits later rows as it did the first.
    IvfBinary,
    /// Posting lists of int8 rows, all compared: no code to mislead, four times less to read than f32.
    IvfInt8,
}

impl IndexKind {
    /// Every kind with posting lists; a file names one by its place.
    pub(crate) const TRAINED: [IndexKind; 4] =
        [IndexKind::IvfFlat, IndexKind::IvfPq, IndexKind::IvfBinary, IndexKind::IvfInt8];

    /// The name used in settings and answers.
    pub const fn name(self) -> &'static str {
        match self {
            IndexKind::Flat => "flat",
            IndexKind::IvfFlat => "ivf_flat",
            IndexKind::IvfPq => "ivf_pq",
            IndexKind::IvfBinary => "ivf_binary",
            IndexKind::IvfInt8 => "ivf_scalar",
        }
    }
}

/// One named vector's index. [`IndexSpec::new`] gives the defaults; each field may be changed before [`super::VectorIndex::new`].
#[derive(Clone, Debug, PartialEq)]
pub struct IndexSpec {
    /// The distance.
    pub metric: Metric,
    /// Numbers a vector; 1 or more.
    pub dimension: usize,
    /// How the vectors are organised once there are more than `flat_rows_max`.
    pub kind: IndexKind,
    /// Up to this many rows the index stays flat and is never trained.
    pub flat_rows_max: usize,
    /// The rows a posting list should hold on average after training (256 to 512 measured fastest).
    pub list_rows: usize,
    /// Rows of the flat tail, beyond a trained index, at which filing is wanted.
    pub tail_rows_max: usize,
    /// Dimensions one 4-bit code stands for: 2 gives d/4 bytes a row, 4 gives d/8. Two measured better wherever recall matters: a
    /// fifth to a tenth of the candidates reach the same recall.
    pub subspace_width: usize,
    /// Whether the hits of a search are to be scored again in f32, by the caller.
    pub rerank: Rerank,
    /// Rows looked at by training: a sample of at most this many.
    pub sample_rows_max: usize,
    /// The recall@k of a search that names no target: reached on held-out rows, less two standard errors.
    pub recall_target: f32,
    /// Held-out rows used as queries when the plans of searches are chosen.
    pub calibration_queries: usize,
}

impl IndexSpec {
    /// IVF-PQ above 20,000 rows, with the defaults that need no tuning.
    pub fn new(metric: Metric, dimension: usize) -> Self {
        IndexSpec {
            metric,
            dimension,
            kind: IndexKind::IvfPq,
            flat_rows_max: 20_000,
            list_rows: 384,
            tail_rows_max: 2_048,
            subspace_width: 2,
            rerank: Rerank::F32,
            sample_rows_max: 200_000,
            recall_target: 0.95,
            calibration_queries: 256,
        }
    }
}

impl IndexSpec {
    /// Live rows of a posting list: above the most it is split, below the least dissolved, into as many parts as come to the aim.
    pub(crate) fn list_bounds(&self) -> ListBounds {
        let rows_aim = self.list_rows.max(1);
        ListBounds { rows_min: (rows_aim / 6).max(1), rows_aim, rows_max: rows_aim * 8 / 3 }
    }

    /// Dimensions a code stands for: more than asked for where there would be too many codes.
    pub(crate) fn codebook_width(&self) -> usize {
        Codebook::fitting_width(self.dimension, self.subspace_width)
    }
}

/// What a search asks for. `None` means: as calibrated when the index was built.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SearchParams {
    /// Nearest points wanted.
    pub k: usize,
    /// The share of the true `k` nearest to be found on average, over 0 to 1: answered by the cheapest plan that reached it when
    /// the index was built, and exactly if none did. None: [`IndexSpec::recall_target`].
    pub recall_target: Option<f32>,
    /// Posting lists visited, neither more nor fewer, whatever the target.
    pub nprobe: Option<usize>,
    /// Approximate hits re-ranked in int8 (never fewer than the hits returned).
    pub candidates: Option<usize>,
    /// Visit everything, and return every row that could be among the true `k` nearest.
    pub exact: bool,
}

impl SearchParams {
    /// The `k` nearest at the default recall.
    pub fn new(k: usize) -> Self {
        SearchParams { k, recall_target: None, nprobe: None, candidates: None, exact: false }
    }
}

/// One point found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// The point's ordinal.
    pub ordinal: u32,
    /// The point.
    pub id: PointId,
    /// Its version.
    pub version: u64,
    /// Its distance (as [`super::distance`] defines it): computed from the f32 row if `exact`, else from its int8 form.
    pub distance: f32,
    /// Whether `distance` is exact.
    pub exact: bool,
}

impl Hit {
    /// A row as a hit; none if its ordinal belongs to no point, which only a damaged file can bring about.
    pub(crate) fn of(points: &Points, ordinal: u32, distance: f32, exact: bool) -> Option<Hit> {
        points.get(ordinal).map(|(id, version)| Hit { ordinal, id, version, distance, exact })
    }

    /// The order of answers: by distance, then by id.
    pub fn order(&self, other: &Hit) -> std::cmp::Ordering {
        self.distance.total_cmp(&other.distance).then_with(|| self.id.cmp(&other.id))
    }
}

/// The work one search did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SearchStats {
    /// Posting lists visited.
    pub lists_probed: usize,
    /// Rows whose code (or f32 row, in IVF-Flat) was scored.
    pub codes_scanned: usize,
    /// Rows scored in int8.
    pub reranked: usize,
    /// Rows of the flat tail scored exactly.
    pub tail_scanned: usize,
}

/// How a search was answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SearchPlan {
    /// Every row was compared: as asked, because there are no lists, or because no plan reaches the target.
    pub exact: bool,
    /// The recall aimed at; 1 if exact, none if `nprobe` was given.
    pub recall_target: Option<f32>,
    /// Posting lists visited at most (how many were: [`SearchStats::lists_probed`]).
    pub nprobe: usize,
    /// Approximate hits re-ranked in int8 at most.
    pub candidates: usize,
    /// The recall to be counted on for queries like the rows: what the plan had on held-out rows when the lists were built, less
    /// two standard errors. 0 where nothing was measured.
    pub estimated_recall: f32,
}

impl SearchPlan {
    /// Compares every row.
    pub const EXACT: SearchPlan =
        SearchPlan { exact: true, recall_target: Some(1.0), nprobe: 0, candidates: 0, estimated_recall: 1.0 };
}

/// The answer: hits ordered by (distance, id), the plan, and the work done.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchOutcome {
    /// More than `k` where some are not exact: score those again in f32 (unless `settled`), sort, cut to `k`.
    pub hits: Vec<Hit>,
    /// How they were found.
    pub plan: SearchPlan,
    /// Whether the distances are to be taken as they are, exact or not: the specification says so ([`Rerank::Int8`]).
    pub settled: bool,
    /// The work done.
    pub stats: SearchStats,
}

/// How a search with a filter was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterPlan {
    /// Every allowed row was scored, each by itself: exact.
    Gather,
    /// The flat index was scanned, rows that are not allowed passed over: exact.
    Flat,
    /// Posting lists were visited, rows that are not allowed masked out.
    Probe,
}

/// What an index looks like now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IndexState {
    /// The kind in use: flat until trained.
    pub kind: IndexKind,
    /// Whether posting lists are installed.
    pub trained: bool,
    /// Posting lists.
    pub lists: usize,
    /// Live rows, in lists and tail.
    pub rows: usize,
    /// Live rows in the flat tail.
    pub tail_rows: usize,
    /// Dead rows still held in posting lists.
    pub dead_rows: usize,
    /// Mean squared residual of the lists' rows, relative to training; 1.0 = no drift.
    pub drift: f32,
    /// The plan of a default search for 10.
    pub plan: SearchPlan,
}
