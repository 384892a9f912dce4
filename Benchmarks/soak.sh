#!/usr/bin/env bash
# The memory of sluice-edge while a thousand devices publish ten messages a second each over mutual TLS and no cloud answers.
# Required: below 128 MiB at every moment, and no growth once it is warm. Exit 0 only if both hold.
#
#   SOAK_SECONDS=3600    how long
#   SOAK_DEVICES=1000    devices
#   SOAK_RATE=10         messages a second of each
#   SOAK_LIMIT=128       MiB
#
# 36 million messages an hour take about 5 GB of disk.
set -euo pipefail
cd "$(dirname "$0")/.."
. Benchmarks/edge.sh

seconds=${SOAK_SECONDS:-3600}
devices=${SOAK_DEVICES:-1000}
each=${SOAK_RATE:-10}
limit=${SOAK_LIMIT:-128}
[[ $seconds =~ ^[1-9][0-9]{1,4}$ ]] || die "SOAK_SECONDS: 10 to 99999, not '$seconds'"
begin soak sluice sluice-edge sluice-bench

mapfile -t ids < <(seq -f 'soak-%.0f' 0 "$((devices - 1))")
{
    "$bin/sluice" pki init --directory "$work/pki"
    "$bin/sluice" pki server edge --dns localhost --ip 127.0.0.1 --directory "$work/pki"
    "$bin/sluice" pki server cloud --dns localhost --ip 127.0.0.1 --directory "$work/pki"
    "$bin/sluice" pki gateway soak --directory "$work/pki"
    "$bin/sluice" pki device "${ids[@]}" --directory "$work/pki"
} >"$work/setup.log"
port=$(free_port) status=$(free_port)
cat >"$work/edge.yaml" <<YAML
gateway: { id: soak }
listeners:
  - address: 127.0.0.1
    port: $port
    tls: { certificate: $work/pki/servers/edge.crt, key: $work/pki/servers/edge.key, clientCA: $work/pki/ca.crt }
groups: [{ name: fleet, devices: ["*"], limits: { messagesPerSecond: unlimited } }]
access: [{ allow: all, topic: "devices/%d/#" }]
limits: { global: { connectionsPerSecond: unlimited } }
buffer: { path: $work/buffer.db, freeDiskFloor: 0%, maximumBytes: 32GiB }
uplink:
  url: https://127.0.0.1:1
  certificate: $work/pki/gateways/soak.crt
  key: $work/pki/gateways/soak.key
  ca: $work/pki/ca.crt
status: { address: 127.0.0.1, port: $status }
YAML
run_daemon edge "$port"
edge=$!
run "$work/load.json" "$bin/sluice-bench" publish --json --host localhost --port "$port" --pki "$work/pki" --connections "$devices" \
    --id 'soak-%d' --rate "$((each * devices))" --in-flight 32 --warmup 0 --seconds "$seconds" --version 5
load=$!

# MiB that the daemon has now.
resident() { awk '$1 == "VmRSS:" { print int($2 / 1024) }' "/proc/$edge/status"; }
connected() { [ "$(metric "$status" sluice_connections)" -eq "$devices" ]; }
wait_until 120 "all devices are connected" connected || die "$(tail -3 "$work/load.json")"
start=$SECONDS
# A third of the time warms it up; what it has then is what it may keep, and a twentieth more.
warm=0 highest=0
while kill -0 "$load" 2>/dev/null; do
    sleep 1
    kill -0 "$edge" 2>/dev/null || die "sluice-edge ended: $(tail -3 "$work/edge.log")"
    now=$(resident)
    [ "$now" -le "$highest" ] || highest=$now
    if [ $((SECONDS - start)) -le $((seconds / 3)) ]; then warm=$highest; fi
done
wait "$load" || die "the devices had errors: $(cat "$work/load.json")"
waiting=$(metric "$status" sluice_buffer_messages)
rate=$(json_number "$work/load.json" rate)
awk -v h="$highest" -v w="$warm" -v l="$limit" -v n="$waiting" -v s="$seconds" -v d="$devices" -v r="$rate" 'BEGIN {
    printf "%d devices, %d messages/s acknowledged for %d s, %d messages wait: %d MiB after a third of the time, %d MiB at most, required below %d and no growth\n",
        d, r, s, n, w, h, l
    exit !(h < l && h <= w * 1.05 + 1) }'
