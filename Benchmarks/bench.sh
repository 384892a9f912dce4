#!/bin/bash
# The same generator against Mosquitto (nothing durable) and sluice-edge (every acknowledgement after an fsync), in
# alternation, on this machine, in this run. Prints a table, and for each case the ratio of Sluice to Mosquitto beside the
# one that is required. docs/benchmarks.md says what is measured.
#
#   BENCH_ROUNDS=5     rounds of each case against each broker
#   BENCH_SECONDS=3    seconds measured a round, after BENCH_WARMUP=1
#   BENCH_DIR          where certificates, configurations and buffers lie: on the disk that shall be measured
#   BENCH_BIN          where the programs lie; if set, nothing is built
#   BENCH_CASES        numbers of the cases to run, such as "1 3"; all by default
#   BENCH_FLASHMQ      the program of a FlashMQ, which is measured as a third (nothing is durable there)
#   BENCH_FSYNC_MS=10  every fsync takes so long more, as on eMMC
#   BENCH_STRICT=1     end with an error when a required ratio was missed
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${BENCH_ROUNDS:-5}
seconds=${BENCH_SECONDS:-3}
warmup=${BENCH_WARMUP:-1}
directory=${BENCH_DIR:-$PWD/.build/bench}
bin=${BENCH_BIN:-.build/release}
cases=${BENCH_CASES:-1 2 3 4 5 6 7 8 9 10 11 12}
devices=1000
brokers="mosquitto sluice${BENCH_FLASHMQ:+ flashmq}"

# name | what | connections | in flight | QoS | TLS | required ratio of Sluice to Mosquitto
# What: publish, fanout and idle are modes of the generator; paced is publish at 20,000 messages a second. The ratio is
# that of rates; "<" marks those of p99 (paced) and of resident memory (idle), which are to be small.
case_of() {
    case $1 in
    1) echo "QoS 1 mTLS 50x32|publish|50|32|1|tls|4.0" ;;
    2) echo "QoS 1 plain 50x32|publish|50|32|1|plain|4.0" ;;
    3) echo "QoS 1 mTLS 1000x1|publish|1000|1|1|tls|1.0" ;;
    4) echo "QoS 1 plain 1000x1|publish|1000|1|1|plain|1.0" ;;
    5) echo "QoS 2 mTLS 50x32|publish|50|32|2|tls|3.0" ;;
    6) echo "QoS 2 plain 50x32|publish|50|32|2|plain|3.0" ;;
    7) echo "QoS 0 in, mTLS 50|publish|50|32|0|tls|1.0" ;;
    8) echo "QoS 0 in, plain 50|publish|50|32|0|plain|1.0" ;;
    9) echo "fan-out 1 to 100 mTLS|fanout|100|64|0|tls|1.5" ;;
    10) echo "fan-out 1 to 100 plain|fanout|100|64|0|plain|1.5" ;;
    11) echo "p99 at 20,000/s mTLS|paced|1000|64|1|tls|<2.0" ;;
    12) echo "5,000 idle mTLS|idle|5000|1|1|tls|<1.5" ;;
    *) echo "bench: there is no case $1; there are 1 to 12" >&2; exit 64 ;;
    esac
}

# shellcheck source=Benchmarks/lib.sh
. Benchmarks/lib.sh

start_mosquitto() {
    start Mosquitto "$work/mosquitto.log" "$mosquitto_plain" "$mosquitto" -c "$work/mosquitto.conf"
}

start_sluice() {
    rm -rf "$work/buffer"
    mkdir "$work/buffer"
    start sluice-edge "$work/sluice.log" "$sluice_plain" "$bin/sluice-edge" --config "$work/sluice.yaml"
}

start_flashmq() {
    start FlashMQ "$work/flashmq.log" "$flashmq_plain" "$BENCH_FLASHMQ" --config-file "$work/flashmq.conf"
}

# field NAME JSON: a number of the generator's line.
field() {
    sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p" <<<"$2"
}

# resident PID: its resident memory in KiB. The sums of smaps are exact where VmRSS is not.
resident() {
    awk '/^Rss:/ { print $2 }' "/proc/$1/smaps_rollup"
}

