#!/usr/bin/env bash
# Fuzzes the packet decoder and the broker with libFuzzer, one after the other: coverage leads, memory and time are bounded.
# What fails is kept in .fuzz/failures. The last lines say what was run and what came of it.
#
#   scripts/fuzz.sh [decoder|session]…
#   FUZZ_RUNS=1000000      inputs for each
#   FUZZ_SECONDS=1200      no longer than this for each
#   FUZZ_SEED=1            of libFuzzer's generator
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root"

runs=${FUZZ_RUNS:-1000000}
seconds=${FUZZ_SECONDS:-1200}
seed=${FUZZ_SEED:-1}
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(decoder session)

tools=$(dirname "$(readlink -f "$(command -v swift)")")
export FUZZER_RUNTIME
FUZZER_RUNTIME=$(find "$tools/../lib/clang" -name "libclang_rt.fuzzer_no_main-$(uname -m).a" | head -1)
[ -n "$FUZZER_RUNTIME" ] || die "the Swift toolchain in $tools has no libFuzzer for $(uname -m)"

# Not .build: the flags differ in everything, and the main build must not be made again.
build=(swift build -c release --package-path Tests/Fuzz --scratch-path .build-fuzz)
say "building"
"${build[@]}" >&2
bin=$("${build[@]}" --show-bin-path)

mkdir -p .fuzz/failures
# libFuzzer keeps the input of a crash only if it sees the signal itself.
export SWIFT_BACKTRACE=enable=no
summary=()
status=0
for target in "${targets[@]}"; do
    corpus=.fuzz/$target
    samples=.fuzz/$target-samples
    log=.fuzz/$target.log
    mkdir -p "$corpus" "$samples"
    "$bin/$target" --seed "$samples"
    say "fuzzing: $target, $runs inputs"
    started=$SECONDS
    result=0
    # An input longer than a few packets finds nothing that a shorter one does not; the limits are those of one input.
    "$bin/$target" -runs="$runs" -max_total_time="$seconds" -max_len=1024 -timeout=10 -rss_limit_mb=1024 \
        -malloc_limit_mb=64 -seed="$seed" -print_final_stats=1 -artifact_prefix=".fuzz/failures/$target-" \
        "$corpus" "$samples" >"$log" 2>&1 || result=$?
    count=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    memory=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")
    coverage=$(grep -o 'cov: [0-9]*' "$log" | tail -1 || true)
    summary+=("$target: ${count:-0} inputs in $((SECONDS - started)) s, ${coverage:-cov: 0} edges, peak ${memory:-?} MB")
    if [ "$result" -ne 0 ]; then
        status=1
        grep -E -m 5 'Fatal error|Test unit written|ERROR: ' "$log" >&2 || tail -5 "$log" >&2
        summary+=("$target: failed, exit $result; the input is in .fuzz/failures, the log is $log")
    elif [ "${count:-0}" -lt "$runs" ]; then
        status=1
        summary+=("$target: only ${count:-0} of $runs inputs in $seconds s")
    fi
done
printf '%s\n' "${summary[@]}"
[ "$status" -eq 0 ] && echo "fuzzing: no failure" || echo "fuzzing: FAILED"
exit "$status"
