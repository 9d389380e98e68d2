//! Kernels of two rows with AVX-512: sums over 32 lanes (two registers) and the int8 product (VNNI). The bits of `scalar`.
//! Called through the table of `avx512`, which is handed out only where the machine has every feature named here: that is the
//! SAFETY argument of each call.

use super::LANES;
use std::arch::x86_64::*;

/// Defines `$name` as a call of `$wide`.
macro_rules! with_avx512 {
    ($name:ident, $wide:path, ($($arg:ident: $ty:ty),*) $(-> $out:ty)?) => {
        pub(super) fn $name($($arg: $ty),*) $(-> $out)? {
            // SAFETY: the machine has AVX-512 (see the head of this file).
            unsafe { $wide($($arg),*) }
        }
    };
}
pub(super) use with_avx512;

with_avx512!(l2, l2_wide, (a: &[f32], b: &[f32]) -> f32);
with_avx512!(dot, dot_wide, (a: &[f32], b: &[f32]) -> f32);
with_avx512!(l1, l1_wide, (a: &[f32], b: &[f32]) -> f32);
with_avx512!(l1_i8, l1_i8_wide, (query: &[f32], centroid: &[f32], row: &[u8], scale: f32) -> f32);
with_avx512!(dot_i8, dot_i8_wide, (query: &[i16], row: &[u8]) -> i32);
with_avx512!(dots_i8, dots_i8_wide, (query: &[i16], rows: &[&[u8]], out: &mut [i32]));

/// The first `left` of 32 lanes, 16 to each register.
#[inline(always)]
fn tail_masks(left: usize) -> [__mmask16; 2] {
    let mask = (1u32 << left) - 1;
    [mask as u16, (mask >> 16) as u16]
}

/// The tree of `body::fold`: halves of 16, 8, 4, 2, 1.
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
#[inline]
fn fold_wide(sums: [__m512; 2]) -> f32 {
    let sixteen = _mm512_add_ps(sums[0], sums[1]);
    let eight = _mm256_add_ps(_mm512_castps512_ps256(sixteen), _mm512_extractf32x8_ps::<1>(sixteen));
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
}

/// Defines a reduction over 32 lanes, `$term` of sixteen numbers of each side a step.
macro_rules! reduction {
    ($name:ident, |$x:ident, $y:ident| $term:expr) => {
        #[target_feature(enable = "avx512f,avx512dq,avx512vl")]
        #[inline]
        fn $name(a: &[f32], b: &[f32]) -> f32 {
            let n = a.len().min(b.len());
            let (a, b) = (a.as_ptr(), b.as_ptr());
            let mut sums = [_mm512_setzero_ps(); 2];
            let mut i = 0;
            while i + LANES <= n {
                for (s, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: i + 32 <= n, the length of the shorter slice.
                    let ($x, $y) = unsafe { (_mm512_loadu_ps(a.add(i + s * 16)), _mm512_loadu_ps(b.add(i + s * 16))) };
                    *sum = _mm512_add_ps(*sum, $term);
                }
                i += LANES;
            }
            if i < n {
                // Masked-out lanes are zeros: their terms are +0, and no sum is ever −0, so adding them changes nothing.
                let used = (n - i).div_ceil(16);
                for (s, (sum, mask)) in sums.iter_mut().zip(tail_masks(n - i)).take(used).enumerate() {
                    // SAFETY: the masks admit the n − i numbers that are left; what is masked out is not touched.
                    let ($x, $y) = unsafe {
                        let at = i + s * 16;
                        (
                            _mm512_maskz_loadu_ps(mask, a.wrapping_add(at)),
                            _mm512_maskz_loadu_ps(mask, b.wrapping_add(at)),
                        )
                    };
                    *sum = _mm512_add_ps(*sum, $term);
                }
            }
            fold_wide(sums)
        }
    };
}

reduction!(l2_wide, |x, y| {
    let d = _mm512_sub_ps(x, y);
    _mm512_mul_ps(d, d)
});
reduction!(dot_wide, |x, y| _mm512_mul_ps(x, y));
reduction!(l1_wide, |x, y| _mm512_abs_ps(_mm512_sub_ps(x, y)));

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[inline]
fn l1_i8_wide(query: &[f32], centroid: &[f32], row: &[u8], scale: f32) -> f32 {
    let n = query.len().min(centroid.len()).min(row.len());
    let (query, centroid, row) = (query.as_ptr(), centroid.as_ptr(), row.as_ptr());
    let scale = _mm512_set1_ps(scale);
    let mut sums = [_mm512_setzero_ps(); 2];
    let mut i = 0;
    while i < n {
        let masks = if i + LANES <= n { [u16::MAX; 2] } else { tail_masks(n - i) };
        for (s, (sum, mask)) in sums.iter_mut().zip(masks).enumerate() {
            let at = i + s * 16;
            // SAFETY: the masks admit only the n − i numbers that are left in the shortest slice; what is masked out is not touched.
            let (q, c, r) = unsafe {
                (
                    _mm512_maskz_loadu_ps(mask, query.wrapping_add(at)),
                    _mm512_maskz_loadu_ps(mask, centroid.wrapping_add(at)),
                    _mm_maskz_loadu_epi8(mask, row.wrapping_add(at).cast()),
                )
            };
            let r = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(r));
            let term = _mm512_abs_ps(_mm512_sub_ps(_mm512_sub_ps(q, c), _mm512_mul_ps(r, scale)));
            // Masked, since a term of zeros is no number where the scale is infinite.
            *sum = _mm512_mask_add_ps(*sum, mask, *sum, term);
        }
        i += LANES;
    }
    fold_wide(sums)
}

/// 32 numbers an instruction: int8 widened to i16, multiplied, pairs added to i32 (wrapping, as the definition does).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn dot_i8_wide(query: &[i16], row: &[u8]) -> i32 {
    let n = query.len().min(row.len());
    let (query, row) = (query.as_ptr(), row.as_ptr());
    let mut sums = [_mm512_setzero_si512(); 2];
    let mut i = 0;
    while i + 64 <= n {
        for (s, sum) in sums.iter_mut().enumerate() {
            // SAFETY: i + 64 <= n, the length of the shorter slice.
            let (q, r) = unsafe {
                (_mm512_loadu_si512(query.add(i + s * 32).cast()), _mm256_loadu_si256(row.add(i + s * 32).cast()))
            };
            *sum = _mm512_dpwssd_epi32(*sum, q, _mm512_cvtepi8_epi16(r));
        }
        i += 64;
    }
    for sum in &mut sums {
        if i < n {
            let mask = (u64::MAX >> (64 - (n - i).min(32))) as u32;
            // SAFETY: the mask admits at most the n − i numbers that are left; what is masked out is not touched.
            let (q, r) = unsafe {
                (_mm512_maskz_loadu_epi16(mask, query.add(i)), _mm256_maskz_loadu_epi8(mask, row.add(i).cast()))
            };
            *sum = _mm512_dpwssd_epi32(*sum, q, _mm512_cvtepi8_epi16(r));
            i += 32;
        }
    }
    _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1]))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn dots_i8_wide(query: &[i16], rows: &[&[u8]], out: &mut [i32]) {
    for (row, out) in rows.iter().zip(out) {
        *out = dot_i8_wide(query, row);
    }
}
