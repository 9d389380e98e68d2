//! Half precision (IEEE 754 binary16) as bits: the form in which a code block keeps its rows' factors. Both directions are exact
//! or rounded half to even, as the conversion instructions of every CPU are; beyond the largest number it saturates instead of
//! becoming infinite, so that an extreme row keeps its place at the end. Called by `quantizer` and the scan kernels.

/// The largest finite number.
const MAX: f32 = 65_504.0;
const NAN: u16 = 0x7e00;
/// The least normal number is 2^-14.
const LEAST_NORMAL: u32 = (127 - 14) << 23;
/// Between the exponents' biases of f32 and f16.
const BIAS: u32 = 127 - 15;

/// Rounds to half precision; ±65504 beyond.
pub(crate) fn from_f32(value: f32) -> u16 {
    let sign = (value.to_bits() >> 16 & 0x8000) as u16;
    let bits = value.abs().min(MAX).to_bits();
    if value.is_nan() {
        return sign | NAN;
    }
    if bits < LEAST_NORMAL {
        // A unit in the last place of [0.5, 1) is 2^-24, as that of the subnormal halves.
        return sign | (f32::from_bits(bits) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits()) as u16;
    }
    let odd = bits >> 13 & 1;
    sign | ((bits + 0xfff + odd) >> 13).wrapping_sub(BIAS << 10) as u16
}

/// The number; exact.
pub(crate) fn to_f32(half: u16) -> f32 {
    const SUBNORMAL_STEP: f32 = 1.0 / 16_777_216.0;
    let sign = u32::from(half & 0x8000) << 16;
    let (exponent, fraction) = (u32::from(half >> 10 & 31), u32::from(half & 0x3ff));
    let bits = match exponent {
        0 => (fraction as f32 * SUBNORMAL_STEP).to_bits(),
        31 => 0x7f80_0000 | fraction << 13,
        _ => (exponent + BIAS) << 23 | fraction << 13,
    };
    f32::from_bits(sign | bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_half_survives_the_way_to_f32_and_back() {
        let step = if cfg!(miri) { 37 } else { 1 };
        for half in (0..=u16::MAX).step_by(step).filter(|half| half & 0x7c00 != 0x7c00) {
            assert_eq!(from_f32(to_f32(half)), half);
        }
        assert_eq!(to_f32(0x3c00), 1.0);
        assert_eq!(to_f32(0x0001), 1.0 / 16_777_216.0);
        assert_eq!(to_f32(0xfbff), -65_504.0);
    }

    #[test]
    fn extremes_saturate() {
        assert_eq!([from_f32(1e9), from_f32(f32::NEG_INFINITY), from_f32(65_530.0)], [0x7bff, 0xfbff, 0x7bff]);
        assert!(to_f32(from_f32(f32::NAN)).is_nan());
    }

    proptest! {
        #[test]
        fn rounding_takes_the_nearest_and_the_even_one_of_two(value in prop_oneof![-70000f32..70000.0, -1f32..1.0, -1e-4f32..1e-4]) {
            let half = from_f32(value);
            let error = |half: u16| (f64::from(to_f32(half)) - f64::from(value)).abs();
            for neighbour in [half.wrapping_sub(1), half.wrapping_add(1)] {
                if !to_f32(neighbour).is_finite() || neighbour >> 15 != half >> 15 {
                    continue;
                }
                prop_assert!(error(half) < error(neighbour) || (error(half) == error(neighbour) && half & 1 == 0));
            }
        }
    }
}
