//! The kernels with AVX-512: those that select keys. The block scan is in `avx512_scan`, reductions and columns are in `avx512_rows`
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
    scan: avx512_scan::scan,
    count_at_most,
    keep_at_most,
    ..avx2::KERNELS
};

/// Whether this machine has what [`KERNELS`] needs beyond AVX2.
pub(super) fn is_available() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") && has!("avx512vnni")
}

/// Writes all 16 lanes.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn store(lanes: __m512i, out: &mut [u32]) {
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
