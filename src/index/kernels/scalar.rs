//! The definition of every kernel: plain Rust, no intrinsics. What every other table must match bit for bit.
//! Called through the table [`KERNELS`].

use super::*;

pub(super) static KERNELS: Kernels = Kernels {
    name: "scalar",
    l2,
    dot,
    l1,
    l1_i8,
    dot_i8,
    dots_i8,
    hadamard,
    nearest_code,
    code_dots,
    to_bytes,
    nearest_i8: assign_scalar::nearest_i8,
    scores_i8: assign_scalar::scores_i8,
    scan,
    count_at_most: body::count_at_most,
    keep_at_most: body::keep_at_most,
};

fn l2(a: &[f32], b: &[f32]) -> f32 {
    body::l2(a, b)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    body::dot(a, b)
}

fn l1(a: &[f32], b: &[f32]) -> f32 {
    body::l1(a, b)
}

fn l1_i8(query: &[f32], centroid: &[f32], row: &[u8], scale: f32) -> f32 {
    body::l1_i8(query, centroid, row, scale)
}

fn dot_i8(query: &[i16], row: &[u8]) -> i32 {
    body::dot_i8(query, row)
}

fn to_bytes(values: &[f32], bytes: &mut [u8]) -> f32 {
    body::to_bytes(values, bytes)
}

fn dots_i8(query: &[i16], rows: &[&[u8]], out: &mut [i32]) {
    rows.iter().zip(out).for_each(|(row, out)| *out = body::dot_i8(query, row));
}

fn hadamard(values: &mut [f32]) {
    body::hadamard(values);
}

fn nearest_code(book: &[f32], x: &[f32]) -> u8 {
    body::nearest_code(book, x)
}

fn code_dots(book: &[f32], x: &[f32], out: &mut [f32; SUBSPACE_CODES]) {
    body::code_dots(book, x, out);
}

fn scan(input: &ScanInput<'_>, query: &mut ScanQuery<'_>, first_block: usize) -> usize {
    body::scan(input, query, first_block, |query, block, estimates| {
        let (codes, factors) = block.split_at(query.table.len());
        let sums = block_sums(codes, query.table);
        let half = |at: usize| half::to_f32(u16::from_le_bytes([factors[2 * at], factors[2 * at + 1]]));
        let mut kept = 0;
        for (row, estimate) in estimates.iter_mut().enumerate() {
            let look_ups = f32::from(sums[row]) * query.table_step + query.table_bias;
            *estimate = (half(BLOCK_ROWS + row) + query.base) + half(row) * look_ups;
            // "Not above" rather than "at most": a row whose estimate overflowed is still a candidate, the last one.
            let above = *estimate > query.threshold;
            kept |= u32::from(!above) << row;
        }
        kept
    })
}

/// The sum of look-ups of each row of a block.
fn block_sums(codes: &[u8], table: &[u8]) -> [u16; BLOCK_ROWS] {
    let mut sums = [0u16; BLOCK_ROWS];
    for (codes, table) in codes.chunks_exact(SUBSPACE_CODES).zip(table.chunks_exact(SUBSPACE_CODES)) {
        for t in 0..8 {
            let (even, odd) = (usize::from(codes[2 * t]), usize::from(codes[2 * t + 1]));
            sums[t] += u16::from(table[even & 15]);
            sums[8 + t] += u16::from(table[odd & 15]);
            sums[16 + t] += u16::from(table[even >> 4]);
            sums[24 + t] += u16::from(table[odd >> 4]);
        }
    }
    sums
}
