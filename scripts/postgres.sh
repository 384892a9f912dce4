#!/usr/bin/env bash
# A PostgreSQL cluster of one's own in a folder, for the demo and the tests: trusted on 127.0.0.1 and on a socket in the
# folder, on a free port, durable (fsync on).
#
#   scripts/postgres.sh init FOLDER      makes the cluster and its database `sluice`, and starts it
#   scripts/postgres.sh start FOLDER
#   scripts/postgres.sh stop FOLDER      ends it in order; no error when it is down
#   scripts/postgres.sh kill FOLDER      SIGKILL to the server
#   scripts/postgres.sh url FOLDER       prints the database's URL
#   scripts/postgres.sh status FOLDER    exit 0 when it runs
#   scripts/postgres.sh remove FOLDER    ends it and deletes the folder
set -euo pipefail
. "$(dirname "$0")/lib.sh"

[ $# -eq 2 ] || die "usage: $0 init|start|stop|kill|remove|url|status FOLDER"
command=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)

binaries=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
[ -n "$binaries" ] || die "PostgreSQL's server is not installed: run scripts/install-dependencies.sh"

# PostgreSQL refuses to run as root, so there it runs as the user that Debian's package made.
as_server() {
    if [ "$(id -u)" -eq 0 ]; then
        (cd / && setpriv --reuid=postgres --regid=postgres --init-groups env HOME="$home" "$@")
    else
        "$@"
    fi
}

# Where the cluster really is: `FOLDER/location` says so, when that user cannot reach the folder (below /root, say).
home=$folder
if [ -f "$folder/location" ]; then
    home=$(cat "$folder/location")
fi
data=$home/data

choose_home() {
    [ "$(id -u)" -eq 0 ] || return 0
    id postgres >/dev/null 2>&1 || die "there is no user postgres: install the package postgresql"
    chown postgres: "$folder"
    if ! as_server test -w "$folder"; then
        home=$(mktemp -d /var/tmp/sluice-postgres.XXXXXX)
        chown postgres: "$home"
        echo "$home" >"$folder/location"
    fi
    data=$home/data
}

configure() {
    local port=$1
    cat <<END
listen_addresses = '127.0.0.1'
port = $port
unix_socket_directories = '$home'
max_connections = 60
shared_buffers = '${SLUICE_POSTGRES_BUFFERS:-256MB}'
max_wal_size = '2GB'
wal_compression = on
checkpoint_completion_target = 0.9
fsync = on
synchronous_commit = on
full_page_writes = on
END
}

start() {
    # After SIGKILL the lock file of the old server may be there for a moment, and recovery takes its time.
    local attempt
    for attempt in 1 2 3 4 5 6; do
        if as_server "$binaries/pg_ctl" start -D "$data" -l "$home/log" -w -t 60 -s >/dev/null 2>&1; then
            return 0
        fi
        sleep 0.5
    done
    say "PostgreSQL did not start; the end of $home/log:"
    tail -20 "$home/log" >&2 || true
    exit 1
}

ended() {
    case "$(ps -o stat= -p "$1")" in Z* | "") return 0 ;; *) return 1 ;; esac
}

running() { as_server "$binaries/pg_ctl" status -D "$data" >/dev/null 2>&1; }

case "$command" in
init)
    [ ! -e "$data" ] || die "$data is there already"
    choose_home
    as_server "$binaries/initdb" -D "$data" -U sluice --auth=trust --encoding=UTF8 --locale=C.UTF-8 --data-checksums \
        >"$folder/initdb.log" 2>&1 || { cat "$folder/initdb.log" >&2; die "initdb failed"; }
    port=$(free_port)
    echo "$port" >"$folder/port"
    configure "$port" | as_server tee -a "$data/postgresql.conf" >/dev/null
    start
    as_server "$binaries/psql" -X -q -h "$home" -p "$port" -U sluice -d postgres -c 'CREATE DATABASE sluice'
    ;;
start) running || start ;;
stop)
    [ -d "$data" ] || exit 0
    if running; then
        as_server "$binaries/pg_ctl" stop -D "$data" -m fast -w -t 60 -s
    fi
    ;;
kill)
    pid=$(as_server head -1 "$data/postmaster.pid")
    workers=$(ps -o pid= --ppid "$pid" || true)
    as_server kill -KILL "$pid"
    # The server's processes notice its death and end; only then may another start on the same data.
    for process in $pid $workers; do
        wait_until 10 "process $process of PostgreSQL ends" ended "$process"
    done
    # Where nobody collects dead processes, the lock file seems to name a living one.
    if kill -0 "$pid" 2>/dev/null; then as_server rm -f "$data/postmaster.pid"; fi
    ;;
remove)
    "$0" stop "$folder"
    [ "$home" = "$folder" ] || rm -rf "$home"
    rm -rf "$folder"
    ;;
url) echo "postgresql://sluice@127.0.0.1:$(cat "$folder/port")/sluice" ;;
status) running ;;
*) die "usage: $0 init|start|stop|kill|remove|url|status FOLDER" ;;
esac
