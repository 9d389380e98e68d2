//! Vectors rounded to int8, each with a step of its own: as rows, and as columns of panels. What the int8 assignment kernels work
//! on: products are sums of integers, so that every table gives the same bits in whatever order it adds.
//! Called by `assign_*` and, outside this directory, by `kmeans`, `assigner`, `batch` and `sieve`.

use super::Kernels;
use std::ops::Range;

/// Adding it to a number of [−2^21, 2^21] rounds half to even and leaves the integer, in two's complement, in the low bits.
pub(crate) const ROUND_SIGNED: f32 = 12_582_912.0;
/// Bytes of a vector that one instruction multiplies and adds: dimensions are padded to whole quads.
const QUAD: usize = 4;
/// What is added to a column's bytes, because the instruction takes one side unsigned.
pub(super) const COLUMN_OFFSET: i32 = 128;

/// Rows of int8 numbers: row `i` is about `bytes(i) · step(i)`.
#[derive(Clone, Debug, Default)]
pub(crate) struct ByteRows {
    dimension: usize,
    /// The bits of int8 numbers, each row padded with zeros to whole quads.
    bytes: Vec<u8>,
    steps: Vec<f32>,
    /// `−128 · Σ bytes`: takes the columns' offset back.
    biases: Vec<i32>,
}

impl ByteRows {
    /// Rounds the rows of `rows`, `dimension` numbers each.
    pub(crate) fn new(rows: &[f32], dimension: usize, kernels: &Kernels) -> ByteRows {
        let mut bytes = ByteRows::default();
        bytes.refill(rows, dimension, kernels);
        bytes
    }

    /// Puts other rows in their place: for a query, which needs no memory of its own then.
    pub(crate) fn refill(&mut self, rows: &[f32], dimension: usize, kernels: &Kernels) {
        let (stride, count) = (stride(dimension), rows.len() / dimension);
        let ByteRows { bytes, steps, biases, .. } = self;
        self.dimension = dimension;
        bytes.clear();
        bytes.resize(count * stride, 0);
        steps.clear();
        biases.clear();
        for (row, bytes) in rows.chunks_exact(dimension).zip(bytes.chunks_exact_mut(stride)) {
            let bytes = &mut bytes[..dimension];
            steps.push((kernels.to_bytes)(row, bytes));
            biases.push(-COLUMN_OFFSET * bytes.iter().map(|&b| i32::from(b as i8)).sum::<i32>());
        }
    }

    /// Multiplies the length of a row.
    pub(crate) fn lengthen(&mut self, row: usize, times: f32) {
        self.steps[row] *= times;
    }

    /// All of them.
    pub(crate) fn all(&self) -> ByteSlice<'_> {
        ByteSlice { dimension: self.dimension, bytes: &self.bytes, steps: &self.steps, biases: &self.biases }
    }
}

/// Consecutive rows of [`ByteRows`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct ByteSlice<'a> {
    dimension: usize,
    bytes: &'a [u8],
    steps: &'a [f32],
    biases: &'a [i32],
}

impl<'a> ByteSlice<'a> {
    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }

    /// Those of `span`, numbered from 0.
    pub(crate) fn slice(&self, span: Range<usize>) -> ByteSlice<'a> {
        let stride = self.stride();
        ByteSlice {
            dimension: self.dimension,
            bytes: &self.bytes[span.start * stride..span.end * stride],
            steps: &self.steps[span.clone()],
            biases: &self.biases[span],
        }
    }

    /// A copy of some, in the order of `members`.
    pub(crate) fn gather(&self, members: &[u32]) -> ByteRows {
        let mut bytes = Vec::with_capacity(members.len() * self.stride());
        members.iter().for_each(|&i| bytes.extend_from_slice(self.row(i as usize)));
        ByteRows {
            dimension: self.dimension,
            bytes,
            steps: members.iter().map(|&i| self.steps[i as usize]).collect(),
            biases: members.iter().map(|&i| self.biases[i as usize]).collect(),
        }
    }

    pub(super) fn stride(&self) -> usize {
        stride(self.dimension)
    }

    /// The padded bytes of a row.
    pub(super) fn row(&self, i: usize) -> &'a [u8] {
        &self.bytes[i * self.stride()..(i + 1) * self.stride()]
    }

    pub(crate) fn step(&self, i: usize) -> f32 {
        self.steps[i]
    }

    pub(super) fn bias(&self, i: usize) -> i32 {
        self.biases[i]
    }
}

