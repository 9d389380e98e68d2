//! The int8 assignment kernels with AVX2: bytes widened to i16, multiplied and added in pairs. A tile of 3 rows × 16 columns keeps
//! 12 sums in registers. The same bits as `assign_scalar`: sums of integers, then the same three f32 steps.
//!
//! Every function here is reached through the table `avx2` alone, which `available` hands out only after detection: that is the
//! SAFETY argument of the two calls into `target_feature` functions.

use super::bytes::{BytePanels, ByteSlice, Nearest};
use std::arch::x86_64::*;
use std::ops::Range;

const W: usize = BytePanels::WIDTH;
/// Rows of a tile.
const ROWS: usize = 3;

pub(super) fn nearest_i8(
    panels: &BytePanels,
    span: Range<usize>,
    rows: ByteSlice<'_>,
    picked: &[u32],
    nearest: &mut [Nearest],
) {
    // SAFETY: the machine has AVX2 (see the head of this file).
    unsafe { nearest_wide(panels, span, rows, picked, nearest) }
}

pub(super) fn scores_i8(panels: &BytePanels, rows: ByteSlice<'_>, factor: f32, out: &mut [f32]) {
    // SAFETY: the machine has AVX2 (see the head of this file).
    unsafe { scores_wide(panels, rows, factor, out) }
}

