//! Everything a vector is encoded against: mean, rotation, centroids, codebook. Trained once, then immutable; encoding is bit-exact
//! on every CPU. Holds the estimator: a residual r with unit-norm code r̂ keeps `F = |r|² / ⟨r, r̂⟩`, and `⟨q, r⟩ ≈ F · ⟨q, r̂⟩`
//! (the unbiased form of RaBitQ, Gao and Long 2024, on a trained codebook), so that one look-up table serves all lists.
//! Called by `train`, `filing`, `search` and `file`.

mod encoding;

pub(crate) use encoding::{EncodeScratch, HALF_STEP};

use super::kernels::{BytePanels, Kernels, ROUND_SIGNED};
use super::lift::Lift;
use super::list::{LiveList, PostingList};
use super::product::{Codebook, LookupTable};
use super::rotation::Rotation;
use super::spec::{IndexKind, IndexSpec};
use super::visits::VisitOrder;
use crate::types::{Metric, Rerank};

#[derive(Clone, Debug)]
pub(crate) struct Quantizer {
    pub(crate) kind: IndexKind,
    pub(crate) rerank: Rerank,
    pub(crate) metric: Metric,
    pub(crate) dimension: usize,
    /// Subtracted from rows before the rotation.
    pub(crate) mean: Vec<f32>,
    pub(crate) rotation: Rotation,
    /// In the space of projected rows, [`Quantizer::space`] numbers each.
    pub(crate) centroids: Vec<f32>,
    /// The centroids in int8, without heights (a query has none), to rank lists: scores start from what `order` makes of each list
    /// (from infinity in the padding).
    pub(crate) ranking: BytePanels,
    /// What `order` adds to each list's distance.
    rank_shifts: Vec<f32>,
    /// Of the kinds that have 4-bit codes.
    pub(crate) codebook: Option<Codebook>,
    pub(crate) units: FactorUnits,
    /// Mean squared residual of the rows it was built with.
    pub(crate) residual_mean: f32,
    /// For the inner product only.
    pub(crate) lift: Option<Lift>,
    pub(crate) order: VisitOrder,
    /// The mean, rotated: what a projected row lacks to be the row.
    mean_rotated: Vec<f32>,
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
    pub(crate) kind: IndexKind,
    pub(crate) rerank: Rerank,
    pub(crate) metric: Metric,
    pub(crate) dimension: usize,
    pub(crate) mean: Vec<f32>,
    pub(crate) rotation: Rotation,
    pub(crate) centroids: Vec<f32>,
    pub(crate) codebook: Option<Codebook>,
    pub(crate) units: FactorUnits,
    pub(crate) residual_mean: f32,
    pub(crate) lift: Option<Lift>,
    pub(crate) order: VisitOrder,
}

impl Quantizer {
    pub(crate) fn new(parts: QuantizerParts, kernels: &Kernels) -> Quantizer {
        let QuantizerParts { kind, rerank, metric, dimension, mean, rotation, .. } = parts;
        let QuantizerParts { centroids, codebook, units, residual_mean, lift, order, .. } = parts;
        let ranking = match lift {
            None => BytePanels::new(&centroids, dimension, kernels),
            Some(_) => {
                let without_height = |centroid: &[f32]| centroid[..dimension].to_vec();
                let flat: Vec<f32> = centroids.chunks_exact(dimension + 1).flat_map(without_height).collect();
                BytePanels::new(&flat, dimension, kernels)
            }
        };
        let mut mean_rotated = mean.clone();
        rotation.apply(&mut mean_rotated, kernels);
        let mut quantizer = Quantizer {
            kind,
            rerank,
            metric,
            dimension,
            mean,
            rotation,
            centroids,
            ranking,
            rank_shifts: Vec::new(),
            codebook,
            units,
            residual_mean,
            lift,
            order,
            mean_rotated,
        };
        quantizer.set_ranks(kernels);
        quantizer
    }

    /// Takes what encoding all rows found: how far they are from their centroids.
    pub(crate) fn learn_residuals(&mut self, lists: &[LiveList]) {
        let (sum, rows) =
            lists.iter().fold((0.0, 0), |(sum, rows), l| (sum + l.list.residual_sum, rows + l.list.len()));
        self.residual_mean = (sum / rows.max(1) as f64) as f32;
        self.order.radii = lists.iter().map(|l| (l.residual_mean() as f32).sqrt()).collect();
    }

    /// Orders the lists' visits anew.
    pub(crate) fn visit_by(&mut self, deviations: Option<f32>, kernels: &Kernels) {
        self.order.deviations = deviations;
        self.set_ranks(kernels);
    }

    fn set_ranks(&mut self, kernels: &Kernels) {
        self.rank_shifts = self.order.shifts(self.metric, self.space(), self.residual_mean.sqrt());
        for (list, shift) in self.rank_shifts.iter().enumerate() {
            let centroid = self.centroid(list);
            let square = if self.metric == Metric::Dot { 0.0 } else { (kernels.dot)(centroid, centroid) };
            self.ranking.bases[list] = square + shift;
        }
    }

    /// Whether it can serve an index of this specification.
    pub(crate) fn fits(&self, spec: &IndexSpec) -> bool {
        let asked = (spec.metric, spec.dimension, spec.kind, spec.rerank);
        (self.metric, self.dimension, self.kind, self.rerank) == asked
            && (self.kind != IndexKind::IvfPq || self.codebook.as_ref().map(|c| c.width) == Some(spec.codebook_width()))
    }

    pub(crate) fn lists(&self) -> usize {
        self.centroids.len() / self.space()
    }

    /// Numbers of a projected row: its dimensions, and its height where rows are lifted.
    pub(crate) fn space(&self) -> usize {
        self.dimension + usize::from(self.lift.is_some())
    }

