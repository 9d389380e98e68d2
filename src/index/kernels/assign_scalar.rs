//! The definition of the int8 assignment kernels. A column's score for a row is `base + (factor · row step) · column step · dot`,
//! where `dot` is the sum of products of their int8 numbers, exact, then rounded to f32. Called through the table `scalar`.

use super::bytes::{BytePanels, ByteRows, COLUMN_OFFSET, Nearest};
use std::ops::Range;

const W: usize = BytePanels::WIDTH;

/// Updates `nearest[i]` for each row `i` of `picked` with the columns of some panels, in order: a column takes its place's from
/// the one before if its score (factor −2) is less. A score that is no number never does.
pub(super) fn nearest_i8(
    panels: &BytePanels,
    span: Range<usize>,
    rows: &ByteRows,
    picked: &[u32],
    nearest: &mut [Nearest],
) {
    panels.check(rows);
    for panel in span {
        for &i in picked {
            let scores = panel_scores(panels, panel, rows, i as usize, -2.0);
            let held = &mut nearest[i as usize];
            for (lane, score) in scores.into_iter().enumerate() {
                if score < held.scores[lane] {
                    held.scores[lane] = score;
                    held.columns[lane] = (panel * W + lane) as u32;
                }
            }
        }
    }
}

/// `out` gets the score of every padded column for every row, row by row.
pub(super) fn scores_i8(panels: &BytePanels, rows: &ByteRows, factor: f32, out: &mut [f32]) {
    panels.check(rows);
    assert_eq!(out.len(), rows.len() * panels.columns_padded(), "a score for each row and column");
    for (i, out) in out.chunks_exact_mut(panels.columns_padded().max(1)).enumerate() {
        for (panel, out) in out.chunks_exact_mut(W).enumerate() {
            out.copy_from_slice(&panel_scores(panels, panel, rows, i, factor));
        }
    }
}

fn panel_scores(panels: &BytePanels, panel: usize, rows: &ByteRows, row: usize, factor: f32) -> [f32; W] {
    let lines = &panels.lines[panel * panels.quads()..(panel + 1) * panels.quads()];
    let mut dots = [0i32; W];
    for (line, quad) in lines.iter().zip(rows.row(row).chunks_exact(4)) {
        for (column, dot) in line.0.chunks_exact(4).zip(&mut dots) {
            for t in 0..4 {
                *dot += (i32::from(column[t]) - COLUMN_OFFSET) * i32::from(quad[t] as i8);
            }
        }
    }
    let factor = factor * rows.step(row);
    let (steps, bases) = (&panels.steps[panel * W..(panel + 1) * W], &panels.bases[panel * W..(panel + 1) * W]);
    std::array::from_fn(|lane| bases[lane] + factor * steps[lane] * dots[lane] as f32)
}
