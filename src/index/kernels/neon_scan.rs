//! The block scan with NEON: a table look-up of 16 bytes is one instruction (TBL). The same bits as `scalar`. Called through the
//! table of `neon`, where the SAFETY argument of the call stands.

use super::neon::with_neon;
use super::*;
use std::arch::aarch64::*;

with_neon!(scan, scan_wide, (input: &ScanInput<'_>, query: &mut ScanQuery<'_>, first_block: usize) -> usize);

#[target_feature(enable = "neon")]
fn scan_wide(input: &ScanInput<'_>, query: &mut ScanQuery<'_>, first_block: usize) -> usize {
    body::scan(input, query, first_block, |query, block, estimates| {
        let pairs = query.pairs();
        assert_eq!(block.len(), block_bytes(pairs));
        // SAFETY: the block has `pairs * 32` bytes of codes, then 128 of factors, by the assert. The table has `pairs * 32`.
        unsafe {
            let sums = block_sums(block.as_ptr(), query.table.as_ptr(), pairs);
            estimate(query, block.as_ptr().add(pairs * PAIR_BYTES), sums, estimates)
        }
    })
}

/// The sums of look-ups of 32 rows, as u16, eight a register. Every second pair of eight is summed in u8 (the table is scaled so
/// that four fit), then even and odd bytes are widened apart.
///
/// # Safety
/// `pairs * 32` readable bytes at both pointers.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn block_sums(codes: *const u8, table: *const u8, pairs: usize) -> [uint16x8_t; 4] {
    // Of low and of high nibbles: mixed = even + 256 · odd (mod 2^16); odd = the odd bytes alone.
    let (mut mixed, mut odd) = ([vdupq_n_u16(0); 2], [vdupq_n_u16(0); 2]);
    for first in (0..pairs).step_by(GROUP_PAIRS) {
        let end = (first + GROUP_PAIRS).min(pairs);
        // The even and the odd subspaces of the even and the odd pairs: four sums of at most four look-ups each.
        for part in 0..4 {
            let mut bytes = [vdupq_n_u8(0); 2];
            for pair in (first + part / 2..end).step_by(2) {
                let at = pair * PAIR_BYTES + part % 2 * SUBSPACE_CODES;
                // SAFETY: pair < pairs, and 16 bytes from `at` on lie within the pair's 32.
                let (code, entries) = unsafe { (vld1q_u8(codes.add(at)), vld1q_u8(table.add(at))) };
                bytes[0] = vaddq_u8(bytes[0], vqtbl1q_u8(entries, vandq_u8(code, vdupq_n_u8(15))));
                bytes[1] = vaddq_u8(bytes[1], vqtbl1q_u8(entries, vshrq_n_u8::<4>(code)));
            }
            for h in 0..2 {
                let words = vreinterpretq_u16_u8(bytes[h]);
                mixed[h] = vaddq_u16(mixed[h], words);
                odd[h] = vsraq_n_u16::<8>(odd[h], words);
            }
        }
    }
    let even = [0, 1].map(|h| vsubq_u16(mixed[h], vshlq_n_u16::<8>(odd[h])));
    [even[0], odd[0], even[1], odd[1]]
}

/// Writes the estimates of a block's rows; the bits of those not above the threshold.
///
/// # Safety
/// 128 readable bytes at `factors`.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn estimate(
    query: &ScanQuery<'_>,
    factors: *const u8,
    sums: [uint16x8_t; 4],
    estimates: &mut [f32; BLOCK_ROWS],
) -> u32 {
    const BITS: [u32; 4] = [1, 2, 4, 8];
    let (bias, base) = (vdupq_n_f32(query.table_bias), vdupq_n_f32(query.base));
    let limit = vdupq_n_f32(query.threshold);
    let mut kept = 0;
    for (four, out) in estimates.chunks_exact_mut(4).enumerate() {
        let eight = sums[four / 2];
        let four_sums = if four % 2 == 0 { vget_low_u16(eight) } else { vget_high_u16(eight) };
        let look_ups = vaddq_f32(vmulq_n_f32(vcvtq_f32_u32(vmovl_u16(four_sums)), query.table_step), bias);
        // SAFETY: the caller's promise: 8 bytes a load, the addends 64 bytes after the scales. `out` and `BITS` have four numbers.
        unsafe {
            let scale = load_halves(factors.add(four * 8));
            let add = load_halves(factors.add(2 * BLOCK_ROWS + four * 8));
            let value = vaddq_f32(vaddq_f32(add, base), vmulq_f32(scale, look_ups));
            vst1q_f32(out.as_mut_ptr(), value);
            let not_above = vmvnq_u32(vcgtq_f32(value, limit));
            kept |= vaddvq_u32(vandq_u32(not_above, vld1q_u32(BITS.as_ptr()))) << (four * 4);
        }
    }
    kept
}

/// Four numbers of half precision, widened (exact).
///
/// # Safety
/// 8 readable bytes.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn load_halves(from: *const u8) -> float32x4_t {
    // SAFETY: the caller's promise; the bytes are loaded as bytes, which have no alignment.
    let bytes = unsafe { vld1_u8(from) };
    vcvt_f32_f16(vreinterpret_f16_u16(vreinterpret_u16_u8(bytes)))
}
