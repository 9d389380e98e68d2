//! The AVX-512 table: placeholder until `speed`'s and `kernels`' land; only the int8 assignment is wider than AVX2 here.

use super::{Kernels, assign_avx512, avx2};

pub(super) static KERNELS: Kernels = Kernels {
    name: "avx512",
    l2: avx2::KERNELS.l2,
    dot: avx2::KERNELS.dot,
    l1: avx2::KERNELS.l1,
    l1_i8: avx2::KERNELS.l1_i8,
    dot_i8: avx2::KERNELS.dot_i8,
    hadamard: avx2::KERNELS.hadamard,
    nearest_code: avx2::KERNELS.nearest_code,
    code_dots: avx2::KERNELS.code_dots,
    scores: avx2::KERNELS.scores,
    assign: avx2::KERNELS.assign,
    to_bytes: avx2::KERNELS.to_bytes,
    nearest_i8: assign_avx512::nearest_i8,
    scores_i8: assign_avx512::scores_i8,
    scan: avx2::KERNELS.scan,
};

pub(super) fn detected() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx2") && has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") && has!("avx512vnni")
}
