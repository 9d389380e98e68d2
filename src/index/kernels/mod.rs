//! The hot loops, behind one table of function pointers chosen once: `scalar` defines each kernel, `avx2`, `avx512`
//! and `neon` compute the same bits faster. No fused multiply-add on any path.
//! Called by every file of this room; the node calls [`choose`] at start.

mod assign_scalar;
mod body;
pub(crate) mod bytes;
pub(crate) mod half;
mod scalar;

#[cfg(target_arch = "x86_64")]
mod assign_avx2;
#[cfg(target_arch = "x86_64")]
mod assign_avx512;
#[cfg(test)]
mod assign_tests;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_hadamard;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_columns;
#[cfg(target_arch = "x86_64")]
mod avx512_rows;
#[cfg(target_arch = "x86_64")]
mod avx512_scan;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod hadamard;
#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
mod neon;
#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
mod neon_columns;
#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
mod neon_scan;
#[cfg(test)]
mod tests;

pub(crate) use bytes::{BytePanels, ByteRows, ByteSlice, Nearest, ROUND_SIGNED};
use std::ops::Range;
use std::sync::OnceLock;

/// Virtual lanes of every f32 reduction: sums are the same whatever the width of the machine.
pub(crate) const LANES: usize = 32;
/// Rows a code block holds.
pub(crate) const BLOCK_ROWS: usize = 32;
/// Codewords a subspace has (4 bits).
pub(crate) const SUBSPACE_CODES: usize = 16;
/// Bytes a block spends on a pair of subspaces, and bytes a pair has in the lookup table.
pub(crate) const PAIR_BYTES: usize = 32;
/// Pairs of subspaces after which look-ups summed in u8 are widened: every second pair's are summed together, four in all.
pub(crate) const GROUP_PAIRS: usize = 8;
/// Bytes of a block's factors: 32 scales, then 32 addends, in half precision.
pub(crate) const FACTOR_BYTES: usize = 4 * BLOCK_ROWS;

/// How many blocks before its turn a block is asked for: two to four measured best from the shared cache.
const PREFETCH_BLOCKS: usize = 4;

/// Bytes of a block of 32 rows.
pub(crate) const fn block_bytes(pairs: usize) -> usize {
    pairs * PAIR_BYTES + FACTOR_BYTES
}

/// One implementation of every kernel.
pub(crate) struct Kernels {
    pub(crate) name: &'static str,
    /// Squared L2.
    pub(crate) l2: fn(&[f32], &[f32]) -> f32,
    /// Inner product.
    pub(crate) dot: fn(&[f32], &[f32]) -> f32,
    /// L1.
    pub(crate) l1: fn(&[f32], &[f32]) -> f32,
    /// L1 of query to centroid + scale · row; the row's bytes are the bits of int8 numbers.
    pub(crate) l1_i8: fn(&[f32], &[f32], &[u8], f32) -> f32,
    /// Integer inner product with a row of int8 numbers.
    pub(crate) dot_i8: fn(&[i16], &[u8]) -> i32,
    /// The same with each of several rows.
    pub(crate) dots_i8: fn(&[i16], &[&[u8]], &mut [i32]),
    /// Walsh–Hadamard transform, in place.
    pub(crate) hadamard: fn(&mut [f32]),
    /// Nearest codeword of one subspace.
    pub(crate) nearest_code: fn(&[f32], &[f32]) -> u8,
    /// Inner products with the codewords of one subspace.
    pub(crate) code_dots: fn(&[f32], &[f32], &mut [f32; SUBSPACE_CODES]),
    /// Rounds to the bits of int8 numbers, the largest to ±127; the step they count (0 for zeros).
    pub(crate) to_bytes: fn(&[f32], &mut [u8]) -> f32,
    /// Nearest columns of some panels for some rows, in int8 (see `assign_scalar`).
    pub(crate) nearest_i8: fn(&BytePanels, Range<usize>, ByteSlice<'_>, &[u32], &mut [Nearest]),
    /// All rows against all columns in int8: `base + factor · dot`.
    pub(crate) scores_i8: fn(&BytePanels, ByteSlice<'_>, f32, &mut [f32]),
    /// Scores code blocks from one on, and collects candidates: until there is no block left, or no room for another block's. The
    /// first block not scanned.
    pub(crate) scan: fn(&ScanInput<'_>, &mut ScanQuery<'_>, usize) -> usize,
    /// How many keys are not above the limit.
    pub(crate) count_at_most: fn(&[u32], u32) -> usize,
    /// Moves the keys not above the limit, and what is at their places in the second slice, to the front in their order; how many.
    pub(crate) keep_at_most: fn(&mut [u32], &mut [u32], u32) -> usize,
}

/// A run of code blocks.
#[derive(Clone, Copy)]
pub(crate) struct ScanInput<'a> {
    /// [`block_bytes`] a block, one stream to read: the codes, `pairs · 32` bytes, then 32 scales and 32 addends in half precision
    /// (little-endian). Of a pair's 32 bytes, 16 are for the even subspace and 16 for the odd one. Byte `2t` of them holds rows
    /// `t` (low nibble) and `16 + t` (high), byte `2t + 1` rows `8 + t` and `24 + t`.
    pub(crate) blocks: &'a [u8],
    /// The blocks that are scanned next, to be in cache by then.
    pub(crate) ahead: &'a [u8],
    /// One bit a row, one word a block.
    pub(crate) live: &'a [u32],
}

/// A query that blocks are scanned for: its look-up table, and where its candidates go. Row `r` of block `b` is estimated at
/// `(add + base) + scale · (sum · table_step + table_bias)`, where `sum` adds its look-ups.
pub(crate) struct ScanQuery<'a> {
    /// 32 bytes a pair. Of any [`GROUP_PAIRS`] pairs from a multiple of that on, those of one parity sum to at most 255, for
    /// the even subspaces as for the odd ones: four u8 look-ups are summed without overflow.
    pub(crate) table: &'a [u8],
    pub(crate) table_step: f32,
    pub(crate) table_bias: f32,
    pub(crate) base: f32,
    /// What the first row is called in the candidates.
    pub(crate) position: u32,
    /// Rows of a greater estimate are no candidates.
    pub(crate) threshold: f32,
    pub(crate) out: CandidateSlots<'a>,
    /// Candidates in `out`.
    pub(crate) written: usize,
}

