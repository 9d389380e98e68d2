#!/usr/bin/env bash
# Runs every test of the repository, after installing what is missing (Debian packages when it may, a Python
# environment in .venv). Safe to run again at any time.
#
#   scripts/test.sh           everything
#   scripts/test.sh --quick   without Python and without the simulation
#
# Needs: Rust (see rust-version in Cargo.toml) with rustfmt and clippy, and the registries of crates, Python and Debian
# packages the first time. Nothing else: no protoc, no service that runs (the tests of etcd start their own).
#
# Environment: SIM_SEEDS (seeds a scenario, default 24), SIM_CHECK_SEEDS (seeds a scenario that are run twice and
# compared, default 2), SIM_MUTANTS (the deliberate bugs to look for), CARGO_TARGET_DIR; what cargo, pip and the
# simulation read themselves.
#
# The stages run from cheap to dear and stop at the first that fails. Their times are printed before the last one, whose
# output ends with its runner's own closing line.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly SIM_SEEDS_DEFAULT=24
readonly SIM_CHECK_SEEDS_DEFAULT=2
# All of them: sim/mutants.sh without arguments, which also writes the table of sim/README.md.
readonly SIM_MUTANTS_DEFAULT="1 2 3 4 8 10 11 13 15 16 17 18 19 20 21 22 24 25 26 29 31 32 37 38 41"
readonly PYTHON_MINOR_MIN=11

target_dir="${CARGO_TARGET_DIR:-$PWD/target}"
log_dir="$target_dir/test-logs"
# Beyond the default lints: what is iterated must have an order, and what is unsafe a reason.
clippy_flags=(-D warnings -D clippy::iter_over_hash_type -D clippy::undocumented_unsafe_blocks)
timings=()

main() {
    local quick=false
    for argument in "$@"; do
        case "$argument" in
            --quick) quick=true ;;
            -h | --help) usage && exit 0 ;;
            *) usage >&2 && exit 2 ;;
        esac
    done
    rm -rf "$log_dir" && mkdir -p "$log_dir"

    stage "tools" install_tools
    stage "crates" cargo fetch --locked
    stage "format" cargo fmt --check
    stage "clippy" cargo clippy --locked --all-targets --all-features -- "${clippy_flags[@]}"
    stage "tidy" cargo test --locked --test tidy
    if $quick; then
        summary
        stage "cargo test" cargo test --locked --no-fail-fast
        return
    fi
    stage "clippy, simulated" clippy_simulated
    stage "cargo test" cargo test --locked --no-fail-fast
    stage "instruction counts" bash scripts/instructions.sh
    stage "python environment" make_venv
    stage "end to end" end_to_end
    stage "mutants" mutants
    stage "simulation, twice the same" simulation SIM_CHECK=1 SIM_SEEDS="${SIM_CHECK_SEEDS:-$SIM_CHECK_SEEDS_DEFAULT}"
    summary
    stage "simulation" simulation SIM_SEEDS="${SIM_SEEDS:-$SIM_SEEDS_DEFAULT}"
}

usage() {
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' scripts/test.sh
}

# Runs one stage: stage NAME COMMAND… Its output goes to the terminal and to a log. The time of the last stage is not
# printed after it, so that the runner's closing line stays the last.
stage() {
    local name="$1" started="$SECONDS" status=0
    shift
    printf '\n== %s\n' "$name"
    # Not `|| status=$?`: bash ignores `set -e` in whatever stands left of `||`.
    set +e
    (set -e; "$@") </dev/null 2>&1 | tee "$log_dir/${name//[^a-z]/_}.log"
    status=$?
    set -e
    timings+=("$(printf '%6d s  %s' "$((SECONDS - started))" "$name")")
    if ((status != 0)); then
        printf '\n== %s: FAILED with exit code %d after %d s\n' "$name" "$status" "$((SECONDS - started))" >&2
        exit 1
    fi
}

