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
# The room is compiled alone (scripts/index_room.sh).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/index_room.sh

readonly ARM=aarch64-unknown-linux-gnu
readonly HOST=x86_64-unknown-linux-gnu
# Miri is some thousand times slower: few cases a property.
readonly MIRI_CASES="${MIRI_CASES:-2}"

crate=""
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
    crate="$(make_index_room)"
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
