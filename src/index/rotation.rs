//! A random orthogonal rotation that costs O(d log d) and is elementwise: two rounds of random signs and Hadamard transforms.
//! It spreads every vector's energy over all dimensions, which makes per-subspace codes and int8 rows equally good everywhere.
//! Where `d` is no power of two, the transform runs over the first and then over the last 2^⌊log₂ d⌋ dimensions (the overlapping
//! form of the fast Johnson–Lindenstrauss transform, Ailon and Chazelle 2006). Called by `quantizer`.

use super::kernels::Kernels;
use super::random::SplitMix64;

const ROUNDS: usize = 2;

/// Signs of each round; empty for the identity.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rotation {
    /// `ROUNDS · d` numbers, each 1 or −1, or none.
    pub(crate) signs: Vec<f32>,
}

impl Rotation {
    pub(crate) fn random(dimension: usize, rng: &mut SplitMix64) -> Rotation {
        let signs = (0..ROUNDS * dimension).map(|_| if rng.next() >> 63 == 0 { 1.0 } else { -1.0 }).collect();
        Rotation { signs }
    }

    pub(crate) fn identity() -> Rotation {
        Rotation { signs: Vec::new() }
    }

    /// Whether the signs are ones [`Rotation::apply`] can use on vectors of this dimension.
    pub(crate) fn fits(&self, dimension: usize) -> bool {
        self.signs.is_empty() || self.signs.len() == ROUNDS * dimension
    }

    /// Rotates in place.
    pub(crate) fn apply(&self, v: &mut [f32], kernels: &Kernels) {
        if self.signs.is_empty() {
            return;
        }
        let d = v.len();
        let power = 1usize << d.ilog2();
        for signs in self.signs.chunks_exact(d) {
            v.iter_mut().zip(signs).for_each(|(x, sign)| *x *= sign);
            (kernels.hadamard)(&mut v[..power]);
            if power < d {
                (kernels.hadamard)(&mut v[d - power..]);
            }
        }
    }

    /// Undoes [`Rotation::apply`]: each transform and each round of signs is its own inverse.
    pub(crate) fn undo(&self, v: &mut [f32], kernels: &Kernels) {
        if self.signs.is_empty() {
            return;
        }
        let d = v.len();
        let power = 1usize << d.ilog2();
        for signs in self.signs.chunks_exact(d).rev() {
            if power < d {
                (kernels.hadamard)(&mut v[d - power..]);
            }
            (kernels.hadamard)(&mut v[..power]);
            v.iter_mut().zip(signs).for_each(|(x, sign)| *x *= sign);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::kernels;

    #[test]
    fn a_rotation_keeps_products() {
        let kernels = kernels::active();
        for d in [1, 2, 3, 7, 64, 100, 129] {
            let mut rng = SplitMix64::new(d as u64);
            let rotation = Rotation::random(d, &mut rng);
            let mut vector = || (0..d).map(|_| rng.below(1000) as f32 / 500.0 - 1.0).collect::<Vec<f32>>();
            let (mut a, mut b) = (vector(), vector());
            let (before, original) = ((kernels.dot)(&a, &b), a.clone());
            rotation.apply(&mut a, kernels);
            rotation.apply(&mut b, kernels);
            assert!((before - (kernels.dot)(&a, &b)).abs() < 1e-4 * d as f32, "dimension {d}");
            rotation.undo(&mut a, kernels);
            assert!(a.iter().zip(&original).all(|(a, b)| (a - b).abs() < 1e-5), "dimension {d}");
        }
    }
}
