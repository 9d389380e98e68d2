//! Rows assigned and encoded together, so that centroids are read once for many rows. Called by `train` and `filing`.

use super::kernels::Kernels;
use super::list::PostingList;
use super::quantizer::{EncodeScratch, Quantizer};

/// Rows a batch holds.
const BATCH_ROWS: usize = 192;

/// Rows waiting to be assigned.
#[derive(Default)]
pub(crate) struct Batch {
    ordinals: Vec<u32>,
    raw: Vec<f32>,
    projected: Vec<f32>,
    nearest: Vec<u32>,
    scratch: EncodeScratch,
}

/// A row and the list it belongs to.
pub(crate) struct AssignedRow<'a> {
    pub(crate) list: usize,
    row: (u32, &'a [f32]),
    projected: &'a [f32],
    quantizer: &'a Quantizer,
    scratch: &'a mut EncodeScratch,
    kernels: &'a Kernels,
}

impl Batch {
    pub(crate) fn len(&self) -> usize {
        self.ordinals.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= BATCH_ROWS
    }

    pub(crate) fn add(&mut self, ordinal: u32, row: &[f32]) {
        self.ordinals.push(ordinal);
        self.raw.extend_from_slice(row);
    }

    /// Assigns the rows and gives them, in the order they were added, to `place`; leaves the batch empty.
    pub(crate) fn encode(&mut self, quantizer: &Quantizer, kernels: &Kernels, place: &mut dyn FnMut(AssignedRow<'_>)) {
        let d = quantizer.dimension;
        let space = quantizer.space();
        self.projected.resize(self.ordinals.len() * space, 0.0);
        for (raw, projected) in self.raw.chunks_exact(d).zip(self.projected.chunks_exact_mut(space)) {
            quantizer.project_row(raw, projected, kernels);
        }
        self.nearest.resize(self.ordinals.len(), 0);
        (kernels.assign)(&quantizer.panels, &self.projected, &mut self.nearest);
        let rows = self.raw.chunks_exact(d).zip(self.projected.chunks_exact(space));
        for ((&ordinal, &list), (raw, projected)) in self.ordinals.iter().zip(&self.nearest).zip(rows) {
            let scratch = &mut self.scratch;
            place(AssignedRow { list: list as usize, row: (ordinal, raw), projected, quantizer, scratch, kernels });
        }
        self.ordinals.clear();
        self.raw.clear();
    }
}

impl AssignedRow<'_> {
    /// Encodes the row at the end of its list; returns its squared residual.
    pub(crate) fn push(self, list: &mut PostingList) -> f32 {
        self.quantizer.push(self.row, self.projected, (self.list, list), self.scratch, self.kernels)
    }
}
