# Shared by the scripts beside it; to be sourced.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

# Runs a command as root: directly, or through sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root: run it as root, or install sudo. The command was: $*"
    fi
}

# A TCP port of 127.0.0.1 that nothing listens on, below the range that the kernel gives to outgoing connections.
free_port() {
    local port attempt
    for attempt in $(seq 1 200); do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
    die "no free TCP port was found between 20000 and 31999"
}

# wait_until SECONDS WHAT COMMAND…: tries the command until it succeeds.
wait_until() {
    local limit=$1 what=$2
    shift 2
    local end=$((SECONDS + limit))
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$end" ]; then
            say "error: $what: not within $limit s"
            return 1
        fi
        sleep 0.1
    done
}

# json_number FILE KEY: the number at a key that stands once in a JSON file; 0 where it does not.
json_number() {
    local value
    value=$(tr -d '\n' <"$1" | sed -n "s/.*\"$2\"[[:space:]]*:[[:space:]]*\(-\{0,1\}[0-9][0-9]*\).*/\1/p")
    echo "${value:-0}"
}

# end_process PID SECONDS: SIGTERM, and SIGKILL if it is still there after so many seconds.
end_process() {
    local pid=$1 limit=$2 attempt
    kill -TERM "$pid" 2>/dev/null || return 0
    for attempt in $(seq 1 $((limit * 10))); do
        kill -0 "$pid" 2>/dev/null || return 0
        # A child that ended is there until it is waited for.
        case "$(ps -o stat= -p "$pid" 2>/dev/null)" in Z* | "") return 0 ;; esac
        sleep 0.1
    done
    say "process $pid did not end within $limit s of SIGTERM and is killed"
    kill -KILL "$pid" 2>/dev/null || true
}
