//! Checkpoints on disk; see `vectorsphere::fuzz::checkpoint`. Run by scripts/fuzz.sh.
#![no_main]
use std::sync::LazyLock;
use tempfile::TempDir;

static DIRECTORY: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a temporary directory"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vectorsphere::fuzz::checkpoint(DIRECTORY.path(), bytes));
