//! Building the posting lists from a stream of rows: one pass draws a sample and trains the quantizer, a second encodes every row
//! and, on the side, finds the true neighbours of held-out rows, by which the search settings are chosen.
//! Memory: the sealed lists, the sample, no more. Called by `shard`, off any lock.

use super::assigner::Assigner;
use super::batch::{AssignedRow, Batch};
use super::calibrate::Calibration;
use super::kernels::{self, ByteRows, Kernels};
use super::kmeans::{Clustering, ListBounds};
use super::list::{LiveList, PostingList};
use super::points::Points;
use super::product::Codebook;
use super::quantizer::{FactorUnits, Quantizer, QuantizerParts};
use super::random::SplitMix64;
use super::rotation::Rotation;
use super::sealed::Sealed;
use super::search::Lists;
use super::spec::{IndexKind, IndexSpec};
use super::truth::GroundTruth;
use super::work::Work;
use crate::types::{Metric, PointId};
use std::sync::Arc;

/// Rows of the sample a list should have.
const SAMPLE_ROWS_PER_LIST: usize = 64;
/// Bytes of the sample at most.
const SAMPLE_BYTES_MAX: usize = 256 << 20;
/// Rows the codebook is trained on at most.
const CODEBOOK_ROWS_MAX: usize = 16_384;
/// Rows of the sample projected in one piece.
const PROJECTED_ROWS: usize = 1024;
/// Lists are split above and dropped below these multiples of `IndexSpec::list_rows`.
const LIST_SPLIT: f64 = 8.0 / 3.0;
const LIST_DROP: f64 = 1.0 / 6.0;

/// What a visitor of rows is given: the id, its version, its vector (valid for the spec).
pub type RowVisitor<'a> = dyn FnMut(PointId, u64, &[f32]) + 'a;

/// The rows to build from: a consistent view, read twice in the same order.
pub trait RowSource {
    /// About how many rows there are (decides the size of the sample).
    fn rows_hint(&self) -> usize;

    /// Gives every row to `visit`, each id once. An error ends the build: also the way to cancel one.
    fn visit(&mut self, visit: &mut RowVisitor<'_>) -> Result<(), SourceError>;
}

/// Why the source could not give its rows.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Why nothing was built.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A flat index has nothing to train.
    #[error("kind: expected ivf_flat or ivf_pq, got flat")]
    Flat,
    /// There was no row.
    #[error("rows: expected at least 1, got 0")]
    NoRows,
    /// A row of another dimension.
    #[error("vector of point {id}: expected dimension {expected}, got {got}")]
    Dimension {
        /// The row.
        id: PointId,
        /// The spec's dimension.
        expected: usize,
        /// The row's.
        got: usize,
    },
    /// The source failed.
    #[error("rows: {0}")]
    Source(#[source] SourceError),
    /// [`TrainOptions::cancelled`] said so.
    #[error("the training was cancelled")]
    Cancelled,
}

/// Posting lists and the points they were built from: ordinals count the rows in the order of their visits, and become those of
/// a shard when the lists are installed.
#[derive(Clone, Debug)]
pub struct Built {
    /// The lists.
    pub sealed: Sealed,
    /// Of each row the id and version it was built from.
    pub points: Points,
}

/// How to build: nothing of it but the seed decides what is built.
#[derive(Clone, Copy)]
pub struct TrainOptions<'a> {
    /// Decides every random choice.
    pub seed: u64,
    /// Threads that compute at once, the caller's among them.
    pub threads: usize,
    /// Asked every few milliseconds, from any of the threads: whether the result is no longer wanted.
    pub cancelled: &'a (dyn Fn() -> bool + Sync),
}

impl TrainOptions<'_> {
    /// On the caller's thread, to the end.
    pub fn new(seed: u64) -> TrainOptions<'static> {
        TrainOptions { seed, threads: 1, cancelled: &|| false }
    }
}

