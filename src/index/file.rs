//! The head of one vector's index in an index file: everything but the posting lists. Reading never panics and never allocates more
//! than the bytes it was given announce. Called by `image`, which holds the file together.
//!
//! Layout, little-endian: metric, kind, re-rank, subspace width (0: no codebook), dimension, lists, lists at calibration, renewed since, whether
//! rotated, whether lifted (u32 each); mean residual, unit of the factors, squared radius of the lift, deviations of the visit order
//! (NaN: none) (f32 each); plans (count, then f32 each); lists renewed since the reach was measured (u32), its two rows of numbers
//! (count, then f32 each); mean, signs, centroids, the lists' radii, words (f32 each).

use super::kernels::{self, SUBSPACE_CODES};
use super::lift::Lift;
use super::plan::{Calibration, TriedOn};
use super::product::Codebook;
use super::quantizer::{FactorUnits, Quantizer, QuantizerParts};
use super::reach::Reach;
use super::rotation::Rotation;
use super::sealed::Sealed;
use super::spec::IndexKind;
use super::visits::VisitOrder;
use crate::types::{Metric, Rerank};
use std::sync::Arc;

/// Of the whole file.
pub(crate) const FORMAT_VERSION: u32 = 6;
/// A file names one by its place.
const RERANKS: [Rerank; 2] = [Rerank::F32, Rerank::Int8];

/// Why bytes are no index. The index can be built again from the vectors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexFileError {
    /// Not an index file at all.
    #[error("magic: expected VSIX")]
    Magic,
    /// Written by another version.
    #[error("format version: expected {FORMAT_VERSION}, got {got}")]
    Version {
        /// What the file says.
        got: u32,
    },
    /// The bytes are not those that were written.
    #[error("checksum: expected {expected:08x}, got {got:08x}")]
    Checksum {
        /// What the file says.
        expected: u32,
        /// What its bytes give.
        got: u32,
    },
    /// A field that cannot be.
    #[error("{field}: not valid")]
    Field {
        /// Its name.
        field: &'static str,
    },
}

impl Sealed {
    /// Everything but the lists.
    pub(crate) fn encode_head(&self) -> Vec<u8> {
        let mut w = Writer(Vec::new());
        let q = &self.quantizer;
        w.u32(Metric::ALL.iter().position(|&m| m == q.metric).unwrap_or(0) as u32);
        w.u32(IndexKind::TRAINED.iter().position(|&k| k == q.kind).unwrap_or(0) as u32);
        w.u32(RERANKS.iter().position(|&r| r == q.rerank).unwrap_or(0) as u32);
        w.u32(q.codebook.as_ref().map_or(0, |c| c.width as u32));
        w.u32(q.dimension as u32);
        w.u32(q.lists() as u32);
        w.u32(self.tried_on.lists as u32);
        w.u32(u32::try_from(self.tried_on.renewed).unwrap_or(u32::MAX));
        w.u32(u32::from(!q.rotation.signs.is_empty()));
        w.u32(u32::from(q.lift.is_some()));
        w.f32s(&[q.residual_mean, q.units.length]);
        w.f32s(&[q.lift.map_or(0.0, |lift| lift.square), q.order.deviations.unwrap_or(f32::NAN)]);
        let plans = self.calibration.to_numbers();
        w.u32(plans.len() as u32);
        w.f32s(&plans);
        w.u32(u32::try_from(self.reach_outdated_by).unwrap_or(u32::MAX));
        for numbers in self.reach.numbers() {
            w.u32(numbers.len() as u32);
            w.f32s(numbers);
        }
        w.f32s(&q.mean);
        w.f32s(&q.rotation.signs);
        w.f32s(&q.centroids);
        w.f32s(&q.order.radii);
        w.f32s(q.codebook.as_ref().map_or(&[], |c| &c.words));
        w.0
    }

    /// Reads what [`Sealed::encode_head`] wrote; without lists.
    pub(crate) fn decode_head(bytes: &[u8]) -> Result<Sealed, IndexFileError> {
        Reader(bytes).sealed()
    }
}

pub(crate) const fn field(field: &'static str) -> IndexFileError {
    IndexFileError::Field { field }
}

struct Writer(Vec<u8>);

