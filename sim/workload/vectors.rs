//! The vector of a value: pseudo-random, so that any two are nearly orthogonal, and made of 128ths, so that it passes
//! through JSON and f32 unchanged.
use rand::{Rng, SeedableRng, rngs::StdRng};

/// The vector of `value`; never zero.
pub fn of(value: u64, dimension: usize) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(value ^ 0x005e_ed0f_4ec7);
    let mut vector: Vec<f32> = (0..dimension).map(|_| f32::from(rng.random_range(-128i16..=128)) / 128.0).collect();
    vector[0] += 0.001_953_125;
    vector
}

/// Whether `vector` points where the vector of `value` does; a server may store it normalised.
pub fn matches(vector: &[f32], value: u64) -> bool {
    let expected = of(value, vector.len());
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let cosine = dot(vector, &expected) / (dot(vector, vector) * dot(&expected, &expected)).sqrt();
    cosine > 0.9999
}
