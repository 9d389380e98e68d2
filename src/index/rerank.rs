//! The second look at a candidate: its distance from the int8 row, with a bound of the error where an exact search wants one.
//! Called by `search` and `many`.

use super::candidates::Candidates;
use super::kernels::{BLOCK_ROWS, Kernels, order_bits, prefetch};
use super::list::{ByteRow, CodedRows, LiveList, Rows};
use super::possible::Possible;
use super::probes::Probe;
use super::quantizer::{HALF_STEP, Quantizer, quantise_query};
use super::select;
use crate::types::Metric;

/// Rows that are asked for together: enough to hide a miss, few enough to stay in the nearest cache.
const CHUNK_ROWS: usize = BLOCK_ROWS;

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
    /// Of `query_wide`, while lists are scanned.
    step: f32,
    pub(crate) rows: Vec<Reranked>,
    /// Of rows that are scored with their errors.
    pub(crate) possible: Possible,
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
    /// To score rows with their errors for a search for k; those beyond a limit are known not to matter.
    pub(crate) fn within(k: usize, limit: f32) -> Reranking {
        Reranking { possible: Possible::within(k, limit), ..Reranking::default() }
    }

    /// Scores the rows at `positions` (ascending), into `rows`. Some rows at a time are found and asked for while those before
    /// are scored.
    pub(crate) fn score(&mut self, against: Against<'_>, positions: &[u32]) {
        let step = quantise_query(against.projected, &mut self.query_wide);
        let query = ByteQuery { against, wide: &self.query_wide, step };
        self.rows.clear();
        let mut chunks = positions.chunks(CHUNK_ROWS);
        let mut finder = Finder { against, at: 0 };
        let mut current = chunks.next().map(|positions| finder.find(positions));
        while let Some(found) = current {
            current = chunks.next().map(|positions| finder.find(positions));
            query.score(&found, &mut self.rows);
        }
    }

    /// Makes ready to scan lists for a query.
    pub(crate) fn begin_scan(&mut self, projected: &[f32]) {
        self.step = quantise_query(projected, &mut self.query_wide);
    }

    /// Collects candidates by int8 distance: the scan of a kind without codes. Of the list probed as number `at` the rows whose bits
    /// are set are looked at.
    pub(crate) fn scan_list(&mut self, against: Against<'_>, at: usize, bits: &[u32], candidates: &mut Candidates) {
        let query = ByteQuery { against, wide: &self.query_wide, step: self.step };
        let mut finder = Finder { against, at };
        for (first, &word) in (against.probes[at].position..).step_by(BLOCK_ROWS).zip(bits) {
            let (mut positions, mut count) = ([0; BLOCK_ROWS], 0);
            for row in (0..BLOCK_ROWS as u32).filter(|row| word >> row & 1 == 1) {
                positions[count] = first + row;
                count += 1;
            }
            self.rows.clear();
            query.score(&finder.find(&positions[..count]), &mut self.rows);
            for (row, &position) in self.rows.iter().zip(&positions) {
                candidates.push(row.distance, position, against.kernels);
            }
        }
    }

    /// Scores the given rows (list and slot) with their error bounds, and offers them to `possible`. `base_of` tells a list's part of the distance, with what
    /// [`Quantizer::query_offset`] adds to it.
    pub(crate) fn score_given(
        &mut self,
        against: Against<'_>,
        given: &mut dyn Iterator<Item = (usize, usize)>,
        mut base_of: impl FnMut(usize) -> f32,
    ) {
        let Against { lists, projected, kernels, .. } = against;
        let step = quantise_query(projected, &mut self.query_wide);
        let query = ByteQuery { against, wide: &self.query_wide, step };
        let length = (kernels.dot)(projected, projected).sqrt();
        let mut ahead = Vec::with_capacity(CHUNK_ROWS);
        loop {
            ahead.clear();
            ahead.extend(given.filter(|&(list, _)| lists[list].list.is_sound()).take(CHUNK_ROWS));
            if ahead.is_empty() {
                return;
            }
            for &(list, slot) in &ahead {
                if let Rows::Coded(rows) = &lists[list].list.rows {
                    prefetch(rows.record(slot, projected.len()));
                }
            }
            for &(list, slot) in &ahead {
                let Rows::Coded(rows) = &lists[list].list.rows else { continue };
                let probe = Probe { list, base: base_of(list), estimate_base: 0.0, position: 0 };
                self.possible.offer(query.bounded(rows, slot, probe, length));
            }
        }
    }

    /// Scores all live rows of the lists probed with their error bounds, and offers them to `possible`.
    pub(crate) fn score_all(&mut self, against: Against<'_>) {
        let step = quantise_query(against.projected, &mut self.query_wide);
        let query = ByteQuery { against, wide: &self.query_wide, step };
        let length = (against.kernels.dot)(against.projected, against.projected).sqrt();
        for &probe in against.probes {
            let Some(rows) = against.rows(probe) else { continue };
            for slot in against.lists[probe.list].live_slots() {
                self.possible.offer(query.bounded(rows, slot, probe, length));
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

/// Rows found: their records, and where they are.
struct Found<'a> {
    records: [&'a [u8]; CHUNK_ROWS],
    /// Probe and slot.
    places: [(u32, u32); CHUNK_ROWS],
    count: usize,
}

/// Walks the probes along ascending positions.
struct Finder<'a> {
    against: Against<'a>,
    at: usize,
}

impl<'a> Finder<'a> {
    /// The rows at up to a chunk of positions, asked for.
    fn find(&mut self, positions: &[u32]) -> Found<'a> {
        let (probes, d) = (self.against.probes, self.against.projected.len());
        let mut found = Found { records: [&[]; CHUNK_ROWS], places: [(0, 0); CHUNK_ROWS], count: 0 };
        for &position in positions {
            while probes.get(self.at + 1).is_some_and(|next| next.position <= position) {
                self.at += 1;
            }
            let probe = probes[self.at];
            let Some(rows) = self.against.rows(probe) else { continue };
            let slot = position - probe.position;
            let record = rows.record(slot as usize, d);
            prefetch(record);
            found.records[found.count] = record;
            found.places[found.count] = (self.at as u32, slot);
            found.count += 1;
        }
        found
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
    /// Appends the rows with their distances.
    fn score(&self, found: &Found<'_>, out: &mut Vec<Reranked>) {
        let rows = found.records.map(ByteRow::of);
        let mut dots = [0; CHUNK_ROWS];
        if self.against.quantizer.metric != Metric::Manhattan {
            (self.against.kernels.dots_i8)(self.wide, &rows.map(|row| row.bytes)[..found.count], &mut dots);
        }
        let scored = found.places.iter().zip(&rows).zip(dots).take(found.count);
        out.extend(scored.map(|((&(at, slot), row), dot)| {
            let probe = self.against.probes[at as usize];
            Reranked { distance: self.distance(row, dot, probe), error: 0.0, list: probe.list as u32, slot }
        }));
    }

    /// The row of a slot with its error bound, for a query of this length.
    fn bounded(&self, rows: &CodedRows, slot: usize, probe: Probe, query_length: f32) -> Reranked {
        let row = ByteRow::of(rows.record(slot, self.against.projected.len()));
        let distance = self.distance(&row, (self.against.kernels.dot_i8)(self.wide, row.bytes), probe);
        let inherited = self.against.lists[probe.list].list.inherited_error;
        let error = self.error(&row, inherited, probe, distance, query_length);
        Reranked { distance, error, list: probe.list as u32, slot: slot as u32 }
    }

    /// The distance of a row from its product with the query (in L1 from the row itself).
    fn distance(&self, row: &ByteRow<'_>, dot: i32, probe: Probe) -> f32 {
        let Against { quantizer, projected, kernels, .. } = self.against;
        if quantizer.metric == Metric::Manhattan {
            let centroid = quantizer.centroid(probe.list);
            return (kernels.l1_i8)(projected, centroid, row.bytes, row.step);
        }
        let product = dot as f32 * (row.step * self.step);
        quantizer.finish((probe.base + row.add) + quantizer.product_factor() * product)
    }

    /// The most by which [`ByteQuery::distance`] can be off, rounding of both sides and of the arithmetic included. A residual
    /// is off by at most half a step a dimension, and what it inherited: `e = step/2 · √d` in length, `step/2 · d` in L1. Then
    /// |√D − √D̃| ≤ e for an L2 distance, and |⟨q, e⟩| ≤ |q|·e for a product.
    fn error(&self, row: &ByteRow<'_>, inherited: f32, probe: Probe, distance: f32, query_length: f32) -> f32 {
        const ARITHMETIC: f32 = 1e-5;
        let quantizer = self.against.quantizer;
        let d = self.wide.len() as f32;
        let half = row.step * HALF_STEP + inherited;
        if quantizer.metric == Metric::Manhattan {
            return half * d + ARITHMETIC * distance.abs();
        }
        let row_error = half * d.sqrt();
        // The query's rounding, against a row of int8 numbers at most 127 · √d · step long.
        let query_error = self.step * HALF_STEP * d.sqrt() * 127.0 * d.sqrt() * row.step;
        let slack = ARITHMETIC * (probe.base.abs() + row.add.abs() + query_length * query_length + distance.abs());
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
