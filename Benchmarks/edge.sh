# shellcheck shell=bash
# What the benchmarks share that run the daemons themselves; to be sourced from the repository's root.
#
#   BENCH_BIN   where the programs lie; if set, nothing is built
#   BENCH_DIR   where buffer, log and database lie: on the disk that shall be measured

. scripts/lib.sh

bin=${BENCH_BIN:-.build/release}
work=
started=()

# begin NAME PRODUCT…: builds the programs, makes the folder `work`, and sees to it that all that `run` starts is ended.
begin() {
    local name=$1 directory=${BENCH_DIR:-$PWD/.build/bench}
    shift
    [ -n "${BENCH_BIN:-}" ] || scripts/build.sh "$@" >&2
    mkdir -p "$directory"
    work=$(mktemp -d "$directory/$name.XXXXXX")
    ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
    trap clean_up EXIT
    trap 'exit 130' INT TERM
}

clean_up() {
    local index
    for ((index = ${#started[@]} - 1; index >= 0; index--)); do end_process "${started[index]}" 20; done
    [ ! -d "$work/postgres" ] || scripts/postgres.sh remove "$work/postgres"
    rm -rf "$work"
}

# run LOG COMMAND…: in the background; its id is in $!.
run() {
    local log=$1
    shift
    "$@" >"$log" 2>&1 &
    started+=("$!")
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# run_daemon NAME PORT: starts sluice-NAME with $work/NAME.yaml and waits until it listens on the port.
run_daemon() {
    run "$work/$1.log" "$bin/sluice-$1" --config "$work/$1.yaml"
    wait_until 20 "sluice-$1 listens" listens "$2" || {
        tail -5 "$work/$1.log" >&2
        exit 1
    }
}

# metric PORT NAME: a metric of a status port; 0 where there is none.
metric() {
    curl -fsS -m 5 "http://127.0.0.1:$1/metrics" | awk -v n="$2" '$1 == n { v = $2 } END { printf "%.0f\n", v }'
}