/// Builds posting lists for all rows of `source`: deterministic in spec, rows (with their order) and seed, on every CPU and for
/// any number of threads. Cost: about 4 µs CPU a row at a million rows of 128 dimensions; the assignment grows with rows^1.5.
pub fn train(spec: &IndexSpec, source: &mut dyn RowSource, options: &TrainOptions<'_>) -> Result<Built, TrainError> {
    train_with(kernels::active(), spec, source, options)
}

/// [`train`] with given kernels.
pub(crate) fn train_with(
    kernels: &'static Kernels,
    spec: &IndexSpec,
    source: &mut dyn RowSource,
    options: &TrainOptions<'_>,
) -> Result<Built, TrainError> {
    if spec.kind == IndexKind::Flat {
        return Err(TrainError::Flat);
    }
    let work = Work::new(kernels, options.threads, options.cancelled);
    let wanted = || if work.is_cancelled() { Err(TrainError::Cancelled) } else { Ok(()) };
    let mut rng = SplitMix64::new(options.seed);
    let sample = Sample::draw(spec, source, &mut rng)?;
    wanted()?;
    let trainer = Trainer { work, spec, rng };
    let (mut quantizer, truth) = trainer.quantizer(sample);
    wanted()?;
    let encoder = Encoder::new(work, &quantizer, truth, source.rows_hint());
    let Encoded { lists, points, truth, residual_mean } = encoder.run(spec, source)?;
    wanted()?;
    quantizer.residual_mean = residual_mean;
    let view = Lists { points: &points, quantizer: &quantizer, lists: &lists };
    let calibration = Calibration::choose(view, &truth, spec.recall_target, kernels);
    Ok(Built { sealed: Sealed { quantizer: Arc::new(quantizer), lists, calibration }, points })
}

fn visit_checked(spec: &IndexSpec, source: &mut dyn RowSource, visit: &mut RowVisitor<'_>) -> Result<(), TrainError> {
    let mut wrong = None;
    let outcome = source.visit(&mut |id, version, row| {
        if row.len() == spec.dimension {
            visit(id, version, row);
        } else {
            wrong.get_or_insert(TrainError::Dimension { id, expected: spec.dimension, got: row.len() });
        }
    });
    outcome.map_err(TrainError::Source)?;
    wrong.map_or(Ok(()), Err)
}

/// Rows drawn without bias from a stream of unknown length (reservoir sampling, Vitter 1985, algorithm R).
struct Sample {
    ids: Vec<PointId>,
    rows: Vec<f32>,
    /// Rows in the stream.
    total: usize,
}

impl Sample {
    fn draw(spec: &IndexSpec, source: &mut dyn RowSource, rng: &mut SplitMix64) -> Result<Sample, TrainError> {
        let d = spec.dimension;
        let wanted = source.rows_hint() / spec.list_rows.max(1) * SAMPLE_ROWS_PER_LIST;
        let room = spec.sample_rows_max.min(SAMPLE_BYTES_MAX / (4 * d)).max(1);
        let capacity = wanted.max(CODEBOOK_ROWS_MAX + spec.calibration_queries).min(room);
        let mut sample = Sample { ids: Vec::new(), rows: Vec::new(), total: 0 };
        visit_checked(spec, source, &mut |id, _, row| {
            sample.total += 1;
            if sample.ids.len() < capacity {
                sample.ids.push(id);
                sample.rows.extend_from_slice(row);
                return;
            }
            let at = rng.below(sample.total);
            if at < capacity {
                sample.ids[at] = id;
                sample.rows[at * d..(at + 1) * d].copy_from_slice(row);
            }
        })?;
        if sample.total == 0 { Err(TrainError::NoRows) } else { Ok(sample) }
    }

    fn mean(&self, d: usize) -> Vec<f32> {
        let mut sums = vec![0f64; d];
        for row in self.rows.chunks_exact(d) {
            sums.iter_mut().zip(row).for_each(|(s, &x)| *s += f64::from(x));
        }
        sums.iter().map(|s| (s / self.ids.len() as f64) as f32).collect()
    }
}