/// Vectors as columns of int8 numbers, 16 to a panel. Column `j` is about `(bytes − 128) · steps[j]`.
#[derive(Clone, Debug)]
pub(crate) struct BytePanels {
    pub(crate) dimension: usize,
    /// Line `j / 16 · quads + q` holds components `4q..4q + 4` of the 16 columns of a panel, one column after another.
    pub(super) lines: Vec<Line>,
    pub(crate) steps: Vec<f32>,
    /// What a column's score starts from: its squared length, unless the caller puts something else. Infinite in the padding.
    pub(crate) bases: Vec<f32>,
}

/// 16 columns' bytes of one quad: a cache line, and a register of the widest machines.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Line(pub(super) [u8; BytePanels::WIDTH * QUAD]);

impl BytePanels {
    pub(crate) const WIDTH: usize = 16;
    /// In an order of columns: none here.
    pub(crate) const PADDING: u32 = u32::MAX;

    /// All of `vectors` (`dimension` numbers each), in order.
    pub(crate) fn new(vectors: &[f32], dimension: usize, kernels: &Kernels) -> BytePanels {
        let all: Vec<u32> = (0..(vectors.len() / dimension) as u32).collect();
        BytePanels::ordered(vectors, dimension, &all, kernels)
    }

    /// Column `j` is vector `order[j]`.
    pub(crate) fn ordered(vectors: &[f32], dimension: usize, order: &[u32], kernels: &Kernels) -> BytePanels {
        let (panels, quads) = (order.len().div_ceil(Self::WIDTH), stride(dimension) / QUAD);
        let padded = panels * Self::WIDTH;
        let mut built = BytePanels {
            dimension,
            lines: vec![Line([COLUMN_OFFSET as u8; Self::WIDTH * QUAD]); panels * quads],
            steps: vec![0.0; padded],
            bases: vec![f32::INFINITY; padded],
        };
        let mut bytes = vec![0u8; dimension];
        for (j, &i) in order.iter().enumerate().filter(|&(_, &i)| i != Self::PADDING) {
            let vector = &vectors[i as usize * dimension..(i as usize + 1) * dimension];
            built.steps[j] = (kernels.to_bytes)(vector, &mut bytes);
            built.bases[j] = (kernels.dot)(vector, vector);
            let (panel, lane) = (j / Self::WIDTH, j % Self::WIDTH);
            for (quad, line) in bytes.chunks(QUAD).zip(&mut built.lines[panel * quads..]) {
                let place = line.0[lane * QUAD..].iter_mut();
                place.zip(quad).for_each(|(p, &b)| *p = b.wrapping_add(COLUMN_OFFSET as u8));
            }
        }
        built
    }

    /// Columns with the padding of the last panel.
    pub(crate) fn columns_padded(&self) -> usize {
        self.steps.len()
    }

    pub(crate) fn panels(&self) -> usize {
        self.steps.len() / Self::WIDTH
    }

    /// The lengths agree with each other and with the rows'; every kernel relies on it.
    pub(super) fn check(&self, rows: ByteSlice<'_>) {
        assert!(rows.len() == 0 || rows.dimension == self.dimension, "rows and columns of one dimension");
        assert_eq!(rows.bytes.len(), rows.len() * rows.stride(), "whole rows");
        assert_eq!(self.lines.len(), self.panels() * self.quads(), "whole panels");
        assert!(
            self.bases.len() == self.steps.len() && self.steps.len().is_multiple_of(Self::WIDTH),
            "a base a column"
        );
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        size_of_val(&self.lines[..]) + size_of_val(&self.steps[..]) + size_of_val(&self.bases[..])
    }

    /// Lines of a panel.
    pub(super) fn quads(&self) -> usize {
        stride(self.dimension) / QUAD
    }
}

/// The columns nearest to a row so far: the least score of each of the 16 places in a panel, and its column.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(align(64))]
pub(crate) struct Nearest {
    pub(super) scores: [f32; BytePanels::WIDTH],
    pub(super) columns: [u32; BytePanels::WIDTH],
}

impl Nearest {
    /// Nothing seen: column 0 at an infinite score.
    pub(crate) const NONE: Nearest =
        Nearest { scores: [f32::INFINITY; BytePanels::WIDTH], columns: [0; BytePanels::WIDTH] };

    /// The column of the least score (ties: the lowest column).
    pub(crate) fn least(&self) -> u32 {
        let mut best = (f32::INFINITY, 0);
        for (&score, &column) in self.scores.iter().zip(&self.columns) {
            if score < best.0 || (score == best.0 && score < f32::INFINITY && column < best.1) {
                best = (score, column);
            }
        }
        best.1
    }
}

fn stride(dimension: usize) -> usize {
    dimension.next_multiple_of(QUAD)
}
