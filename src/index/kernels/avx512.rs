//! The kernels with AVX-512: the block scan takes two pairs of subspaces a step; reductions and columns are in `avx512_rows`
//! and `avx512_columns`; the rest is what `avx2` has. The same bits as `scalar`, which the tests check.
//!
//! Every function here that needs AVX-512 is reached through [`KERNELS`] alone, which `available` hands out only after
//! detection: that is the SAFETY argument of each call below.

use super::*;
use std::arch::x86_64::*;

pub(super) static KERNELS: Kernels = Kernels {
    name: "avx512",
    l2: avx512_rows::l2,
    dot: avx512_rows::dot,
    l1: avx512_rows::l1,
    l1_i8: avx512_rows::l1_i8,
    dot_i8: avx512_rows::dot_i8,
    dots_i8: avx512_rows::dots_i8,
    hadamard: avx512_columns::hadamard,
    nearest_code: avx512_columns::nearest_code,
    code_dots: avx512_columns::code_dots,
    nearest_i8: assign_avx512::nearest_i8,
    scores_i8: assign_avx512::scores_i8,
    scan,
    count_at_most,
    keep_at_most,
    ..avx2::KERNELS
};

/// Whether this machine has what [`KERNELS`] needs beyond AVX2.
pub(super) fn is_available() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") && has!("avx512vnni")
}

fn scan(input: &ScanInput<'_>, first_block: usize, threshold: f32, out: CandidateSlots<'_>) -> ScanProgress {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn wide(input: &ScanInput<'_>, first_block: usize, threshold: f32, out: CandidateSlots<'_>) -> ScanProgress {
        let (pairs, bytes) = (input.pairs(), input.block_bytes());
        let limit = _mm512_set1_ps(threshold);
        body::scan_blocks(input, first_block, out, |block, live, keys, positions| {
            // SAFETY: body::scan_blocks has checked that `blocks` holds every block it asks for: `pairs * 32` bytes of codes, then
            // 128 of factors. The table has `pairs * 32`.
            let estimates = unsafe {
                let codes = input.blocks.as_ptr().add(block * bytes);
                let sums = block_sums(codes, input.table.as_ptr(), pairs);
                estimate(input, codes.add(pairs * PAIR_BYTES), sums)
            };
            let kept: [u16; 2] = std::array::from_fn(|half| {
                _mm512_cmp_ps_mask::<_CMP_NGT_UQ>(estimates[half], limit) & (live >> (16 * half)) as u16
            });
            // One branch for both halves: it cannot be guessed well, and closing up nothing costs less than a wrong guess.
            if kept == [0; 2] {
                return 0;
            }
            let first = input.position + (block * BLOCK_ROWS) as u32;
            let middle = kept[0].count_ones() as usize;
            collect(estimates[0], kept[0], first, keys, positions);
            collect(estimates[1], kept[1], first + 16, &mut keys[middle..], &mut positions[middle..]);
            middle + kept[1].count_ones() as usize
        })
    }
    // SAFETY: the machine has these features (see the head of this file).
    unsafe { wide(input, first_block, threshold, out) }
}

/// Writes the keys and positions of the rows kept, of 16 from `first` on, closed up.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
fn collect(estimates: __m512, kept: u16, first: u32, keys: &mut [u32], positions: &mut [u32]) {
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    // As `order_bits`: all bits flipped of negative numbers, else the sign alone.
    let bits = _mm512_castps_si512(estimates);
    let sign = _mm512_or_si512(_mm512_srai_epi32::<31>(bits), _mm512_set1_epi32(i32::MIN));
    let rows = _mm512_add_epi32(_mm512_set1_epi32(first as i32), lanes);
    store(_mm512_maskz_compress_epi32(kept, _mm512_xor_si512(bits, sign)), keys);
    store(_mm512_maskz_compress_epi32(kept, rows), positions);
}

/// Writes all 16 lanes.
#[target_feature(enable = "avx512f")]
#[inline]
fn store(lanes: __m512i, out: &mut [u32]) {
    let out = &mut out[..16];
    // SAFETY: `out` has 16 numbers of 4 bytes.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), lanes) };
}

/// How many keys are not above the limit.
fn count_at_most(keys: &[u32], limit: u32) -> usize {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn wide(keys: &[u32], limit: u32) -> usize {
        let limit_wide = _mm512_set1_epi32(limit as i32);
        let mut chunks = keys.chunks_exact(16);
        let whole: u32 = chunks
            .by_ref()
            // SAFETY: a chunk has 16 numbers.
            .map(|keys| unsafe { _mm512_loadu_si512(keys.as_ptr().cast()) })
            .map(|keys| _mm512_cmple_epu32_mask(keys, limit_wide).count_ones())
            .sum();
        whole as usize + body::count_at_most(chunks.remainder(), limit)
    }
    // SAFETY: the machine has these features (see the head of this file).
    unsafe { wide(keys, limit) }
}

