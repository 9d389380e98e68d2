//! Rows assigned and encoded together: in parts of a fixed size, several at once, so that centroids are read once for many rows.
//! What comes out depends on the rows alone, not on the threads. Called by `train` and `filing`.

use super::assigner::{AssignScratch, Assigner};
use super::kernels::{ByteRows, Kernels};
use super::list::{EncodedRow, PostingList};
use super::quantizer::{EncodeScratch, Quantizer};
use super::spec::IndexKind;
use super::truth::{GroundTruth, Sighting};
use super::work::Work;
use std::ops::Range;

/// Numbers a part holds: about what the cache next to a core does, with what is computed from them.
const PART_NUMBERS: usize = 1 << 16;
/// Parts of a full batch: enough to keep many cores busy for some milliseconds.
const PARTS: usize = 32;

/// Rows waiting to be assigned.
#[derive(Default)]
pub(crate) struct Batch {
    ordinals: Vec<u32>,
    raw: Vec<f32>,
}

/// A batch whose rows have their lists and codes.
pub(crate) struct EncodedBatch<'a> {
    batch: &'a Batch,
    dimension: usize,
    parts: Vec<EncodedPart>,
}

/// A row and the list it belongs to.
pub(crate) struct AssignedRow<'a> {
    pub(crate) list: usize,
    residual_square: f32,
    row: (u32, &'a [f32]),
    /// None in IVF-Flat.
    encoded: Option<&'a EncodedRow>,
}

/// What a part's rows become.
struct EncodedPart {
    lists: Vec<u32>,
    residual_squares: Vec<f32>,
    rows: Vec<EncodedRow>,
    sightings: Vec<Sighting>,
}

impl Batch {
    pub(crate) fn len(&self) -> usize {
        self.ordinals.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.raw.len() >= PARTS * PART_NUMBERS
    }

    pub(crate) fn add(&mut self, ordinal: u32, row: &[f32]) {
        self.ordinals.push(ordinal);
        self.raw.extend_from_slice(row);
    }

    /// Assigns the rows, encodes them, and looks for neighbours of held-out rows among them.
    pub(crate) fn encode(
        &self,
        quantizer: &Quantizer,
        assigner: &Assigner,
        truth: Option<&GroundTruth>,
        work: Work<'_>,
    ) -> EncodedBatch<'_> {
        let d = quantizer.dimension;
        let parts = work.parallel(self.parts(d), |part| {
            EncodedPart::new(&self.raw[part.start * d..part.end * d], quantizer, assigner, truth, work.kernels)
        });
        EncodedBatch { batch: self, dimension: d, parts }
    }

    pub(crate) fn clear(&mut self) {
        self.ordinals.clear();
        self.raw.clear();
    }

    fn parts(&self, dimension: usize) -> impl Iterator<Item = Range<usize>> + Send + use<> {
        let (rows, count) = (part_rows(dimension), self.len());
        (0..count).step_by(rows).map(move |start| start..count.min(start + rows))
    }
}

fn part_rows(dimension: usize) -> usize {
    (PART_NUMBERS / dimension).max(1)
}

impl EncodedBatch<'_> {
    /// In the order they were added.
    pub(crate) fn rows(&self) -> impl Iterator<Item = AssignedRow<'_>> {
        let (d, batch) = (self.dimension, self.batch);
        self.parts.iter().enumerate().flat_map(move |(part, encoded)| {
            let first = part * part_rows(d);
            encoded.lists.iter().zip(&encoded.residual_squares).enumerate().map(
                move |(i, (&list, &residual_square))| {
                    let row = (batch.ordinals[first + i], &batch.raw[(first + i) * d..(first + i + 1) * d]);
                    AssignedRow { list: list as usize, residual_square, row, encoded: encoded.rows.get(i) }
                },
            )
        })
    }

    /// What was seen of the neighbours of held-out rows, each with the ordinal of its row.
    pub(crate) fn sightings(&self) -> impl Iterator<Item = (u32, &Sighting)> {
        let (d, batch) = (self.dimension, self.batch);
        self.parts.iter().enumerate().flat_map(move |(part, encoded)| {
            let first = part * part_rows(d);
            encoded.sightings.iter().map(move |seen| (batch.ordinals[first + seen.row], seen))
        })
    }
}

impl EncodedPart {
    fn new(
        raw: &[f32],
        quantizer: &Quantizer,
        assigner: &Assigner,
        truth: Option<&GroundTruth>,
        kernels: &Kernels,
    ) -> EncodedPart {
        let (d, space) = (quantizer.dimension, quantizer.space());
        let mut projected = vec![0f32; raw.len() / d * space];
        for (raw, projected) in raw.chunks_exact(d).zip(projected.chunks_exact_mut(space)) {
            quantizer.project_row(raw, projected, kernels);
        }
        let bytes = ByteRows::new(&projected, space, kernels);
        let sightings = truth.map_or(Vec::new(), |truth| truth.look(raw, &projected, bytes.all()));
        let lists = assigner.nearest(bytes.all(), &mut AssignScratch::default(), kernels);
        let (mut rows, mut scratch) = (Vec::new(), EncodeScratch::default());
        let mut residual_squares = Vec::with_capacity(lists.len());
        for ((raw, projected), &list) in raw.chunks_exact(d).zip(projected.chunks_exact(space)).zip(&lists) {
            residual_squares.push(quantizer.encode(raw, projected, list as usize, &mut scratch, kernels));
            if quantizer.kind != IndexKind::IvfFlat {
                rows.push(scratch.row.clone());
            }
        }
        EncodedPart { lists, residual_squares, rows, sightings }
    }
}

impl AssignedRow<'_> {
    /// Appends the row to its list.
    pub(crate) fn push(&self, list: &mut PostingList) {
        let (ordinal, raw) = self.row;
        list.residual_sum += f64::from(self.residual_square);
        match self.encoded {
            Some(encoded) => list.push_coded(ordinal, encoded),
            None => list.push_exact(ordinal, raw),
        }
    }
}
