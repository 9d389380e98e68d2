//! The kernels with AVX2: the elementwise ones are the same loops compiled with wider registers, the hottest (block scan, int8
//! product; the int8 assignment is in `assign_avx2`) are written with intrinsics. The same bits as `scalar`, which the tests check.
//!
//! Every function here that needs AVX2 or F16C is reached through [`KERNELS`] alone, which `available` hands out only after detection:
//! that is the SAFETY argument of each call below.

use super::avx2_hadamard::hadamard;
use super::*;
use std::arch::x86_64::*;

/// Whether this machine has what [`KERNELS`] needs. (Every CPU with AVX2 has F16C.)
pub(super) fn is_available() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("f16c")
}

pub(super) static KERNELS: Kernels = Kernels {
    name: "avx2",
    l2,
    dot,
    l1,
    l1_i8,
    dot_i8,
    dots_i8,
    hadamard,
    nearest_code,
    code_dots,
    to_bytes,
    nearest_i8: assign_avx2::nearest_i8,
    scores_i8: assign_avx2::scores_i8,
    scan,
    count_at_most,
    keep_at_most: body::keep_at_most,
};

/// Defines `$name` as a call of `$wide`, which is compiled with AVX2.
macro_rules! with_avx2 {
    ($name:ident, $wide:path, ($($arg:ident: $ty:ty),*) $(-> $out:ty)?) => {
        fn $name($($arg: $ty),*) $(-> $out)? {
            #[target_feature(enable = "avx2")]
            fn wide($($arg: $ty),*) $(-> $out)? {
                $wide($($arg),*)
            }
            // SAFETY: the machine has AVX2 (see the head of this file).
            unsafe { wide($($arg),*) }
        }
    };
}

with_avx2!(l2, l2_wide, (a: &[f32], b: &[f32]) -> f32);
with_avx2!(dot, dot_wide, (a: &[f32], b: &[f32]) -> f32);
with_avx2!(l1, l1_wide, (a: &[f32], b: &[f32]) -> f32);
with_avx2!(l1_i8, body::l1_i8, (query: &[f32], centroid: &[f32], row: &[u8], scale: f32) -> f32);
with_avx2!(to_bytes, body::to_bytes, (values: &[f32], bytes: &mut [u8]) -> f32);
with_avx2!(nearest_code, body::nearest_code, (book: &[f32], x: &[f32]) -> u8);
with_avx2!(count_at_most, body::count_at_most, (keys: &[u32], limit: u32) -> usize);
with_avx2!(code_dots, body::code_dots, (book: &[f32], x: &[f32], out: &mut [f32; SUBSPACE_CODES]));
with_avx2!(dot_i8, dot_i8_wide, (query: &[i16], row: &[u8]) -> i32);
with_avx2!(dots_i8, dots_i8_wide, (query: &[i16], rows: &[&[u8]], out: &mut [i32]));

/// Defines a reduction over 32 lanes (four registers), `$term` of eight numbers of each side a step.
macro_rules! reduction {
    ($name:ident, |$x:ident, $y:ident| $term:expr) => {
        #[target_feature(enable = "avx2")]
        #[inline]
        fn $name(a: &[f32], b: &[f32]) -> f32 {
            let n = a.len().min(b.len());
            let whole = n / LANES * LANES;
            let mut sums = [_mm256_setzero_ps(); LANES / 8];
            let mut i = 0;
            while i < whole {
                for (s, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: i + 32 <= whole <= n, the length of the shorter slice.
                    let ($x, $y) = unsafe {
                        (_mm256_loadu_ps(a.as_ptr().add(i + s * 8)), _mm256_loadu_ps(b.as_ptr().add(i + s * 8)))
                    };
                    *sum = _mm256_add_ps(*sum, $term);
                }
                i += LANES;
            }
            // The tail counts as padded with zeros: their terms are +0, and no sum is ever −0, so adding them changes nothing.
            let mut s = 0;
            while i < n {
                let mask = tail_mask(n - i);
                // SAFETY: the mask admits the n − i numbers that are left, at most eight.
                let ($x, $y) = unsafe {
                    (_mm256_maskload_ps(a.as_ptr().add(i), mask), _mm256_maskload_ps(b.as_ptr().add(i), mask))
                };
                sums[s] = _mm256_add_ps(sums[s], $term);
                s += 1;
                i += 8;
            }
            fold_wide(sums)
        }
    };
}

