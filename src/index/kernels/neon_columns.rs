//! The kernels over columns with NEON: scores and the Hadamard transform (64 numbers in registers at a time). The same
//! bits as `scalar`. Called through the table of `neon`, where the SAFETY argument of the calls stands.

use super::hadamard::define_hadamard;
use super::neon::with_neon;
use super::*;
use std::arch::aarch64::*;

const W: usize = Panels::WIDTH;
/// Registers that hold a number of each column of a panel.
const REGISTERS: usize = W / 4;

with_neon!(hadamard, hadamard_wide, (values: &mut [f32]));
with_neon!(scores, scores_wide, (panels: &Panels, query: &[f32], base: &[f32], factor: f32, out: &mut [f32]));

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

/// A number of each of the 16 columns of a panel.
#[target_feature(enable = "neon")]
#[inline]
fn load_columns(values: &[f32]) -> [float32x4_t; REGISTERS] {
    assert!(values.len() >= W);
    // SAFETY: 16 numbers, by the assert.
    [0, 4, 8, 12].map(|at| unsafe { vld1q_f32(values.as_ptr().add(at)) })
}

/// Four panels a step, so that sixteen sums hide the latency of the additions.
#[target_feature(enable = "neon")]
fn scores_wide(panels: &Panels, query: &[f32], base: &[f32], factor: f32, out: &mut [f32]) {
    const STEP: usize = 4;
    let d = panels.dimension;
    assert!(query.len() == d && base.len() == panels.norms.len() && out.len() == base.len());
    assert!(panels.data.len() == base.len() * d && base.len().is_multiple_of(W));
    let steps = panels.data.chunks(STEP * d * W).zip(base.chunks(STEP * W)).zip(out.chunks_mut(STEP * W));
    for ((columns, base), out) in steps {
        if base.len() == STEP * W {
            score_panels::<STEP>(columns, query, base, factor, out);
        } else {
            for ((columns, base), out) in columns.chunks(d * W).zip(base.chunks(W)).zip(out.chunks_mut(W)) {
                score_panels::<1>(columns, query, base, factor, out);
            }
        }
    }
}

#[target_feature(enable = "neon")]
#[inline]
fn score_panels<const N: usize>(columns: &[f32], query: &[f32], base: &[f32], factor: f32, out: &mut [f32]) {
    let d = query.len();
    assert!(columns.len() == N * d * W && base.len() == N * W && out.len() == N * W);
    let mut sums = [[vdupq_n_f32(0.0); REGISTERS]; N];
    for (t, &q) in query.iter().enumerate() {
        for (s, sums) in sums.iter_mut().enumerate() {
            for (r, sum) in sums.iter_mut().enumerate() {
                // SAFETY: s < N and t < d, so the four numbers lie in `columns`, by the assert.
                let column = unsafe { vld1q_f32(columns.as_ptr().add((s * d + t) * W + r * 4)) };
                *sum = vaddq_f32(*sum, vmulq_n_f32(column, q));
            }
        }
    }
    for (at, &sum) in sums.iter().flatten().enumerate() {
        // SAFETY: `base` and `out` have 4 numbers for each of the N · 4 registers.
        unsafe {
            let score = vaddq_f32(vld1q_f32(base.as_ptr().add(at * 4)), vmulq_n_f32(sum, factor));
            vst1q_f32(out.as_mut_ptr().add(at * 4), score);
        }
    }
}
