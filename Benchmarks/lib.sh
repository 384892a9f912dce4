# shellcheck shell=bash
# What the benchmarks share: programs that are started and ended by their ids, ports, and a disk whose fsync is slow.

broker_pid=
work=

# Ends the broker that runs, by its id, and waits for it.
stop_broker() {
    [ -n "$broker_pid" ] || return 0
    kill "$broker_pid" 2>/dev/null || true
    for _ in $(seq 100); do
        kill -0 "$broker_pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -9 "$broker_pid" 2>/dev/null || true
    wait "$broker_pid" 2>/dev/null || true
    broker_pid=
}

cleanup() {
    stop_broker
    if [ -n "$work" ]; then rm -rf "$work"; fi
}
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
trap cleanup EXIT
trap 'exit 130' INT TERM

die() {
    echo "bench: $*" >&2
    exit 1
}

# free_port FIRST: a port of the thousand from FIRST on which nothing listens.
free_port() {
    local port
    for _ in $(seq 100); do
        port=$(($1 + RANDOM % 1000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
    die "no free port found between $1 and $(($1 + 999))"
}

# start NAME LOG PORT COMMAND…: runs the broker and waits until it listens.
start() {
    local name=$1 log=$2 port=$3
    shift 3
    LD_PRELOAD=${preload-} "$@" >"$log" 2>&1 &
    broker_pid=$!
    for _ in $(seq 300); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then return; fi
        kill -0 "$broker_pid" 2>/dev/null || break
        sleep 0.1
    done
    tail -n 20 "$log" >&2
    die "$name does not listen on port $port; its last lines stand above"
}

# slow_disk MILLISECONDS: from now on `start` gives each program an fsync that takes so long more, as on eMMC or an SD card.
preload=
slow_disk() {
    local clang
    clang=$(command -v clang || command -v cc) || die "neither clang nor cc is there to make the slow fsync"
    "$clang" -shared -fPIC -O1 -x c - -o "$work/slow.so" <<END
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <unistd.h>
int fsync(int fd) { usleep($1 * 1000); return syscall(SYS_fsync, fd); }
int fdatasync(int fd) { usleep($1 * 1000); return syscall(SYS_fdatasync, fd); }
END
    preload=$work/slow.so
}
