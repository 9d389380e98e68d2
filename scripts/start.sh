#!/usr/bin/env bash
# Starts one node in the foreground; ends when the node ends. A SIGINT or SIGTERM stops it in good order.
#
#   scripts/start.sh MODE [PORT [ETCD [SERVICE]]] [FLAG…]
#
#   MODE      standalone, master, slave (or worker), auto, gateway
#   PORT      port of the HTTP interface, 8080 if absent (9000 for the gateway)
#   ETCD      host:port of etcd, several with commas, localhost:2379 if absent; standalone needs none and uses none
#   SERVICE   name of the cluster, VectorSphere if absent
#   FLAG…     passed on to `vectorsphere serve` as they are
#
# Nodes find each other in etcd and wait for it where it is not there yet; README.md has how they form a cluster by themselves.
# The gateway finds the nodes there, too, under the same SERVICE; while etcd does not tell it asks nodes that it is told:
# --set gateway.nodes=localhost:8080,localhost:8081.
#
# A node on another port than 8080 takes free ports for its other interfaces and a data directory of its own
# (data-PORT), so that several nodes can run on one machine.
#
# Environment: VECTORSPHERE_BIN (the program; else the one on PATH, else the release build, which is built if need be),
# VECTORSPHERE_CONFIG (configuration file; conf/app.yaml if that exists).
set -euo pipefail

readonly PORT_DEFAULT=8080
readonly GATEWAY_PORT_DEFAULT=9000

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

usage() {
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$root/scripts/start.sh"
}

die() {
    printf 'scripts/start.sh: %s\n\n' "$1" >&2
    usage >&2
    exit 2
}

# Path of the program.
find_binary() {
    if [[ -n "${VECTORSPHERE_BIN:-}" ]]; then
        echo "$VECTORSPHERE_BIN"
    elif command -v vectorsphere; then
        return
    else
        cargo build --locked --release --manifest-path "$root/Cargo.toml" --bin vectorsphere >&2
        echo "${CARGO_TARGET_DIR:-$root/target}/release/vectorsphere"
    fi
}

case "${1:-}" in
    -h | --help)
        usage
        exit 0
        ;;
    standalone | master | slave | worker | auto | gateway) mode="$1" ;;
    "") die "no mode given" ;;
    *) die "unknown mode: expected standalone, master, slave, worker, auto or gateway, got $1" ;;
esac
shift

# Positional arguments end at the first flag.
positional=()
while (($# > 0 && ${#positional[@]} < 3)) && [[ "$1" != -* ]]; do
    positional+=("$1")
    shift
done
port_default="$PORT_DEFAULT"
[[ "$mode" != gateway ]] || port_default="$GATEWAY_PORT_DEFAULT"
port="${positional[0]:-$port_default}"
etcd="${positional[1]:-localhost:2379}"
service="${positional[2]:-VectorSphere}"
[[ "$port" =~ ^[0-9]{1,5}$ ]] && ((10#$port >= 1 && 10#$port <= 65535)) || die "bad port: expected 1 to 65535, got $port"

arguments=(serve --mode "$mode" --port "$port" --service "$service")
[[ "$mode" == standalone ]] || arguments+=(--etcd "$etcd")
if [[ "$mode" == gateway ]]; then
    # The operators' port of the first node is 9090.
    arguments+=(--monitoring 127.0.0.1:0)
elif [[ "$port" != "$PORT_DEFAULT" ]]; then
    arguments+=(--data-dir "data-$port" --grpc 127.0.0.1:0 --peer 127.0.0.1:0 --monitoring 127.0.0.1:0)
fi
config="${VECTORSPHERE_CONFIG:-}"
[[ -n "$config" || ! -f "$root/conf/app.yaml" ]] || config="$root/conf/app.yaml"
[[ -z "$config" ]] || arguments+=(--config "$config")

binary="$(find_binary)"
exec "$binary" "${arguments[@]}" "$@"
