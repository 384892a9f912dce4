#!/usr/bin/env bash
# Installs the Debian packages that Sluice needs, and nothing when all are there (no network is used then).
#
#   scripts/install-dependencies.sh          what building and the demo need
#   scripts/install-dependencies.sh test     and what the tests and benchmarks need
set -euo pipefail
. "$(dirname "$0")/lib.sh"

packages=(
    libsqlite3-dev   # the gateway's buffer and the embedded event log
    libpq-dev        # PostgreSQL's client library, for COPY
    librdkafka-dev   # the Kafka event log
    libzstd-dev      # batches on their way to the cloud are compressed
    libmosquitto-dev # simulated devices are clients that this project did not write
    libssl-dev       # headers that swift-nio-ssl's and libmosquitto's users expect
    postgresql       # the demo's and the tests' private clusters
    curl             # asks the daemons for their health
    procps           # ps, to see whether a process ended
    make git ca-certificates
)
test_packages=(
    mosquitto           # the simulator's tests, and the reference of the benchmarks
    mosquitto-clients   # mosquitto_pub and mosquitto_sub in the end-to-end tests
    python3-paho-mqtt   # a second client that this project did not write
    openssl             # TLS sessions that are resumed, certificates of strangers
    zstd                # batches made by hand
    dpkg-dev            # the package, and what it depends on
    systemd             # systemd-analyze for the units, sysusers and tmpfiles for the package
    prometheus          # promtool: metrics, alert rules and their tests
    chromium-headless-shell # the status page in a browser
    python3-venv        # the S3 server below
)
# From PyPI, into a virtual environment of its own that all clones share.
moto_version=5.2.1       # the S3 server that the tests of the object store start
moto_folder="${XDG_CACHE_HOME:-$HOME/.cache}/sluice/moto"
install_moto() {
    [ "$(cat "$moto_folder/version" 2>/dev/null)" = "$moto_version" ] && return
    say "installing moto $moto_version into $moto_folder"
    rm -rf "$moto_folder"
    if python3 -m venv "$moto_folder" && timeout 300 "$moto_folder/bin/pip" install --quiet --disable-pip-version-check \
        "moto[server,s3,iam]==$moto_version"; then
        # Last, so that an installation that was interrupted is made again.
        echo "$moto_version" >"$moto_folder/version"
    else
        say "moto could not be installed: the tests that need an S3 server will be skipped"
        rm -rf "$moto_folder"
    fi
}

case "${1:-}" in
"") ;;
test) packages+=("${test_packages[@]}") ;;
*) die "usage: $0 [test]" ;;
esac

command -v swift >/dev/null || die "no swift in PATH: install a Swift 6.3 toolchain (https://www.swift.org/install/linux/)"
command -v dpkg-query >/dev/null || die "this is not Debian or a relative of it: install the counterparts of ${packages[*]}"

missing=()
for package in "${packages[@]}"; do
    status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    say "installing ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null
fi
if [ "${1:-}" = test ]; then install_moto; fi
