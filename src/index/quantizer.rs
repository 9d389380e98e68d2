//! Everything a vector is encoded against: mean, rotation, centroids, codebook. Trained once, then immutable; encoding is bit-exact
//! on every CPU. Holds the estimator: a residual r with unit-norm code r̂ keeps `F = |r|² / ⟨r, r̂⟩`, and `⟨q, r⟩ ≈ F · ⟨q, r̂⟩`
//! (the unbiased form of RaBitQ, Gao and Long 2024, on a trained codebook), so that one look-up table serves all lists.
//! Called by `train`, `filing`, `search` and `file`.

use super::kernels::{Kernels, Panels, ROUND_SIGNED, half};
use super::list::{EncodedRow, PostingList, Rows};
use super::product::Codebook;
use super::rotation::Rotation;
use super::spec::{IndexKind, IndexSpec};
use crate::types::Metric;

/// The most by which rounding to int8 moves a number, in steps: a half, and what f32 adds to it.
pub(crate) const HALF_STEP: f32 = 0.5001;

#[derive(Clone, Debug)]
pub(crate) struct Quantizer {
    pub(crate) metric: Metric,
    pub(crate) dimension: usize,
    /// Subtracted from rows before the rotation.
    pub(crate) mean: Vec<f32>,
    pub(crate) rotation: Rotation,
    /// In the space of projected rows, `d` numbers each.
    pub(crate) centroids: Vec<f32>,
    pub(crate) panels: Panels,
    /// `panels.norms`, or zeros (padded with infinity) where lists are ranked by inner product.
    pub(crate) rank_base: Vec<f32>,
    /// None in IVF-Flat.
    pub(crate) codebook: Option<Codebook>,
    pub(crate) units: FactorUnits,
    /// Mean squared residual of the rows it was built with.
    pub(crate) residual_mean: f32,
}

/// What the rows' factors are counted in, so that half precision holds them whatever the vectors' lengths are: scales in
/// `length`, addends in `length²`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FactorUnits {
    /// A power of two.
    pub(crate) length: f32,
}

impl FactorUnits {
    /// For rows of this mean squared residual.
    pub(crate) fn new(residual_mean: f32) -> FactorUnits {
        const EXPONENT: u32 = 0x7f80_0000;
        let length = f32::from_bits(residual_mean.sqrt().to_bits() & EXPONENT);
        let units = FactorUnits { length };
        if units.is_valid() { units } else { FactorUnits { length: 1.0 } }
    }

    /// Whether dividing by them is exact (but for sums that overflow anyway).
    pub(crate) fn is_valid(self) -> bool {
        let power_of_two = self.length.to_bits() & 0x807f_ffff == 0;
        power_of_two && (1e-15..=1e15).contains(&self.length)
    }

    pub(crate) fn square(self) -> f32 {
        self.length * self.length
    }
}

/// The trained parts of a quantizer.
pub(crate) struct QuantizerParts {
    pub(crate) metric: Metric,
    pub(crate) dimension: usize,
    pub(crate) mean: Vec<f32>,
    pub(crate) rotation: Rotation,
    pub(crate) centroids: Vec<f32>,
    pub(crate) codebook: Option<Codebook>,
    pub(crate) units: FactorUnits,
    pub(crate) residual_mean: f32,
}

/// Buffers of encoding.
#[derive(Default)]
pub(crate) struct EncodeScratch {
    residual: Vec<f32>,
    unit: Vec<f32>,
    decoded: Vec<f32>,
    row: EncodedRow,
}

impl Quantizer {
    pub(crate) fn new(parts: QuantizerParts, kernels: &Kernels) -> Quantizer {
        let QuantizerParts { metric, dimension, mean, rotation, centroids, codebook, units, residual_mean } = parts;
        let panels = Panels::new(&centroids, dimension, kernels);
        let mut rank_base = panels.norms.clone();
        if metric == Metric::Dot {
            rank_base[..panels.columns].fill(0.0);
        }
        Quantizer { metric, dimension, mean, rotation, centroids, panels, rank_base, codebook, units, residual_mean }
    }

    pub(crate) fn kind(&self) -> IndexKind {
        if self.codebook.is_some() { IndexKind::IvfPq } else { IndexKind::IvfFlat }
    }

    /// Whether it can serve an index of this specification.
    pub(crate) fn fits(&self, spec: &IndexSpec) -> bool {
        self.metric == spec.metric && self.dimension == spec.dimension && self.kind() == spec.kind
    }

    pub(crate) fn lists(&self) -> usize {
        self.panels.columns
    }

    pub(crate) fn centroid(&self, list: usize) -> &[f32] {
        &self.centroids[list * self.dimension..(list + 1) * self.dimension]
    }

    pub(crate) fn empty_list(&self) -> PostingList {
        match &self.codebook {
            Some(codebook) => PostingList::coded(codebook.pairs()),
            None => PostingList::exact(),
        }
    }

    /// A row in the space of the centroids.
    pub(crate) fn project_row(&self, row: &[f32], out: &mut [f32], kernels: &Kernels) {
        out.iter_mut().zip(row.iter().zip(&self.mean)).for_each(|(o, (x, m))| *o = x - m);
        self.rotation.apply(out, kernels);
    }

