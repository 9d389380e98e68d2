//! The int8 assignment kernels with AVX-512 VNNI: one instruction multiplies and adds four dimensions of 16 columns. A tile of 6
//! rows × 4 panels keeps 24 sums in registers. The same bits as `assign_scalar`: sums of integers, then the same three f32 steps.
//!
//! Every function here is reached through the table `avx512` alone, which `available` hands out only after detection: that is
//! the SAFETY argument of the two calls into `target_feature` functions.

use super::bytes::{BytePanels, ByteSlice, Line, Nearest};
use std::arch::x86_64::*;
use std::ops::Range;

const W: usize = BytePanels::WIDTH;
/// Rows and panels of a tile.
const ROWS: usize = 6;
const PANELS: usize = 4;

pub(super) fn nearest_i8(
    panels: &BytePanels,
    span: Range<usize>,
    rows: ByteSlice<'_>,
    picked: &[u32],
    nearest: &mut [Nearest],
) {
    // SAFETY: the machine has AVX-512 VNNI (see the head of this file).
    unsafe { nearest_wide(panels, span, rows, picked, nearest) }
}

pub(super) fn scores_i8(panels: &BytePanels, rows: ByteSlice<'_>, factor: f32, out: &mut [f32]) {
    // SAFETY: the machine has AVX-512 VNNI (see the head of this file).
    unsafe { scores_wide(panels, rows, factor, out) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn nearest_wide(panels: &BytePanels, span: Range<usize>, rows: ByteSlice<'_>, picked: &[u32], nearest: &mut [Nearest]) {
    panels.check(rows);
    for first in span.clone().step_by(PANELS) {
        for tile in picked.chunks(ROWS) {
            match span.end - first {
                1 => nearest_tile::<1>(panels, first, rows, tile, nearest),
                2 => nearest_tile::<2>(panels, first, rows, tile, nearest),
                3 => nearest_tile::<3>(panels, first, rows, tile, nearest),
                _ => nearest_tile::<PANELS>(panels, first, rows, tile, nearest),
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn nearest_tile<const P: usize>(
    panels: &BytePanels,
    first: usize,
    rows: ByteSlice<'_>,
    tile: &[u32],
    nearest: &mut [Nearest],
) {
    let sums = tile_dots::<ROWS, P>(panels, first, rows, tile);
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let [steps, bases] = columns::<P>(panels, first);
    for (&i, sums) in tile.iter().zip(&sums) {
        let factor = _mm512_set1_ps(-2.0 * rows.step(i as usize));
        let held = &mut nearest[i as usize];
        // SAFETY: both arrays hold 16 numbers of 4 bytes.
        unsafe {
            let mut scores = _mm512_loadu_ps(held.scores.as_ptr());
            let mut columns = _mm512_loadu_si512(held.columns.as_ptr().cast());
            for p in 0..P {
                let score = score(bases[p], factor, steps[p], sums[p]);
                let less = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(score, scores);
                scores = _mm512_mask_mov_ps(scores, less, score);
                let names = _mm512_add_epi32(lanes, _mm512_set1_epi32(((first + p) * W) as i32));
                columns = _mm512_mask_mov_epi32(columns, less, names);
            }
            _mm512_storeu_ps(held.scores.as_mut_ptr(), scores);
            _mm512_storeu_si512(held.columns.as_mut_ptr().cast(), columns);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn scores_wide(panels: &BytePanels, rows: ByteSlice<'_>, factor: f32, out: &mut [f32]) {
    panels.check(rows);
    assert_eq!(out.len(), rows.len() * panels.columns_padded(), "a score for each row and column");
    // A single query would pay for a whole tile of rows.
    let step = if rows.len() < ROWS { 1 } else { ROWS };
    for first in (0..panels.panels()).step_by(PANELS) {
        for row in (0..rows.len()).step_by(step) {
            let tile: [u32; ROWS] = std::array::from_fn(|r| (row + r) as u32);
            let tile = &tile[..step.min(rows.len() - row)];
            match (step, panels.panels() - first) {
                (1, 1) => scores_tile::<1, 1>(panels, first, rows, tile, factor, out),
                (1, 2) => scores_tile::<1, 2>(panels, first, rows, tile, factor, out),
                (1, 3) => scores_tile::<1, 3>(panels, first, rows, tile, factor, out),
                (1, _) => scores_tile::<1, PANELS>(panels, first, rows, tile, factor, out),
                (_, 1) => scores_tile::<ROWS, 1>(panels, first, rows, tile, factor, out),
                (_, 2) => scores_tile::<ROWS, 2>(panels, first, rows, tile, factor, out),
                (_, 3) => scores_tile::<ROWS, 3>(panels, first, rows, tile, factor, out),
                _ => scores_tile::<ROWS, PANELS>(panels, first, rows, tile, factor, out),
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn scores_tile<const R: usize, const P: usize>(
    panels: &BytePanels,
    first: usize,
    rows: ByteSlice<'_>,
    tile: &[u32],
    factor: f32,
    out: &mut [f32],
) {
    let sums = tile_dots::<R, P>(panels, first, rows, tile);
    let [steps, bases] = columns::<P>(panels, first);
    for (&i, sums) in tile.iter().zip(&sums) {
        let factor = _mm512_set1_ps(factor * rows.step(i as usize));
        let out = &mut out[i as usize * panels.columns_padded() + first * W..][..P * W];
        for p in 0..P {
            // SAFETY: `out` has P · 16 numbers.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr().add(p * W), score(bases[p], factor, steps[p], sums[p])) };
        }
    }
}

/// `base + factor · step · dot` of 16 columns.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn score(base: __m512, factor: __m512, step: __m512, dot: __m512i) -> __m512 {
    _mm512_add_ps(base, _mm512_mul_ps(_mm512_mul_ps(factor, step), _mm512_cvtepi32_ps(dot)))
}

/// Steps and bases of the columns of P panels.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn columns<const P: usize>(panels: &BytePanels, first: usize) -> [[__m512; P]; 2] {
    [&panels.steps, &panels.bases].map(|numbers| {
        let numbers = &numbers[first * W..(first + P) * W];
        // SAFETY: P · 16 numbers.
        std::array::from_fn(|p| unsafe { _mm512_loadu_ps(numbers.as_ptr().add(p * W)) })
    })
}

/// The exact products of up to R rows (what is missing repeats the last) with the columns of P panels.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn tile_dots<const R: usize, const P: usize>(
    panels: &BytePanels,
    first: usize,
    rows: ByteSlice<'_>,
    tile: &[u32],
) -> [[__m512i; P]; R] {
    let quads = panels.quads();
    let lines: &[Line] = &panels.lines[first * quads..(first + P) * quads];
    let names: [usize; R] = std::array::from_fn(|r| tile[r.min(tile.len() - 1)] as usize);
    let starts = names.map(|i| rows.row(i).as_ptr());
    let mut sums = names.map(|i| [_mm512_set1_epi32(rows.bias(i)); P]);
    for q in 0..quads {
        // SAFETY: q < quads: `lines` has P · quads lines, 64 bytes each and aligned to 64; each row has quads · 4 bytes.
        unsafe {
            let columns: [__m512i; P] =
                std::array::from_fn(|p| _mm512_load_si512(lines.as_ptr().add(p * quads + q).cast()));
            for (start, sums) in starts.iter().zip(&mut sums) {
                let quad = _mm512_set1_epi32(start.add(q * 4).cast::<i32>().read_unaligned());
                for (sum, &column) in sums.iter_mut().zip(&columns) {
                    *sum = _mm512_dpbusd_epi32(*sum, column, quad);
                }
            }
        }
    }
    sums
}