#[target_feature(enable = "avx2")]
fn nearest_wide(panels: &BytePanels, span: Range<usize>, rows: ByteSlice<'_>, picked: &[u32], nearest: &mut [Nearest]) {
    panels.check(rows);
    let wide = widened(rows, picked);
    for panel in span {
        let first = _mm256_set1_epi32((panel * W) as i32);
        let lanes = _mm256_add_epi32(first, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        let names = [lanes, _mm256_add_epi32(lanes, _mm256_set1_epi32(8))];
        for (tile, wide) in picked.chunks(ROWS).zip(wide.chunks(ROWS * rows.stride())) {
            let scores = tile_scores::<ROWS>(panels, panel, rows, tile, wide, -2.0);
            for (&i, scores) in tile.iter().zip(&scores) {
                let held = &mut nearest[i as usize];
                for h in 0..2 {
                    // SAFETY: both arrays hold 16 numbers of 4 bytes.
                    unsafe {
                        let (best, columns) =
                            (held.scores.as_mut_ptr().add(h * 8), held.columns.as_mut_ptr().add(h * 8));
                        let best_before = _mm256_loadu_ps(best);
                        let less = _mm256_cmp_ps::<_CMP_LT_OQ>(scores[h], best_before);
                        _mm256_storeu_ps(best, _mm256_blendv_ps(best_before, scores[h], less));
                        let before = _mm256_loadu_si256(columns.cast());
                        let after = _mm256_blendv_epi8(before, names[h], _mm256_castps_si256(less));
                        _mm256_storeu_si256(columns.cast(), after);
                    }
                }
            }
        }
    }
}

#[target_feature(enable = "avx2")]
fn scores_wide(panels: &BytePanels, rows: ByteSlice<'_>, factor: f32, out: &mut [f32]) {
    panels.check(rows);
    assert_eq!(out.len(), rows.len() * panels.columns_padded(), "a score for each row and column");
    let all: Vec<u32> = (0..rows.len() as u32).collect();
    let wide = widened(rows, &all);
    // A single query would pay for a whole tile of rows.
    if rows.len() < ROWS {
        scores_tiled::<1>(panels, rows, (&all, &wide), factor, out);
    } else {
        scores_tiled::<ROWS>(panels, rows, (&all, &wide), factor, out);
    }
}

/// Panel by panel, R rows together.
#[target_feature(enable = "avx2")]
#[inline]
fn scores_tiled<const R: usize>(
    panels: &BytePanels,
    rows: ByteSlice<'_>,
    (all, wide): (&[u32], &[i16]),
    factor: f32,
    out: &mut [f32],
) {
    for panel in 0..panels.panels() {
        for (tile, wide) in all.chunks(R).zip(wide.chunks(R * rows.stride())) {
            let scores = tile_scores::<R>(panels, panel, rows, tile, wide, factor);
            for (&i, scores) in tile.iter().zip(&scores) {
                let out = &mut out[i as usize * panels.columns_padded() + panel * W..][..W];
                // SAFETY: `out` has 16 numbers.
                unsafe {
                    _mm256_storeu_ps(out.as_mut_ptr(), scores[0]);
                    _mm256_storeu_ps(out.as_mut_ptr().add(8), scores[1]);
                }
            }
        }
    }
}

/// The rows picked, in i16.
fn widened(rows: ByteSlice<'_>, picked: &[u32]) -> Vec<i16> {
    let mut wide = Vec::with_capacity(picked.len() * rows.stride());
    picked.iter().for_each(|&i| wide.extend(rows.row(i as usize).iter().map(|&b| i16::from(b as i8))));
    wide
}

/// The scores of up to R rows (what is missing repeats the last) for the columns of a panel.
#[target_feature(enable = "avx2")]
#[inline]
fn tile_scores<const R: usize>(
    panels: &BytePanels,
    panel: usize,
    rows: ByteSlice<'_>,
    tile: &[u32],
    wide: &[i16],
    factor: f32,
) -> [[__m256; 2]; R] {
    let sums = tile_sums::<R>(panels, panel, rows.stride(), wide);
    let (steps, bases) = (&panels.steps[panel * W..(panel + 1) * W], &panels.bases[panel * W..(panel + 1) * W]);
    std::array::from_fn(|r| {
        let row = tile[r.min(tile.len() - 1)] as usize;
        let factor = _mm256_set1_ps(factor * rows.step(row));
        let bias = _mm256_set1_epi32(rows.bias(row));
        std::array::from_fn(|h| {
            // Each column has two sums side by side; the horizontal addition leaves columns 0 1 4 5 2 3 6 7.
            let mixed = _mm256_hadd_epi32(sums[r][2 * h], sums[r][2 * h + 1]);
            let dots = _mm256_add_epi32(_mm256_permute4x64_epi64::<0b11_01_10_00>(mixed), bias);
            // SAFETY: 16 numbers each.
            let (step, base) =
                unsafe { (_mm256_loadu_ps(steps.as_ptr().add(h * 8)), _mm256_loadu_ps(bases.as_ptr().add(h * 8))) };
            _mm256_add_ps(base, _mm256_mul_ps(_mm256_mul_ps(factor, step), _mm256_cvtepi32_ps(dots)))
        })
    })
}

/// Of each row and four columns at a time, the sums of products of even and of odd pairs of dimensions, side by side.
#[target_feature(enable = "avx2")]
#[inline]
fn tile_sums<const R: usize>(panels: &BytePanels, panel: usize, stride: usize, wide: &[i16]) -> [[__m256i; 4]; R] {
    let quads = panels.quads();
    let lines = &panels.lines[panel * quads..(panel + 1) * quads];
    assert!(stride == quads * 4 && wide.len() >= stride && wide.len().is_multiple_of(stride));
    let last = wide.len() / stride - 1;
    let starts: [*const i16; R] = std::array::from_fn(|r| wide[r.min(last) * stride..].as_ptr());
    let mut sums = [[_mm256_setzero_si256(); 4]; R];
    for (q, line) in lines.iter().enumerate() {
        // SAFETY: q < quads: each row has quads · 4 numbers; a line has 64 bytes, of which k < 4 takes 16.
        unsafe {
            let quad: [__m256i; R] =
                std::array::from_fn(|r| _mm256_set1_epi64x(starts[r].add(q * 4).cast::<i64>().read_unaligned()));
            let columns: [__m256i; 4] =
                std::array::from_fn(|k| _mm256_cvtepu8_epi16(_mm_load_si128(line.0.as_ptr().add(k * 16).cast())));
            for (sums, &quad) in sums.iter_mut().zip(&quad) {
                for (sum, &columns) in sums.iter_mut().zip(&columns) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(columns, quad));
                }
            }
        }
    }
    sums
}