reduction!(l2_wide, |x, y| {
    let d = _mm256_sub_ps(x, y);
    _mm256_mul_ps(d, d)
});
reduction!(dot_wide, |x, y| _mm256_mul_ps(x, y));
reduction!(l1_wide, |x, y| _mm256_andnot_ps(_mm256_set1_ps(-0.0), _mm256_sub_ps(x, y)));

/// All bits of the first `left` lanes.
#[target_feature(enable = "avx2")]
#[inline]
fn tail_mask(left: usize) -> __m256i {
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_cmpgt_epi32(_mm256_set1_epi32(left.min(8) as i32), lanes)
}

/// The tree of `body::fold`: halves of 16, 8, 4, 2, 1.
#[target_feature(enable = "avx2")]
#[inline]
fn fold_wide(sums: [__m256; LANES / 8]) -> f32 {
    let eight = _mm256_add_ps(_mm256_add_ps(sums[0], sums[2]), _mm256_add_ps(sums[1], sums[3]));
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
}

/// 32 numbers a step: int8 widened to i16, multiplied and added in pairs to i32.
#[target_feature(enable = "avx2")]
#[inline]
fn dot_i8_wide(query: &[i16], row: &[u8]) -> i32 {
    let n = query.len().min(row.len());
    let whole = n / 16 * 16;
    let (mut even, mut odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    let mut i = 0;
    // SAFETY: the loads stay below `whole <= n`, the length of the shorter slice.
    unsafe {
        while i + 32 <= whole {
            even = _mm256_add_epi32(even, products(query.as_ptr().add(i), row.as_ptr().add(i)));
            odd = _mm256_add_epi32(odd, products(query.as_ptr().add(i + 16), row.as_ptr().add(i + 16)));
            i += 32;
        }
        if i < whole {
            even = _mm256_add_epi32(even, products(query.as_ptr().add(i), row.as_ptr().add(i)));
        }
    }
    let sums = _mm256_add_epi32(even, odd);
    let half = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    let half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0b01_00_11_10));
    let half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0b10_11_00_01));
    _mm_cvtsi128_si32(half) + body::dot_i8(&query[whole..n], &row[whole..n])
}

#[target_feature(enable = "avx2")]
#[inline]
fn dots_i8_wide(query: &[i16], rows: &[&[u8]], out: &mut [i32]) {
    for (row, out) in rows.iter().zip(out) {
        *out = dot_i8_wide(query, row);
    }
}

/// Sums of pairs of products of 16 numbers.
///
/// # Safety
/// 16 readable numbers at both pointers.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn products(query: *const i16, row: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    let (query, row) = unsafe { (_mm256_loadu_si256(query.cast()), _mm_loadu_si128(row.cast())) };
    _mm256_madd_epi16(query, _mm256_cvtepi8_epi16(row))
}

fn scan(input: &ScanInput<'_>, query: &mut ScanQuery<'_>, first_block: usize) -> usize {
    #[target_feature(enable = "avx2,f16c")]
    fn wide(input: &ScanInput<'_>, query: &mut ScanQuery<'_>, first_block: usize) -> usize {
        body::scan(input, query, first_block, |query, block, estimates| {
            let pairs = query.pairs();
            assert_eq!(block.len(), block_bytes(pairs));
            // SAFETY: the block has `pairs * 32` bytes of codes, then 128 of factors, by the assert. The table has `pairs * 32`.
            unsafe {
                let sums = block_sums(block.as_ptr(), query.table.as_ptr(), pairs);
                estimate(query, block.as_ptr().add(pairs * PAIR_BYTES), sums, estimates)
            }
        })
    }
    // SAFETY: the machine has AVX2 and F16C (see the head of this file).
    unsafe { wide(input, query, first_block) }
}