# round BROKER CASE: one round; appends "value p50 p99 max" to the file of broker and case.
round() {
    local broker=$1 name mode connections in_flight qos tls port line
    IFS='|' read -r name mode connections in_flight qos tls _ <<<"$(case_of "$2")"
    "start_$broker"
    port=${broker}_$tls
    local arguments=(--json --port "${!port}" --seconds "$seconds" --warmup "$warmup")
    [ "$tls" = plain ] || arguments+=(--pki "$work/pki")
    case $mode in
    fanout) arguments=(fanout "${arguments[@]}" --subscribers "$connections" --window "$in_flight" --payload 100) ;;
    *)
        arguments=(publish "${arguments[@]}" --connections "$connections" --in-flight "$in_flight" --payload 100
            --qos "$qos" --certificates "$devices")
        ;;
    esac
    [ "$mode" != paced ] || arguments+=(--rate 20000)
    [ "$mode" != idle ] || arguments+=(--idle)
    "$bin/sluice-bench" "${arguments[@]}" >"$work/generator" 2>"$work/generator.error" &
    local generator=$! memory=0
    if [ "$mode" = idle ]; then
        while kill -0 "$generator" 2>/dev/null && ! grep -q ready "$work/generator"; do sleep 0.2; done
        sleep "$seconds"
        memory=$(resident "$broker_pid")
    fi
    if ! wait "$generator"; then
        tail -n 20 "$work/$broker.log" >&2
        die "$broker failed in \"$name\": $(cat "$work/generator" "$work/generator.error")"
    fi
    stop_broker
    line=$(tail -n 1 "$work/generator")
    local value
    case $mode in
    paced) value=$(field p99Microseconds "$line") ;;
    idle) value=$memory ;;
    *) value=$(field rate "$line") ;;
    esac
    echo "$value $(field p50Microseconds "$line") $(field p99Microseconds "$line") $(field maxMicroseconds "$line")" \
        >>"$work/$broker.$2"
}

# summary FILE COLUMN: median, minimum and maximum of a column.
summary() {
    sort -n -k "$2" "$1" | awk -v c="$2" '{ v[NR] = $c } END {
        print (NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2), v[1], v[NR] }'
}

mosquitto=$(PATH=$PATH:/usr/sbin command -v mosquitto) || die "mosquitto is not installed (apt-get install mosquitto)"
if [ -z "${BENCH_BIN:-}" ]; then
    scripts/build.sh sluice-bench sluice sluice-edge
fi
for program in sluice-bench sluice sluice-edge; do
    [ -x "$bin/$program" ] || die "$bin/$program is not there"
done

mkdir -p "$directory"
work=$(mktemp -d "$directory/run.XXXXXX")
[ -z "${BENCH_FSYNC_MS:-}" ] || slow_disk "$BENCH_FSYNC_MS"
flashmq_plain=$(free_port 26000)
flashmq_tls=$(free_port 27000)
mosquitto_plain=$(free_port 21000)
mosquitto_tls=$(free_port 22000)
sluice_plain=$(free_port 23000)
sluice_tls=$(free_port 24000)
status=$(free_port 25000)

echo "Making an authority and $devices device certificates…"
{
    "$bin/sluice" pki init --directory "$work/pki"
    "$bin/sluice" pki server bench --dns localhost --ip 127.0.0.1 --directory "$work/pki"
    "$bin/sluice" pki gateway bench --directory "$work/pki"
    # shellcheck disable=SC2046
    "$bin/sluice" pki device $(seq -f 'bench-%.0f' 0 $((devices - 1))) --directory "$work/pki"
} >"$work/pki.log" 2>&1 || { tail -n 20 "$work/pki.log" >&2; die "the certificates could not be made"; }

cat >"$work/mosquitto.conf" <<END
$([ "$(id -u)" = 0 ] && echo "user root")
per_listener_settings false
allow_anonymous true
persistence false
max_inflight_messages 0
max_queued_messages 0
set_tcp_nodelay true
log_dest stderr
log_type error
listener $mosquitto_tls 127.0.0.1
cafile $work/pki/ca.crt
certfile $work/pki/servers/bench.crt
keyfile $work/pki/servers/bench.key
require_certificate true
listener $mosquitto_plain 127.0.0.1
END

if [ -n "${BENCH_FLASHMQ:-}" ]; then
    mkdir "$work/flashmq"
    cat >"$work/flashmq.conf" <<END
