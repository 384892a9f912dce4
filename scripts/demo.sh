#!/usr/bin/env bash
# The whole path on this machine: simulated devices → sluice-edge → sluice-cloud → PostgreSQL, and the audit of it.
#
#   DEMO_DEVICES=50            how many devices
#   DEMO_SECONDS=20            how long they publish
#   DEMO_RATE=5                messages a second of each
#   DEMO_KEEP=1                leave it all running and print the addresses; `scripts/demo.sh stop` ends it
#   DEMO_CONFIGURATION=debug   build for debugging rather than for release
#   DEMO_BUILD_FLAGS           more flags for `swift build`, when building for debugging
#   DEMO_DRAIN_SECONDS=60      how long the last messages may take to become rows
#
# Exit 0 only if the audit closes.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root"

devices=${DEMO_DEVICES:-50}
seconds=${DEMO_SECONDS:-20}
rate=${DEMO_RATE:-5}
keep=${DEMO_KEEP:-0}
configuration=${DEMO_CONFIGURATION:-release}
drain=${DEMO_DRAIN_SECONDS:-60}
home=$root/.demo
gateway=demo

for setting in devices seconds drain; do
    [[ ${!setting} =~ ^[1-9][0-9]{0,5}$ ]] || die "DEMO_${setting^^}: a whole number above 0, not '${!setting}'"
done
case "$configuration" in debug | release) ;; *) die "DEMO_CONFIGURATION: debug or release, not '$configuration'" ;; esac

# Ends what the file of process ids names, latest first.
stop_all() {
    local pid
    if [ -f "$home/pids" ]; then
        for pid in $(tac "$home/pids"); do end_process "$pid" 15; done
        rm -f "$home/pids"
    fi
    if [ -d "$home/postgres" ]; then scripts/postgres.sh remove "$home/postgres"; fi
}

if [ "${1:-}" = stop ]; then
    stop_all
    exit 0
fi
[ ! -f "$home/pids" ] || die "a demo is running (DEMO_KEEP): end it with scripts/demo.sh stop"