    /// A query in the space of the centroids: centred as rows are, except for the inner product, of which the mean's part is
    /// [`Quantizer::query_offset`].
    pub(crate) fn project_query(&self, query: &[f32], out: &mut [f32], kernels: &Kernels) {
        if self.metric == Metric::Dot {
            out.copy_from_slice(query);
            self.rotation.apply(out, kernels);
        } else {
            self.project_row(query, out, kernels);
        }
    }

    /// What is added to every list's base: the part of the distance that only the query decides.
    pub(crate) fn query_offset(&self, query: &[f32], kernels: &Kernels) -> f32 {
        match self.metric {
            Metric::Cosine => 1.0 - (kernels.dot)(query, query),
            Metric::Dot => -(kernels.dot)(query, &self.mean),
            Metric::Euclidean | Metric::Manhattan => 0.0,
        }
    }

    /// The factor of `⟨query, residual⟩` in the distance.
    pub(crate) fn product_factor(&self) -> f32 {
        if self.metric == Metric::Dot { -1.0 } else { -2.0 }
    }

    /// Ranks the lists for a projected query: `out` (padded) gets the smaller the nearer.
    pub(crate) fn rank(&self, projected: &[f32], out: &mut Vec<f32>, kernels: &Kernels) {
        out.resize(self.panels.columns_padded(), 0.0);
        (kernels.scores)(&self.panels, projected, &self.rank_base, self.product_factor(), out);
    }

    /// The part of the distance that query and centroid decide.
    pub(crate) fn list_base(&self, projected: &[f32], list: usize, kernels: &Kernels) -> f32 {
        match self.metric {
            Metric::Dot => -(kernels.dot)(projected, self.centroid(list)),
            _ => (kernels.l2)(projected, self.centroid(list)),
        }
    }

    /// The same but for the centroids. Cost: a copy of everything.
    pub(crate) fn with_centroids(&self, centroids: Vec<f32>, kernels: &Kernels) -> Quantizer {
        let parts = QuantizerParts {
            metric: self.metric,
            dimension: self.dimension,
            mean: self.mean.clone(),
            rotation: self.rotation.clone(),
            centroids,
            codebook: self.codebook.clone(),
            units: self.units,
            residual_mean: self.residual_mean,
        };
        Quantizer::new(parts, kernels)
    }

    /// What a row lacks to unit length: a cosine is the L2 form of unit vectors, and this is added back (a zero vector: 1).
    fn lack(&self, raw: &[f32], kernels: &Kernels) -> f32 {
        if self.metric == Metric::Cosine { 1.0 - (kernels.dot)(raw, raw) } else { 0.0 }
    }

    /// A row of a list as well as the list knows it, in the space of the centroids; returns what it lacks.
    pub(crate) fn stored_row(
        &self,
        list: usize,
        rows: &PostingList,
        slot: usize,
        out: &mut [f32],
        kernels: &Kernels,
    ) -> f32 {
        let d = self.dimension;
        match &rows.rows {
            Rows::Exact(vectors) => {
                self.project_row(&vectors[slot * d..(slot + 1) * d], out, kernels);
                0.0
            }
            Rows::Coded(rows) => {
                let row = rows.byte_row(slot, d);
                out.iter_mut().zip(row.bytes).for_each(|(o, &b)| *o = f32::from(b as i8) * row.step);
                let centroid = self.centroid(list);
                let known = (kernels.dot)(out, out) + 2.0 * (kernels.dot)(centroid, out);
                out.iter_mut().zip(centroid).for_each(|(o, c)| *o += c);
                // Vectors of a cosine are of unit length, or zero.
                if self.metric == Metric::Cosine { (row.add - known).round_ties_even() } else { 0.0 }
            }
        }
    }

    /// Appends a row to its list; returns its squared residual. `projected` as [`Quantizer::project_row`] gave it.
    pub(crate) fn push(
        &self,
        (ordinal, raw): (u32, &[f32]),
        projected: &[f32],
        (list, rows): (usize, &mut PostingList),
        scratch: &mut EncodeScratch,
        kernels: &Kernels,
    ) -> f32 {
        let square = self.residual(projected, list, scratch, kernels);
        match &self.codebook {
            None => rows.push_exact(ordinal, raw),
            Some(codebook) => {
                self.encode(codebook, self.lack(raw, kernels), list, square, scratch, kernels);
                rows.push_coded(ordinal, &scratch.row);
            }
        }
        rows.residual_sum += f64::from(square);
        square
    }

