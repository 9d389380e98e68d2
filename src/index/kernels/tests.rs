//! Every table gives the bits of the scalar definition, over lengths with and without tails.

use super::*;
use crate::index::random::SplitMix64;
use proptest::prelude::*;

/// Numbers of all kinds: small ones, zeros of both signs, ones whose squares nearly overflow. Made from a seed, since a strategy
/// that draws them one by one takes minutes under Miri.
fn floats(rng: &mut SplitMix64, count: usize) -> Vec<f32> {
    let one = |rng: &mut SplitMix64| {
        let unit = (rng.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        match rng.below(11) {
            0 => 0.0,
            1 => -0.0,
            2 => unit * 1e19,
            _ => unit * 10.0,
        }
    };
    (0..count).map(|_| one(rng)).collect()
}

/// Sizes up to `most`; smaller ones under Miri.
fn sizes(least: usize, most: usize) -> std::ops::RangeInclusive<usize> {
    least..=if cfg!(miri) { most.min(least + 70) } else { most }
}

fn others() -> Vec<&'static Kernels> {
    available().into_iter().skip(1).collect()
}

proptest! {
    #[test]
    fn reductions_are_bit_equal(n in sizes(0, 300), seed: u64) {
        let mut rng = SplitMix64::new(seed);
        let (a, b) = (floats(&mut rng, n), floats(&mut rng, n));
        for other in others() {
            for (x, y) in [(scalar::KERNELS.l2, other.l2), (scalar::KERNELS.dot, other.dot), (scalar::KERNELS.l1, other.l1)] {
                prop_assert_eq!(x(&a, &b).to_bits(), y(&a, &b).to_bits());
            }
        }
    }

    #[test]
    fn int8_kernels_are_bit_equal(n in sizes(0, 200), seed: u64, scale in 0f32..3.0) {
        let mut rng = SplitMix64::new(seed);
        let row: Vec<u8> = (0..n).map(|_| rng.next() as u8).collect();
        let query: Vec<i16> = (0..n).map(|_| rng.next() as i16).collect();
        let (q, c) = (floats(&mut rng, n), floats(&mut rng, n));
        for other in others() {
            prop_assert_eq!((scalar::KERNELS.dot_i8)(&query, &row), (other.dot_i8)(&query, &row));
            let shorter = &row[..row.len() / 2];
            let mut dots = [0; 2];
            (other.dots_i8)(&query, &[&row, shorter], &mut dots);
            prop_assert_eq!(dots, [&row[..], shorter].map(|row| (scalar::KERNELS.dot_i8)(&query, row)));
            let (x, y) = ((scalar::KERNELS.l1_i8)(&q, &c, &row, scale), (other.l1_i8)(&q, &c, &row, scale));
            prop_assert_eq!(x.to_bits(), y.to_bits());
        }
    }

    #[test]
    fn hadamard_is_bit_equal_and_keeps_lengths(log in 0u32..if cfg!(miri) { 10 } else { 13 }, seed: u64) {
        let mut rng = SplitMix64::new(seed);
        let values: Vec<f32> = (0..1usize << log).map(|_| rng.below(2001) as f32 / 1000.0 - 1.0).collect();
        let mut expected = values.clone();
        (scalar::KERNELS.hadamard)(&mut expected);
        let (before, after) = ((scalar::KERNELS.dot)(&values, &values), (scalar::KERNELS.dot)(&expected, &expected));
        prop_assert!((before - after).abs() <= 1e-4 * before + 1e-6);
        for other in others() {
            let mut got = values.clone();
            (other.hadamard)(&mut got);
            prop_assert!(expected.iter().zip(&got).all(|(x, y)| x.to_bits() == y.to_bits()));
        }
    }

    #[test]
    fn subspace_kernels_are_bit_equal(width in 1usize..20, seed: u64) {
        let mut rng = SplitMix64::new(seed);
        let (book, x) = (&floats(&mut rng, width * SUBSPACE_CODES)[..], &floats(&mut rng, width)[..]);
        for other in others() {
            prop_assert_eq!((scalar::KERNELS.nearest_code)(book, x), (other.nearest_code)(book, x));
            let (mut a, mut b) = ([0f32; 16], [0f32; 16]);
            (scalar::KERNELS.code_dots)(book, x, &mut a);
            (other.code_dots)(book, x, &mut b);
            prop_assert_eq!(a.map(f32::to_bits), b.map(f32::to_bits));
        }
    }

    #[test]
    fn scans_are_bit_equal(
        pairs in 1usize..20, blocks in 0usize..20, seed: u64, limit in -300f32..300.0, room in 32usize..300,
    ) {
        let mut rng = SplitMix64::new(seed);
        let mut bytes: Vec<u8> = (0..blocks * block_bytes(pairs)).map(|_| rng.next() as u8).collect();
        for block in bytes.chunks_mut(block_bytes(pairs)) {
            for factor in block[pairs * PAIR_BYTES..].chunks_mut(2) {
                let value = half::from_f32(rng.below(401) as f32 / 100.0 - 2.0);
                factor.copy_from_slice(&value.to_le_bytes());
            }
        }
        // Four entries sum to at most 4 · 63 = 252.
        let table: Vec<u8> = (0..pairs * PAIR_BYTES).map(|_| rng.below(64) as u8).collect();
        let live: Vec<u32> = (0..blocks).map(|_| if rng.below(5) == 0 { 0 } else { rng.next() as u32 }).collect();
        let input = ScanInput { blocks: &bytes, ahead: &bytes, live: &live };
        // Where a scan from a block on stops, and its candidates.
        let scan = |kernels: &Kernels, first: usize| {
            let (mut keys, mut positions) = (vec![0u32; room], vec![0u32; room]);
            let out = CandidateSlots { keys: &mut keys, positions: &mut positions };
            let mut query = ScanQuery {
                table: &table, table_step: 0.37, table_bias: -3.25, base: 1.5, position: 77, threshold: limit, out, written: 0,
            };
            let next = (kernels.scan)(&input, &mut query, first);
            let written = query.written;
            keys.truncate(written);
            positions.truncate(written);
            (next, keys, positions)
        };
        let mut first = 0;
        while first < blocks {
            let expected = scan(&scalar::KERNELS, first);
            for other in others() {
                prop_assert_eq!(&scan(other, first), &expected);
            }
            prop_assert!(expected.0 > first);
            first = expected.0;
        }
    }

    #[test]
    fn keys_are_counted_and_kept_alike(
        rows in prop::collection::vec((prop_oneof![any::<u32>(), 0u32..9], any::<u32>()), 0..200), limit in prop_oneof![any::<u32>(), 0u32..9],
    ) {
        let expected: Vec<(u32, u32)> = rows.iter().copied().filter(|row| row.0 <= limit).collect();
        for kernels in available() {
            let (mut keys, mut others): (Vec<u32>, Vec<u32>) = rows.iter().copied().unzip();
            prop_assert_eq!((kernels.count_at_most)(&keys, limit), expected.len());
            prop_assert_eq!((kernels.keep_at_most)(&mut keys, &mut others, limit), expected.len());
            let kept: Vec<(u32, u32)> = keys.into_iter().zip(others).take(expected.len()).collect();
            prop_assert_eq!(&kept, &expected);
        }
    }

    #[test]
    fn keys_order_as_floats(a: f32, b: f32) {
        prop_assert_eq!(order_bits(a).cmp(&order_bits(b)), a.total_cmp(&b));
        prop_assert_eq!(key_estimate(order_bits(a)).to_bits(), a.to_bits());
    }
}

#[test]
fn an_unknown_wish_is_no_table() {
    assert!(named("mmx").is_none());
    assert_eq!(named("scalar").map(|k| k.name), Some("scalar"));
}
