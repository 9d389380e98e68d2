//! The `vectorsphere` binary.
fn main() {}
