//! The kernels over columns with NEON: scores, assignment and the Hadamard transform (64 numbers in registers at a time). The same
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
with_neon!(assign, assign_wide, (panels: &Panels, rows: &[f32], nearest: &mut [u32]));

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
    assert!(panels.data.len() == base.len() * d && base.len() % W == 0);
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

/// Rows of the assignment's register tile: 4 rows × 16 columns are 16 registers of sums.
const TILE_ROWS: usize = 4;
/// Rows that share a panel while it is in cache.
const BATCH_ROWS: usize = 24 * TILE_ROWS;

#[target_feature(enable = "neon")]
fn assign_wide(panels: &Panels, rows: &[f32], nearest: &mut [u32]) {
    let d = panels.dimension;
    assert_eq!(panels.data.len(), panels.norms.len() * d);
    assert_eq!(rows.len(), nearest.len() * d);
    let mut padded = vec![0f32; TILE_ROWS * d];
    for (rows, nearest) in rows.chunks(BATCH_ROWS * d).zip(nearest.chunks_mut(BATCH_ROWS)) {
        assign_batch(panels, rows, nearest, &mut padded);
    }
}

/// The least score so far of each lane of a row, and its column.
#[derive(Clone, Copy)]
struct Best {
    score: [float32x4_t; REGISTERS],
    column: [uint32x4_t; REGISTERS],
}

#[target_feature(enable = "neon")]
fn assign_batch(panels: &Panels, rows: &[f32], nearest: &mut [u32], padded: &mut [f32]) {
    let d = panels.dimension;
    let start = Best { score: [vdupq_n_f32(f32::INFINITY); REGISTERS], column: [vdupq_n_u32(0); REGISTERS] };
    let mut best = [start; BATCH_ROWS];
    for (panel, norms) in panels.norms.chunks_exact(W).enumerate() {
        let columns = &panels.data[panel * d * W..(panel + 1) * d * W];
        let norms = load_columns(norms);
        for (tile, best) in rows.chunks(TILE_ROWS * d).zip(best.chunks_mut(TILE_ROWS)) {
            let tile = if tile.len() == TILE_ROWS * d {
                tile
            } else {
                padded[..tile.len()].copy_from_slice(tile);
                &*padded
            };
            for (sums, best) in tile_dots(columns, tile, d).iter().zip(best) {
                improve(best, &norms, sums, panel);
            }
        }
    }
    for (best, nearest) in best.iter().zip(nearest) {
        *nearest = least(best);
    }
}

/// Takes in a panel's scores of one row, `norm − 2 · product`.
#[target_feature(enable = "neon")]
#[inline]
fn improve(best: &mut Best, norms: &[float32x4_t; REGISTERS], sums: &[float32x4_t; REGISTERS], panel: usize) {
    const FIRST: [u32; 4] = [0, 1, 2, 3];
    for r in 0..REGISTERS {
        let score = vaddq_f32(norms[r], vmulq_n_f32(sums[r], -2.0));
        let less = vcltq_f32(score, best.score[r]);
        // SAFETY: four numbers.
        let names = unsafe { vaddq_u32(vld1q_u32(FIRST.as_ptr()), vdupq_n_u32((panel * W + r * 4) as u32)) };
        best.score[r] = vbslq_f32(less, score, best.score[r]);
        best.column[r] = vbslq_u32(less, names, best.column[r]);
    }
}

/// Inner products of the tile's rows with the 16 columns of a panel, dimensions in order.
#[target_feature(enable = "neon")]
#[inline]
fn tile_dots(columns: &[f32], tile: &[f32], d: usize) -> [[float32x4_t; REGISTERS]; TILE_ROWS] {
    assert!(tile.len() == TILE_ROWS * d && columns.len() == d * W);
    let mut sums = [[vdupq_n_f32(0.0); REGISTERS]; TILE_ROWS];
    for (t, column) in columns.chunks_exact(W).enumerate() {
        let column = load_columns(column);
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: r < TILE_ROWS and t < d, so the number lies in `tile`, by the assert.
            let x = unsafe { *tile.as_ptr().add(r * d + t) };
            for (sum, column) in sums.iter_mut().zip(column) {
                *sum = vaddq_f32(*sum, vmulq_n_f32(column, x));
            }
        }
    }
    sums
}

/// The column of the least score over the lanes (ties: the lowest column).
#[target_feature(enable = "neon")]
fn least(best: &Best) -> u32 {
    let (mut scores, mut columns) = ([0f32; W], [0u32; W]);
    for r in 0..REGISTERS {
        // SAFETY: both arrays have 16 numbers.
        unsafe {
            vst1q_f32(scores.as_mut_ptr().add(r * 4), best.score[r]);
            vst1q_u32(columns.as_mut_ptr().add(r * 4), best.column[r]);
        }
    }
    let (mut score, mut column) = (f32::INFINITY, 0);
    for (&s, &c) in scores.iter().zip(&columns) {
        if s < score || (s == score && s < f32::INFINITY && c < column) {
            (score, column) = (s, c);
        }
    }
    column
}
