//! The AVX-512 table. (Placeholder until `speed`'s lands.)

use super::{Kernels, avx2, avx512_columns, avx512_rows};

pub(super) static KERNELS: Kernels = Kernels {
    name: "avx512",
    l2: avx512_rows::l2,
    dot: avx512_rows::dot,
    l1: avx512_rows::l1,
    l1_i8: avx512_rows::l1_i8,
    dot_i8: avx512_rows::dot_i8,
    hadamard: avx512_columns::hadamard,
    nearest_code: avx512_columns::nearest_code,
    code_dots: avx512_columns::code_dots,
    scores: avx512_columns::scores,
    assign: avx2::KERNELS.assign,
    scan: avx2::KERNELS.scan,
};

pub(super) fn detected() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx2") && has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") && has!("avx512vnni")
}
