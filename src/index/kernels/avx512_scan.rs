//! The block scan with AVX-512, two pairs of subspaces a step. The same bits as `scalar`.
//!
//! What is kept is closed up some blocks at a time: a branch on whether a block has candidates is guessed wrong for every fourth
//! block or so, and a wrong guess throws away the look-ups of the blocks after it.
//!
//! Called through the table of `avx512`, which is handed out only where the machine has every feature named here: that is the
//! SAFETY argument of the calls from [`scan`].

use super::avx512::store;
use super::*;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// Blocks with candidates whose estimates wait to be closed up.
const WAITING_BLOCKS: usize = 8;

pub(super) fn scan(input: &ScanInput<'_>, query: &mut ScanQuery<'_>, first_block: usize) -> usize {
    // SAFETY: the machine has these features (see the head of this file).
    unsafe { scan_wide(input, query, first_block) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn scan_wide(input: &ScanInput<'_>, query: &mut ScanQuery<'_>, first_block: usize) -> usize {
    let bytes = input.check(query);
    let (pairs, mut room) = (query.pairs(), query.room());
    let mut waiting = Waiting::new();
    let mut block = first_block;
    while block < input.live.len() && room >= BLOCK_ROWS {
        input.prefetch_after(block, bytes);
        let live = input.live[block];
        if live != 0 {
            // SAFETY: `check` has seen that `blocks` holds every block: `pairs * 32` bytes of codes, then 128 of factors. The table
            // has `pairs * 32`.
            let (sums, factors) = unsafe {
                let codes = input.blocks.as_ptr().add(block * bytes);
                (block_sums(codes, query.table.as_ptr(), pairs), Factors::load(codes.add(pairs * PAIR_BYTES)))
            };
            let estimates = factors.estimates(query, sums);
            room -= waiting.push(query, estimates, live, block);
        }
        block += 1;
    }
    waiting.close_up(query);
    block
}

/// Estimates of blocks with candidates, not yet closed up.
struct Waiting {
    estimates: [MaybeUninit<[__m512; 2]>; WAITING_BLOCKS],
    kept: [u32; WAITING_BLOCKS],
    blocks: [u32; WAITING_BLOCKS],
    count: usize,
}

impl Waiting {
    fn new() -> Waiting {
        let estimates = [const { MaybeUninit::uninit() }; WAITING_BLOCKS];
        Waiting { estimates, kept: [0; WAITING_BLOCKS], blocks: [0; WAITING_BLOCKS], count: 0 }
    }

    /// Takes a block; how many candidates it has. Every block is written, and the next one over it if it has none.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    fn push(&mut self, query: &mut ScanQuery<'_>, estimates: [__m512; 2], live: u32, block: usize) -> usize {
        let limit = _mm512_set1_ps(query.threshold);
        let not_above = estimates.map(|half| u32::from(_mm512_cmp_ps_mask::<_CMP_NGT_UQ>(half, limit)));
        let kept = (not_above[0] | not_above[1] << 16) & live;
        self.estimates[self.count].write(estimates);
        self.kept[self.count] = kept;
        self.blocks[self.count] = block as u32;
        self.count += usize::from(kept != 0);
        if self.count == WAITING_BLOCKS {
            self.close_up(query);
        }
        kept.count_ones() as usize
    }

    /// Moves the candidates of all blocks waiting to the query's slots.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    fn close_up(&mut self, query: &mut ScanQuery<'_>) {
        for at in 0..self.count {
            // SAFETY: the first `count` have been written.
            let estimates = unsafe { self.estimates[at].assume_init() };
            let first = query.position + self.blocks[at] * BLOCK_ROWS as u32;
            for (half, estimates) in estimates.into_iter().enumerate() {
                let kept = (self.kept[at] >> (16 * half)) as u16;
                collect(estimates, kept, first + 16 * half as u32, query);
            }
        }
        self.count = 0;
    }
}

/// Writes the keys and positions of the rows kept, of 16 from `first` on, closed up.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[inline]
fn collect(estimates: __m512, kept: u16, first: u32, query: &mut ScanQuery<'_>) {
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    // As `order_bits`: all bits flipped of negative numbers, else the sign alone.
    let bits = _mm512_castps_si512(estimates);
    let sign = _mm512_or_si512(_mm512_srai_epi32::<31>(bits), _mm512_set1_epi32(i32::MIN));
    let rows = _mm512_add_epi32(_mm512_set1_epi32(first as i32), lanes);
    let at = query.written;
    store(_mm512_maskz_compress_epi32(kept, _mm512_xor_si512(bits, sign)), &mut query.out.keys[at..]);
    store(_mm512_maskz_compress_epi32(kept, rows), &mut query.out.positions[at..]);
    query.written += kept.count_ones() as usize;
}

/// Sums of look-ups, rows 0..16 (low nibbles) and 16..32 (high), widened where four pairs have been summed in u8:
/// `mixed = even + 256 · odd (mod 2^16)` and the odd bytes alone.
struct WideSums {
    bytes: [__m512i; 2],
    mixed: [__m512i; 2],
    odd: [__m512i; 2],
}

