//! Weighted rendezvous hashing in whole numbers: the same on every machine. Called by `placement`.

use crate::cluster::table::{NodeId, ShardId};

/// Bits behind the point of a logarithm.
const FRACTION_BITS: u32 = 24;

/// What it costs a node to take a shard: `-log2(u) / weight`, where `u` is uniform over (0, 1] by a fixed hash of both. The
/// node with the least cost wins, which each does with a chance in proportion to its weight; a node that comes or goes changes
/// no other's cost.
pub fn cost(shard: ShardId, node: NodeId, weight: u32) -> u64 {
    (minus_log2(hash(shard, node)) << 28) / u64::from(weight.max(1))
}

/// Two rounds of the mixer of SplitMix64 (Steele et al. 2014), one for each word.
fn hash(shard: ShardId, node: NodeId) -> u64 {
    mix(mix(shard).wrapping_add(node))
}

fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `-log2((word + 1) / 2^64)` with [`FRACTION_BITS`] bits behind the point, rounded up: below `65 << FRACTION_BITS`.
fn minus_log2(word: u64) -> u64 {
    let word = word.max(1);
    let zeros = word.leading_zeros();
    // The mantissa, in [1, 2) with 63 bits behind the point; each squaring brings the next bit of its logarithm.
    let mut mantissa = u128::from(word << zeros);
    let mut fraction = 0_u64;
    for _ in 0..FRACTION_BITS {
        mantissa = (mantissa * mantissa) >> 63;
        fraction <<= 1;
        if mantissa >> 64 != 0 {
            mantissa >>= 1;
            fraction |= 1;
        }
    }
    (u64::from(zeros + 1) << FRACTION_BITS) - fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_right_to_the_last_bit_but_one() {
        for word in [1, 2, 3, 1 << 40, (1 << 63) - 1, 1 << 63, u64::MAX, 0x1234_5678_9abc_def0] {
            let exact = 64.0 - (word as f64).log2();
            let got = minus_log2(word) as f64 / f64::from(1_u32 << FRACTION_BITS);
            assert!((got - exact).abs() < 2.0 / f64::from(1_u32 << FRACTION_BITS), "{word}: {got} for {exact}");
        }
    }

    #[test]
    fn the_hash_never_changes() {
        assert_eq!([(0, 0), (1, 2), (2, 1), (u64::MAX, 7)].map(|(shard, node)| hash(shard, node)), GOLDEN);
    }

    const GOLDEN: [u64; 4] =
        [12_035_550_249_420_947_055, 13_608_149_317_741_381_227, 16_171_810_823_986_729_605, 1_869_568_459_174_662_326];

    #[test]
    fn nodes_win_in_proportion_to_their_weight() {
        let weights = [1, 1, 2, 4];
        let mut won = [0_u32; 4];
        for shard in 0..40_000 {
            let winner = (0..4).min_by_key(|node| cost(shard, 100 + *node as u64, weights[*node])).unwrap();
            won[winner] += 1;
        }
        for (count, weight) in won.iter().zip(weights) {
            let fair = f64::from(weight) / 8.0 * 40_000.0;
            assert!((f64::from(*count) / fair - 1.0).abs() < 0.04, "{won:?}");
        }
    }
}