# Times so far, and the tests that said they had to be skipped for lack of a component.
summary() {
    local skipped
    skipped="$(grep -hE '^skipped: |^SKIPPED ' "$log_dir"/*.log || true)"
    printf '\n== so far\n'
    printf '%s\n' "${timings[@]}"
    printf 'skipped for lack of a component: %d\n' "$(grep -c . <<<"$skipped" || true)"
    [[ -z "$skipped" ]] || printf '%s\n' "$skipped"
    printf 'advisories: not checked (their database cannot be reached from every machine): cargo deny check advisories\n'
}

install_tools() {
    command -v cargo >/dev/null || die "cargo is not installed: install Rust $(rust_version) or newer, with rustfmt and clippy"
    local have
    have="$(rustc --version | cut -d' ' -f2)"
    [[ "$(printf '%s\n' "$(rust_version)" "$have" | sort -V | head -n1)" == "$(rust_version)" ]] ||
        die "Rust $have is too old: expected $(rust_version) or newer"
    rust_component rustfmt cargo-fmt
    rust_component clippy cargo-clippy

    local packages=()
    command -v cc >/dev/null || packages+=(gcc libc6-dev)
    command -v python3 >/dev/null || packages+=(python3)
    python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)
    ((${#packages[@]} == 0)) || debian_packages "${packages[@]}"
    # Without etcd its tests say that they were skipped. RUNLEVEL: the package would start a server of its own.
    if ! command -v etcd >/dev/null || ! command -v etcdctl >/dev/null; then
        (RUNLEVEL=1 debian_packages etcd-server etcd-client) || echo "no etcd to test with"
    fi
    python3 -c "import sys; sys.exit(sys.version_info < (3, $PYTHON_MINOR_MIN))" ||
        die "$(python3 --version) is too old: expected 3.$PYTHON_MINOR_MIN or newer"
    cargo --version && python3 --version
}

rust_version() {
    sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml
}

rust_component() {
    local component="$1" command="$2"
    "$command" --version >/dev/null 2>&1 && return
    command -v rustup >/dev/null || die "$component is not installed, and there is no rustup to install it with"
    rustup component add "$component"
}

debian_packages() {
    local root=()
    if (($(id -u) != 0)); then
        sudo -n true 2>/dev/null || die "missing packages, and no right to install them; as root: apt-get install $*"
        root=(sudo -n)
    fi
    command -v apt-get >/dev/null || die "missing packages, and no apt-get to install them with: $*"
    "${root[@]}" apt-get update -q
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}

# The Python environment, made anew whenever the requirements change.
make_venv() {
    local requirements=tests/python/requirements.txt stamp=.venv/requirements.txt
    if [[ -x .venv/bin/pytest ]] && cmp -s "$requirements" "$stamp"; then
        echo "up to date"
        return
    fi
    python3 -m venv --clear .venv
    .venv/bin/pip install --quiet --disable-pip-version-check --only-binary :all: -r "$requirements"
    cp "$requirements" "$stamp"
}

end_to_end() {
    cargo build --locked --bin vectorsphere
    VECTORSPHERE_BIN="$target_dir/debug/vectorsphere" PYTHONDONTWRITEBYTECODE=1 \
        .venv/bin/pytest -c tests/python/pytest.ini tests/python
}

# The code under `cfg(madsim)`, which an ordinary build does not see.
clippy_simulated() {
    cargo clippy --locked --config sim/cargo-sim.toml --features sim,mutants --test sim --target-dir "$target_dir/sim" \
        -- "${clippy_flags[@]}"
}

# simulation NAME=VALUE…: in the build in which the mutants sleep too, so that there is one build and not two.
simulation() {
    env "$@" cargo test --locked --config sim/cargo-sim.toml --features sim,mutants --test sim \
        --target-dir "$target_dir/sim"
}

# Deliberate bugs that the simulation must find.
mutants() {
    local list
    read -ra list <<<"${SIM_MUTANTS:-$SIM_MUTANTS_DEFAULT}"
    env -u SIM_SEEDS sim/mutants.sh "${list[@]}"
}

die() {
    printf 'scripts/test.sh: %s\n' "$1" >&2
    exit 1
}

main "$@"
