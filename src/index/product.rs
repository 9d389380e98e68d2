//! 4-bit product quantisation of unit residuals (Jégou, Douze, Schmid 2011): 16 codewords a subspace, and the query's look-up
//! table in u8 (fast scan: André, Kermarrec, Le Scouarnec 2015). Called by `quantizer` and `search`.

use super::kernels::{GROUP_PAIRS, Kernels, PAIR_BYTES, SUBSPACE_CODES};
use super::random::SplitMix64;
use super::work::Work;
use crate::types::limits::BINARY_DIMENSION_MAX;

/// More, or more rows, gain less than 0.5 points of recall at 20 candidates and cost seconds.
const ITERATIONS: usize = 16;
/// Dimensions whose signs make one 4-bit code.
const SIGN_WIDTH: usize = 4;
const CACHE_LINE: usize = 64;
/// The largest sum that four entries of a table may reach before rounding; rounding adds at most half each.
const GROUP_SUM_MAX: f32 = 252.0;
/// Adding it to a number of [0, 2^22] rounds half to even and leaves the integer in the low mantissa bits.
const ROUND_UNSIGNED: f32 = 8_388_608.0;

const _: () = assert!(BINARY_DIMENSION_MAX.div_ceil(SIGN_WIDTH) <= Codebook::SUBSPACES_MAX, "signs fit the sums");

/// Codewords: `words[(s · width + t) · 16 + code]` is component `t` of a codeword of subspace `s`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Codebook {
    pub(crate) dimension: usize,
    pub(crate) width: usize,
    pub(crate) words: Vec<f32>,
}

/// A query's table: an entry `e` stands for `e · step`, plus `bias` for the whole sum.
#[derive(Clone, Debug, Default)]
pub(crate) struct LookupTable {
    bytes: Vec<u8>,
    /// Where the entries begin.
    start: usize,
    pub(crate) step: f32,
    pub(crate) bias: f32,
    exact: Vec<f32>,
    ranges: Vec<f32>,
}

impl Codebook {
    /// Subspaces beyond which u16 sums could overflow.
    pub(crate) const SUBSPACES_MAX: usize = 1024;

    /// The codebook of signs: each code's four bits say on which side of 0 four dimensions lie. What it stands for has length 1.
    /// `dimension` is at most [`BINARY_DIMENSION_MAX`].
    pub(crate) fn signs(dimension: usize) -> Codebook {
        let subspaces = dimension.div_ceil(SIGN_WIDTH);
        assert!(dimension <= BINARY_DIMENSION_MAX, "invariant: the dimension was checked when the table was created");
        let size = 1.0 / (dimension as f32).sqrt();
        let sign = |t: usize, code: usize| if code >> t & 1 == 1 { size } else { -size };
        let book = (0..SIGN_WIDTH).flat_map(|t| (0..SUBSPACE_CODES).map(move |code| sign(t, code)));
        let book: Vec<f32> = book.collect();
        Codebook { dimension, width: SIGN_WIDTH, words: book.repeat(subspaces) }
    }

    /// The width to use when `wanted` was asked for: wider where there would be too many subspaces.
    pub(crate) fn fitting_width(dimension: usize, wanted: usize) -> usize {
        wanted.max(dimension.div_ceil(Self::SUBSPACES_MAX)).max(1)
    }

    pub(crate) fn subspaces(&self) -> usize {
        self.dimension.div_ceil(self.width)
    }

    pub(crate) fn pairs(&self) -> usize {
        self.subspaces().div_ceil(2)
    }

    fn book(&self, subspace: usize) -> &[f32] {
        let len = self.width * SUBSPACE_CODES;
        &self.words[subspace * len..(subspace + 1) * len]
    }

    /// Trains each subspace by k-means on unit residuals (`rows`, one after another).
    pub(crate) fn train(
        rows: &[f32],
        dimension: usize,
        width: usize,
        work: Work<'_>,
        rng: &mut SplitMix64,
    ) -> Codebook {
        let mut words = vec![0f32; dimension.div_ceil(width) * width * SUBSPACE_CODES];
        let books: Vec<_> = words.chunks_exact_mut(width * SUBSPACE_CODES).map(|book| (book, rng.fork())).collect();
        work.parallel(books.into_iter().enumerate(), |(s, (book, mut rng))| {
            let span = s * width..((s + 1) * width).min(dimension);
            // The subspace alone, side by side: its rows are gone through many times.
            let parts: Vec<f32> = rows.chunks_exact(dimension).flat_map(|row| &row[span.clone()]).copied().collect();
            if !work.is_cancelled() {
                train_subspace(&parts, span.len(), book, work.kernels, &mut rng);
            }
        });
        Codebook { dimension, width, words }
    }