struct Trainer<'a> {
    work: Work<'a>,
    spec: &'a IndexSpec,
    rng: SplitMix64,
}

impl Trainer<'_> {
    /// Trains on the sample, but for the rows held out as queries.
    fn quantizer(mut self, sample: Sample) -> (Quantizer, GroundTruth) {
        let (d, kernels) = (self.spec.dimension, self.work.kernels);
        let held_out = self.hold_out(&sample);
        let mut truth = GroundTruth::new(kernels, self.spec.metric, d, &held_out, &sample.ids, &sample.rows);
        let total = sample.total;
        let mean = sample.mean(d);
        // In L1 the rotation would mix what the distance keeps apart; f32 rows have no use for it.
        let rotated = self.spec.kind == IndexKind::IvfPq && self.spec.metric != Metric::Manhattan;
        let rotation = if rotated { Rotation::random(d, &mut self.rng) } else { Rotation::identity() };
        let metric = self.spec.metric;
        let parts = QuantizerParts {
            metric,
            dimension: d,
            mean,
            rotation,
            centroids: Vec::new(),
            codebook: None,
            units: FactorUnits::new(1.0),
            residual_mean: 0.0,
        };
        let projected = project_sample(&parts, sample, &held_out, self.work);
        let bytes = ByteRows::new(&projected, d, kernels);
        let sample = Clustering { rows: &projected, bytes: bytes.all(), dimension: d, work: self.work };
        let centroids = self.centroids(sample, total);
        let (codebook, units) = match self.spec.kind {
            IndexKind::IvfPq => {
                let (codebook, residual_mean) = self.codebook(sample, &centroids);
                (Some(codebook), FactorUnits::new(residual_mean))
            }
            _ => (None, parts.units),
        };
        let quantizer = Quantizer::new(QuantizerParts { centroids, codebook, units, ..parts }, kernels);
        truth.prepare(&quantizer, sample);
        (quantizer, truth)
    }

    /// Places of the sample that serve as queries: few beside the rows that train.
    fn hold_out(&mut self, sample: &Sample) -> Vec<usize> {
        let count = self.spec.calibration_queries.min(sample.ids.len() / 8);
        let mut held_out = self.rng.sample(sample.ids.len(), count);
        held_out.sort_unstable();
        held_out
    }

    fn centroids(&mut self, sample: Clustering<'_>, total: usize) -> Vec<f32> {
        let list_rows = self.spec.list_rows.max(1);
        let centroids = sample.two_level(total.div_ceil(list_rows), &mut self.rng);
        // Sizes in the sample stand for sizes in the whole.
        let share = sample.len() as f64 / total as f64;
        let rows = |factor: f64| (list_rows as f64 * factor * share) as usize;
        let bounds = ListBounds { rows_min: rows(LIST_DROP), rows_aim: rows(1.0), rows_max: rows(LIST_SPLIT).max(1) };
        sample.balance(&centroids, bounds, &mut self.rng)
    }

    /// Trains the codebook on unit residuals; their mean square beside.
    fn codebook(&mut self, sample: Clustering<'_>, centroids: &[f32]) -> (Codebook, f32) {
        let (d, kernels) = (self.spec.dimension, self.work.kernels);
        let sample = sample.head(CODEBOOK_ROWS_MAX);
        let nearest = sample.assign(centroids);
        let mut residuals = Vec::with_capacity(sample.rows.len());
        let mut squares = 0f64;
        for (row, &c) in sample.rows.chunks_exact(d).zip(&nearest) {
            let centroid = &centroids[c as usize * d..(c as usize + 1) * d];
            let square = (kernels.l2)(row, centroid);
            squares += f64::from(square);
            let length = square.sqrt();
            if length > 0.0 {
                residuals.extend(row.iter().zip(centroid).map(|(x, c)| (x - c) / length));
            }
        }
        let width = Codebook::fitting_width(d, self.spec.subspace_width);
        let mean = squares / nearest.len().max(1) as f64;
        (Codebook::train(&residuals, d, width, kernels, &mut self.rng), mean as f32)
    }
}