    /// A centroid, without its height.
    pub(crate) fn centroid(&self, list: usize) -> &[f32] {
        &self.centroids[list * self.space()..][..self.dimension]
    }

    pub(crate) fn empty_list(&self) -> PostingList {
        match self.kind {
            IndexKind::Flat | IndexKind::IvfFlat => PostingList::exact(),
            _ => PostingList::coded(self.codebook.as_ref().map_or(0, Codebook::pairs)),
        }
    }

    /// A row in the space of the centroids: [`Quantizer::space`] numbers.
    pub(crate) fn project_row(&self, row: &[f32], out: &mut [f32], kernels: &Kernels) {
        let (flat, height) = out.split_at_mut(self.dimension);
        self.project(row, flat, kernels);
        if let ([height], Some(lift)) = (height, self.lift) {
            *height = lift.height((kernels.dot)(flat, flat));
        }
    }

    fn project(&self, row: &[f32], out: &mut [f32], kernels: &Kernels) {
        out.iter_mut().zip(row.iter().zip(&self.mean)).for_each(|(o, (x, m))| *o = x - m);
        self.rotation.apply(out, kernels);
    }

    /// Undoes the projection of a row, given without its height, in place.
    pub(crate) fn unproject(&self, row: &mut [f32], kernels: &Kernels) {
        self.rotation.undo(row, kernels);
        row.iter_mut().zip(&self.mean).for_each(|(x, m)| *x += m);
    }

    /// A query in the space of the centroids, without a height: centred as rows are, except for the inner product, of which the
    /// mean's part is [`Quantizer::query_offset`].
    pub(crate) fn project_query(&self, query: &[f32], out: &mut [f32], kernels: &Kernels) {
        if self.metric == Metric::Dot {
            out.copy_from_slice(query);
            self.rotation.apply(out, kernels);
        } else {
            self.project(query, out, kernels);
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

    /// Where a list comes in the order of visits, of which [`Quantizer::list_base`] and [`Quantizer::query_scale`] are known: the
    /// smaller, the sooner.
    pub(crate) fn rank(&self, list: usize, base: f32, query_scale: f32) -> f32 {
        base * query_scale + self.rank_shifts[list]
    }

    /// What brings a query to length 1 where its length changes no order, so that it may meet constants of lists and rows.
    pub(crate) fn query_scale(&self, projected: &[f32], kernels: &Kernels) -> f32 {
        if self.metric != Metric::Dot {
            return 1.0;
        }
        let scale = 1.0 / (kernels.dot)(projected, projected).sqrt();
        if scale.is_finite() && scale > 0.0 { scale } else { 1.0 }
    }

    /// What estimates are made of, in units of the rows' addends: the factor of the look-up table's sums, and of a list's base. An
    /// inner product is estimated for a query as long as the unit of length.
    pub(crate) fn estimate_factors(&self, projected: &[f32], kernels: &Kernels) -> (f32, f32) {
        let scale = self.query_scale(projected, kernels);
        match self.metric {
            Metric::Dot => (scale, scale / self.units.length),
            _ => (1.0 / self.units.length, 1.0 / self.units.square()),
        }
    }

    /// The look-up table of a projected query, for estimates in units of the rows' addends. Nothing where there are no codes.
    pub(crate) fn look_up(&self, projected: &[f32], table: &mut LookupTable, kernels: &Kernels) {
        if let Some(codebook) = &self.codebook {
            codebook.look_up(projected, table, kernels);
            let (factor, _) = self.estimate_factors(projected, kernels);
            table.step *= factor;
            table.bias *= factor;
        }
    }

    /// The part of the distance that query and centroid decide.
    pub(crate) fn list_base(&self, projected: &[f32], list: usize, kernels: &Kernels) -> f32 {
        match self.metric {
            Metric::Dot => -(kernels.dot)(projected, self.centroid(list)),
            _ => (kernels.l2)(projected, self.centroid(list)),
        }
    }

    /// The same but for the centroids; the lists' radii are still to be learnt. Cost: a copy of everything.
    pub(crate) fn with_centroids(&self, centroids: Vec<f32>, kernels: &Kernels) -> Quantizer {
        let lists = centroids.len() / self.space();
        let parts = QuantizerParts {
            kind: self.kind,
            rerank: self.rerank,
            metric: self.metric,
            dimension: self.dimension,
            mean: self.mean.clone(),
            rotation: self.rotation.clone(),
            centroids,
            codebook: self.codebook.clone(),
            units: self.units,
            residual_mean: self.residual_mean,
            lift: self.lift,
            order: VisitOrder { deviations: self.order.deviations, ..VisitOrder::by_centroid(lists) },
        };
        Quantizer::new(parts, kernels)
    }

    /// Takes the roots of the lists' mean squared residuals.
    pub(crate) fn learn_radii(&mut self, radii: Vec<f32>, kernels: &Kernels) {
        self.order.radii = radii;
        self.visit_by(self.order.deviations, kernels);
    }

    /// A centroid with its height.
    pub(crate) fn lifted_centroid(&self, list: usize) -> &[f32] {
        &self.centroids[list * self.space()..][..self.space()]
    }

    /// The distance of a sum of base, addend and product: a cosine distance is half the squared L2 of unit vectors.
    pub(crate) fn finish(&self, sum: f32) -> f32 {
        if self.metric == Metric::Cosine { sum * 0.5 } else { sum }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let words = self.codebook.as_ref().map_or(0, |c| c.words.len());
        let rows = 2 * self.mean.len() + self.rotation.signs.len() + self.order.radii.len();
        let floats = rows + self.centroids.len() + words + self.rank_shifts.len();
        4 * floats + self.ranking.memory_bytes()
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
