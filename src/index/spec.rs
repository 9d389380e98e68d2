//! What an index is told and what it answers: its specification, a search's parameters, hits and statistics.
//! Plain data; called by `shard` and by every file of this room.

use super::kmeans::ListBounds;
use super::points::Points;
use crate::types::{Metric, PointId};

/// How the vectors are organised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexKind {
    /// Every row in f32, every search exact.
    Flat,
    /// Posting lists of f32 rows: exact distances within the lists probed.
    IvfFlat,
    /// Posting lists of 4-bit product-quantised codes and int8 rows. The default.
    IvfPq,
}

impl IndexKind {
    /// The name used in settings and answers.
    pub const fn name(self) -> &'static str {
        match self {
            IndexKind::Flat => "flat",
            IndexKind::IvfFlat => "ivf_flat",
            IndexKind::IvfPq => "ivf_pq",
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
    /// Rows looked at by training: a sample of at most this many.
    pub sample_rows_max: usize,
    /// The recall@k that the settings chosen at build time must reach on held-out rows, less two standard errors.
    pub recall_target: f32,
    /// Held-out rows used as queries to choose those settings.
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
            sample_rows_max: 200_000,
            recall_target: 0.955,
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
}

/// What a search asks for. `None` means: as calibrated when the index was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SearchParams {
    /// Nearest points wanted.
    pub k: usize,
    /// Posting lists visited.
    pub nprobe: Option<usize>,
    /// Approximate hits re-ranked in int8 (never fewer than the hits returned).
    pub candidates: Option<usize>,
    /// Visit everything, and return every row that could be among the true `k` nearest.
    pub exact: bool,
}

impl SearchParams {
    /// The `k` nearest at the calibrated settings.
    pub fn new(k: usize) -> Self {
        SearchParams { k, nprobe: None, candidates: None, exact: false }
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

/// The answer: hits ordered by (distance, id), and the work done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SearchOutcome {
    /// More than `k` where some are not exact: score those again in f32, sort, cut to `k`.
    pub hits: Vec<Hit>,
    /// The work done.
    pub stats: SearchStats,
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
    /// Lists visited by a default search for 10.
    pub nprobe: usize,
    /// Candidates re-ranked by a default search for 10.
    pub candidates: usize,
    /// Recall@10 measured on held-out rows when the lists were built.
    pub calibrated_recall: f32,
}