impl ScanQuery<'_> {
    fn pairs(&self) -> usize {
        self.table.len() / PAIR_BYTES
    }

    /// Slots left.
    fn room(&self) -> usize {
        self.out.len() - self.written
    }
}

impl ScanInput<'_> {
    /// The lengths agree; every kernel relies on it. Returns the bytes of a block.
    fn check(&self, query: &ScanQuery<'_>) -> usize {
        let pairs = query.pairs();
        assert!(
            query.table.len() == pairs * PAIR_BYTES && query.written <= query.out.len(),
            "whole pairs in the table"
        );
        let bytes = block_bytes(pairs);
        assert_eq!(self.blocks.len(), self.live.len() * bytes, "bytes of {} blocks", self.live.len());
        bytes
    }

    /// Asks for the block of so many bytes that is scanned some blocks after this one.
    #[inline(always)]
    fn prefetch_after(&self, block: usize, bytes: usize) {
        let (later, own) = (block + PREFETCH_BLOCKS, self.live.len());
        let (blocks, later) = if later < own { (self.blocks, later) } else { (self.ahead, later - own) };
        prefetch(blocks.get(later * bytes..(later + 1) * bytes).unwrap_or_default());
    }
}

/// Where a scan puts candidates: each one's key, [`order_bits`] of its estimate, and its position. What lies beyond the last
/// one is overwritten too.
pub(crate) struct CandidateSlots<'a> {
    pub(crate) keys: &'a mut [u32],
    pub(crate) positions: &'a mut [u32],
}

impl CandidateSlots<'_> {
    fn len(&self) -> usize {
        self.keys.len().min(self.positions.len())
    }
}

/// The estimate of a key.
pub(crate) fn key_estimate(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key ^ 0x8000_0000 } else { !key })
}

/// Bits that order as `f32::total_cmp` does.
#[inline(always)]
pub(crate) fn order_bits(value: f32) -> u32 {
    let bits = value.to_bits();
    bits ^ (((bits as i32 >> 31) as u32) | 0x8000_0000)
}

/// Asks for the bytes to be in cache soon; nothing where there is no such instruction.
#[inline(always)]
pub(crate) fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        const LINE: usize = 64;
        let (start, len) = (values.as_ptr().cast::<i8>(), size_of_val(values));
        // As often for a length whatever the address: a branch that the address decides would be guessed wrong every other time.
        // SAFETY: SSE is in every x86-64, and a prefetch touches nothing, whatever the address.
        let ask = |offset: usize| unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(offset)) };
        let mut offset = 0;
        while offset + 4 * LINE <= len {
            (0..4).for_each(|line| ask(offset + line * LINE));
            offset += 4 * LINE;
        }
        while offset < len {
            ask(offset);
            offset += LINE;
        }
        // The last byte's line, which a start within a line leaves over.
        ask(len.saturating_sub(1));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

static ACTIVE: OnceLock<&'static Kernels> = OnceLock::new();

/// Chooses the kernels of this process, once: those of the name wished, one of [`names`], else the best the machine has. The first
/// choice stays; returns the name in use.
pub fn choose(wish: Option<&str>) -> &'static str {
    ACTIVE.get_or_init(|| wish.and_then(named).unwrap_or_else(best)).name
}

/// The kernels in use (the best, if nobody chose).
pub(crate) fn active() -> &'static Kernels {
    ACTIVE.get_or_init(best)
}

/// Every table this machine can run; the first is the definition.
pub(crate) fn available() -> Vec<&'static Kernels> {
    #[allow(unused_mut)]
    let mut tables = vec![&scalar::KERNELS];
    #[cfg(target_arch = "x86_64")]
    if avx2::is_available() {
        tables.push(&avx2::KERNELS);
        if avx512::is_available() {
            tables.push(&avx512::KERNELS);
        }
    }
    #[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
    tables.push(&neon::KERNELS);
    tables
}

/// The names [`choose`] knows on this machine, from the definition to the best.
pub fn names() -> Vec<&'static str> {
    available().into_iter().map(|kernels| kernels.name).collect()
}

fn named(name: &str) -> Option<&'static Kernels> {
    available().into_iter().find(|kernels| kernels.name == name)
}

fn best() -> &'static Kernels {
    available().pop().unwrap_or(&scalar::KERNELS)
}
