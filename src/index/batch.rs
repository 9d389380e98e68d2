//! Rows assigned and encoded together: in parts of a fixed size, several at once, so that centroids are read once for many rows.
//! What comes out depends on the rows alone, not on the threads. Called by `train` and `filing`.

use super::assigner::{AssignScratch, Assigner};
use super::kernels::ByteRows;
use super::list::{EncodedRow, PostingList};
use super::quantizer::{EncodeScratch, Quantizer};
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

/// A row and the list it belongs to.
pub(crate) struct AssignedRow<'a> {
    pub(crate) list: usize,
    row: (u32, &'a [f32]),
    residual_square: f32,
    /// None in IVF-Flat.
    encoded: Option<&'a EncodedRow>,
}

/// What a part's rows become.
struct EncodedPart {
    lists: Vec<u32>,
    residual_squares: Vec<f32>,
    rows: Vec<EncodedRow>,
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

    /// Assigns the rows and gives them, in the order they were added, to `place`; leaves the batch empty.
    pub(crate) fn encode(
        &mut self,
        quantizer: &Quantizer,
        assigner: &Assigner<'_>,
        work: Work<'_>,
        place: &mut dyn FnMut(AssignedRow<'_>),
    ) {
        let d = quantizer.dimension;
        let parts = self.parts(d);
        let encoded = work.parallel(parts.clone(), |part| {
            EncodedPart::new(&self.raw[part.start * d..part.end * d], quantizer, assigner, work)
        });
        let t=rd();
        for (part, encoded) in parts.zip(&encoded) {
            for (i, (&list, &residual_square)) in part.zip(encoded.lists.iter().zip(&encoded.residual_squares)) {
                let row = (self.ordinals[i], &self.raw[i * d..(i + 1) * d]);
                let encoded = encoded.rows.get(i % (PART_NUMBERS / d).max(1));
                place(AssignedRow { list: list as usize, row, residual_square, encoded });
            }
        }
        tick(4,t);
        self.ordinals.clear();
        self.raw.clear();
    }

    fn parts(&self, dimension: usize) -> impl Iterator<Item = Range<usize>> + Clone + Send + use<> {
        let (rows, count) = ((PART_NUMBERS / dimension).max(1), self.len());
        (0..count).step_by(rows).map(move |start| start..count.min(start + rows))
    }
}

impl EncodedPart {
    fn new(raw: &[f32], quantizer: &Quantizer, assigner: &Assigner<'_>, work: Work<'_>) -> EncodedPart {
        let (d, kernels) = (quantizer.dimension, work.kernels);
        let t=rd();
        let mut projected = vec![0f32; raw.len()];
        for (raw, projected) in raw.chunks_exact(d).zip(projected.chunks_exact_mut(d)) {
            quantizer.project_row(raw, projected, kernels);
        }
        tick(0,t);let t=rd();
        let bytes = ByteRows::new(&projected, d, kernels);
        tick(1,t);let t=rd();
        let mut lists = Vec::new();
        if knob("SETTLE",1)==1 {
        assigner.settle(&projected, bytes.all(), &mut AssignScratch::default(), kernels, &mut lists);
        } else {assigner.nearest(bytes.all(), &mut AssignScratch::default(), kernels, &mut lists);}
        tick(2,t);let t=rd();
        let mut part = EncodedPart { residual_squares: Vec::with_capacity(lists.len()), rows: Vec::new(), lists };
        let mut scratch = EncodeScratch::default();
        for ((raw, projected), &list) in raw.chunks_exact(d).zip(projected.chunks_exact(d)).zip(&part.lists) {
            part.residual_squares.push(quantizer.encode(raw, projected, list as usize, &mut scratch, kernels));
            if quantizer.codebook.is_some() {
                part.rows.push(scratch.row.clone());
            }
        }
        tick(3,t);
        part
    }
}

use super::assigner::knob;
pub(crate) static mut T:[u64;8]=[0;8];
pub(crate) fn rd()->u64{unsafe{std::arch::x86_64::_rdtsc()}}
pub(crate) fn tick(i:usize,t:u64){unsafe{T[i]+=rd()-t;}}

impl AssignedRow<'_> {
    /// Appends the row to its list; returns its squared residual.
    pub(crate) fn push(self, list: &mut PostingList) -> f32 {
        let (ordinal, raw) = self.row;
        match self.encoded {
            Some(encoded) => list.push_coded(ordinal, encoded),
            None => list.push_exact(ordinal, raw),
        }
        self.residual_square
    }
}
