#!/usr/bin/env bash
# How long a backlog of a million 100-byte messages takes from the edge into the cloud's log, over mutual TLS on loopback,
# with the cloud and PostgreSQL on the same machine, and what is taken from devices meanwhile. Required: at most 15 s, and at
# least half of what they offer.
#
#   BENCH_MESSAGES=1000000   the backlog
#   BENCH_RATE=10000         messages a second of the devices meanwhile; what waits of two seconds counts as drained
#   BENCH_STRICT=1           end with an error when a requirement was missed
set -euo pipefail
cd "$(dirname "$0")/.."
. Benchmarks/edge.sh

messages=${BENCH_MESSAGES:-1000000}
rate=${BENCH_RATE:-10000}
begin drain sluice sluice-edge sluice-cloud sluice-bench
# PostgreSQL's user must get to its folder below.
chmod 755 "$work"

scripts/postgres.sh init "$work/postgres"
database=$(scripts/postgres.sh url "$work/postgres")
{
    "$bin/sluice" pki init --directory "$work/pki"
    "$bin/sluice" pki server cloud --dns localhost --ip 127.0.0.1 --directory "$work/pki"
    "$bin/sluice" pki gateway bench --directory "$work/pki"
    "$bin/sluice" migrate up --database "$database"
} >"$work/setup.log"
mqtt=$(free_port) sync=$(free_port) edge_status=$(free_port) cloud_status=$(free_port)
cat >"$work/edge.yaml" <<YAML
gateway: { id: bench }
listeners: [{ address: 127.0.0.1, port: $mqtt, plaintext: true }]
access: [{ allow: all, topic: "#" }]
groups: [{ name: local, limits: { messagesPerSecond: unlimited, bytesPerSecond: unlimited } }]
limits: { global: { connectionsPerSecond: unlimited, messagesPerSecond: unlimited } }
buffer: { path: $work/buffer.db, freeDiskFloor: 0%, maximumBytes: 8GiB }
uplink:
  url: https://localhost:$sync
  certificate: $work/pki/gateways/bench.crt
  key: $work/pki/gateways/bench.key
  ca: $work/pki/ca.crt
status: { address: 127.0.0.1, port: $edge_status }
YAML
cat >"$work/cloud.yaml" <<YAML
listener:
  address: 127.0.0.1
  port: $sync
  tls:
    certificate: $work/pki/servers/cloud.crt
    key: $work/pki/servers/cloud.key
    clientCA: $work/pki/ca.crt
    crl: $work/pki/crl.pem
eventLog: { embedded: { path: $work/log.db, partitions: 32 } }
database: { url: "$database" }
status: { address: 127.0.0.1, port: $cloud_status }
shutdown: { stateFile: $work/cloud-shutdown }
YAML

edge_metric() { metric "$edge_status" "$1"; }
publish=("$bin/sluice-bench" publish --json --port "$mqtt" --connections 50 --in-flight 32 --payload 100 --warmup 0 --version 5)
now() { date +%s.%N; }

run_daemon edge "$mqtt"

# The rate without a cloud: of the first seconds of the backlog.
"${publish[@]}" --seconds 3 >"$work/alone.json"
alone=$(json_number "$work/alone.json" rate)
while [ "$(edge_metric sluice_buffer_messages)" -lt "$messages" ]; do
    "${publish[@]}" --seconds 1 --rate "$((messages / 10))" >/dev/null
done
backlog=$(edge_metric sluice_buffer_messages)

run_daemon cloud "$sync"
found() { [ "$(edge_metric sluice_uplink_messages_total)" -gt 0 ]; }
wait_until 130 "the edge has found the cloud" found
begin=$(now)
before=$(edge_metric sluice_messages_committed_total) && begin_load=$(now)
run "$work/beside.json" "${publish[@]}" --seconds 120 --rate "$rate"
load=$!
while [ "$(edge_metric sluice_uplink_backlog_messages)" -gt $((2 * rate)) ]; do
    kill -0 "$load" 2>/dev/null || die "the devices ended before the backlog: $(cat "$work/beside.json")"
    sleep 0.1
done
end=$(now)
beside=$(($(edge_metric sluice_messages_committed_total) - before))
end_process "$load" 5

awk -v n="$backlog" -v t="$begin" -v e="$end" -v l="$begin_load" -v m="$beside" -v a="$alone" -v rate="$rate" 'BEGIN {
    drain = e - t; ingest = m / (e - l)
    printf "%d messages drained in %.1f s (%d/s), required at most 15 s for a million; meanwhile %d messages/s were taken from devices of %d offered; as many as go without a cloud are %d/s\n",
        n, drain, n / drain, ingest, rate, a
    exit !(drain * 1e6 / n <= 15 && ingest >= rate / 2) }' || [ -z "${BENCH_STRICT:-}" ]
