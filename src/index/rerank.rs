//! The second look at a candidate: its distance from the int8 row, with a bound of the error where an exact search wants one.
//! Called by `search` and `many`.

use super::kernels::{Kernels, order_bits, prefetch};
use super::list::{CodedRows, LiveList, Rows};
use super::probes::Probe;
use super::quantizer::{Quantizer, quantise_query};
use super::select;
use crate::types::Metric;

/// Rows asked for ahead of the one that is scored.
const PREFETCH_ROWS: usize = 64;

/// A row with its int8 distance and the most that may be wrong with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reranked {
    pub(crate) distance: f32,
    pub(crate) error: f32,
    pub(crate) list: u32,
    pub(crate) slot: u32,
}

/// The buffers of a re-rank.
#[derive(Debug, Default)]
pub(crate) struct Reranking {
    query_wide: Vec<i16>,
    /// Of each candidate the probe and the slot.
    found: Vec<(u32, u32)>,
    pub(crate) rows: Vec<Reranked>,
    keys: Vec<u32>,
    places: Vec<u32>,
}

/// What rows are scored against.
#[derive(Clone, Copy)]
pub(crate) struct Against<'a> {
    pub(crate) quantizer: &'a Quantizer,
    pub(crate) lists: &'a [LiveList],
    pub(crate) probes: &'a [Probe],
    pub(crate) projected: &'a [f32],
    pub(crate) kernels: &'a Kernels,
}

impl<'a> Against<'a> {
    fn rows(&self, probe: Probe) -> Option<&'a CodedRows> {
        match &self.lists[probe.list].list.rows {
            Rows::Coded(rows) => Some(rows),
            Rows::Exact(_) => None,
        }
    }
}

impl Reranking {
    /// Scores the rows at `positions` (ascending), into `rows`.
    pub(crate) fn score(&mut self, against: Against<'_>, positions: &[u32]) {
        let step = quantise_query(against.projected, &mut self.query_wide);
        let query = ByteQuery { against, wide: &self.query_wide, step };
        self.rows.clear();
        self.found.clear();
        let mut at = 0;
        for &position in positions {
            while against.probes.get(at + 1).is_some_and(|next| next.position <= position) {
                at += 1;
            }
            self.found.push((at as u32, position - against.probes[at].position));
        }
        let d = against.projected.len();
        let record = |&(at, slot): &(u32, u32)| {
            if let Some(rows) = against.rows(against.probes[at as usize]) {
                prefetch(rows.record(slot as usize, d));
            }
        };
        self.found.iter().take(PREFETCH_ROWS).for_each(record);
        for (i, &(at, slot)) in self.found.iter().enumerate() {
            self.found.get(i + PREFETCH_ROWS).into_iter().for_each(record);
            let probe = against.probes[at as usize];
            let Some(rows) = against.rows(probe) else { continue };
            let distance = query.distance(rows, slot as usize, probe);
            self.rows.push(Reranked { distance, error: 0.0, list: probe.list as u32, slot });
        }
    }

    /// Scores all live rows of the lists probed with their error bounds, into `rows`.
    pub(crate) fn score_all(&mut self, against: Against<'_>) {
        let step = quantise_query(against.projected, &mut self.query_wide);
        let query = ByteQuery { against, wide: &self.query_wide, step };
        let length = (against.kernels.dot)(against.projected, against.projected).sqrt();
        self.rows.clear();
        for &probe in against.probes {
            let Some(rows) = against.rows(probe) else { continue };
            for slot in against.lists[probe.list].live_slots() {
                let distance = query.distance(rows, slot, probe);
                let error = query.error(rows, slot, probe, distance, length);
                self.rows.push(Reranked { distance, error, list: probe.list as u32, slot: slot as u32 });
            }
        }
    }

    /// Cuts `rows` to the `wanted` nearest; `before` decides between equal distances.
    pub(crate) fn cut(
        &mut self,
        wanted: usize,
        kernels: &Kernels,
        before: impl Fn(&Reranked, &Reranked) -> std::cmp::Ordering,
    ) {
        if self.rows.len() <= wanted {
            return;
        }
        self.keys.clear();
        self.keys.extend(self.rows.iter().map(|row| order_bits(row.distance)));
        self.places.clear();
        self.places.extend(0..self.rows.len() as u32);
        let limit = select::limit(&self.keys, wanted, wanted, kernels);
        let kept = (kernels.keep_at_most)(&mut self.keys, &mut self.places, limit);
        // Places ascend, so no row is overwritten before it is moved.
        for (i, &place) in self.places[..kept].iter().enumerate() {
            self.rows[i] = self.rows[place as usize];
        }
        self.rows.truncate(kept);
        if kept > wanted {
            self.rows.sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance).then_with(|| before(a, b)));
            self.rows.truncate(wanted);
        }
    }
}

/// A query ready for int8 rows.
struct ByteQuery<'a> {
    against: Against<'a>,
    /// The projected query / step, rounded.
    wide: &'a [i16],
    step: f32,
}

impl ByteQuery<'_> {
    fn distance(&self, rows: &CodedRows, slot: usize, probe: Probe) -> f32 {
        let Against { quantizer, projected, kernels, .. } = self.against;
        let row = rows.byte_row(slot, self.wide.len());
        if quantizer.metric == Metric::Manhattan {
            let centroid = quantizer.centroid(probe.list);
            return (kernels.l1_i8)(projected, centroid, row.bytes, row.step);
        }
        let product = (kernels.dot_i8)(self.wide, row.bytes) as f32 * (row.step * self.step);
        quantizer.finish((probe.base + row.add) + quantizer.product_factor() * product)
    }

    /// The most by which [`ByteQuery::distance`] can be off, rounding of both sides and of the arithmetic included. A residual
    /// is off by at most half a step a dimension: `e = step/2 · √d` in length, `step/2 · d` in L1. Then |√D − √D̃| ≤ e for an L2
    /// distance, and |⟨q, e⟩| ≤ |q|·e for a product.
    fn error(&self, rows: &CodedRows, slot: usize, probe: Probe, distance: f32, query_length: f32) -> f32 {
        const ARITHMETIC: f32 = 1e-5;
        let quantizer = self.against.quantizer;
        let d = self.wide.len() as f32;
        let factors = rows.byte_row(slot, self.wide.len());
        let half = factors.step * 0.5001;
        if quantizer.metric == Metric::Manhattan {
            return half * d + ARITHMETIC * distance.abs();
        }
        let row_error = half * d.sqrt();
        // The query's rounding, against a row of int8 numbers at most 127 · √d · step long.
        let query_error = self.step * 0.5001 * d.sqrt() * 127.0 * d.sqrt() * factors.step;
        let slack = ARITHMETIC * (probe.base.abs() + factors.add.abs() + query_length * query_length + distance.abs());
        let error = match quantizer.metric {
            Metric::Dot => query_length * row_error + query_error,
            _ => {
                let square = distance.abs() * if quantizer.metric == Metric::Cosine { 2.0 } else { 1.0 };
                quantizer.finish(2.0 * square.sqrt() * row_error + row_error * row_error + 2.0 * query_error)
            }
        };
        error + slack
    }
}
