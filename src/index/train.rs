//! Building the posting lists from a stream of rows: one pass draws a sample and trains the quantizer, a second encodes every row
//! and, on the side, finds the true neighbours of held-out rows, by which the search settings are chosen.
//! Memory: the sealed lists, the sample, no more. Called by `shard`, off any lock.

use super::encoder::{Encoded, Encoder};
use super::kernels::{self, ByteRows, Kernels};
use super::kmeans::{Clustering, ListBounds};
use super::lift::Lift;
use super::plan::{Calibration, TriedOn};
use super::points::Points;
use super::product::Codebook;
use super::quantizer::{FactorUnits, Quantizer, QuantizerParts};
use super::random::SplitMix64;
use super::reach::Reach;
use super::rotation::Rotation;
use super::sealed::Sealed;
use super::search::Lists;
use super::spec::{IndexKind, IndexSpec};
use super::truth::GroundTruth;
use super::visits::{self, VisitOrder};
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
    let mut encoder = Encoder::new(work, &quantizer, truth, source.rows_hint());
    visit_checked(spec, source, &mut |id, version, row| encoder.push(id, version, row))?;
    let Encoded { lists, points, truth } = encoder.finish();
    wanted()?;
    quantizer.learn_residuals(&lists);
    visits::choose(&mut quantizer, (&points, &lists), &truth, spec.recall_target, kernels);
    let view = Lists { points: &points, quantizer: &quantizer, lists: &lists };
    let calibration = Calibration::choose(view, &truth, work);
    wanted()?;
    let reach = Reach::measure(view, kernels);
    let tried_on = TriedOn::now(lists.len());
    let quantizer = Arc::new(quantizer);
    Ok(Built { sealed: Sealed { quantizer, lists, calibration, tried_on, reach, reach_outdated_by: 0 }, points })
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
        let rotated = self.spec.kind != IndexKind::IvfFlat && self.spec.metric != Metric::Manhattan;
        let rotation = if rotated { Rotation::random(d, &mut self.rng) } else { Rotation::identity() };
        let metric = self.spec.metric;
        let parts = QuantizerParts {
            kind: self.spec.kind,
            rerank: self.spec.rerank,
            metric,
            dimension: d,
            mean,
            rotation,
            centroids: Vec::new(),
            codebook: None,
            units: FactorUnits::new(1.0),
            residual_mean: 0.0,
            lift: None,
            order: VisitOrder::by_centroid(0),
        };
        let mut projected = project_sample(&parts, sample, &held_out, self.work);
        let lift = (metric == Metric::Dot).then(|| lift_sample(&mut projected, d, kernels));
        let space = d + usize::from(lift.is_some());
        let bytes = ByteRows::new(&projected, space, kernels);
        let sample = Clustering { rows: &projected, bytes: bytes.all(), dimension: space, work: self.work };
        let centroids = self.centroids(sample, total);
        let order = VisitOrder::by_centroid(centroids.len() / space);
        let (residuals, residual_mean) = self.unit_residuals(sample, &centroids);
        let units = FactorUnits::new(residual_mean);
        let codebook = match self.spec.kind {
            IndexKind::IvfPq => {
                Some(Codebook::train(&residuals, d, self.spec.codebook_width(), self.work, &mut self.rng))
            }
            IndexKind::IvfBinary => Some(Codebook::signs(d)),
            IndexKind::Flat | IndexKind::IvfFlat | IndexKind::IvfInt8 => None,
        };
        let quantizer = Quantizer::new(QuantizerParts { centroids, codebook, units, lift, order, ..parts }, kernels);
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

    /// Residuals to train a codebook on, at length 1; their mean square beside.
    fn unit_residuals(&self, sample: Clustering<'_>, centroids: &[f32]) -> (Vec<f32>, f32) {
        let (d, space, kernels) = (self.spec.dimension, sample.dimension, self.work.kernels);
        let sample = sample.head(CODEBOOK_ROWS_MAX);
        let nearest = sample.assign(centroids);
        let mut residuals = Vec::with_capacity(nearest.len() * d);
        let mut squares = 0f64;
        for (row, &c) in sample.rows.chunks_exact(space).zip(&nearest) {
            let (row, centroid) = (&row[..d], &centroids[c as usize * space..][..d]);
            let square = (kernels.l2)(row, centroid);
            squares += f64::from(square);
            let length = square.sqrt();
            if length > 0.0 {
                residuals.extend(row.iter().zip(centroid).map(|(x, c)| (x - c) / length));
            }
        }
        let mean = squares / nearest.len().max(1) as f64;
        (residuals, mean as f32)
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

/// Gives every row its height, in place.
fn lift_sample(rows: &mut Vec<f32>, d: usize, kernels: &Kernels) -> Lift {
    let squares: Vec<f32> = rows.chunks_exact(d).map(|row| (kernels.dot)(row, row)).collect();
    let lift = Lift::of(&mut squares.clone());
    let space = d + 1;
    rows.resize(squares.len() * space, 0.0);
    for (i, &square) in squares.iter().enumerate().rev() {
        rows.copy_within(i * d..(i + 1) * d, i * space);
        rows[i * space + d] = lift.height(square);
    }
    lift
}
