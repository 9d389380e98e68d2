#!/usr/bin/env bash
# Throws bytes at what is read from peers and disks: runs each fuzz target, or those named, for some seconds, guided by
# coverage. On the stable toolchain: the compiler's own pass counts edges, libFuzzer comes with the crate libfuzzer-sys.
#
#   scripts/fuzz.sh [target…]     targets: frame, log_records, checkpoint
#
# Environment: FUZZ_SECONDS (each target, default 20), FUZZ_KEEP=1 (what covers something new is added to fuzz/corpus,
# made small first), CARGO_TARGET_DIR. Exits 1 if something was found; it then lies in fuzz/artifacts, and belongs into
# fuzz/corpus once it is mended: `cargo test fuzz::` replays everything there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../fuzz"

targets=("$@")
((${#targets[@]} > 0)) || targets=(frame log_records checkpoint)
seconds="${FUZZ_SECONDS:-20}"
triple="$(rustc -vV | sed -n 's/^host: //p')"
target_dir="${CARGO_TARGET_DIR:-target}"

# Edges counted in 8 bits each, with a table of their addresses, and the operands of comparisons. With --target the flags do
# not touch build scripts and procedural macros, which are not linked with libFuzzer.
flags=(--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module)
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    flags+=("-Cllvm-args=-sanitizer-coverage-$option")
done
CARGO_ENCODED_RUSTFLAGS="$(IFS=$'\x1f'; printf '%s' "${flags[*]}")" \
    ${CARGO_SLOT:-} cargo build --release --locked --target "$triple" --target-dir "$target_dir"

# Checkpoints are files that are synced: on a memory file system a hundred times as many are tried.
[[ ! -d /dev/shm ]] || export TMPDIR=/dev/shm

status=0
for target in "${targets[@]}"; do
    program="$target_dir/$triple/release/$target"
    found="$(mktemp -d)"
    mkdir -p "artifacts/$target"
    printf '\n== %s, %s s\n' "$target" "$seconds"
    "$program" -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 \
        -artifact_prefix="artifacts/$target/" "$found" "corpus/$target" || status=1
    if [[ "${FUZZ_KEEP:-0}" == 1 ]]; then
        "$program" -merge=1 -verbosity=0 "corpus/$target" "$found"
    fi
    rm -rf "$found"
done
exit "$status"
