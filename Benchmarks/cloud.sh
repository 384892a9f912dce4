#!/usr/bin/env bash
# The cloud on one machine, with PostgreSQL beside it and its fsync on. docs/benchmarks.md says what is measured.
#
#   1  2 million messages with one number each, already in the embedded log, become rows: at least 100,000 a second, and at
#      least 0.3 of a bare binary COPY of the same rows into the same table in the same run
#   2  the same from Kafka: the broker of BENCH_KAFKA with an empty topic sensor-data of 32 partitions, else librdkafka's
#      mock cluster, in pieces that fit into it
#   3  batches over HTTPS with mutual TLS into the embedded log: at least 150,000 messages a second
#   4  from 200 devices at the edge to rows, 20,000 messages a second over mutual TLS: p99 at most 2 s
#
#   BENCH_CASES         numbers of the cases to run, such as "1 3"; all by default
#   BENCH_ROUNDS=3      of the cases 1 to 3
#   BENCH_MESSAGES=2000000
#   BENCH_SECONDS=20    of case 4
#   BENCH_STRICT=1      end with an error when a requirement was missed
set -euo pipefail
cd "$(dirname "$0")/.."
. Benchmarks/edge.sh

cases=${BENCH_CASES:-1 2 3 4}
rounds=${BENCH_ROUNDS:-3}
messages=${BENCH_MESSAGES:-2000000}
missed=0
begin cloud sluice sluice-edge sluice-cloud sluice-bench sluice-cloud-bench
# PostgreSQL's user must get to its folder below.
chmod 755 "$work"
SLUICE_POSTGRES_BUFFERS=${SLUICE_POSTGRES_BUFFERS:-1GB} scripts/postgres.sh init "$work/postgres"
server=$(scripts/postgres.sh url "$work/postgres")
sql() { PGOPTIONS='-c client_min_messages=warning' psql -X -q -A -t -v ON_ERROR_STOP=1 -d "$@"; }
# When a transaction was committed tells when its rows could be seen.
sql "$server" -c "ALTER SYSTEM SET max_wal_size = '8GB'" -c "ALTER SYSTEM SET track_commit_timestamp = on"
scripts/postgres.sh stop "$work/postgres"
scripts/postgres.sh start "$work/postgres"

