#!/usr/bin/env bash
# What one device at a hundred times its limit does to the others: the p99 of their acknowledgements without and with it, in
# alternation, on this machine, in this run. Required: at most 1.20 times, by the medians of the rounds.
#
#   BENCH_ROUNDS=5     rounds of each
#   BENCH_SECONDS=4    seconds measured a round
#   BENCH_OVERLIMIT    refuse (the default) or slow
#   BENCH_STRICT=1     end with an error when the required ratio was missed
set -euo pipefail
cd "$(dirname "$0")/.."
. Benchmarks/edge.sh

rounds=${BENCH_ROUNDS:-5}
seconds=${BENCH_SECONDS:-4}
over=${BENCH_OVERLIMIT:-refuse}
begin neighbour sluice-edge sluice-bench

# A hundred devices at half of their limit of 10 messages a second; the loud one sends 1,000.
limit=10 others=100 rate=500 loud=1000
port=$(free_port)
cat >"$work/edge.yaml" <<YAML
gateway: { id: bench }
listeners: [{ address: 127.0.0.1, port: $port, plaintext: true }]
access: [{ allow: all, topic: "#" }]
groups:
  - { name: local, limits: { messagesPerSecond: $limit, burst: $((2 * limit)), bytesPerSecond: unlimited, overLimit: $over } }
limits: { global: { connectionsPerSecond: unlimited } }
buffer: { path: $work/buffer.db, freeDiskFloor: 0% }
uplink: { url: "https://127.0.0.1:1", certificate: $work/c.crt, key: $work/c.key, ca: $work/c.crt }
status: { address: 127.0.0.1, port: $(free_port) }
YAML
# The uplink finds nobody; its files have to be there.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=bench -days 2 \
    -keyout "$work/c.key" -out "$work/c.crt" 2>/dev/null
run_daemon edge "$port"

# measure NAME: the p99 of the others in µs, appended to its file.
measure() {
    local line
    line=$("$bin/sluice-bench" publish --json --port "$port" --connections "$others" --in-flight 32 --rate "$rate" \
        --seconds "$seconds" --warmup 1 --id 'quiet-%d' --version 5) || die "the quiet devices had errors: $line"
    json_number <(echo "$line") p99Microseconds >>"$work/$1"
}

for _ in $(seq "$rounds"); do
    measure alone
    # Refused messages are errors to the generator, and what it is there for.
    run /dev/null "$bin/sluice-bench" publish --port "$port" --connections 1 --in-flight 32 --rate "$loud" \
        --seconds $((${seconds%.*} + 60)) --warmup 0 --id loud --version 5
    noise=$!
    sleep 1
    measure beside
    kill -0 "$noise" 2>/dev/null || die "the loud device ended early"
    end_process "$noise" 5
done

median() { sort -n "$1" | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
alone=$(median "$work/alone") beside=$(median "$work/beside")
awk -v a="$alone" -v b="$beside" -v over="$over" -v rounds="$rounds" 'BEGIN {
    printf "p99 of 100 devices at 5 msg/s, median of %d rounds: %d µs alone, %d µs beside one at 100 times its limit (%s): ratio %.2f, required at most 1.20\n",
        rounds, a, b, over, b / a
    exit !(b <= 1.2 * a) }' || [ -z "${BENCH_STRICT:-}" ]
