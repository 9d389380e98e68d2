//! A door for the benches, which are another crate: every kernel of every table as a closure to be timed, over data made from a
//! seed. Exists with the feature `bench` only, and is no part of the interface.

use super::kernels::bytes::{BytePanels, ByteRows, Nearest};
use super::kernels::{self, CandidateSlots, Kernels, PAIR_BYTES, SUBSPACE_CODES, ScanInput, ScanQuery, block_bytes};
use super::random::SplitMix64;
use std::hint::black_box;

/// Something to be timed, and how much of what one run does.
pub struct Case {
    /// The kernel's name.
    pub kernel: &'static str,
    /// What it is run on.
    pub size: String,
    /// Rows, codes or columns a run goes through.
    pub items: u64,
    /// Bytes a run reads.
    pub bytes: u64,
    /// One run.
    pub run: Box<dyn FnMut()>,
}

impl Case {
    fn new(kernel: &'static str, size: String, items: usize, bytes: usize, run: impl FnMut() + 'static) -> Case {
        Case { kernel, size, items: items as u64, bytes: bytes as u64, run: Box::new(run) }
    }
}

/// The cases of the table `name`, one of [`kernels::names`].
pub fn cases(name: &str) -> Vec<Case> {
    let Some(table) = kernels::available().into_iter().find(|table| table.name == name) else { return Vec::new() };
    let mut cases = Vec::new();
    for dimension in [100, 128, 384, 768] {
        rows(table, dimension, &mut cases);
    }
    for dimension in [100, 128, 384] {
        columns(table, dimension, &mut cases);
    }
    for width in [2, 4, 8] {
        subspaces(table, width, &mut cases);
    }
    for code_bytes in [8, 16, 25, 32, 48] {
        // 512 KiB of codes: in the second-level cache, not in the first.
        cases.push(scan(table, code_bytes, (512 << 10) / (32 * code_bytes)));
    }
    cases
}

