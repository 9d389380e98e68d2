//! The definition of every kernel that is elementwise or a fixed-lane reduction, written once as plain loops. Each is inlined
//! into the scalar table as it stands and into the AVX2 table under `target_feature`: the compiler may widen the loops but never
//! reorders or fuses f32 operations, so both give the same bits. Called by `scalar` and `avx2` only.

use super::{BLOCK_ROWS, LANES, ROUND_SIGNED, SUBSPACE_CODES, ScanInput, ScanQuery, order_bits};

/// Folds 32 lanes in a fixed tree: 16 + 16, 8 + 8, 4 + 4, 2 + 2, 1 + 1.
#[inline(always)]
pub(super) fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Sums `term(a[i], b[i])` over 32 lanes; the tail counts as padded with zeros (each term of zeros is +0).
#[inline(always)]
fn reduce(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    let mut lanes = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_tail, b_tail) = (a_chunks.remainder(), b_chunks.remainder());
    for (x, y) in a_chunks.zip(b_chunks) {
        for i in 0..LANES {
            lanes[i] += term(x[i], y[i]);
        }
    }
    for (lane, (x, y)) in lanes.iter_mut().zip(a_tail.iter().zip(b_tail)) {
        *lane += term(*x, *y);
    }
    fold(lanes)
}

#[inline(always)]
pub(super) fn l2(a: &[f32], b: &[f32]) -> f32 {
    reduce(a, b, |x, y| {
        let d = x - y;
        d * d
    })
}

#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    reduce(a, b, |x, y| x * y)
}

#[inline(always)]
pub(super) fn l1(a: &[f32], b: &[f32]) -> f32 {
    reduce(a, b, |x, y| (x - y).abs())
}

/// Σ |(q − c) − scale · row|: L1 to a row stored as an int8 residual of `c`.
#[inline(always)]
pub(super) fn l1_i8(query: &[f32], centroid: &[f32], row: &[u8], scale: f32) -> f32 {
    let n = query.len().min(centroid.len()).min(row.len());
    let (query, centroid, row) = (&query[..n], &centroid[..n], &row[..n]);
    let mut lanes = [0f32; LANES];
    let whole = n / LANES * LANES;
    let mut start = 0;
    while start < whole {
        let (q, c, r) = (&query[start..start + LANES], &centroid[start..start + LANES], &row[start..start + LANES]);
        for i in 0..LANES {
            lanes[i] += ((q[i] - c[i]) - f32::from(r[i] as i8) * scale).abs();
        }
        start += LANES;
    }
    for i in whole..n {
        lanes[i - whole] += ((query[i] - centroid[i]) - f32::from(row[i] as i8) * scale).abs();
    }
    fold(lanes)
}

/// Σ query[i] · row[i] in integers (any order gives the same sum).
#[inline(always)]
pub(super) fn dot_i8(query: &[i16], row: &[u8]) -> i32 {
    query.iter().zip(row).map(|(&q, &r)| i32::from(q) * i32::from(r as i8)).sum()
}

/// Rounds `values / step` to the bits of int8 numbers, `step` such that the largest is ±127; returns `step` (0 for zeros, and where
/// a step cannot be had in f32).
#[inline(always)]
pub(super) fn to_bytes(values: &[f32], bytes: &mut [u8]) -> f32 {
    let largest = largest(values);
    if largest == 0.0 || !(127.0 / largest).is_finite() || !largest.is_finite() {
        bytes.fill(0);
        return 0.0;
    }
    let scale = 127.0 / largest;
    bytes.iter_mut().zip(values).for_each(|(b, v)| *b = (v * scale + ROUND_SIGNED).to_bits() as u8);
    largest / 127.0
}

/// The largest absolute value (0 of none), what is no number left out. Any order gives the same.
#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            let size = chunk[i].abs();
            lanes[i] = if size > lanes[i] { size } else { lanes[i] };
        }
    }
    lanes
        .iter()
        .copied()
        .chain(tail.iter().map(|v| v.abs()))
        .fold(0.0, |most, size| if size > most { size } else { most })
}

/// The Walsh–Hadamard transform of `values` (a power of two long), scaled to keep lengths.
#[inline(always)]
pub(super) fn hadamard(values: &mut [f32]) {
    let n = values.len();
    let mut half = 1;
    while half < n {
        for pair in values.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (x, y) in low.iter_mut().zip(high) {
                (*x, *y) = (*x + *y, *x - *y);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (n as f32).sqrt();
    for v in values {
        *v *= scale;
    }
}

/// The nearest of the 16 codewords `book[t * 16 + code]` to `x` (ties: the lowest code).
#[inline(always)]
pub(super) fn nearest_code(book: &[f32], x: &[f32]) -> u8 {
    let mut sums = [0f32; SUBSPACE_CODES];
    for (words, &v) in book.chunks_exact(SUBSPACE_CODES).zip(x) {
        for j in 0..SUBSPACE_CODES {
            let d = v - words[j];
            sums[j] += d * d;
        }
    }
    let mut best = 0;
    for j in 1..SUBSPACE_CODES {
        if sums[j] < sums[best] {
            best = j;
        }
    }
    best as u8
}

/// `out[code] = Σ_t x[t] · book[t * 16 + code]`, t in order.
#[inline(always)]
pub(super) fn code_dots(book: &[f32], x: &[f32], out: &mut [f32; SUBSPACE_CODES]) {
    *out = [0f32; SUBSPACE_CODES];
    for (words, &v) in book.chunks_exact(SUBSPACE_CODES).zip(x) {
        for j in 0..SUBSPACE_CODES {
            out[j] += v * words[j];
        }
    }
}

/// The block scan of tables that collect row by row: `estimate` writes the
/// estimates of a block's rows, whose bytes it is given, and gives the bits of those not above the threshold.
#[inline(always)]
pub(super) fn scan(
    input: &ScanInput<'_>,
    query: &mut ScanQuery<'_>,
    first_block: usize,
    estimate: impl Fn(&ScanQuery<'_>, &[u8], &mut [f32; BLOCK_ROWS]) -> u32,
) -> usize {
    let bytes = input.check(query);
    let mut estimates = [0f32; BLOCK_ROWS];
    let mut block = first_block;
    while block < input.live.len() && query.room() >= BLOCK_ROWS {
        input.prefetch_after(block, bytes);
        let (codes, live) = (&input.blocks[block * bytes..(block + 1) * bytes], input.live[block]);
        if live != 0 {
            let mut kept = estimate(query, codes, &mut estimates) & live;
            let first = query.position + (block * BLOCK_ROWS) as u32;
            while kept != 0 {
                let row = kept.trailing_zeros();
                kept &= kept - 1;
                query.out.keys[query.written] = order_bits(estimates[row as usize]);
                query.out.positions[query.written] = first + row;
                query.written += 1;
            }
        }
        block += 1;
    }
    block
}

#[inline(always)]
pub(super) fn count_at_most(keys: &[u32], limit: u32) -> usize {
    // u32 counts fill registers; a slice longer than that is none of ours.
    keys.chunks(1 << 30).map(|keys| keys.iter().map(|&key| u32::from(key <= limit)).sum::<u32>() as usize).sum()
}

/// Writes every one and advances only past those kept: no branch to guess wrong.
#[inline(always)]
pub(super) fn keep_at_most(keys: &mut [u32], others: &mut [u32], limit: u32) -> usize {
    let others = &mut others[..keys.len()];
    let mut kept = 0;
    for i in 0..keys.len() {
        let (key, other) = (keys[i], others[i]);
        keys[kept] = key;
        others[kept] = other;
        kept += usize::from(key <= limit);
    }
    kept
}