    /// Appends a row of another list, `projected` and its lack as [`Quantizer::stored_row`] gave them.
    pub(crate) fn push_again(
        &self,
        (old, slot): (&PostingList, usize),
        (projected, lack): (&[f32], f32),
        (list, rows): (usize, &mut PostingList),
        scratch: &mut EncodeScratch,
        kernels: &Kernels,
    ) {
        let ordinal = old.ordinals[slot];
        let square = self.residual(projected, list, scratch, kernels);
        rows.residual_sum += f64::from(square);
        match (&old.rows, &self.codebook) {
            (Rows::Coded(coded), Some(codebook)) => {
                self.encode(codebook, lack, list, square, scratch, kernels);
                rows.push_coded(ordinal, &scratch.row);
                let rounding = coded.byte_row(slot, self.dimension).step * HALF_STEP;
                rows.inherited_error = rows.inherited_error.max(old.inherited_error + rounding);
            }
            (Rows::Exact(vectors), _) => {
                rows.push_exact(ordinal, &vectors[slot * self.dimension..(slot + 1) * self.dimension]);
            }
            (Rows::Coded(_), None) => unreachable!("a coded row has a codebook"),
        }
    }

    /// Leaves the row's residual in `scratch`; returns its square.
    fn residual(&self, projected: &[f32], list: usize, scratch: &mut EncodeScratch, kernels: &Kernels) -> f32 {
        let residual = &mut scratch.residual;
        residual.clear();
        residual.extend(projected.iter().zip(self.centroid(list)).map(|(x, c)| x - c));
        (kernels.dot)(residual, residual)
    }

    /// Encodes `scratch.residual` into `scratch.row`.
    fn encode(
        &self,
        codebook: &Codebook,
        lack: f32,
        list: usize,
        square: f32,
        scratch: &mut EncodeScratch,
        kernels: &Kernels,
    ) {
        let EncodeScratch { residual, unit, decoded, row } = scratch;
        let length = square.sqrt();
        unit.clear();
        unit.extend(residual.iter().map(|r| if length > 0.0 { r / length } else { 0.0 }));
        codebook.encode(unit, &mut row.codes, kernels);
        decoded.resize(self.dimension, 0.0);
        codebook.decode(&row.codes, decoded);
        let aligned = (kernels.dot)(residual, decoded);
        let gain = if aligned > 0.0 { square / aligned } else { 0.0 };
        let centroid = self.centroid(list);
        row.scale = half::from_f32(self.product_factor() * gain / self.units.length);
        row.bytes.resize(self.dimension, 0);
        row.byte_step = (kernels.to_bytes)(residual, &mut row.bytes);
        (row.add, row.byte_add) = (half::from_f32(0.0), 0.0);
        if self.metric != Metric::Dot {
            let add = square + 2.0 * gain * (kernels.dot)(centroid, decoded) + lack;
            row.add = half::from_f32(add / self.units.square());
            decoded.iter_mut().zip(&row.bytes).for_each(|(r, &b)| *r = f32::from(b as i8) * row.byte_step);
            row.byte_add = (kernels.dot)(decoded, decoded) + 2.0 * (kernels.dot)(centroid, decoded) + lack;
        }
    }

    /// The distance of a sum of base, addend and product: a cosine distance is half the squared L2 of unit vectors.
    pub(crate) fn finish(&self, sum: f32) -> f32 {
        if self.metric == Metric::Cosine { sum * 0.5 } else { sum }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let words = self.codebook.as_ref().map_or(0, |c| c.words.len());
        let floats = self.mean.len() + self.rotation.signs.len() + self.centroids.len() + words;
        4 * (floats + self.panels.data.len() + self.panels.norms.len() + self.rank_base.len())
    }
}

/// Rounds a query to i16 such that its product with any int8 row fits an i32; returns the step.
pub(crate) fn quantise_query(query: &[f32], out: &mut Vec<i16>) -> f32 {
    let limit = (i32::MAX as f32 / 128.0 / query.len().max(1) as f32).min(32_767.0);
    // Dimensions so many that not even one step fits would need vectors of 16 million numbers.
    let limit = (limit - 1.0).max(1.0);
    let largest = query.iter().fold(0f32, |m, v| if v.abs() > m { v.abs() } else { m });
    out.clear();
    if largest == 0.0 || !(limit / largest).is_finite() || !largest.is_finite() {
        out.resize(query.len(), 0);
        return 0.0;
    }
    let scale = limit / largest;
    out.extend(query.iter().map(|v| (v * scale + ROUND_SIGNED).to_bits() as i16));
    largest / limit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::kernels;

    #[test]
    fn bytes_round_to_nearest() {
        let to_bytes = kernels::active().to_bytes;
        let mut bytes = [0; 4];
        assert_eq!(to_bytes(&[1.0, -0.5, 0.0, 0.25], &mut bytes), 1.0 / 127.0);
        assert_eq!(bytes.map(|b| b as i8), [127, -64, 0, 32]);
        assert_eq!(to_bytes(&[0.0; 4], &mut bytes), 0.0);
        assert_eq!(bytes, [0; 4]);
    }

    #[test]
    fn query_products_fit_an_i32_at_any_dimension() {
        for d in [1usize, 128, 517, 4096, 65_536] {
            let query = vec![1.0f32; d];
            let mut out = Vec::new();
            let step = quantise_query(&query, &mut out);
            assert!(i64::from(out[0]) * 127 * d as i64 <= i64::from(i32::MAX), "dimension {d}");
            assert!((f32::from(out[0]) * step - 1.0).abs() < 0.01);
        }
    }
}
