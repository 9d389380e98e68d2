//! Kernels over codewords with AVX-512: the 16 of a subspace are one register. And the Hadamard transform, 256 numbers in
//! registers at a time. The bits of `scalar`. Called through the table of `avx512`, which is handed out only where the machine
//! has every feature named here: that is the SAFETY argument of each call.

use super::avx512_rows::with_avx512;
use super::hadamard::define_hadamard;
use super::{SUBSPACE_CODES, body};
use std::arch::x86_64::*;

with_avx512!(hadamard, hadamard_wide, (values: &mut [f32]));
with_avx512!(nearest_code, nearest_code_wide, (book: &[f32], x: &[f32]) -> u8);
with_avx512!(code_dots, code_dots_wide, (book: &[f32], x: &[f32], out: &mut [f32; SUBSPACE_CODES]));

define_hadamard!(
    hadamard_wide, "avx512f,avx512dq", __m512, width: 16, registers: 16,
    _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_add_ps, _mm512_sub_ps, _mm512_mul_ps, within
);

/// The stages 1, 2, 4 and 8: sums everywhere, then the upper partner's difference over it.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
fn within(v: __m512) -> __m512 {
    let v = butterfly(v, _mm512_permute_ps::<0b10_11_00_01>(v), 0xAAAA);
    let v = butterfly(v, _mm512_permute_ps::<0b01_00_11_10>(v), 0xCCCC);
    let v = butterfly(v, _mm512_shuffle_f32x4::<0b10_11_00_01>(v, v), 0xF0F0);
    butterfly(v, _mm512_shuffle_f32x4::<0b01_00_11_10>(v, v), 0xFF00)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn butterfly(v: __m512, partners: __m512, upper: __mmask16) -> __m512 {
    _mm512_mask_sub_ps(_mm512_add_ps(v, partners), upper, partners, v)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn nearest_code_wide(book: &[f32], x: &[f32]) -> u8 {
    let mut sums = _mm512_setzero_ps();
    for (words, &v) in book.chunks_exact(SUBSPACE_CODES).zip(x) {
        // SAFETY: a chunk has 16 numbers.
        let words = unsafe { _mm512_loadu_ps(words.as_ptr()) };
        let d = _mm512_sub_ps(_mm512_set1_ps(v), words);
        sums = _mm512_add_ps(sums, _mm512_mul_ps(d, d));
    }
    // What is no number never wins, except as the first, which nothing then beats.
    let numbers = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(sums, sums);
    let infinity = _mm512_set1_ps(f32::INFINITY);
    let sums = _mm512_mask_mov_ps(infinity, numbers, sums);
    let least = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(sums, _mm512_set1_ps(_mm512_reduce_min_ps(sums)));
    if numbers & 1 == 0 { 0 } else { least.trailing_zeros() as u8 }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn code_dots_wide(book: &[f32], x: &[f32], out: &mut [f32; SUBSPACE_CODES]) {
    let mut sums = _mm512_setzero_ps();
    for (words, &v) in book.chunks_exact(SUBSPACE_CODES).zip(x) {
        // SAFETY: a chunk has 16 numbers.
        let words = unsafe { _mm512_loadu_ps(words.as_ptr()) };
        sums = _mm512_add_ps(sums, _mm512_mul_ps(_mm512_set1_ps(v), words));
    }
    // SAFETY: `out` has 16 numbers.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sums) };
}