fn numbers(rng: &mut SplitMix64, count: usize) -> Vec<f32> {
    (0..count).map(|_| (rng.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
}

/// Kernels of two rows, and of one.
fn rows(table: &'static Kernels, d: usize, cases: &mut Vec<Case>) {
    let mut rng = SplitMix64::new(d as u64);
    let (a, b) = (numbers(&mut rng, d), numbers(&mut rng, d));
    let bytes: Vec<u8> = (0..d).map(|_| rng.next() as u8).collect();
    let wide: Vec<i16> = (0..d).map(|_| (rng.next() as i16) >> 2).collect();
    for (name, kernel) in [("l2", table.l2), ("dot", table.dot), ("l1", table.l1)] {
        let (a, b) = (a.clone(), b.clone());
        cases.push(Case::new(name, d.to_string(), 1, 4 * d, move || {
            black_box(kernel(black_box(&a), black_box(&b)));
        }));
    }
    let (query, centroid, row) = (a.clone(), b, bytes.clone());
    cases.push(Case::new("l1_i8", d.to_string(), 1, d, move || {
        black_box((table.l1_i8)(black_box(&query), &centroid, black_box(&row), 0.01));
    }));
    cases.push(Case::new("dot_i8", d.to_string(), 1, d, move || {
        black_box((table.dot_i8)(black_box(&wide), black_box(&bytes)));
    }));
    let (values, mut rounded) = (a.clone(), vec![0u8; d]);
    cases.push(Case::new("to_bytes", d.to_string(), 1, 4 * d, move || {
        black_box((table.to_bytes)(black_box(&values), &mut rounded));
    }));
    let mut values = a;
    values.truncate(1 << d.ilog2());
    cases.push(Case::new("hadamard", values.len().to_string(), 1, 4 * values.len(), move || {
        (table.hadamard)(black_box(&mut values));
    }));
}

/// Kernels of queries or rows against the centroids of some hundred thousand rows.
fn columns(table: &'static Kernels, d: usize, cases: &mut Vec<Case>) {
    const COLUMNS: usize = 1_024;
    const ROWS: usize = 96;
    let mut rng = SplitMix64::new(d as u64);
    let (centroids, rows) = (numbers(&mut rng, COLUMNS * d), numbers(&mut rng, ROWS * d));
    let size = |rows: usize| format!("{rows}x{COLUMNS}x{d}");
    let byte_rows = ByteRows::new(&rows, d, table);
    let panels = BytePanels::new(&centroids, d, table);
    let query = ByteRows::new(&centroids[..d], d, table);
    let (byte_panels, mut out) = (panels.clone(), vec![0f32; COLUMNS]);
    cases.push(Case::new("scores_i8", size(1), COLUMNS, d * COLUMNS, move || {
        (table.scores_i8)(&byte_panels, black_box(query.all()), -2.0, &mut out);
    }));
    let picked: Vec<u32> = (0..ROWS as u32).collect();
    cases.push(Case::new("nearest_i8", size(ROWS), ROWS * COLUMNS, d * COLUMNS, move || {
        let mut nearest = [Nearest::NONE; ROWS];
        (table.nearest_i8)(&panels, 0..panels.panels(), black_box(byte_rows.all()), &picked, &mut nearest);
        black_box(&nearest);
    }));
}

/// Kernels of the 16 codewords of a subspace, over all subspaces of a vector.
fn subspaces(table: &'static Kernels, width: usize, cases: &mut Vec<Case>) {
    const SUBSPACES: usize = 50;
    let mut rng = SplitMix64::new(width as u64);
    let (words, x) = (numbers(&mut rng, SUBSPACES * width * SUBSPACE_CODES), numbers(&mut rng, SUBSPACES * width));
    let bytes = 4 * words.len();
    let (books, vector) = (words.clone(), x.clone());
    cases.push(Case::new("nearest_code", format!("{SUBSPACES}x{width}"), SUBSPACES, bytes, move || {
        for (book, x) in books.chunks(width * SUBSPACE_CODES).zip(vector.chunks(width)) {
            black_box((table.nearest_code)(book, black_box(x)));
        }
    }));
    let mut dots = [0f32; SUBSPACE_CODES];
    cases.push(Case::new("code_dots", format!("{SUBSPACES}x{width}"), SUBSPACES, bytes, move || {
        for (book, x) in words.chunks(width * SUBSPACE_CODES).zip(x.chunks(width)) {
            (table.code_dots)(book, black_box(x), &mut dots);
            black_box(&dots);
        }
    }));
}

/// The scan of `blocks` blocks of `code_bytes` a row, of which one row in 40 is kept: as a search has it.
fn scan(table: &'static Kernels, code_bytes: usize, blocks: usize) -> Case {
    const LIMIT: f32 = -1.95;
    let pairs = code_bytes;
    let mut rng = SplitMix64::new(code_bytes as u64);
    let mut bytes: Vec<u8> = (0..blocks * block_bytes(pairs)).map(|_| rng.next() as u8).collect();
    for block in bytes.chunks_mut(block_bytes(pairs)) {
        for factor in block[pairs * PAIR_BYTES..].chunks_mut(2) {
            let value = kernels::half::from_f32((rng.next() >> 40) as f32 / (1u64 << 24) as f32);
            factor.copy_from_slice(&value.to_le_bytes());
        }
    }
    // Four entries sum to at most 252.
    let entries: Vec<u8> = (0..pairs * PAIR_BYTES).map(|_| rng.below(64) as u8).collect();
    let live = vec![u32::MAX; blocks];
    // Sums of 2 · pairs look-ups have mean 31.5 each and deviation 18.5: brought to mean 0 and deviation 1.
    let look_ups = 2.0 * pairs as f32;
    let step = 1.0 / (18.5 * look_ups.sqrt());
    let room = blocks * 32 + 32;
    let (mut keys, mut positions) = (vec![0u32; room], vec![0u32; room]);
    Case::new("scan", format!("{code_bytes} B"), blocks * 32, bytes.len(), move || {
        let input = ScanInput { blocks: &bytes, ahead: &[], live: &live };
        let mut query = ScanQuery {
            table: &entries,
            table_step: step,
            table_bias: -31.5 * look_ups * step,
            base: -1.0,
            position: 0,
            threshold: LIMIT,
            out: CandidateSlots { keys: &mut keys, positions: &mut positions },
            written: 0,
        };
        black_box((table.scan)(black_box(&input), &mut query, 0));
    })
}
