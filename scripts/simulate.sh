#!/usr/bin/env bash
# Runs the simulation of the whole edge for many seeds, in as many processes as there are processors. The first process
# that finds something ends all: its log names the seed and how to run it again.
#
#   SEEDS=1000000        how many
#   FIRST=1              the first of them
#   JOBS=$(nproc)        processes at a time
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root"

seeds=${SEEDS:-1000000}
first=${FIRST:-1}
jobs=${JOBS:-$(nproc)}
# So many seeds a process: what it leaks, or holds in caches, ends with it.
slice=5000
logs=$root/.test/simulate
rm -rf "$logs"
mkdir -p "$logs"

say "building"
swift build --build-tests --enable-code-coverage >&2
bin=$(swift build --show-bin-path)
export bundle logs
bundle=$(echo "$bin"/*PackageTests.xctest)
# Coverage of millions of runs is of no use to anybody.
export LLVM_PROFILE_FILE=/dev/null
# The same order of hashed collections in each process, so that a seed reproduces.
export SWIFT_DETERMINISTIC_HASHING=1

say "simulating: seeds $first to $((first + seeds - 1)), $jobs at a time"
started=$SECONDS
run() {
    local log=$logs/$1
    SLUICE_SIMULATION_FIRST=$1 SLUICE_SIMULATION_SEEDS=$2 \
        "$bundle" --testing-library swift-testing --filter thePromiseHolds >"$log" 2>&1 || {
        grep -E -A 80 'seed [0-9]+:' "$log" | head -90 >&2
        echo "the log is $log" >&2
        return 255
    }
    grep '^simulation:' "$log"
}
export -f run
end=$((first + seeds))
for ((seed = first; seed < end; seed += slice)); do
    echo "$seed $((end - seed < slice ? end - seed : slice))"
done | xargs -P "$jobs" -L 1 bash -c 'run "$0" "$1"'
echo "simulation: $seeds seeds in $((SECONDS - started)) s, nothing found"
