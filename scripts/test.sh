#!/usr/bin/env bash
# Lints, builds, runs every test on real parts, and shows the coverage: Core at least 90% of lines, all at least 80%.
# The last thing printed is the test runner's own totals.
#
#   SLUICE_TEST_CHAOS=full       the long run of the end-to-end test under kills
#   SLUICE_TEST_SEED             its seed
#   SLUICE_TEST_SEEDS            how many seeds the simulations of sessions and crashes run, each
#   SLUICE_SIMULATION_SEEDS      how many seeds the simulation of the edge runs; without it a minute's worth
#   SLUICE_SIMULATION_FIRST      the first of them
#   SLUICE_TEST_KAFKA            bootstrap servers of a real broker
#   SLUICE_TEST_KAFKA_HOME       folder of a Kafka distribution, for tests that start brokers themselves
#   SLUICE_TEST_DATABASE         URL of a real database
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root"

results=$root/.test
rm -rf "$results"
mkdir -p "$results/profiles"

scripts/install-dependencies.sh test

say "linting"
swift format lint --strict --recursive Sources Tests Benchmarks

say "building"
swift build --build-tests --enable-code-coverage
bin=$(swift build --show-bin-path)
tests=$(ls -d "$bin"/*PackageTests.xctest)
tools=$(dirname "$(readlink -f "$(command -v swift)")")
for tool in llvm-profdata llvm-cov; do
    [ -x "$tools/$tool" ] || die "$tools has no $tool: the Swift toolchain is not complete"
done

say "testing"
# Programs that the tests start write their counters here, each start a file of its own: many at once in one file (%m)
# leave numbers that are wrong.
export SLUICE_TEST_PROFILE="$results/profiles/%p.profraw"

# run_tests NAME SECONDS [--filter|--skip REGEX]: in one process, one test at a time: many measure time, and on two cores
# the processes that they start would starve each other. The limit is more than twice what it takes: a test that hangs must
# not hang all. Hashed collections have the same order each time, so that a seed of the simulation is the same run each time.
run_tests() {
    local name=$1 limit=$2
    shift 2
    NO_COLOR=1 LLVM_PROFILE_FILE="$results/profiles/tests-$name.profraw" SWIFT_DETERMINISTIC_HASHING=1 \
        timeout -k 10 "$limit" "$tests" --testing-library swift-testing --no-parallel "$@" 2>&1 |
        tee "$results/output-$name"
}

# Two kinds of tests do not disturb each other: those that compute on one core, and those that wait for Kafka's time limits.
computing='^(BufferTests|FlowTests|LocalWorkTests|MQTTSessionTests|MQTTWireTests|SimulationTests|SimulatorTests|SparkplugTests|SyncModelTests)\.'
waiting='^EventLogTests\.|/KafkaGroupTests/'
status=0
run_tests waiting 900 --filter "$waiting" >/dev/null &
other=$!
run_tests computing 900 --filter "$computing" || status=$?
wait "$other" || status=$?
cat "$results/output-waiting"
run_tests rest 2400 --skip "$computing" --skip "$waiting" || status=$?
outputs=("$results"/output-{computing,waiting,rest})

# The three runs' own totals, added up. A run without totals did not come to its end.
totals() {
    local file
    for file in "${outputs[@]}"; do
        grep -E 'Test run with [0-9]+ tests?' "$file" | tail -1 | grep . ||
            echo "✘ ${file##*/output-}: ended before its totals"
    done | sed 's/\x1b\[[0-9;]*m//g' | awk '
        match($0, /Test run with [0-9]+ tests? in [0-9]+ suites?/) {
            tests += $5; suites += $8
            for (i = 1; i <= NF; i++) {
                if ($i == "after") seconds += $(i + 1)
                if ($i == "issues." || $i == "issue.") issues += $(i - 1)
            }
        }
        !/^✔/ { failed = 1 }
        /ended before its totals/ { print }
        END {
            printf "%s Test run with %d tests in %d suites %s after %.1f seconds", failed ? "✘" : "✔", tests, suites,
                failed ? "failed" : "passed", seconds
            if (failed) printf " with %d issues", issues
            print "."
        }'
}
totals >"$results/totals"
grep -q '^✔' "$results/totals" || [ "$status" -ne 0 ] || status=1

coverage() {
    local profdata=$results/all.profdata
    local objects=() object program
    for object in "$bin"/*PackageTests.xctest; do objects+=("$object"); done
    for program in sluice sluice-edge sluice-cloud; do objects+=(-object "$bin/$program"); done
    local profiles=()
    for object in "$results"/profiles/*.profraw; do
        [ ! -s "$object" ] || profiles+=("$object")
    done
    [ ${#profiles[@]} -gt 0 ] || { say "no coverage was recorded"; return 1; }
    # A program that was killed while it wrote leaves a file that cannot be read; the others count.
    "$tools/llvm-profdata" merge -sparse --failure-mode=all "${profiles[@]}" -o "$profdata" \
        2>"$results/profiles.log" || { tail -5 "$results/profiles.log"; return 1; }
    rm -rf "$results/profiles"
    "$tools/llvm-cov" report "${objects[@]}" -instr-profile="$profdata" \
        -ignore-filename-regex='(/\.build/|/Tests/|/Benchmarks/)' >"$results/coverage.txt" || return 1
    awk -v root="$root/" -f scripts/coverage.awk "$results/coverage.txt"
}

echo
coverage || status=1

echo
if [ "$status" -ne 0 ]; then
    # With what a test says of its failure in the line after it.
    cat "${outputs[@]}" | sed 's/\x1b\[[0-9;]*m//g' | grep -E -A 1 '^(✘|error:|.*Fatal error)' |
        grep -E '^(✘|↳|error:|.*Fatal error)' | grep -v 'Test run with' | cut -c 1-600 | tail -60 || true
fi
cat "$results/totals"
exit "$status"