    /// The code of each subspace of `unit`, one a byte.
    pub(crate) fn encode(&self, unit: &[f32], codes: &mut Vec<u8>, kernels: &Kernels) {
        codes.clear();
        for (s, x) in unit.chunks(self.width).enumerate() {
            codes.push((kernels.nearest_code)(self.book(s), x));
        }
    }

    /// What the codes stand for.
    pub(crate) fn decode(&self, codes: &[u8], out: &mut [f32]) {
        for (s, (&code, out)) in codes.iter().zip(out.chunks_mut(self.width)).enumerate() {
            let words = self.book(s).chunks_exact(SUBSPACE_CODES);
            out.iter_mut().zip(words).for_each(|(o, word)| *o = word[usize::from(code)]);
        }
    }

    /// Fills the table with the inner products of `query` and every codeword. The step is the finest at which the four entries
    /// that a scan sums in u8 always fit (see `kernels::ScanInput`).
    pub(crate) fn look_up(&self, query: &[f32], table: &mut LookupTable, kernels: &Kernels) {
        let padded = self.pairs() * 2;
        table.exact.clear();
        table.ranges.clear();
        table.ranges.resize(padded, 0.0);
        table.bias = 0.0;
        let mut dots = [0f32; SUBSPACE_CODES];
        for (s, x) in query.chunks(self.width).enumerate() {
            (kernels.code_dots)(self.book(s), x, &mut dots);
            let (mut least, mut most) = (dots[0], dots[0]);
            for &dot in &dots[1..] {
                least = if dot < least { dot } else { least };
                most = if dot > most { dot } else { most };
            }
            dots.iter_mut().for_each(|dot| *dot -= least);
            table.exact.extend(dots);
            table.ranges[s] = most - least;
            table.bias += least;
        }
        table.quantise();
    }
}

impl LookupTable {
    /// See `ScanQuery::table`. Starts with a cache line, so that the widest loads do not read two.
    pub(crate) fn entries(&self) -> &[u8] {
        &self.bytes[self.start..][..self.ranges.len() / 2 * PAIR_BYTES]
    }

    /// Makes all entries zero.
    fn room(&mut self) {
        self.bytes.clear();
        self.bytes.resize(self.ranges.len() / 2 * PAIR_BYTES + CACHE_LINE, 0);
        self.start = self.bytes.as_ptr().align_offset(CACHE_LINE).min(CACHE_LINE);
    }

    fn quantise(&mut self) {
        let mut largest = 0f32;
        for group in self.ranges.chunks(2 * GROUP_PAIRS) {
            for lane in 0..4 {
                let sum: f32 = group.iter().skip(lane).step_by(4).fold(0.0, |sum, range| sum + range);
                largest = if sum > largest { sum } else { largest };
            }
        }
        self.room();
        self.step = 0.0;
        if largest > 0.0 && largest.is_finite() {
            self.step = largest / GROUP_SUM_MAX;
            let scale = GROUP_SUM_MAX / largest;
            for (entry, exact) in self.bytes[self.start..].iter_mut().zip(&self.exact) {
                *entry = (exact * scale + ROUND_UNSIGNED).to_bits() as u8;
            }
        }
    }
}

