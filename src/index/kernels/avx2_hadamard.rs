//! The Walsh–Hadamard transform with AVX2, 64 numbers in registers at a time. Called through the table of `avx2`.

use super::body;
use super::hadamard::define_hadamard;
use std::arch::x86_64::*;

pub(super) fn hadamard(values: &mut [f32]) {
    // SAFETY: the table of `avx2` is handed out only where the machine has it.
    unsafe { hadamard_wide(values) }
}

define_hadamard!(
    hadamard_wide, "avx2", __m256, width: 8, registers: 8,
    _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_add_ps, _mm256_sub_ps, _mm256_mul_ps, within
);

/// The stages 1, 2 and 4: each number plus its partner, the upper one negated (x − y is x + (−y) to the bit).
#[target_feature(enable = "avx2")]
#[inline]
fn within(v: __m256) -> __m256 {
    let ones = _mm256_setr_ps(0.0, -0.0, 0.0, -0.0, 0.0, -0.0, 0.0, -0.0);
    let twos = _mm256_setr_ps(0.0, 0.0, -0.0, -0.0, 0.0, 0.0, -0.0, -0.0);
    let fours = _mm256_setr_ps(0.0, 0.0, 0.0, 0.0, -0.0, -0.0, -0.0, -0.0);
    let v = _mm256_add_ps(_mm256_permute_ps::<0b10_11_00_01>(v), _mm256_xor_ps(v, ones));
    let v = _mm256_add_ps(_mm256_permute_ps::<0b01_00_11_10>(v), _mm256_xor_ps(v, twos));
    _mm256_add_ps(_mm256_permute2f128_ps::<1>(v, v), _mm256_xor_ps(v, fours))
}
