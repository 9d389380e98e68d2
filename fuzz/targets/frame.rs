//! Frames of peers; see `vectorsphere::fuzz::frame`. Run by scripts/fuzz.sh.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vectorsphere::fuzz::frame(bytes));