/// The sums of look-ups of 32 rows, as u16: rows 0..16 and 16..32. Every second pair of eight is summed in u8 (the table is
/// scaled so that four fit), then even and odd bytes are widened apart.
///
/// # Safety
/// `pairs * 32` readable bytes at both pointers.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn block_sums(codes: *const u8, table: *const u8, pairs: usize) -> [__m256i; 2] {
    let nibble = _mm256_set1_epi8(15);
    let zero = _mm256_setzero_si256();
    // mixed = even + 256 · odd (mod 2^16); odd = the odd bytes alone.
    let (mut mixed, mut odd) = ([zero; 2], [zero; 2]);
    let mut first = 0;
    while first < pairs {
        let end = (first + GROUP_PAIRS).min(pairs);
        for parity in 0..2 {
            let mut bytes = [zero; 2];
            let mut pair = first + parity;
            while pair < end {
                // SAFETY: pair < pairs.
                let (code, entries) = unsafe {
                    (
                        _mm256_loadu_si256(codes.add(pair * PAIR_BYTES).cast()),
                        _mm256_loadu_si256(table.add(pair * PAIR_BYTES).cast()),
                    )
                };
                let low = _mm256_and_si256(code, nibble);
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(code), nibble);
                bytes[0] = _mm256_add_epi8(bytes[0], _mm256_shuffle_epi8(entries, low));
                bytes[1] = _mm256_add_epi8(bytes[1], _mm256_shuffle_epi8(entries, high));
                pair += 2;
            }
            for h in 0..2 {
                mixed[h] = _mm256_add_epi16(mixed[h], bytes[h]);
                odd[h] = _mm256_add_epi16(odd[h], _mm256_srli_epi16::<8>(bytes[h]));
            }
        }
        first = end;
    }
    let mut sums = [zero; 2];
    for h in 0..2 {
        let even = _mm256_sub_epi16(mixed[h], _mm256_slli_epi16::<8>(odd[h]));
        // Each 128-bit half holds one subspace of the pairs: add the halves; even bytes' rows first, then odd bytes'.
        let crossed = _mm256_permute2x128_si256::<0x21>(even, odd[h]);
        sums[h] = _mm256_add_epi16(crossed, _mm256_blend_epi32::<0b1111_0000>(even, odd[h]));
    }
    sums
}

/// Writes the estimates of a block's rows; the bits of those not above the threshold.
///
/// # Safety
/// 128 readable bytes at `factors`.
#[target_feature(enable = "avx2,f16c")]
#[inline]
unsafe fn estimate(
    query: &ScanQuery<'_>,
    factors: *const u8,
    sums: [__m256i; 2],
    estimates: &mut [f32; BLOCK_ROWS],
) -> u32 {
    let (step, bias) = (_mm256_set1_ps(query.table_step), _mm256_set1_ps(query.table_bias));
    let (base, limit) = (_mm256_set1_ps(query.base), _mm256_set1_ps(query.threshold));
    let mut kept = 0;
    for part in 0..4 {
        let half = sums[part / 2];
        let eight = if part % 2 == 0 { _mm256_castsi256_si128(half) } else { _mm256_extracti128_si256::<1>(half) };
        let sum = _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(eight));
        let look_ups = _mm256_add_ps(_mm256_mul_ps(sum, step), bias);
        // SAFETY: the caller's promise: 16 bytes a load, the addends 64 bytes after the scales. `estimates` has 32 numbers.
        unsafe {
            let scale = _mm256_cvtph_ps(_mm_loadu_si128(factors.add(part * 16).cast()));
            let add = _mm256_cvtph_ps(_mm_loadu_si128(factors.add(2 * BLOCK_ROWS + part * 16).cast()));
            let value = _mm256_add_ps(_mm256_add_ps(add, base), _mm256_mul_ps(scale, look_ups));
            _mm256_storeu_ps(estimates.as_mut_ptr().add(part * 8), value);
            let not_above = _mm256_cmp_ps::<_CMP_NGT_UQ>(value, limit);
            kept |= (_mm256_movemask_ps(not_above) as u32) << (part * 8);
        }
    }
    kept
}
