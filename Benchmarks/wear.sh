#!/bin/bash
# What an acknowledged byte costs the flash: sluice-edge takes 1,000 messages a second with buffer.commitDelay of 0, 10 and
# 100 ms; printed are the bytes that the kernel was given to write for each byte that the buffer stores, and how long an
# acknowledgement takes. docs/benchmarks.md has what was measured.
#
#   BENCH_SECONDS=20   seconds measured for each delay
#   BENCH_FSYNC_MS=10  every fsync takes so long more, as on eMMC
#   BENCH_DIR          where the buffer lies: on the disk that shall be measured
#   BENCH_BIN          where the programs lie; if set, nothing is built
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${BENCH_SECONDS:-20}
directory=${BENCH_DIR:-$PWD/.build/bench}
bin=${BENCH_BIN:-.build/release}
required=4.0
# shellcheck source=Benchmarks/lib.sh
. Benchmarks/lib.sh

[ -n "${BENCH_BIN:-}" ] || scripts/build.sh sluice-bench sluice sluice-edge
mkdir -p "$directory"
work=$(mktemp -d "$directory/wear.XXXXXX")
[ -z "${BENCH_FSYNC_MS:-}" ] || slow_disk "$BENCH_FSYNC_MS"
port=$(free_port 23000)
status=$(free_port 25000)
{
    "$bin/sluice" pki init --directory "$work/pki"
    "$bin/sluice" pki gateway bench --directory "$work/pki"
} >"$work/pki.log" 2>&1 || { cat "$work/pki.log" >&2; die "the certificates could not be made"; }

# written: bytes that the daemon has given to the disk.
written() { awk '/^write_bytes:/ { print $2 }' "/proc/$broker_pid/io"; }
# stored: bytes of the frames in the buffer.
stored() { curl -fsS "http://127.0.0.1:$status/metrics" | awk '/^sluice_buffer_bytes / { printf "%.0f", $2 }'; }

# measure DELAY: one line of the table; sets `ratio`.
measure() {
    cat >"$work/wear.yaml" <<END
gateway: { id: bench }
listeners: [{ address: 127.0.0.1, port: $port, plaintext: true }]
groups: [{ name: local, limits: { messagesPerSecond: unlimited, bytesPerSecond: unlimited } }]
access: [{ group: local, allow: all, topic: "#" }]
limits: { global: { messagesPerSecond: unlimited, connectionsPerSecond: unlimited } }
buffer: { path: $work/buffer/buffer.db, commitDelay: $1ms }
uplink:
  url: https://127.0.0.1:9
  certificate: $work/pki/gateways/bench.crt
  key: $work/pki/gateways/bench.key
  ca: $work/pki/ca.crt
status: { address: 127.0.0.1, port: $status }
END
    rm -rf "$work/buffer"
    mkdir "$work/buffer"
    start sluice-edge "$work/sluice.log" "$port" "$bin/sluice-edge" --config "$work/wear.yaml"
    local arguments=(--json --port "$port" --connections 50 --in-flight 64 --payload 100 --qos 1 --rate 1000 --warmup 1)
    local writes bytes line
    # The first round fills the log for the first time; what follows is the daily state.
    "$bin/sluice-bench" publish "${arguments[@]}" --seconds 3 >/dev/null
    writes=$(written) bytes=$(stored)
    line=$("$bin/sluice-bench" publish "${arguments[@]}" --seconds "$seconds" | tail -n 1)
    sleep 1
    writes=$(($(written) - writes)) bytes=$(($(stored) - bytes))
    stop_broker
    ratio=$(awk -v w="$writes" -v b="$bytes" 'BEGIN { printf "%.2f", w / b }')
    printf '%-8s %12s %12s %8s %10s %10s\n' "$1 ms" "$bytes" "$writes" "$ratio" \
        "$(sed -n 's/.*"p50Microseconds":\([0-9]*\).*/\1/p' <<<"$line")" \
        "$(sed -n 's/.*"p99Microseconds":\([0-9]*\).*/\1/p' <<<"$line")"
}

echo "1,000 messages a second of 100 bytes from 50 devices, QoS 1; $seconds s each, on $(stat -f -c %T "$work")"
[ -z "${BENCH_FSYNC_MS:-}" ] || echo "Every fsync takes $BENCH_FSYNC_MS ms more."
printf '%-8s %12s %12s %8s %10s %10s\n' delay stored written ratio 'p50 µs' 'p99 µs'
for delay in 0 10 100; do measure "$delay"; done
if awk -v r="$ratio" -v q="$required" 'BEGIN { exit !(r > q) }'; then
    echo "At 100 ms $ratio bytes are written for each that is stored; at most $required are wanted."
    [ "${BENCH_STRICT:-0}" != 1 ] || exit 1
fi
