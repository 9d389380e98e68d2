//! Records of the log, of the state, and their journal; see `vectorsphere::fuzz::log_records`. Run by scripts/fuzz.sh.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vectorsphere::fuzz::log_records(bytes));
