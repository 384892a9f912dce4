#!/usr/bin/env bash
# Builds products as they are released: scripts/build.sh PRODUCT...
# The flags stand here alone, so that the demo, the benchmark and the package share one build; see decision 12.
set -euo pipefail
cd "$(dirname "$0")/.."
for product; do
    swift build -c release --static-swift-stdlib \
        -Xswiftc -enforce-exclusivity=unchecked -Xswiftc -cross-module-optimization --product "$product"
done
