//! Posting lists: immutable rows behind an `Arc` (codes in blocks of 32, int8 rows; or f32 rows in IVF-Flat) and, outside of it,
//! one live bit a row. Rows are only ever appended, so a row's slot never changes until a list is compacted.
//! Called by `train`, `filing`, `search`, `file` and `vector_index`.

mod live;

pub(crate) use live::{Departed, LiveList};

use super::damage::Check;
use super::kernels::{BLOCK_ROWS, PAIR_BYTES, block_bytes};
use super::region::{Block, Region};
use std::sync::Arc;

/// The rows of one list, in slot order.
#[derive(Clone, Debug)]
pub(crate) struct PostingList {
    /// The point of each row, meaningful while the row is live.
    pub(crate) ordinals: Region<u32>,
    pub(crate) rows: Rows,
    /// Of a list read from a file: whether it is as it was written.
    pub(crate) check: Option<Arc<Check>>,
    /// The most by which a number of a row may be off beyond the rounding of its own record: what rows that came from other lists
    /// brought along. 0 where every row was encoded from f32.
    pub(crate) inherited_error: f32,
    /// Sum of the rows' squared residuals, those of dead rows included.
    pub(crate) residual_sum: f64,
}

/// The rows' content.
#[derive(Clone, Debug)]
pub(crate) enum Rows {
    Coded(CodedRows),
    /// `d` numbers a row.
    Exact(Region<f32>),
}

/// Rows with an int8 form and, of most kinds, 4-bit codes.
#[derive(Clone, Debug, Default)]
pub(crate) struct CodedRows {
    /// Pairs of subspaces; 0 of a kind without codes, which has no blocks either.
    pub(crate) pairs: usize,
    /// Blocks of 32 rows: codes, then factors of the estimate (layout: `kernels::ScanInput`).
    pub(crate) blocks: Region<u8>,
    /// The residuals in int8, a record of `8 + d` bytes a row: step and addend (f32, little-endian), then the numbers. One
    /// record, so that a re-rank misses the cache once.
    pub(crate) records: Region<u8>,
}

/// A row's residual is `bytes · step`; `add` is its part of the distance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ByteRow<'a> {
    pub(crate) step: f32,
    pub(crate) add: f32,
    /// The bits of int8 numbers.
    pub(crate) bytes: &'a [u8],
}

impl<'a> ByteRow<'a> {
    /// The row of a record (nothing at all: a row of no numbers).
    pub(crate) fn of(record: &'a [u8]) -> ByteRow<'a> {
        let Some((head, bytes)) = record.split_first_chunk::<RECORD_HEAD>() else {
            return ByteRow { step: 0.0, add: 0.0, bytes: &[] };
        };
        let float = |at: usize| f32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        ByteRow { step: float(0), add: float(4), bytes }
    }
}

/// Bytes of a record before its numbers.
pub(crate) const RECORD_HEAD: usize = 8;

/// One row, encoded against a list's centroid.
#[derive(Clone, Debug, Default)]
pub(crate) struct EncodedRow {
    /// One code a byte.
    pub(crate) codes: Vec<u8>,
    /// Factors of the estimate, in half precision (units: `quantizer::FactorUnits`).
    pub(crate) scale: u16,
    pub(crate) add: u16,
    /// The bits of int8 numbers.
    pub(crate) bytes: Vec<u8>,
    pub(crate) byte_step: f32,
    pub(crate) byte_add: f32,
}

impl PostingList {
    pub(crate) fn coded(pairs: usize) -> PostingList {
        let rows = Rows::Coded(CodedRows { pairs, ..CodedRows::default() });
        PostingList { ordinals: Region::default(), rows, check: None, inherited_error: 0.0, residual_sum: 0.0 }
    }

    pub(crate) fn exact() -> PostingList {
        let rows = Rows::Exact(Region::default());
        PostingList { ordinals: Region::default(), rows, check: None, inherited_error: 0.0, residual_sum: 0.0 }
    }

