//! The Hadamard transform with NEON, 64 numbers in registers at a time. The same bits as `scalar`. Called through the table of `neon`, where the SAFETY argument of the calls stands.

use super::hadamard::define_hadamard;
use super::neon::with_neon;
use super::*;
use std::arch::aarch64::*;

with_neon!(hadamard, hadamard_wide, (values: &mut [f32]));

define_hadamard!(
    hadamard_wide, "neon", float32x4_t, width: 4, registers: 16,
    vld1q_f32, vst1q_f32, vdupq_n_f32, vaddq_f32, vsubq_f32, vmulq_f32, within
);

/// The stages 1 and 2: each number plus its partner, the upper one negated (x − y is x + (−y) to the bit).
#[target_feature(enable = "neon")]
#[inline]
fn within(v: float32x4_t) -> float32x4_t {
    const ONES: [u32; 4] = [0, 1 << 31, 0, 1 << 31];
    const TWOS: [u32; 4] = [0, 0, 1 << 31, 1 << 31];
    let v = vaddq_f32(vrev64q_f32(v), negated(v, &ONES));
    vaddq_f32(vextq_f32::<2>(v, v), negated(v, &TWOS))
}

#[target_feature(enable = "neon")]
#[inline]
fn negated(v: float32x4_t, signs: &[u32; 4]) -> float32x4_t {
    // SAFETY: four numbers.
    let signs = unsafe { vld1q_u32(signs.as_ptr()) };
    vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(v), signs))
}