/// Lloyd's algorithm for 16 codewords on `parts`, `width` numbers each; a codeword without any takes a random one's.
fn train_subspace(parts: &[f32], width: usize, book: &mut [f32], kernels: &Kernels, rng: &mut SplitMix64) {
    let count = parts.len() / width;
    let part = |i: usize| &parts[i * width..(i + 1) * width];
    let set = |book: &mut [f32], code: usize, x: &[f32]| {
        x.iter().enumerate().for_each(|(t, &v)| book[t * SUBSPACE_CODES + code] = v);
    };
    if count == 0 {
        return;
    }
    for code in 0..SUBSPACE_CODES {
        set(book, code, part(rng.below(count)));
    }
    for _ in 0..ITERATIONS {
        let mut sums = vec![0f32; book.len()];
        let mut counts = [0u32; SUBSPACE_CODES];
        for part in parts.chunks_exact(width) {
            let code = usize::from((kernels.nearest_code)(book, part));
            counts[code] += 1;
            part.iter().enumerate().for_each(|(t, v)| sums[t * SUBSPACE_CODES + code] += v);
        }
        for code in 0..SUBSPACE_CODES {
            if counts[code] == 0 {
                set(book, code, part(rng.below(count)));
                continue;
            }
            for t in 0..width {
                book[t * SUBSPACE_CODES + code] = sums[t * SUBSPACE_CODES + code] / counts[code] as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::kernels;

    #[test]
    fn codes_are_nearest_and_tables_approximate_products() {
        let kernels = kernels::active();
        let (d, width) = (18, 4);
        let mut rng = SplitMix64::new(5);
        let rows: Vec<f32> = (0..d * 500).map(|_| rng.below(2000) as f32 / 1000.0 - 1.0).collect();
        let book = Codebook::train(&rows, d, width, Work::alone(kernels), &mut rng);
        assert_eq!((book.subspaces(), book.pairs()), (5, 3));
        let query = &rows[..d];
        let mut table = LookupTable::default();
        book.look_up(query, &mut table, kernels);
        let (mut codes, mut decoded) = (Vec::new(), vec![0f32; d]);
        for row in rows.chunks(d).take(50) {
            book.encode(row, &mut codes, kernels);
            book.decode(&codes, &mut decoded);
            let sum: u32 =
                codes.iter().enumerate().map(|(s, &c)| u32::from(table.entries()[s * 16 + usize::from(c)])).sum();
            let estimate = sum as f32 * table.step + table.bias;
            assert!((estimate - (kernels.dot)(query, &decoded)).abs() < 3.0 * table.step, "{estimate}");
        }
        for group in table.entries().chunks(GROUP_PAIRS * PAIR_BYTES) {
            for lane in 0..4 {
                let most = |entries: &[u8]| u32::from(*entries.iter().max().unwrap());
                assert!(group.chunks(SUBSPACE_CODES).skip(lane).step_by(4).map(most).sum::<u32>() <= 255);
            }
        }
    }

    #[test]
    fn signs_are_kept_and_products_with_them_are_those_of_the_signs() {
        let kernels = kernels::active();
        for d in [1usize, 3, 7, 33, 128] {
            let mut rng = SplitMix64::new(d as u64);
            let mut vector = || (0..d).map(|_| rng.below(2001) as f32 / 1000.0 - 1.0).collect::<Vec<f32>>();
            let (row, query) = (vector(), vector());
            let book = Codebook::signs(d);
            assert_eq!(book.subspaces(), d.div_ceil(4));
            let (mut codes, mut decoded) = (Vec::new(), vec![0f32; d]);
            book.encode(&row, &mut codes, kernels);
            book.decode(&codes, &mut decoded);
            let size = 1.0 / (d as f32).sqrt();
            for (x, sign) in row.iter().zip(&decoded) {
                assert_eq!(*sign, if *x > 0.0 { size } else { -size }, "dimension {d}");
            }
            let mut table = LookupTable::default();
            book.look_up(&query, &mut table, kernels);
            let sum: u32 =
                codes.iter().enumerate().map(|(s, &c)| u32::from(table.entries()[s * 16 + usize::from(c)])).sum();
            let error = (sum as f32 * table.step + table.bias - (kernels.dot)(&query, &decoded)).abs();
            assert!(error <= table.step * codes.len() as f32 / 2.0 + 1e-5, "dimension {d}: {error}");
        }
    }

    #[test]
    fn a_query_of_zeros_has_an_empty_table() {
        let kernels = kernels::active();
        let book = Codebook { dimension: 4, width: 4, words: vec![0.5; 64] };
        let mut table = LookupTable::default();
        book.look_up(&[0.0; 4], &mut table, kernels);
        assert_eq!((table.step, table.bias), (0.0, 0.0));
        assert!(table.entries().iter().all(|&e| e == 0));
    }
}
