//! The kernels with NEON, on a 64-bit ARM: rows against rows here, the Hadamard transform in `neon_columns`, blocks in `neon_scan`. The same bits
//! as `scalar`, which the tests check. What is plain loops over 16 fixed numbers is left to the compiler, which uses NEON by
//! itself.
//!
//! This file is compiled only for targets to which NEON belongs, so every machine that runs it has the instructions: that is the
//! SAFETY argument of each call of [`with_neon`].

use super::*;
use std::arch::aarch64::*;

pub(super) static KERNELS: Kernels = Kernels {
    name: "neon",
    l2,
    dot,
    l1,
    l1_i8,
    dot_i8,
    dots_i8,
    hadamard: neon_columns::hadamard,
    scan: neon_scan::scan,
    ..scalar::KERNELS
};

/// Defines `$name` as a call of `$wide`, which is compiled with NEON.
macro_rules! with_neon {
    ($name:ident, $wide:path, ($($arg:ident: $ty:ty),*) $(-> $out:ty)?) => {
        pub(super) fn $name($($arg: $ty),*) $(-> $out)? {
            // SAFETY: the machine has NEON (see the head of `neon.rs`).
            unsafe { $wide($($arg),*) }
        }
    };
}
pub(super) use with_neon;

with_neon!(l2, l2_wide, (a: &[f32], b: &[f32]) -> f32);
with_neon!(dot, dot_wide, (a: &[f32], b: &[f32]) -> f32);
with_neon!(l1, l1_wide, (a: &[f32], b: &[f32]) -> f32);
with_neon!(l1_i8, l1_i8_wide, (query: &[f32], centroid: &[f32], row: &[u8], scale: f32) -> f32);
with_neon!(dot_i8, dot_i8_wide, (query: &[i16], row: &[u8]) -> i32);
with_neon!(dots_i8, dots_i8_wide, (query: &[i16], rows: &[&[u8]], out: &mut [i32]));

/// Registers that hold the 32 lanes of a sum.
const REGISTERS: usize = LANES / 4;

/// The tree of `body::fold`: halves of 16, 8, 4, 2, 1.
#[target_feature(enable = "neon")]
#[inline]
fn fold_wide(mut sums: [float32x4_t; REGISTERS]) -> f32 {
    for width in [4, 2, 1] {
        for i in 0..width {
            sums[i] = vaddq_f32(sums[i], sums[i + width]);
        }
    }
    let two = vadd_f32(vget_low_f32(sums[0]), vget_high_f32(sums[0]));
    vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
}

/// Defines a reduction over 32 lanes (eight registers), `$term` of four numbers of each side a step.
macro_rules! reduction {
    ($name:ident, |$x:ident, $y:ident| $term:expr) => {
        #[target_feature(enable = "neon")]
        #[inline]
        fn $name(a: &[f32], b: &[f32]) -> f32 {
            let n = a.len().min(b.len());
            let whole = n / LANES * LANES;
            let mut sums = [vdupq_n_f32(0.0); REGISTERS];
            for start in (0..whole).step_by(LANES) {
                for (s, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: start + 32 <= n, the length of the shorter slice.
                    let ($x, $y) =
                        unsafe { (vld1q_f32(a.as_ptr().add(start + s * 4)), vld1q_f32(b.as_ptr().add(start + s * 4))) };
                    *sum = vaddq_f32(*sum, $term);
                }
            }
            // The tail counts as padded with zeros: their terms are +0, and no sum is ever −0, so adding them changes nothing.
            for (sum, (a, b)) in sums.iter_mut().zip(a[whole..n].chunks(4).zip(b[whole..n].chunks(4))) {
                let ($x, $y) = (padded(a), padded(b));
                *sum = vaddq_f32(*sum, $term);
            }
            fold_wide(sums)
        }
    };
}

reduction!(l2_wide, |x, y| {
    let d = vsubq_f32(x, y);
    vmulq_f32(d, d)
});
reduction!(dot_wide, |x, y| vmulq_f32(x, y));
reduction!(l1_wide, |x, y| vabsq_f32(vsubq_f32(x, y)));