/// The sample but for the rows held out, in the space of the centroids. In place: the sample is the largest thing there is.
fn project_sample(parts: &QuantizerParts, sample: Sample, held_out: &[usize], work: Work<'_>) -> Vec<f32> {
    let d = parts.dimension;
    let mut rows = sample.rows;
    let mut kept = 0;
    let mut skip = held_out.iter().copied().peekable();
    for i in (0..sample.ids.len()).filter(|i| skip.next_if_eq(i).is_none()) {
        rows.copy_within(i * d..(i + 1) * d, kept * d);
        kept += 1;
    }
    rows.truncate(kept * d);
    work.parallel(rows.chunks_mut(PROJECTED_ROWS * d), |rows| {
        for row in rows.chunks_exact_mut(d) {
            row.iter_mut().zip(&parts.mean).for_each(|(x, m)| *x -= m);
            parts.rotation.apply(row, work.kernels);
        }
    });
    rows
}

/// The second pass.
struct Encoder<'a> {
    work: Work<'a>,
    quantizer: &'a Quantizer,
    assigner: Assigner,
    truth: GroundTruth,
    points: Points,
    lists: Vec<PostingList>,
    batch: Batch,
    residual_sum: f64,
}

/// What the second pass made.
struct Encoded {
    lists: Vec<LiveList>,
    points: Points,
    truth: GroundTruth,
    residual_mean: f32,
}

impl<'a> Encoder<'a> {
    fn new(work: Work<'a>, quantizer: &'a Quantizer, truth: GroundTruth, rows_hint: usize) -> Self {
        let lists = (0..quantizer.lists()).map(|_| quantizer.empty_list()).collect();
        let assigner = Assigner::new(&quantizer.centroids, quantizer.dimension, rows_hint, work);
        let (points, batch) = (Points::new(), Batch::default());
        Encoder { work, quantizer, assigner, truth, points, lists, batch, residual_sum: 0.0 }
    }

    /// Encodes every row of the source.
    fn run(mut self, spec: &IndexSpec, source: &mut dyn RowSource) -> Result<Encoded, TrainError> {
        visit_checked(spec, source, &mut |id, version, row| self.push(id, version, row))?;
        self.flush();
        let mut lists = self.lists;
        lists.iter_mut().for_each(PostingList::shrink);
        let residual_mean = (self.residual_sum / self.points.len().max(1) as f64) as f32;
        let lists = lists.into_iter().map(LiveList::all_live).collect();
        Ok(Encoded { lists, points: self.points, truth: self.truth, residual_mean })
    }

    fn push(&mut self, id: PointId, version: u64, row: &[f32]) {
        let rows = self.points.len();
        let ordinal = self.points.put(id, version);
        if self.points.len() == rows {
            // Not the first time: a row more than the source promised.
            return;
        }
        self.batch.add(ordinal, row);
        if self.batch.is_full() {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.work.is_cancelled() {
            self.batch.clear();
            return;
        }
        let encoded = self.batch.encode(self.quantizer, &self.assigner, Some(&self.truth), self.work);
        // Each list gets its rows in order, so that it does not matter which thread has which lists.
        let share = self.lists.len().div_ceil(self.work.threads());
        self.work.parallel(self.lists.chunks_mut(share).zip((0..).step_by(share)), |(lists, first)| {
            let span = first..first + lists.len();
            let own = |row: &AssignedRow<'_>| span.contains(&row.list);
            encoded.rows().filter(own).for_each(|row| row.push(&mut lists[row.list - first]));
        });
        self.residual_sum += encoded.rows().map(|row| f64::from(row.residual_square)).sum::<f64>();
        for (ordinal, seen) in encoded.sightings() {
            let (id, _) = self.points.get(ordinal).expect("invariant: every row of the batch is a point");
            self.truth.see(seen, id);
        }
        self.batch.clear();
    }
}
