//! The Walsh–Hadamard transform written for registers. The plain loops of `body::hadamard` cross the whole array once a stage and
//! do the first stages, whose partners lie within one register, number by number; here a block that fits the register file is
//! loaded once, taken through all its stages, and stored. The stages of each number keep their order, so the bits are the same.
//!
//! One text for every instruction set: `avx2`, `avx512` and `neon` expand [`define_hadamard`] with their own operations.

/// Defines `$name(values)`, the transform of a power of two of numbers, scaled to keep lengths, compiled with `$feature`.
///
/// `$wide` is a register of `$width` numbers; `$load` and `$store` take a pointer; `$within` does the stages whose partners lie
/// within one register, 1 to `$width / 2`. `$registers` are taken through their stages at once.
macro_rules! define_hadamard {
    ($name:ident, $feature:literal, $wide:ty, width: $width:literal, registers: $registers:literal,
     $load:ident, $store:ident, $splat:ident, $add:ident, $sub:ident, $mul:ident, $within:ident) => {
        #[target_feature(enable = $feature)]
        #[inline]
        fn $name(values: &mut [f32]) {
            const BLOCK: usize = $registers * $width;
            let n = values.len();
            assert!(n.is_power_of_two(), "a Hadamard transform of {n} numbers");
            let scale = 1.0 / (n as f32).sqrt();
            match n / $width {
                0 => body::hadamard(values),
                1 => stages_of_block::<1>(values, scale),
                2 => stages_of_block::<2>(values, scale),
                4 => stages_of_block::<4>(values, scale),
                8 if $registers >= 8 => stages_of_block::<8>(values, scale),
                16 if $registers >= 16 => stages_of_block::<16>(values, scale),
                _ => {
                    for block in values.chunks_exact_mut(BLOCK) {
                        stages_of_block::<$registers>(block, 1.0);
                    }
                    stages_between_blocks(values, BLOCK, scale);
                }
            }
        }

        /// All stages of a block of `R` registers, and the scale.
        #[target_feature(enable = $feature)]
        #[inline]
        fn stages_of_block<const R: usize>(block: &mut [f32], scale: f32) {
            assert_eq!(block.len(), R * $width);
            let start = block.as_mut_ptr();
            let mut registers = [$splat(0.0); R];
            for (r, register) in registers.iter_mut().enumerate() {
                // SAFETY: the block is `R * width` numbers long, by the assert.
                *register = $within(unsafe { $load(start.add(r * $width)) });
            }
            let mut half = 1;
            while half < R {
                for low in (0..R).filter(|r| r & half == 0) {
                    let (x, y) = (registers[low], registers[low + half]);
                    (registers[low], registers[low + half]) = ($add(x, y), $sub(x, y));
                }
                half *= 2;
            }
            let scale = $splat(scale);
            for (r, register) in registers.into_iter().enumerate() {
                // SAFETY: as the loads.
                unsafe { $store(start.add(r * $width), $mul(register, scale)) };
            }
        }

        /// The stages from `half` on, two at a time while there are two; the last is scaled.
        #[target_feature(enable = $feature)]
        #[inline]
        fn stages_between_blocks(values: &mut [f32], mut half: usize, scale: f32) {
            let n = values.len();
            assert!(n % (2 * half) == 0 && half % $width == 0);
            let start = values.as_mut_ptr();
            while 2 * half < n {
                let factor = $splat(if 4 * half == n { scale } else { 1.0 });
                for first in (0..n).step_by(4 * half) {
                    for at in (first..first + half).step_by($width) {
                        // SAFETY: n is a multiple of 4 · half, so the last number is at + 3 · half + width − 1 < first + 4 · half <= n.
                        unsafe {
                            let [a, b, c, d] = [0, 1, 2, 3].map(|part| start.add(at + part * half));
                            let (x, y, z, w) = ($load(a), $load(b), $load(c), $load(d));
                            let (x, y, z, w) = ($add(x, y), $sub(x, y), $add(z, w), $sub(z, w));
                            $store(a, $mul($add(x, z), factor));
                            $store(b, $mul($add(y, w), factor));
                            $store(c, $mul($sub(x, z), factor));
                            $store(d, $mul($sub(y, w), factor));
                        }
                    }
                }
                half *= 4;
            }
            if half < n {
                let factor = $splat(scale);
                for at in (0..half).step_by($width) {
                    // SAFETY: 2 · half = n here, so at + half + width − 1 < n.
                    unsafe {
                        let (low, high) = (start.add(at), start.add(at + half));
                        let (x, y) = ($load(low), $load(high));
                        $store(low, $mul($add(x, y), factor));
                        $store(high, $mul($sub(x, y), factor));
                    }
                }
            }
        }
    };
}
pub(super) use define_hadamard;
