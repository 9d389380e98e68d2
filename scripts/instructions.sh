#!/usr/bin/env bash
# The gate of instruction counts: fails when a hot path of the index takes over 3 % more instructions than benches/instructions.txt
# says. Times cannot be gated on a shared machine, counts can: they are the same in every run.
#
#   scripts/instructions.sh             compares
#   scripts/instructions.sh --update    writes the counts found into benches/instructions.txt
#
# Needs valgrind (it knows AVX2, not AVX-512: the tables counted are scalar and avx2). Skipped, with a line "skipped: …", without
# it, on other machines than x86-64 with AVX2, and with another compiler than the counts are of: another compiler, other counts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/index_room.sh

readonly COUNTS=benches/instructions.txt
readonly GROWTH_PERCENT_MAX=3
readonly TABLES=(avx2 scalar)

main() {
    local update=false compiler missing
    [[ "${1:-}" != --update ]] || update=true
    compiler="$(rustc --version | cut -d' ' -f1,2)"
    missing="$(missing_for "$compiler" "$update")"
    if [[ -n "$missing" ]]; then
        printf 'skipped: instruction counts: %s\n' "$missing"
        return
    fi
    local program found
    program="$(build_program)"
    found="$(mktemp)"
    trap "rm -f '$found'" EXIT
    count_all "$program" >"$found"
    if $update; then
        {
            printf '# Instructions of the hot paths of the index, by kernels and case; scripts/instructions.sh --update writes it.\n'
            printf '# %s\n' "$compiler"
            cat "$found"
        } >"$COUNTS"
        cat "$COUNTS"
    else
        compare "$found"
    fi
}

missing_for() {
    if [[ "$(uname -m)" != x86_64 ]] || ! grep -qw avx2 /proc/cpuinfo; then
        echo "no AVX2"
    elif ! command -v valgrind >/dev/null; then
        echo "no valgrind"
    elif ! $2 && ! grep -qxF "# $1" "$COUNTS"; then
        echo "$COUNTS is of another compiler than $1"
    fi
}

# Prints the path of the program.
build_program() {
    local crate
    crate="$(make_index_room)"
    (cd "$crate" && cargo bench --no-run --bench instructions --message-format json-render-diagnostics) |
        sed -n 's/.*"name":"instructions".*"executable":"\([^"]*\)".*/\1/p'
}

# One line a table and case: table, case, instructions. The build and the whole query with avx2 alone: they take seconds.
count_all() {
    local program="$1" table name instructions
    for table in "${TABLES[@]}"; do
        for name in $("$program"); do
            [[ "$table $name" != scalar\ @(build*|query) ]] || continue
            instructions="$(count "$program" "$table" "$name")" || return 1
            printf '%s %s %s\n' "$table" "$name" "$instructions"
        done
    done
}

# The same environment and no address randomisation: nothing that varies reaches the program.
count() {
    env -i VECTORSPHERE_SIMD="$2" setarch -R valgrind --tool=callgrind --callgrind-out-file=/dev/null \
        --toggle-collect='*instructions*measured*' "$1" "$3" 2>&1 |
        sed -n 's/^==[0-9]*== Collected : \([0-9]*\)$/\1/p' | grep . ||
        { printf 'scripts/instructions.sh: no count of %s %s\n' "$2" "$3" >&2 && return 1; }
}

# A table of the counts, before and now; fails where one has grown too much or is not known.
compare() {
    awk -v most="$GROWTH_PERCENT_MAX" '
        NR == FNR { if ($0 !~ /^#/) before[$1 " " $2] = $3; next }
        {
            name = $1 " " $2; seen[name] = 1
            if (!(name in before)) { printf "%-20s %12s %12d  not in the file\n", name, "-", $3; bad++; next }
            growth = ($3 - before[name]) / before[name] * 100
            verdict = growth > most ? "GROWN" : growth < -most ? "fewer: update the file" : ""
            if (growth > most) bad++
            printf "%-20s %12d %12d  %+6.2f %%  %s\n", name, before[name], $3, growth, verdict
        }
        END {
            for (name in before) if (!(name in seen)) { printf "%-20s is no longer counted\n", name; bad++ }
            printf "instruction counts: %d that grew by more than %d %% or do not fit %s\n", bad, most, "benches/instructions.txt"
            exit bad > 0
        }' "$COUNTS" "$1"
}

main "$@"