    /// A list of the same form without rows.
    pub(crate) fn empty_like(&self) -> PostingList {
        match &self.rows {
            Rows::Coded(rows) => PostingList::coded(rows.pairs),
            Rows::Exact(_) => PostingList::exact(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.ordinals.len()
    }

    pub(crate) fn push_coded(&mut self, ordinal: u32, row: &EncodedRow) {
        let slot = self.len();
        self.ordinals.to_mut().push(ordinal);
        let Rows::Coded(rows) = &mut self.rows else { unreachable!("a coded row goes to a coded list") };
        rows.push(slot, row);
    }

    pub(crate) fn push_exact(&mut self, ordinal: u32, vector: &[f32]) {
        self.ordinals.to_mut().push(ordinal);
        let Rows::Exact(vectors) = &mut self.rows else { unreachable!("an f32 row goes to an f32 list") };
        vectors.to_mut().extend_from_slice(vector);
    }

    /// Appends a row of another list of the same form and centroid; its squared residual is the caller's to add.
    pub(crate) fn push_from(&mut self, other: &PostingList, slot: usize, dimension: usize) {
        self.inherited_error = self.inherited_error.max(other.inherited_error);
        match &other.rows {
            Rows::Coded(rows) => self.push_coded(other.ordinals[slot], &rows.row(slot, dimension)),
            Rows::Exact(vectors) => {
                let vector = &vectors[slot * dimension..(slot + 1) * dimension];
                self.push_exact(other.ordinals[slot], vector);
            }
        }
    }

    /// Gives back the room that appending left over.
    pub(crate) fn shrink(&mut self) {
        self.ordinals.shrink();
        match &mut self.rows {
            Rows::Coded(rows) => {
                rows.blocks.shrink();
                rows.records.shrink();
            }
            Rows::Exact(vectors) => vectors.shrink(),
        }
    }

    /// The arrays that every search of the list reads, then those it reads a row of now and then.
    pub(crate) fn arrays(&self) -> ([&[u8]; 2], &[u8]) {
        let ordinals: &[u8] = bytemuck::cast_slice(&self.ordinals);
        match &self.rows {
            Rows::Coded(rows) => ([ordinals, &rows.blocks], &rows.records),
            Rows::Exact(vectors) => ([ordinals, bytemuck::cast_slice(vectors)], &[]),
        }
    }

    /// Lengths of the arrays, in bytes, of a list of this form with so many rows; none if no memory could hold them.
    pub(crate) fn array_bytes(&self, rows: usize, dimension: usize) -> Option<([usize; 2], usize)> {
        let ordinals = rows.checked_mul(4)?;
        match &self.rows {
            Rows::Coded(coded) => {
                let block = if coded.pairs == 0 { 0 } else { block_bytes(coded.pairs) };
                let blocks = rows.div_ceil(BLOCK_ROWS).checked_mul(block)?;
                Some(([ordinals, blocks], rows.checked_mul(RECORD_HEAD + dimension)?))
            }
            Rows::Exact(_) => Some(([ordinals, rows.checked_mul(dimension)?.checked_mul(4)?], 0)),
        }
    }

    /// A list of this form whose arrays begin at these bytes of a block. None if they are not there.
    pub(crate) fn at(
        &self,
        (rows, dimension): (usize, usize),
        block: &Arc<Block>,
        (hot, warm): ([usize; 2], usize),
        check: Arc<Check>,
    ) -> Option<PostingList> {
        let ([_, blocks], records) = self.array_bytes(rows, dimension)?;
        let content = match &self.rows {
            Rows::Coded(coded) => Rows::Coded(CodedRows {
                pairs: coded.pairs,
                blocks: Region::within(block, hot[1], blocks)?,
                records: Region::within(block, warm, records)?,
            }),
            Rows::Exact(_) => Rows::Exact(Region::within(block, hot[1], blocks / 4)?),
        };
        let ordinals = Region::within(block, hot[0], rows)?;
        Some(PostingList { ordinals, rows: content, check: Some(check), ..*self })
    }

    /// The list with its hot arrays, and its int8 rows if they have a place there, at these bytes of another block.
    pub(crate) fn moved_to(
        &self,
        block: &Arc<Block>,
        hot: [usize; 2],
        warm: Option<usize>,
        dimension: usize,
    ) -> Option<PostingList> {
        let ([_, blocks], records) = self.array_bytes(self.len(), dimension)?;
        let rows = match &self.rows {
            Rows::Coded(rows) => {
                let stays = || Some(rows.records.clone());
                let records = warm.map_or_else(stays, |warm| Region::within(block, warm, records))?;
                Rows::Coded(CodedRows { pairs: rows.pairs, blocks: Region::within(block, hot[1], blocks)?, records })
            }
            Rows::Exact(_) => Rows::Exact(Region::within(block, hot[1], blocks / 4)?),
        };
        let ordinals = Region::within(block, hot[0], self.len())?;
        Some(PostingList { ordinals, rows, check: None, ..*self })
    }

    /// Whether the hot arrays are in a mapped file.
    pub(crate) fn is_mapped(&self) -> bool {
        self.ordinals.is_mapped()
    }

    /// Gives the memory of the pages of its file back.
    pub(crate) fn release_file(&self) {
        match &self.rows {
            Rows::Coded(rows) => rows.records.release_file(),
            Rows::Exact(_) => self.ordinals.release_file(),
        }
    }

    /// Tells the system how int8 rows in a file will be read.
    pub(crate) fn expect_reads(&self, at_random: bool) {
        if let Rows::Coded(rows) = &self.rows {
            rows.records.expect_reads(at_random);
        }
    }

    /// CRC-32C of all arrays.
    pub(crate) fn checksum(&self) -> u32 {
        let ([ordinals, blocks], records) = self.arrays();
        [blocks, records].iter().fold(crc32c::crc32c(ordinals), |sum, bytes| crc32c::crc32c_append(sum, bytes))
    }

    /// Whether the list is as it was written, if it was read from a file. Verified at the first call; a list that is not is noted
    /// as damage and must not be searched.
    #[inline]
    pub(crate) fn is_sound(&self) -> bool {
        self.check.as_ref().is_none_or(|check| check.passes("a posting list", || self.checksum()))
    }

    /// Has the system read the list in if it is in a file and not verified yet, so that the next lists' reads do not wait for each
    /// other.
    #[inline]
    pub(crate) fn read_unverified(&self) {
        if self.check.as_ref().is_some_and(|check| check.is_unseen()) {
            self.ordinals.expect_reads(false);
            match &self.rows {
                Rows::Coded(rows) => {
                    rows.blocks.expect_reads(false);
                    rows.records.expect_reads(false);
                }
                Rows::Exact(vectors) => vectors.expect_reads(false),
            }
        }
    }

    /// A copy to append to; the original is sound.
    pub(crate) fn to_grow(&self) -> PostingList {
        PostingList { check: None, ..self.clone() }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let content = match &self.rows {
            Rows::Coded(r) => r.blocks.memory_bytes() + r.records.memory_bytes(),
            Rows::Exact(vectors) => vectors.memory_bytes(),
        };
        content + self.ordinals.memory_bytes() + size_of::<PostingList>()
    }
}

impl CodedRows {
    fn push(&mut self, slot: usize, row: &EncodedRow) {
        let records = self.records.to_mut();
        records.extend(row.byte_step.to_le_bytes());
        records.extend(row.byte_add.to_le_bytes());
        records.extend_from_slice(&row.bytes);
        if self.pairs == 0 {
            return;
        }
        if slot.is_multiple_of(BLOCK_ROWS) {
            let block = slot / BLOCK_ROWS;
            self.blocks.to_mut().resize((block + 1) * block_bytes(self.pairs), 0);
        }
        for (subspace, &code) in row.codes.iter().enumerate() {
            let (at, shift) = self.nibble(slot, subspace);
            self.blocks.to_mut()[at] |= code << shift;
        }
        let [scale_at, add_at] = self.factors_at(slot);
        let blocks = self.blocks.to_mut();
        blocks[scale_at..scale_at + 2].copy_from_slice(&row.scale.to_le_bytes());
        blocks[add_at..add_at + 2].copy_from_slice(&row.add.to_le_bytes());
    }

    /// Where a row's code of a subspace lies: byte and shift.
    fn nibble(&self, slot: usize, subspace: usize) -> (usize, u32) {
        let (block, row) = (slot / BLOCK_ROWS, slot % BLOCK_ROWS);
        let byte = 2 * (row % 8) + row / 8 % 2;
        let at = block * block_bytes(self.pairs) + subspace / 2 * PAIR_BYTES + subspace % 2 * 16 + byte;
        (at, if row >= 16 { 4 } else { 0 })
    }

    /// Where a row's scale and addend begin.
    fn factors_at(&self, slot: usize) -> [usize; 2] {
        let factors = slot / BLOCK_ROWS * block_bytes(self.pairs) + self.pairs * PAIR_BYTES;
        [0, BLOCK_ROWS].map(|first| factors + 2 * (first + slot % BLOCK_ROWS))
    }

    /// The int8 record of a slot (see [`ByteRow::of`]).
    pub(crate) fn record(&self, slot: usize, dimension: usize) -> &[u8] {
        let len = RECORD_HEAD + dimension;
        &self.records[slot * len..(slot + 1) * len]
    }

    fn row(&self, slot: usize, dimension: usize) -> EncodedRow {
        let byte_row = ByteRow::of(self.record(slot, dimension));
        let code = |subspace| {
            let (at, shift) = self.nibble(slot, subspace);
            self.blocks[at] >> shift & 15
        };
        let factor = |at: usize| u16::from_le_bytes([self.blocks[at], self.blocks[at + 1]]);
        let [scale, add] = if self.pairs == 0 { [0; 2] } else { self.factors_at(slot).map(factor) };
        EncodedRow {
            codes: (0..2 * self.pairs).map(code).collect(),
            scale,
            add,
            bytes: byte_row.bytes.to_vec(),
            byte_step: byte_row.step,
            byte_add: byte_row.add,
        }
    }
}
