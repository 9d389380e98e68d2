//! Building the posting lists from a stream of rows: one pass draws a sample and trains the quantizer, a second encodes every row
//! and, on the side, finds the true neighbours of held-out rows, by which the search settings are chosen.
//! Memory: the sealed lists, the sample, no more. Called by `shard`, off any lock.

use super::batch::Batch;
use super::kernels::{self, Kernels};
use super::kmeans::{Clustering, ListBounds};
use super::lift::Lift;
use super::list::{LiveList, PostingList};
use super::plan::Calibration;
use super::points::Points;
use super::product::Codebook;
use super::quantizer::{FactorUnits, Quantizer, QuantizerParts};
use super::random::SplitMix64;
use super::rotation::Rotation;
use super::sealed::Sealed;
use super::search::Lists;
use super::spec::{IndexKind, IndexSpec};
use super::truth::GroundTruth;
use super::visits::{self, VisitOrder};
use crate::types::{Metric, PointId};
use std::sync::Arc;

/// Rows of the sample a list should have.
const SAMPLE_ROWS_PER_LIST: usize = 64;
/// Bytes of the sample at most.
const SAMPLE_BYTES_MAX: usize = 256 << 20;
/// Rows the codebook is trained on at most.
const CODEBOOK_ROWS_MAX: usize = 16_384;
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
    /// The source failed, or cancelled.
    #[error("rows: {0}")]
    Source(#[source] SourceError),
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

/// Builds posting lists for all rows of `source`: deterministic in spec, rows (with their order) and seed, on every CPU.
/// Cost: about 20 µs CPU a row at 100,000 rows of 128 dimensions; the assignment grows with rows².
pub fn train(spec: &IndexSpec, source: &mut dyn RowSource, seed: u64) -> Result<Built, TrainError> {
    train_with(kernels::active(), spec, source, seed)
}

/// [`train`] with given kernels.
pub(crate) fn train_with(
    kernels: &'static Kernels,
    spec: &IndexSpec,
    source: &mut dyn RowSource,
    seed: u64,
) -> Result<Built, TrainError> {
    if spec.kind == IndexKind::Flat {
        return Err(TrainError::Flat);
    }
    let mut rng = SplitMix64::new(seed);
    let sample = Sample::draw(spec, source, &mut rng)?;
    let trainer = Trainer { kernels, spec, rng };
    let (mut quantizer, truth) = trainer.quantizer(sample);
    let mut encoder = Encoder::new(kernels, &quantizer, truth);
    visit_checked(spec, source, &mut |id, version, row| encoder.push(id, version, row))?;
    let Encoded { lists, points, truth, residuals } = encoder.finish();
    quantizer.learn_residuals(&residuals);
    visits::choose(&mut quantizer, (&points, &lists), &truth, spec.recall_target, kernels);
    let view = Lists { points: &points, quantizer: &quantizer, lists: &lists };
    let calibration = Calibration::choose(view, &truth, kernels);
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
    kernels: &'static Kernels,
    spec: &'a IndexSpec,
    rng: SplitMix64,
}

impl Trainer<'_> {
    /// Trains on the sample, but for the rows held out as queries.
    fn quantizer(mut self, sample: Sample) -> (Quantizer, GroundTruth) {
        let (d, kernels) = (self.spec.dimension, self.kernels);
        let held_out = self.hold_out(&sample);
        let truth = GroundTruth::new(kernels, self.spec.metric, d, &held_out, &sample.ids, &sample.rows);
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
        let mut projected = project_sample(&parts, sample, &held_out, kernels);
        let lift = (metric == Metric::Dot).then(|| lift_sample(&mut projected, d, kernels));
        let space = d + usize::from(lift.is_some());
        let centroids = self.centroids(&projected, space, total);
        let order = VisitOrder::by_centroid(centroids.len() / space);
        let (residuals, residual_mean) = self.unit_residuals(&projected, &centroids, space);
        let units = FactorUnits::new(residual_mean);
        let codebook = match self.spec.kind {
            IndexKind::IvfPq => {
                Some(Codebook::train(&residuals, d, self.spec.codebook_width(), kernels, &mut self.rng))
            }
            IndexKind::IvfBinary => Some(Codebook::signs(d)),
            IndexKind::Flat | IndexKind::IvfFlat | IndexKind::IvfInt8 => None,
        };
        (Quantizer::new(QuantizerParts { centroids, codebook, units, lift, order, ..parts }, kernels), truth)
    }

    /// Places of the sample that serve as queries: few beside the rows that train.
    fn hold_out(&mut self, sample: &Sample) -> Vec<usize> {
        let count = self.spec.calibration_queries.min(sample.ids.len() / 8);
        let mut held_out = self.rng.sample(sample.ids.len(), count);
        held_out.sort_unstable();
        held_out
    }

    fn centroids(&mut self, projected: &[f32], space: usize, total: usize) -> Vec<f32> {
        let clustering = Clustering { rows: projected, dimension: space, kernels: self.kernels };
        let list_rows = self.spec.list_rows.max(1);
        let lists = total.div_ceil(list_rows);
        let centroids = clustering.two_level(lists, &mut self.rng);
        // Sizes in the sample stand for sizes in the whole.
        let share = (projected.len() / space) as f64 / total as f64;
        let rows = |factor: f64| (list_rows as f64 * factor * share) as usize;
        let bounds = ListBounds { rows_min: rows(LIST_DROP), rows_aim: rows(1.0), rows_max: rows(LIST_SPLIT).max(1) };
        clustering.balance(&centroids, bounds, &mut self.rng)
    }

    /// Residuals to train a codebook on, at length 1; their mean square beside.
    fn unit_residuals(&self, projected: &[f32], centroids: &[f32], space: usize) -> (Vec<f32>, f32) {
        let (d, kernels) = (self.spec.dimension, self.kernels);
        let rows = &projected[..projected.len().min(CODEBOOK_ROWS_MAX * space)];
        let nearest = Clustering { rows, dimension: space, kernels }.assign(centroids);
        let mut residuals = Vec::with_capacity(nearest.len() * d);
        let mut squares = 0f64;
        for (row, &c) in rows.chunks_exact(space).zip(&nearest) {
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
fn project_sample(parts: &QuantizerParts, sample: Sample, held_out: &[usize], kernels: &'static Kernels) -> Vec<f32> {
    let d = parts.dimension;
    let mut rows = sample.rows;
    let mut kept = 0;
    let mut skip = held_out.iter().copied().peekable();
    for i in 0..sample.ids.len() {
        if skip.next_if_eq(&i).is_some() {
            continue;
        }
        rows.copy_within(i * d..(i + 1) * d, kept * d);
        let row = &mut rows[kept * d..(kept + 1) * d];
        row.iter_mut().zip(&parts.mean).for_each(|(x, m)| *x -= m);
        parts.rotation.apply(row, kernels);
        kept += 1;
    }
    rows.truncate(kept * d);
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

/// The second pass.
struct Encoder<'a> {
    kernels: &'static Kernels,
    quantizer: &'a Quantizer,
    truth: GroundTruth,
    points: Points,
    lists: Vec<PostingList>,
    batch: Batch,
    residuals: Vec<(f64, usize)>,
}

/// What the second pass made.
struct Encoded {
    lists: Vec<LiveList>,
    points: Points,
    truth: GroundTruth,
    /// Of each list: the sum of its rows' squared residuals, and how many they are.
    residuals: Vec<(f64, usize)>,
}

impl<'a> Encoder<'a> {
    fn new(kernels: &'static Kernels, quantizer: &'a Quantizer, truth: GroundTruth) -> Self {
        let lists = (0..quantizer.lists()).map(|_| quantizer.empty_list()).collect();
        let residuals = vec![(0.0, 0); quantizer.lists()];
        Encoder { kernels, quantizer, truth, points: Points::new(), lists, batch: Batch::default(), residuals }
    }

    fn push(&mut self, id: PointId, version: u64, row: &[f32]) {
        let rows = self.points.len();
        let ordinal = self.points.put(id, version);
        if self.points.len() == rows {
            // Not the first time: a row more than the source promised.
            return;
        }
        self.truth.see(id, row);
        self.batch.add(ordinal, row);
        if self.batch.is_full() {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let (lists, residuals) = (&mut self.lists, &mut self.residuals);
        self.batch.encode(self.quantizer, self.kernels, &mut |row| {
            let list = row.list;
            residuals[list].0 += f64::from(row.push(&mut lists[list]));
            residuals[list].1 += 1;
        });
    }

    fn finish(mut self) -> Encoded {
        self.flush();
        let mut lists = self.lists;
        lists.iter_mut().for_each(PostingList::shrink);
        let lists = lists.into_iter().map(LiveList::all_live).collect();
        Encoded { lists, points: self.points, truth: self.truth, residuals: self.residuals }
    }
}
