#!/usr/bin/env bash
# Runs the index room's tests where undefined behaviour shows: under Miri, with AddressSanitizer, and for 64-bit ARM.
#
#   scripts/sanitize.sh                 all of them
#   scripts/sanitize.sh miri            the kernels' definitions and the rest of the room, interpreted (nightly with miri)
#   scripts/sanitize.sh miri-avx2       the AVX2 kernels, interpreted (the same)
#   scripts/sanitize.sh address         every kernel of this machine, with AddressSanitizer (nightly)
#   scripts/sanitize.sh arm             the NEON kernels (target aarch64-unknown-linux-gnu, aarch64-linux-gnu-gcc, qemu-aarch64)
#
# What is not installed is skipped, with a line "skipped: …". With --install, what is missing is installed first, by rustup and
# apt-get.
#
# The index room needs few crates and no runtime, so it is compiled alone: a crate of its own under the target directory, which
# points at the sources and takes its dependencies' versions from Cargo.lock.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly ARM=aarch64-unknown-linux-gnu
readonly HOST=x86_64-unknown-linux-gnu
# Miri is some thousand times slower: few cases a property.
readonly MIRI_CASES="${MIRI_CASES:-3}"

root="$PWD"
crate="${CARGO_TARGET_DIR:-$PWD/target}/sanitize"
status=0

main() {
    local install=false checks=()
    for argument in "$@"; do
        case "$argument" in
            --install) install=true ;;
            miri | miri-avx2 | address | arm) checks+=("$argument") ;;
            -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' scripts/sanitize.sh && exit 0 ;;
            *) printf 'unknown: %s (see --help)\n' "$argument" >&2 && exit 2 ;;
        esac
    done
    ((${#checks[@]})) || checks=(miri miri-avx2 address arm)
    ! $install || install_parts "${checks[@]}"
    make_crate
    for check in "${checks[@]}"; do
        run_check "$check"
    done
    exit "$status"
}

run_check() {
    local check="$1" missing
    missing="$(missing_for "$check")"
    if [[ -n "$missing" ]]; then
        printf 'skipped: sanitize %s: %s\n' "$check" "$missing"
        return
    fi
    printf '\n-- %s\n' "$check"
    "check_${check//-/_}" || status=1
}

missing_for() {
    case "$1" in
        miri | miri-avx2) cargo +nightly miri --version >/dev/null 2>&1 || echo "no nightly toolchain with miri" ;;
        address) cargo +nightly --version >/dev/null 2>&1 || echo "no nightly toolchain" ;;
        arm)
            if ! [[ -d "$(rustc --print sysroot)/lib/rustlib/$ARM" ]]; then
                echo "no standard library for $ARM"
            elif ! command -v aarch64-linux-gnu-gcc >/dev/null; then
                echo "no aarch64-linux-gnu-gcc"
            elif ! command -v qemu-aarch64 >/dev/null; then
                echo "no qemu-aarch64"
            fi
            ;;
    esac
}

check_miri() {
    in_crate env PROPTEST_CASES="$MIRI_CASES" MIRIFLAGS="-Zmiri-disable-isolation" \
        cargo +nightly miri test --lib "index::kernels::"
}

# Miri has no feature that the target does not always have.
check_miri_avx2() {
    in_crate env PROPTEST_CASES="$MIRI_CASES" MIRIFLAGS="-Zmiri-disable-isolation" \
        RUSTFLAGS="-C target-feature=+avx2,+f16c" cargo +nightly miri test --lib "index::kernels::"
}

check_address() {
    in_crate env RUSTFLAGS="-Zsanitizer=address" ASAN_OPTIONS=detect_leaks=1 \
        cargo +nightly test --target "$HOST" --lib "index::"
}

check_arm() {
    in_crate env CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu" \
        cargo test --target "$ARM" --lib "index::kernels::"
}

in_crate() {
    (cd "$crate" && "$@")
}

# The crates the room uses, at the versions of Cargo.lock.
make_crate() {
    local features
    mkdir -p "$crate/src"
    {
        printf '[package]\nname = "index-room"\nversion = "0.0.0"\nedition = "2024"\npublish = false\n\n'
        printf '[lib]\npath = "src/lib.rs"\n\n[features]\nmutants = []\nbench = []\n\n[workspace]\n\n[dependencies]\n'
        for name in crc32c libc serde serde_json thiserror uuid; do
            features="$(grep -E "^$name = " Cargo.toml)"
            printf '%s\n' "$features"
        done
        printf '\n[dev-dependencies]\n'
        grep -E '^(proptest|tempfile) = ' Cargo.toml
        # Interpreted or emulated, unoptimised code would take minutes.
        printf '\n[profile.dev]\nopt-level = 2\ndebug = "line-tables-only"\n'
    } >"$crate/Cargo.toml.new"
    cmp -s "$crate/Cargo.toml.new" "$crate/Cargo.toml" || cp "$crate/Cargo.toml.new" "$crate/Cargo.toml"
    cp Cargo.lock "$crate/Cargo.lock"
    {
        printf '//! The index room alone.\n#![allow(dead_code)]\n'
        for room in types mutants index; do
            local file="$root/src/$room.rs"
            [[ -f "$file" ]] || file="$root/src/$room/mod.rs"
            printf '#[path = "%s"]\npub mod %s;\n' "$file" "$room"
        done
    } >"$crate/src/lib.rs"
}

install_parts() {
    for check in "$@"; do
        case "$check" in
            miri | miri-avx2) rustup toolchain install nightly --profile minimal --component miri,rust-src ;;
            address) rustup toolchain install nightly --profile minimal ;;
            arm)
                rustup target add "$ARM"
                apt-get install -q -y --no-install-recommends gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
                ;;
        esac
    done
}

main "$@"
