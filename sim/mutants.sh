#!/usr/bin/env bash
# Does the simulation find bugs? Builds it with deliberate ones (feature `mutants`), switches each on in turn and runs seeds
# until one fails. Prints a table, writes it into sim/README.md, and exits 1 if a mutant escapes.
#
#   sim/mutants.sh [mutant…]     environment: SIM_SEEDS (most seeds a mutant, default 50), SIM_FIRST_SEED (default 1)
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A BUG=(
    [2]="acknowledged before the log is synced"
    [10]="rename without a sync of the directory"
    [11]="checksums of records ignored"
    [13]="the last entry applied twice on replay"
    [16]="a delete does not reach the index"
    [17]="sealing drops the tail"
)
mutants=("$@")
[ ${#mutants[@]} -gt 0 ] || mutants=(2 10 11 13 16 17)
seeds=${SIM_SEEDS:-50}
first=${SIM_FIRST_SEED:-1}
report=$(mktemp)
table=$(mktemp)
trap 'rm -f "$report" "$table"' EXIT

echo "building the simulation with mutants …"
run() { ${CARGO_SLOT:-} cargo test --quiet --config sim/cargo-sim.toml --features sim,mutants --test sim -- "$@"; }
SIM_SEEDS=0 run --exact none >/dev/null

escaped=0
{
    echo "| mutant | what it breaks | caught by seed | scenario | how |"
    echo "|---|---|---|---|---|"
} >"$table"
for mutant in "${mutants[@]}"; do
    if SIM_MUTANT=$mutant SIM_FAIL_FAST=1 SIM_FIRST_SEED=$first SIM_SEEDS=$seeds \
        SIM_LOG_DIR="target/sim-logs/mutants/$mutant" RUST_BACKTRACE=0 \
        run ${SIM_SCENARIOS:-node_} >"$report" 2>&1; then
        found="escaped $seeds seeds | – | –"
        escaped=1
    elif line=$(grep -m1 '^FAIL ' "$report"); then
        scenario=$(awk '{print $2}' <<<"$line")
        seed=$(awk '{print $4}' <<<"$line" | tr -d :)
        how=$(grep -A4 -m1 '^FAIL ' "$report" | sed -n 3p | sed 's/^ *//; s/|/\\|/g; s#/[^ ]*/disks/##g' | cut -c1-110)
        found="$((seed - first + 1)) | $scenario | $how"
    else
        cat "$report"
        exit 2
    fi
    echo "| $mutant | ${BUG[$mutant]:-?} | $found |" | tee -a "$table"
done

if [ $# -eq 0 ]; then
    awk -v table="$table" '
        /<!-- mutants:begin -->/ { print; while ((getline line < table) > 0) print line; skip = 1 }
        /<!-- mutants:end -->/ { skip = 0 }
        !skip || /<!-- mutants:begin -->/ { if (!/<!-- mutants:begin -->/) print }
    ' sim/README.md >"$report" && cat "$report" >sim/README.md
fi
exit $escaped