allow_anonymous true
log_file $work/flashmq.log
storage_dir $work/flashmq
max_qos_msg_pending_per_client 65535
listen {
    protocol mqtt
    port $flashmq_plain
    inet4_bind_address 127.0.0.1
}
listen {
    protocol mqtt
    port $flashmq_tls
    inet4_bind_address 127.0.0.1
    fullchain $work/pki/servers/bench.crt
    privkey $work/pki/servers/bench.key
    client_verification_ca_file $work/pki/ca.crt
}
END
fi

cat >"$work/sluice.yaml" <<END
gateway: { id: bench }
listeners:
  - address: 127.0.0.1
    port: $sluice_tls
    tls:
      certificate: $work/pki/servers/bench.crt
      key: $work/pki/servers/bench.key
      clientCA: $work/pki/ca.crt
      crl: $work/pki/crl.pem
  - { address: 127.0.0.1, port: $sluice_plain, plaintext: true }
groups:
  - { name: local, limits: { messagesPerSecond: unlimited, bytesPerSecond: unlimited } }
access:
  - { group: local, allow: all, topic: "#" }
  - { allow: all, topic: "devices/%d/#" }
  # Several connections share a certificate where there are more of them than devices; subscribers read one device's topic.
  - { allow: all, topic: "devices/#" }
limits:
  device: { messagesPerSecond: unlimited, bytesPerSecond: unlimited }
  global: { messagesPerSecond: unlimited, connectionsPerSecond: unlimited }
buffer: { path: $work/buffer/buffer.db, maximumBytes: 8GiB }
uplink:
  url: https://127.0.0.1:9
  certificate: $work/pki/gateways/bench.crt
  key: $work/pki/gateways/bench.key
  ca: $work/pki/ca.crt
status: { address: 127.0.0.1, port: $status }
END

cat <<END

$(uname -sm), $(nproc) cores, $("$mosquitto" -h | head -n 1); buffers on $(stat -f -c %T "$work")
Mosquitto: persistence off, max_inflight_messages 0 and max_queued_messages 0 (both: no limit), set_tcp_nodelay.
sluice-edge: every acknowledgement after the commit and its fsync; every topic is buffered for an uplink that cannot be
reached. Limits raised over their defaults: messages and bytes a second of a device and of group "local" (unlimited),
messages and connections a second of the whole gateway (unlimited), buffer.maximumBytes (1 GiB to 8 GiB).
${BENCH_FSYNC_MS:+Every fsync takes $BENCH_FSYNC_MS ms more.
}$rounds rounds of $seconds s each, the two in alternation, each broker started anew and empty for each round.

END

format='%-24s %-10s %10s %10s %10s  %8s %8s   %s\n'
# shellcheck disable=SC2059
printf "$format" case broker 'msg/s*' min max 'p50 µs' 'p99 µs' 'ratio (required)'
missed=
for number in $cases; do
    IFS='|' read -r name _ _ _ _ _ required <<<"$(case_of "$number")"
    for _ in $(seq "$rounds"); do
        for broker in $brokers; do round "$broker" "$number"; done
    done
    for broker in $brokers; do
        read -r median minimum maximum <<<"$(summary "$work/$broker.$number" 1)"
        read -r p50 _ <<<"$(summary "$work/$broker.$number" 2)"
        read -r p99 _ <<<"$(summary "$work/$broker.$number" 3)"
        ratio=
        if [ "$broker" = mosquitto ]; then
            reference=$median
        else
            ratio=$(awk -v a="$median" -v b="$reference" 'BEGIN { printf "%.2f", a / b }')
            if [ "$broker" = sluice ]; then
                holds=$(awk -v r="$ratio" -v q="$required" 'BEGIN {
                    if (sub("<", "", q)) print (r <= q + 0); else print (r >= q + 0) }')
                if [ "$holds" = 0 ]; then missed+="    $name: $ratio, required $required"$'\n'; fi
                case $required in
                "<"*) ratio="$ratio (at most ${required#<})" ;;
                *) ratio="$ratio (at least $required)" ;;
                esac
            fi
        fi
        # shellcheck disable=SC2059
        printf "$format" "$name" "$broker" "$median" "$minimum" "$maximum" "$p50" "$p99" "$ratio"
    done
done
echo
echo "* medians of the rounds; at 20,000/s the p99 in µs, for idle connections the broker's resident memory in KiB"
if [ -n "$missed" ]; then
    echo "Missed:"
    printf '%s' "$missed"
    [ "${BENCH_STRICT:-0}" != 1 ] || exit 1
else
    echo "Every required ratio was reached."
fi