/// At most four numbers, then zeros.
#[target_feature(enable = "neon")]
#[inline]
fn padded(values: &[f32]) -> float32x4_t {
    let mut four = [0f32; 4];
    four[..values.len()].copy_from_slice(values);
    // SAFETY: `four` has four numbers.
    unsafe { vld1q_f32(four.as_ptr()) }
}

/// Eight numbers a step; what is left over is added by the definition's own loop, lane by lane.
#[target_feature(enable = "neon")]
#[inline]
fn l1_i8_wide(query: &[f32], centroid: &[f32], row: &[u8], scale: f32) -> f32 {
    let n = query.len().min(centroid.len()).min(row.len());
    let whole = n / LANES * LANES;
    let mut sums = [vdupq_n_f32(0.0); REGISTERS];
    for start in (0..whole).step_by(LANES) {
        for (e, sums) in sums.chunks_exact_mut(2).enumerate() {
            let at = start + e * 8;
            // SAFETY: at + 8 <= whole, which is at most the length of each slice.
            unsafe {
                let r = vmovl_s8(vreinterpret_s8_u8(vld1_u8(row.as_ptr().add(at))));
                let r = [vmovl_s16(vget_low_s16(r)), vmovl_s16(vget_high_s16(r))];
                for (h, sum) in sums.iter_mut().enumerate() {
                    let (q, c) =
                        (vld1q_f32(query.as_ptr().add(at + h * 4)), vld1q_f32(centroid.as_ptr().add(at + h * 4)));
                    let r = vmulq_n_f32(vcvtq_f32_s32(r[h]), scale);
                    *sum = vaddq_f32(*sum, vabsq_f32(vsubq_f32(vsubq_f32(q, c), r)));
                }
            }
        }
    }
    let mut lanes = [0f32; LANES];
    for (sum, lanes) in sums.iter().zip(lanes.chunks_exact_mut(4)) {
        // SAFETY: a chunk has four numbers.
        unsafe { vst1q_f32(lanes.as_mut_ptr(), *sum) };
    }
    for (lane, i) in lanes.iter_mut().zip(whole..n) {
        *lane += ((query[i] - centroid[i]) - f32::from(row[i] as i8) * scale).abs();
    }
    body::fold(lanes)
}

/// 16 numbers a step: int8 widened to i16, multiplied and added to i32.
#[target_feature(enable = "neon")]
#[inline]
fn dot_i8_wide(query: &[i16], row: &[u8]) -> i32 {
    let n = query.len().min(row.len());
    let whole = n / 16 * 16;
    let mut sums = [vdupq_n_s32(0); 4];
    for i in (0..whole).step_by(16) {
        // SAFETY: i + 16 <= whole <= n, the length of the shorter slice.
        unsafe {
            let r = vreinterpretq_s8_u8(vld1q_u8(row.as_ptr().add(i)));
            let r = [vmovl_s8(vget_low_s8(r)), vmovl_s8(vget_high_s8(r))];
            for (h, r) in r.into_iter().enumerate() {
                let q = vld1q_s16(query.as_ptr().add(i + h * 8));
                sums[2 * h] = vmlal_s16(sums[2 * h], vget_low_s16(q), vget_low_s16(r));
                sums[2 * h + 1] = vmlal_high_s16(sums[2 * h + 1], q, r);
            }
        }
    }
    let sum = vaddq_s32(vaddq_s32(sums[0], sums[1]), vaddq_s32(sums[2], sums[3]));
    vaddvq_s32(sum).wrapping_add(body::dot_i8(&query[whole..n], &row[whole..n]))
}

#[target_feature(enable = "neon")]
#[inline]
fn dots_i8_wide(query: &[i16], rows: &[&[u8]], out: &mut [i32]) {
    for (row, out) in rows.iter().zip(out) {
        *out = dot_i8_wide(query, row);
    }
}
