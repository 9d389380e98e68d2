#!/usr/bin/env bash
# Does the simulation find bugs? Builds it with deliberate ones (feature `mutants`), switches each on in turn and runs seeds
# until one fails. Prints a table, writes it into sim/README.md (the rows of those it was run for; the others stay), and exits
# 1 if a mutant escapes.
#
#   sim/mutants.sh [mutant…]     environment: SIM_SEEDS (most seeds a mutant, default 50), SIM_FIRST_SEED (default 1),
#                                SIM_SCENARIOS (instead of the scenarios that each mutant is meant for), SIM_PROGRAM (a simulation
#                                built with mutants, to be run instead of building one)
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A BUG=(
    [1]="acknowledged before a majority has it"
    [2]="acknowledged before the log is synced"
    [3]="term and vote are not synced"
    [4]="a leader reads without asking whether it still leads"
    [5]="a leader reads by its lease, whatever its clock does"
    [6]="an entry of an older term is committed by counting"
    [7]="leaders and followers of different terms listen to each other"
    [8]="a follower cuts off what was committed"
    [9]="a checkpoint lacks its last batch"
    [10]="rename without a sync of the directory"
    [11]="checksums of records ignored"
    [12]="damage in the journal is taken for its end, though synced records follow"
    [13]="the last entry applied twice on replay"
    [14]="a checkpoint lacks the request ids"
    [15]="a batch becomes two entries of the log"
    [16]="a delete does not reach the index"
    [17]="sealing drops the tail"
    [18]="a search sees the lists as they were before the last writes"
    [19]="a list of pages goes on one document late when the last one of a page was deleted"
    [20]="a replica is given up before others have what it has"
    [21]="who gets a replica begins a group of its own beside the one there is"
    [22]="two voters changed in one step"
    [23]="a learner counts towards a majority"
    [24]="a watch resumes one revision late"
    [25]="who has lost its lease goes on as if it had it"
    [26]="if_version compared before the log instead of after"
    [27]="an unknown outcome is reported as a failure"
    [28]="a full disk is passed over in silence"
    [29]="shards of a table that was dropped give their ids to the next one"
    [30]="session tokens ignored"
    [31]="versions by the time of day"
    [32]="the first slot of a shard is looked for in the one before"
    [33]="each replica trains its index with a seed of its own"
    [34]="a heartbeat of a group at rest commits what the member does not have"
    [36]="the cluster speaks a newer version before members that are away can"
    [37]="who gets slots is not told which requests are done"
    [38]="a shard goes on to own slots that are on their way to another"
    [39]="a list or search takes answers of shards that do not fit each other"
    [40]="a table is gone before its shards are closed"
    [41]="changes of aliases of one request are made one after the other"
    [42]="a change of aliases is answered before the other nodes have heard of it"
    [43]="a delete by filter forgets the slots that moved while it went on"
    [44]="a patch is merged before the log instead of after"
    [45]="a partial answer does not name what is missing"
    [46]="verify compares replicas that have applied different prefixes"
    [47]="a document that is replaced stays where it was in the payload indexes"
    [48]="a node that leaves a group forgets what it promised there"
    [49]="an eventual read shows any state, however old"
    [50]="a start takes what a failed sync left in the page cache for durable"
)

# Where each is looked for: names of scenarios contain one of these.
declare -A WHERE=(
    [1]="cluster_register cluster_set" [3]="group_" [4]="group_" [5]="group_"
    [6]="group_" [7]="group_" [8]="cluster_register cluster_set" [9]="cluster_set cluster_register" [11]="node_register node_set node_search" [12]="node_register node_set"
    [14]="cluster_retried" [15]="cluster_bank" [18]="node_search" [19]="node_set cluster_set" [20]="cluster_moves" [21]="cluster_moves" [22]="group_" [23]="group_" [24]="coordinat an_etcd" [25]="coordinat"
    [26]="cluster_append cluster_bank cluster_register" [27]="cluster_register group_" [30]="cluster_session"
    [29]="cluster_recreated" [31]="cluster_register" [32]="cluster_register" [33]="cluster_search" [34]="group_ cluster_register" [36]="cluster_upgrades"
    [37]="cluster_splits" [38]="cluster_splits" [39]="cluster_splits_keep" [40]="etcd_cluster_keeps" [41]="cluster_switched" [42]="cluster_switched"
    [43]="cluster_splits_keep" [44]="cluster_register" [45]="cluster_set cluster_search" [46]="cluster_register"
    [47]="node_search cluster_search" [48]="cluster_moves" [49]="cluster_session"
    [50]="store_keeps group_"
)
# Those whose site is in the code.
mapfile -t PRESENT < <(grep -rhoE 'mutant!\([0-9]+\)' src --include='*.rs' --exclude=mutants.rs | grep -oE '[0-9]+' | sort -nu)
mutants=("$@")
[ ${#mutants[@]} -gt 0 ] || mutants=("${PRESENT[@]}")
seeds=${SIM_SEEDS:-50}
first=${SIM_FIRST_SEED:-1}
# As the launcher has it, so that nothing is built in two places.
target_dir=${SIM_TARGET_DIR:-${CARGO_TARGET_DIR:-target}/sim}
report=$(mktemp)
table=$(mktemp)
trap 'rm -f "$report" "$table"' EXIT

run() {
    if [ -n "${SIM_PROGRAM:-}" ]; then
        "$SIM_PROGRAM" "$@"
    else
        cargo test --locked --quiet --config sim/cargo-sim.toml --features sim,mutants --test sim --target-dir "$target_dir" -- "$@"
    fi
}
echo "building the simulation with mutants …"
SIM_SEEDS=0 run --exact none >/dev/null

escaped=0
{
    echo "| mutant | what it breaks | caught by seed | scenario | how |"
    echo "|---|---|---|---|---|"
} >"$table"
for mutant in "${mutants[@]}"; do
    if SIM_MUTANT=$mutant SIM_FAIL_FAST=1 SIM_FIRST_SEED=$first SIM_SEEDS=$seeds \
        SIM_LOG_DIR="target/sim-logs/mutants/$mutant" RUST_BACKTRACE=0 \
        run ${SIM_SCENARIOS:-${WHERE[$mutant]:-node_}} >"$report" 2>&1; then
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

# The rows there are, but for those made anew, then all in order.
rows=$(mktemp)
sed -n '/<!-- mutants:begin -->/,/<!-- mutants:end -->/p' sim/README.md | grep -E '^\| [0-9]+ \|' >"$rows" || true
for mutant in "${mutants[@]}"; do
    sed -i "/^| $mutant |/d" "$rows"
done
grep -E '^\| [0-9]+ \|' "$table" >>"$rows"
{ head -n 2 "$table"; sort -t'|' -k2n "$rows"; } >"$report"
mv "$report" "$table"
awk -v table="$table" '
    /<!-- mutants:begin -->/ { print; while ((getline line < table) > 0) print line; skip = 1; next }
    /<!-- mutants:end -->/ { skip = 0 }
    !skip
' sim/README.md >"$rows" && cat "$rows" >sim/README.md
rm -f "$rows"
exit $escaped
