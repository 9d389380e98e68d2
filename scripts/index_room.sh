# Makes a crate of the index room alone, for the scripts that compile it often or strangely: it needs few crates and no runtime.
# Sourced by scripts/sanitize.sh and scripts/instructions.sh from the repository's root.
#
#   make_index_room     prints the directory of the crate, which is called vectorsphere as the whole is

# Points at the sources in place; dependencies and their versions are those of Cargo.toml and Cargo.lock.
make_index_room() {
    local root="$PWD" crate="${CARGO_TARGET_DIR:-$PWD/target}/index-room"
    mkdir -p "$crate/src"
    {
        printf '[package]\nname = "vectorsphere"\nversion = "0.0.0"\nedition = "2024"\npublish = false\n\n'
        printf '[[bench]]\nname = "instructions"\npath = "%s/benches/instructions.rs"\nharness = false\n\n' "$root"
        printf '[features]\ndefault = ["bench"]\nbench = []\nmutants = []\n\n[workspace]\n\n[dependencies]\n'
        grep -E '^(bytemuck|crc32c|libc|memmap2|serde|serde_json|thiserror|uuid|xxhash-rust) = ' Cargo.toml
        printf '\n[dev-dependencies]\n'
        grep -E '^(proptest|tempfile) = ' Cargo.toml
        printf '\n[lints.rust]\nunexpected_cfgs = { level = "allow" }\n'
        # Emulated, unoptimised code would take minutes.
        printf '\n[profile.dev]\nopt-level = 2\ndebug = "line-tables-only"\n'
        printf '\n[profile.bench]\ncodegen-units = 1\n'
    } | write_changed "$crate/Cargo.toml"
    {
        printf '//! The index room alone.\n#![allow(dead_code)]\n'
        # Of `rt` the room uses the two parallel seams alone, which need nothing else.
        printf 'pub mod rt { pub mod compute { #[path = "%s/src/rt/compute/parallel.rs"] mod parallel;\n' "$root"
        printf '#[path = "%s/src/rt/compute/helpers.rs"] mod helpers;\n' "$root"
        printf '#[path = "%s/src/rt/compute/spread.rs"] mod spread;\n' "$root"
        printf 'pub use {parallel::parallel, spread::{Busy, busy, idle_cores, spread}};\n'
        printf 'static CORES: std::sync::OnceLock<usize> = std::sync::OnceLock::new();\n'
        printf 'pub fn cores() -> usize { *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from)) } } }\n'
        printf '#[path = "%s/src/mutants.rs"]\npub mod mutants;\n' "$root"
        printf '#[path = "%s/src/types/mod.rs"]\npub mod types;\n' "$root"
        printf '#[path = "%s/src/index/mod.rs"]\npub mod index;\n' "$root"
    } | write_changed "$crate/src/lib.rs"
    # Cargo takes out what the room does not use.
    [[ -f "$crate/Cargo.lock" && "$crate/Cargo.lock" -nt Cargo.lock ]] || cp Cargo.lock "$crate/Cargo.lock"
    printf '%s\n' "$crate"
}

# Writes standard input to the file unless it says so already: what is not touched is not compiled again.
write_changed() {
    cat >"$1.new"
    if cmp -s "$1.new" "$1"; then rm "$1.new"; else mv "$1.new" "$1"; fi
}