impl Writer {
    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    fn f32s(&mut self, values: &[f32]) {
        values.iter().for_each(|v| self.0.extend(v.to_le_bytes()));
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, size: usize, name: &'static str) -> Result<&'a [u8], IndexFileError> {
        let len = count.checked_mul(size).ok_or(field(name))?;
        let (taken, rest) = self.0.split_at_checked(len).ok_or(field(name))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u32(&mut self, name: &'static str) -> Result<u32, IndexFileError> {
        Ok(self.u32s(1, name)?[0])
    }

    fn u32s(&mut self, count: usize, name: &'static str) -> Result<Vec<u32>, IndexFileError> {
        let bytes = self.take(count, 4, name)?;
        Ok(bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect())
    }

    fn f32s(&mut self, count: usize, name: &'static str) -> Result<Vec<f32>, IndexFileError> {
        let bytes = self.take(count, 4, name)?;
        Ok(bytes.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect())
    }

    fn sealed(mut self) -> Result<Sealed, IndexFileError> {
        let metric = *Metric::ALL.get(self.u32("metric")? as usize).ok_or(field("metric"))?;
        let kind = *IndexKind::TRAINED.get(self.u32("kind")? as usize).ok_or(field("kind"))?;
        let rerank = *RERANKS.get(self.u32("re-rank")? as usize).ok_or(field("re-rank"))?;
        let width = self.u32("subspace width")? as usize;
        let dimension = self.u32("dimension")? as usize;
        let count = self.u32("lists")? as usize;
        let [lists, renewed] = [self.u32("lists at calibration")?, self.u32("lists renewed since")?];
        let tried_on = TriedOn { lists: lists as usize, renewed: renewed as usize };
        let rotated = self.u32("rotation")?;
        let lifted = self.u32("lift")?;
        let has_codes = matches!(kind, IndexKind::IvfPq | IndexKind::IvfBinary);
        if has_codes != (width > 0) || lifted > 1 || (lifted == 1) != (metric == Metric::Dot) {
            return Err(field("kind, metric, lift or subspace width"));
        }
        if dimension == 0 || count == 0 || rotated > 1 || width > dimension.max(1 << 16) {
            return Err(field("dimension, lists, rotation or subspace width"));
        }
        let residual_mean = self.f32s(1, "mean residual")?[0];
        let units = FactorUnits { length: self.f32s(1, "unit of the factors")?[0] };
        if !units.is_valid() {
            return Err(field("unit of the factors"));
        }
        let square = self.f32s(1, "lift")?[0];
        let deviations = self.f32s(1, "visit order")?[0];
        let calibration = self.calibration()?;
        let reach_outdated_by = self.u32("lists renewed since the reach was measured")? as usize;
        let reach = Reach::from_numbers([self.counted("reach")?, self.counted("reach")?]).ok_or(field("reach"))?;
        let mean = self.f32s(dimension, "mean")?;
        let signs = self.f32s(2 * dimension * rotated as usize, "signs")?;
        let rotation = Rotation { signs };
        let numbers = count.checked_mul(dimension + lifted as usize).ok_or(field("centroids"))?;
        let centroids = self.f32s(numbers, "centroids")?;
        let radii = self.f32s(count, "radii")?;
        let order = VisitOrder { deviations: Some(deviations).filter(|d| !d.is_nan()), radii };
        let lift = (lifted == 1).then_some(Lift { square });
        let codebook = self.codebook(dimension, width)?;
        if !self.0.is_empty() || !rotation.fits(dimension) {
            return Err(field("length"));
        }
        let parts = QuantizerParts {
            kind,
            rerank,
            metric,
            dimension,
            mean,
            rotation,
            centroids,
            codebook,
            units,
            residual_mean,
            lift,
            order,
        };
        let quantizer = Arc::new(Quantizer::new(parts, kernels::active()));
        Ok(Sealed { quantizer, lists: Vec::new(), calibration, tried_on, reach, reach_outdated_by })
    }

    fn calibration(&mut self) -> Result<Calibration, IndexFileError> {
        Calibration::from_numbers(&self.counted("plans")?).ok_or(field("plans"))
    }

    /// Numbers behind their count.
    fn counted(&mut self, name: &'static str) -> Result<Vec<f32>, IndexFileError> {
        let count = self.u32(name)? as usize;
        self.f32s(count, name)
    }

    fn codebook(&mut self, dimension: usize, width: usize) -> Result<Option<Codebook>, IndexFileError> {
        if width == 0 {
            return Ok(None);
        }
        if dimension.div_ceil(width) > Codebook::SUBSPACES_MAX {
            return Err(field("subspace width"));
        }
        let len = dimension.div_ceil(width) * width * SUBSPACE_CODES;
        Ok(Some(Codebook { dimension, width, words: self.f32s(len, "codebook")? }))
    }
}