finish() {
    local status=$?
    trap - EXIT INT TERM
    [ -z "${simulator:-}" ] || end_process "$simulator" 15
    if [ "$status" -ne 0 ]; then
        local log
        for log in "$home"/*.log; do
            [ -s "$log" ] || continue
            say "--- the end of $log"
            tail -15 "$log" >&2
        done
    fi
    if [ "$keep" = 1 ] && [ "$status" -eq 0 ]; then exit 0; fi
    stop_all
    exit "$status"
}

# start NAME COMMAND…: in a session of its own, so that Ctrl-C reaches this script first, which then ends all in order.
start() {
    local name=$1
    shift
    LLVM_PROFILE_FILE="${LLVM_PROFILE_FILE:-$home/$name-%p.profraw}" \
        setsid "$@" >"$home/$name.log" 2>&1 </dev/null &
    echo $! >>"$home/pids"
    eval "${name//-/_}_pid=$!"
}

# ready NAME PID PORT: waits until the daemon says so, unless it ends before.
ready() {
    local attempt
    for attempt in $(seq 1 300); do
        kill -0 "$2" 2>/dev/null || die "$1 ended at its start; its log is above or in $home/$1.log"
        curl -fsS -m 2 -o /dev/null "http://127.0.0.1:$3/health/ready" 2>/dev/null && return 0
        sleep 0.1
    done
    die "$1 did not become ready within 30 s"
}

scripts/install-dependencies.sh
say "building ($configuration)"
products=(sluice sluice-edge sluice-cloud)
if [ "$configuration" = release ]; then
    scripts/build.sh "${products[@]}" >&2
else
    for product in "${products[@]}"; do
        # shellcheck disable=SC2086  # several flags
        swift build ${DEMO_BUILD_FLAGS:-} --product "$product" >&2
    done
fi
# shellcheck disable=SC2086
bin=$(swift build -c "$configuration" ${DEMO_BUILD_FLAGS:-} --show-bin-path)

rm -rf "$home"
mkdir -p "$home/edge" "$home/cloud"
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
export LLVM_PROFILE_FILE="${LLVM_PROFILE_FILE:-$home/profile-%p.profraw}"

say "making a PKI for $devices devices"
pki=$home/pki
mapfile -t ids < <(printf 'sim-%04d\n' $(seq 1 "$devices"))
{
    "$bin/sluice" pki init --directory "$pki"
    "$bin/sluice" pki server edge --dns localhost --ip 127.0.0.1 --directory "$pki"
    "$bin/sluice" pki server cloud --dns localhost --ip 127.0.0.1 --directory "$pki"
    "$bin/sluice" pki gateway "$gateway" --directory "$pki"
    "$bin/sluice" pki device "${ids[@]}" --directory "$pki"
} >"$home/pki.log"

say "starting PostgreSQL"
scripts/postgres.sh init "$home/postgres"
database=$(scripts/postgres.sh url "$home/postgres")
"$bin/sluice" migrate up --database "$database" >"$home/migrate.log"

mqtt_port=$(free_port)
sync_port=$(free_port)
edge_status=$(free_port)
cloud_status=$(free_port)

cat >"$home/cloud.yaml" <<END
listener:
  address: 127.0.0.1
  port: $sync_port
  tls:
    certificate: $pki/servers/cloud.crt
    key: $pki/servers/cloud.key
    clientCA: $pki/ca.crt
    crl: $pki/crl.pem
eventLog: { embedded: { path: $home/cloud/log.db, partitions: 32 } }
database: { url: "$database" }
status: { address: 127.0.0.1, port: $cloud_status }
shutdown: { stateFile: $home/cloud/shutdown }
END
cat >"$home/edge.yaml" <<END
gateway: { id: $gateway }
listeners:
  - address: 127.0.0.1
    port: $mqtt_port
    tls:
      certificate: $pki/servers/edge.crt
      key: $pki/servers/edge.key
      clientCA: $pki/ca.crt
      crl: $pki/crl.pem
groups:
  - { name: simulated, devices: ["sim-*"], limits: { messagesPerSecond: 100, burst: 200 } }
access:
  - { allow: all, topic: "devices/%d/#" }
buffer: { path: $home/edge/buffer.db, freeDiskFloor: 1% }
uplink:
  url: https://localhost:$sync_port
  certificate: $pki/gateways/$gateway.crt
  key: $pki/gateways/$gateway.key
  ca: $pki/ca.crt
status: { address: 127.0.0.1, port: $edge_status }
END

say "starting sluice-cloud and sluice-edge"
start cloud "$bin/sluice-cloud" --config "$home/cloud.yaml"
ready cloud "$cloud_pid" "$cloud_status"
start edge "$bin/sluice-edge" --config "$home/edge.yaml"
ready edge "$edge_pid" "$edge_status"

say "running $devices devices over mutual TLS for $seconds s"
journal=$home/journal
"$bin/sluice" simulate --host localhost --port "$mqtt_port" --pki "$pki" --devices "$devices" --rate "$rate" \
    --qos mixed --version 5 --seconds "$seconds" --journal "$journal" --json --progress >"$home/simulate.json" &
simulator=$!
wait "$simulator" || die "the simulator failed"
simulator=

audit() {
    "$bin/sluice" audit --database "$database" --journal "$journal" --buffer "$home/edge/buffer.db" --closed "$@"
}

# Everything acknowledged is in the tables, and nothing is on its way.
drained() { audit --wait 0 --json >"$home/audit.json" 2>"$home/audit.log"; }

say "waiting for the last messages to become rows"
wait_until "$drain" "the audit closes with nothing on its way" drained || true

[ -s "$home/audit.json" ] || die "the audit gave no result: $(cat "$home/audit.log")"
number() { json_number "$home/audit.json" "$1"; }
row() { printf '  %-14s %12s\n' "$1" "$2"; }
echo
row published "$(number published)"
row acknowledged "$(number acknowledged)"
row buffered "$(number buffered)"
row synced "$(($(number inLog) + $(number stored) + $(number deadLettered)))"
row rows "$(number rows)"
row redelivered "$(number redelivered)"
row duplicates "$(number duplicated)"
row lost "$(number lost)"
echo
verdict=0
audit || verdict=$?

if [ "$(number acknowledged)" -eq 0 ]; then
    say "error: no message was acknowledged, so the audit says nothing"
    verdict=1
fi
if [ "$keep" = 1 ] && [ "$verdict" -eq 0 ]; then
    cat <<END

Left running; end it with: scripts/demo.sh stop
  MQTT over mutual TLS   localhost:$mqtt_port   certificates in $pki
  sync endpoint          https://localhost:$sync_port/v1/batches
  gateway's status       http://127.0.0.1:$edge_status/metrics
  cloud's status         http://127.0.0.1:$cloud_status/metrics
  database               $database
END
fi
exit "$verdict"