# fresh NAME: a database with the schema; its URL is in $database.
fresh() {
    sql "$server" -c "DROP DATABASE IF EXISTS $1" -c "CREATE DATABASE $1"
    database=${server%/*}/$1
    "$bin/sluice" migrate up --database "$database" >"$work/migrate.log"
}

# require NAME VALUE OPERATOR BOUND
require() {
    if awk -v v="$2" -v b="$4" -v o="$3" 'BEGIN { exit !(o == ">=" ? v >= b : v <= b) }'; then
        echo "$1: $2, required $3 $4"
    else
        echo "$1: $2, required $3 $4: MISSED"
        missed=1
    fi
}

median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# bare: seconds that one COPY of all rows of measurement takes, into the same table after it was emptied.
bare() {
    sql "$database" -c "\\copy (SELECT * FROM measurement ORDER BY time) TO '$work/rows' (FORMAT binary)" \
        -c "TRUNCATE measurement" -c CHECKPOINT
    local start
    start=$(date +%s.%N)
    sql "$database" -c "\\copy measurement FROM '$work/rows' (FORMAT binary)"
    awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { print b - a }'
}

# drain NAME ARGUMENT…: the log's messages become rows, then the same rows by a bare COPY.
drain() {
    local name=$1 rate copy
    shift
    : >"$work/rates"
    : >"$work/ratios"
    for _ in $(seq "$rounds"); do
        fresh bench
        rm -f "$work"/log.db*
        rate=$("$bin/sluice-cloud-bench" drain --database "$database" --messages "$messages" --json "$@" |
            sed -n 's/.*"rate":\([0-9]*\).*/\1/p')
        [ "$(sql "$database" -c 'SELECT count(*) FROM measurement')" -eq "$messages" ] ||
            die "$name: not every message has its row"
        copy=$(bare)
        echo "$rate" >>"$work/rates"
        awk -v r="$rate" -v m="$messages" -v c="$copy" 'BEGIN { print r / (m / c) }' >>"$work/ratios"
        awk -v n="$name" -v r="$rate" -v m="$messages" -v c="$copy" \
            'BEGIN { printf "%s: %d rows/s, bare COPY %d rows/s, ratio %.2f\n", n, r, m / c, r / (m / c) }'
    done
    require "$name, messages/s" "$(median <"$work/rates")" ">=" 100000
    require "$name, ratio to a bare COPY" "$(median <"$work/ratios")" ">=" 0.3
}

certificates() {
    [ ! -d "$work/pki" ] || return 0
    {
        "$bin/sluice" pki init --directory "$work/pki"
        "$bin/sluice" pki server cloud --dns localhost --ip 127.0.0.1 --directory "$work/pki"
        for gateway in $(seq 0 19); do "$bin/sluice" pki gateway "bench-$gateway" --directory "$work/pki"; done
        seq -f 'bench-%g' 0 199 | xargs "$bin/sluice" pki device --directory "$work/pki"
    } >"$work/pki.log"
}

ingest() {
    certificates
    : >"$work/rates"
    for _ in $(seq "$rounds"); do
        rm -f "$work"/log.db*
        "$bin/sluice-cloud-bench" ingest --pki "$work/pki" --log "$work/log.db" --json |
            sed -n 's/.*"rate":\([0-9]*\).*/\1/p' | tee -a "$work/rates" | sed 's/^/ingest: /; s/$/ messages\/s/'
    done
    require "ingest, messages/s" "$(median <"$work/rates")" ">=" 150000
}

end_to_end() {
    certificates
    fresh bench
    rm -f "$work"/log.db*
    local mqtt sync edge_status cloud_status rate=20000 seconds=${BENCH_SECONDS:-20}
    mqtt=$(free_port) sync=$(free_port) edge_status=$(free_port) cloud_status=$(free_port)
    cat >"$work/edge.yaml" <<YAML
gateway: { id: bench-0 }
listeners:
  - address: 127.0.0.1
    port: $mqtt
    tls: { certificate: $work/pki/servers/cloud.crt, key: $work/pki/servers/cloud.key, clientCA: $work/pki/ca.crt }
access: [{ allow: all, topic: "#" }]
limits:
  device: { messagesPerSecond: unlimited, bytesPerSecond: unlimited }
  global: { connectionsPerSecond: unlimited, messagesPerSecond: unlimited }
buffer: { path: $work/buffer.db, freeDiskFloor: 0%, maximumBytes: 8GiB }
uplink:
  url: https://localhost:$sync
  certificate: $work/pki/gateways/bench-0.crt
  key: $work/pki/gateways/bench-0.key
  ca: $work/pki/ca.crt
  linger: 100ms
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
eventLog: { embedded: { path: $work/log.db, partitions: 32 } }
database: { url: "$database" }
status: { address: 127.0.0.1, port: $cloud_status }
shutdown: { stateFile: $work/cloud-shutdown }
YAML
    run_daemon cloud "$sync"
    run_daemon edge "$mqtt"
    "$bin/sluice-bench" publish --json --port "$mqtt" --pki "$work/pki" --connections 200 --in-flight 64 --rate "$rate" \
        --payload 64 --number --seconds "$seconds" --warmup 3 >"$work/publish.json"
    local stored=-1 now=0
    while [ "$now" -ne "$stored" ]; do
        stored=$now
        sleep 2
        now=$(sql "$database" -c 'SELECT count(*) FROM measurement')
    done
    end_process "${started[-1]}" 20
    end_process "${started[-2]}" 20
    # Of what came after the warm-up: from the gateway's receipt to the commit of the row.
    local p99
    p99=$(sql "$database" -c "
        SELECT round((percentile_cont(0.99) WITHIN GROUP (
            ORDER BY extract(epoch FROM pg_xact_commit_timestamp(xmin) - time)))::numeric, 3)
        FROM measurement WHERE time > (SELECT min(time) + interval '3 s' FROM measurement)")
    echo "end to end: $now rows, acknowledged $(json_number "$work/publish.json" rate)/s of $rate/s offered"
    require "end to end, messages/s" "$(json_number "$work/publish.json" rate)" ">=" $((rate * 98 / 100))
    require "end to end, p99 from receipt to committed row, s" "$p99" "<=" 2
}

for case in $cases; do
    case $case in
    1) drain "embedded log" --log "$work/log.db" ;;
    2)
        if [ -n "${BENCH_KAFKA:-}" ]; then
            drain "Kafka" --brokers "$BENCH_KAFKA"
        else
            drain "Kafka (mock cluster)" --mock
        fi
        ;;
    3) ingest ;;
    4) end_to_end ;;
    *) die "there is no case $case; there are 1 to 4" ;;
    esac
done
[ "$missed" -eq 0 ] || [ -z "${BENCH_STRICT:-}" ]