/// See `Kernels::keep_at_most`. Lanes are closed up in a register and all 16 written: never past what has been read.
fn keep_at_most(keys: &mut [u32], others: &mut [u32], limit: u32) -> usize {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn wide(keys: &mut [u32], others: &mut [u32], limit: u32) -> usize {
        let others = &mut others[..keys.len()];
        let limit_wide = _mm512_set1_epi32(limit as i32);
        let (mut kept, mut at) = (0, 0);
        while at + 16 <= keys.len() {
            // SAFETY: both slices have 16 numbers at `at`.
            let (key, other) = unsafe {
                (_mm512_loadu_si512(keys.as_ptr().add(at).cast()), _mm512_loadu_si512(others.as_ptr().add(at).cast()))
            };
            let mask = _mm512_cmple_epu32_mask(key, limit_wide);
            store(_mm512_maskz_compress_epi32(mask, key), &mut keys[kept..]);
            store(_mm512_maskz_compress_epi32(mask, other), &mut others[kept..]);
            kept += mask.count_ones() as usize;
            at += 16;
        }
        for at in at..keys.len() {
            let (key, other) = (keys[at], others[at]);
            keys[kept] = key;
            others[kept] = other;
            kept += usize::from(key <= limit);
        }
        kept
    }
    // SAFETY: the machine has these features (see the head of this file).
    unsafe { wide(keys, others, limit) }
}

/// Sums of look-ups, rows 0..16 (low nibbles) and 16..32 (high), widened where four pairs have been summed in u8:
/// `mixed = even + 256 · odd (mod 2^16)` and the odd bytes alone.
struct WideSums {
    bytes: [__m512i; 2],
    mixed: [__m512i; 2],
    odd: [__m512i; 2],
}

impl WideSums {
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn new() -> WideSums {
        let zero = [_mm512_setzero_si512(); 2];
        WideSums { bytes: zero, mixed: zero, odd: zero }
    }

    /// Adds the look-ups of two pairs: four subspaces, one a 128-bit lane.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn add(&mut self, codes: __m512i, entries: __m512i) {
        let nibble = _mm512_set1_epi8(15);
        let low = _mm512_and_si512(codes, nibble);
        let high = _mm512_and_si512(_mm512_srli_epi16::<4>(codes), nibble);
        self.bytes[0] = _mm512_add_epi8(self.bytes[0], _mm512_shuffle_epi8(entries, low));
        self.bytes[1] = _mm512_add_epi8(self.bytes[1], _mm512_shuffle_epi8(entries, high));
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn widen(&mut self) {
        for h in 0..2 {
            self.mixed[h] = _mm512_add_epi16(self.mixed[h], self.bytes[h]);
            self.odd[h] = _mm512_add_epi16(self.odd[h], _mm512_srli_epi16::<8>(self.bytes[h]));
            self.bytes[h] = _mm512_setzero_si512();
        }
    }

    /// The sums of the 32 rows, in order.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn rows(self) -> __m512i {
        let halved = |h: usize| {
            let even = _mm512_sub_epi16(self.mixed[h], _mm512_slli_epi16::<8>(self.odd[h]));
            // Lanes 0 + 2 and 1 + 3, of the even bytes' rows, then of the odd bytes'.
            _mm512_add_epi16(
                _mm512_shuffle_i64x2::<0b01_00_01_00>(even, self.odd[h]),
                _mm512_shuffle_i64x2::<0b11_10_11_10>(even, self.odd[h]),
            )
        };
        let (low, high) = (halved(0), halved(1));
        _mm512_add_epi16(
            _mm512_shuffle_i64x2::<0b10_00_10_00>(low, high),
            _mm512_shuffle_i64x2::<0b11_01_11_01>(low, high),
        )
    }
}

/// The sums of look-ups of 32 rows, as u16.
///
/// # Safety
/// `pairs * 32` readable bytes at both pointers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn block_sums(codes: *const u8, table: *const u8, pairs: usize) -> __m512i {
    const STEP: usize = 2 * PAIR_BYTES;
    let mut sums = WideSums::new();
    let (groups, twos) = (pairs / GROUP_PAIRS, pairs % GROUP_PAIRS / 2);
    let mut at = 0;
    // SAFETY: the steps are `pairs / 2` of 64 bytes, then one of 32 if `pairs` is odd.
    unsafe {
        let both = |at: usize| (_mm512_loadu_si512(codes.add(at).cast()), _mm512_loadu_si512(table.add(at).cast()));
        for _ in 0..groups {
            for step in 0..GROUP_PAIRS / 2 {
                let (code, entries) = both(at + step * STEP);
                sums.add(code, entries);
            }
            sums.widen();
            at += GROUP_PAIRS * PAIR_BYTES;
        }
        for _ in 0..twos {
            let (code, entries) = both(at);
            sums.add(code, entries);
            at += STEP;
        }
        if pairs % 2 == 1 {
            // Nothing is looked up in the half that is zero.
            let half = |from: *const u8| _mm512_zextsi256_si512(_mm256_loadu_si256(from.add(at).cast()));
            sums.add(half(codes), half(table));
        }
    }
    sums.widen();
    sums.rows()
}

/// The estimates of a block's rows.
///
/// # Safety
/// 128 readable bytes at `factors`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn estimate(input: &ScanInput<'_>, factors: *const u8, sums: __m512i) -> [__m512; 2] {
    let (step, bias) = (_mm512_set1_ps(input.table_step), _mm512_set1_ps(input.table_bias));
    let base = _mm512_set1_ps(input.base);
    let halves = [_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums)];
    std::array::from_fn(|part| {
        let sum = _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(halves[part]));
        let look_ups = _mm512_add_ps(_mm512_mul_ps(sum, step), bias);
        // SAFETY: the caller's promise: 32 bytes a load, the addends 64 bytes after the scales.
        let (scale, add) = unsafe {
            (
                _mm512_cvtph_ps(_mm256_loadu_si256(factors.add(part * 32).cast())),
                _mm512_cvtph_ps(_mm256_loadu_si256(factors.add(2 * BLOCK_ROWS + part * 32).cast())),
            )
        };
        _mm512_add_ps(_mm512_add_ps(add, base), _mm512_mul_ps(scale, look_ups))
    })
}