impl WideSums {
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn new() -> WideSums {
        let zero = [_mm512_setzero_si512(); 2];
        WideSums { bytes: zero, mixed: zero, odd: zero }
    }

    /// Adds the look-ups of two pairs: four subspaces, one a 128-bit lane.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn add(&mut self, nibbles: [__m512i; 2], entries: __m512i) {
        self.bytes[0] = _mm512_add_epi8(self.bytes[0], _mm512_shuffle_epi8(entries, nibbles[0]));
        self.bytes[1] = _mm512_add_epi8(self.bytes[1], _mm512_shuffle_epi8(entries, nibbles[1]));
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn widen(&mut self) {
        for h in 0..2 {
            self.mixed[h] = _mm512_add_epi16(self.mixed[h], self.bytes[h]);
            self.odd[h] = _mm512_add_epi16(self.odd[h], _mm512_srli_epi16::<8>(self.bytes[h]));
            self.bytes[h] = _mm512_setzero_si512();
        }
    }

    /// The sums of the 32 rows, in order.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn rows(self) -> __m512i {
        let halved = |h: usize| {
            let even = _mm512_sub_epi16(self.mixed[h], _mm512_slli_epi16::<8>(self.odd[h]));
            // Lanes 0 + 2 and 1 + 3, of the even bytes' rows, then of the odd bytes'.
            _mm512_add_epi16(
                _mm512_shuffle_i64x2::<0b01_00_01_00>(even, self.odd[h]),
                _mm512_shuffle_i64x2::<0b11_10_11_10>(even, self.odd[h]),
            )
        };
        let (low, high) = (halved(0), halved(1));
        _mm512_add_epi16(
            _mm512_shuffle_i64x2::<0b10_00_10_00>(low, high),
            _mm512_shuffle_i64x2::<0b11_01_11_01>(low, high),
        )
    }
}

/// The sums of look-ups of 32 rows, as u16.
///
/// # Safety
/// `pairs * 32` readable bytes at both pointers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn block_sums(codes: *const u8, table: *const u8, pairs: usize) -> __m512i {
    const STEP: usize = 2 * PAIR_BYTES;
    let mut sums = WideSums::new();
    let (groups, twos) = (pairs / GROUP_PAIRS, pairs % GROUP_PAIRS / 2);
    let mut at = 0;
    // SAFETY: the steps are `pairs / 2` of 64 bytes, then one of 32 if `pairs` is odd.
    unsafe {
        let whole = |from: *const u8, at: usize| _mm512_loadu_si512(from.add(at).cast());
        for _ in 0..groups {
            for step in 0..GROUP_PAIRS / 2 {
                sums.add(nibbles(whole(codes, at + step * STEP)), whole(table, at + step * STEP));
            }
            sums.widen();
            at += GROUP_PAIRS * PAIR_BYTES;
        }
        for _ in 0..twos {
            sums.add(nibbles(whole(codes, at)), whole(table, at));
            at += STEP;
        }
        if pairs % 2 == 1 {
            // Nothing is looked up in the half that is zero.
            let half = |from: *const u8| _mm512_zextsi256_si512(_mm256_loadu_si256(from.add(at).cast()));
            sums.add(nibbles(half(codes)), half(table));
        }
    }
    sums.widen();
    sums.rows()
}

/// The low and the high nibbles.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn nibbles(codes: __m512i) -> [__m512i; 2] {
    let nibble = _mm512_set1_epi8(15);
    [_mm512_and_si512(codes, nibble), _mm512_and_si512(_mm512_srli_epi16::<4>(codes), nibble)]
}

/// The factors of a block's rows, 16 rows a register.
struct Factors {
    scales: [__m512; 2],
    adds: [__m512; 2],
}

impl Factors {
    /// # Safety
    /// 128 readable bytes.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    unsafe fn load(from: *const u8) -> Factors {
        // SAFETY: the caller's promise: 32 bytes a load, the addends 64 bytes after the scales.
        let sixteen = |at: usize| unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.add(at).cast())) };
        Factors { scales: [sixteen(0), sixteen(32)], adds: [sixteen(2 * BLOCK_ROWS), sixteen(2 * BLOCK_ROWS + 32)] }
    }

    /// The estimates of the rows whose look-ups have these sums.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    fn estimates(&self, query: &ScanQuery<'_>, sums: __m512i) -> [__m512; 2] {
        let (step, bias) = (_mm512_set1_ps(query.table_step), _mm512_set1_ps(query.table_bias));
        let base = _mm512_set1_ps(query.base);
        let halves = [_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums)];
        std::array::from_fn(|half| {
            let sum = _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(halves[half]));
            let look_ups = _mm512_add_ps(_mm512_mul_ps(sum, step), bias);
            _mm512_add_ps(_mm512_add_ps(self.adds[half], base), _mm512_mul_ps(self.scales[half], look_ups))
        })
    }
}
