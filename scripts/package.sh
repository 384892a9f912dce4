#!/usr/bin/env bash
# Builds the Debian package: scripts/package.sh [--binaries FOLDER] [--output FOLDER] [--fast]
#
#   --binaries   take the programs from there instead of building a release
#   --output     where the package goes; .package by default
#   --fast       no compression, symbols stay; for tests of what is in it
#
# Prints the package's path.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root"

binaries= output=.package fast=
while [ $# -gt 0 ]; do
    case "$1" in
    --binaries) binaries=${2:?} && shift 2 ;;
    --output) output=${2:?} && shift 2 ;;
    --fast) fast=1 && shift ;;
    *) die "usage: $0 [--binaries FOLDER] [--output FOLDER] [--fast]" ;;
    esac
done
for tool in dpkg-deb dpkg-shlibdeps; do
    command -v "$tool" >/dev/null || die "there is no $tool: install dpkg-dev"
done
programs=(sluice sluice-edge sluice-cloud)
if [ -z "$binaries" ]; then
    scripts/build.sh "${programs[@]}" >&2
    binaries=$(swift build -c release --show-bin-path)
fi

# Ascends with every commit.
version=${SLUICE_VERSION:-0.$(git rev-list --count HEAD 2>/dev/null || echo 0)}
architecture=$(dpkg --print-architecture)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/sluice
mkdir "$tree"
chmod 755 "$tree"

put() { install -D -m "$1" "$2" "$tree/$3"; }
for program in "${programs[@]}"; do
    put 755 "$binaries/$program" "usr/bin/$program"
    [ -n "$fast" ] || strip --strip-debug "$tree/usr/bin/$program"
done
put 644 systemd/sluice-edge.service usr/lib/systemd/system/sluice-edge.service
put 644 systemd/sluice-cloud.service usr/lib/systemd/system/sluice-cloud.service
put 644 systemd/sluice.sysusers.conf usr/lib/sysusers.d/sluice.conf
put 644 systemd/sluice.tmpfiles.conf usr/lib/tmpfiles.d/sluice.conf
put 644 edge-config/sluice-edge.yaml etc/sluice/sluice-edge.yaml
put 644 cloud/config/sluice-cloud.yaml etc/sluice/sluice-cloud.yaml
put 644 cloud/topics.yaml usr/share/sluice/topics.yaml
for migration in cloud/migrations/*.sql; do
    put 644 "$migration" "usr/share/sluice/migrations/$(basename "$migration")"
done
put 644 docs/operations.md usr/share/doc/sluice/operations.md
put 644 docs/kafka.md usr/share/doc/sluice/kafka.md

# What the programs link, as dpkg knows it; the Swift runtime of a debug build is no package's.
mkdir -p "$work/shlibs/debian"
printf 'Source: sluice\n\nPackage: sluice\nArchitecture: any\n' >"$work/shlibs/debian/control"
depends=$(cd "$work/shlibs" && dpkg-shlibdeps -O --ignore-missing-info "${programs[@]/#/$tree/usr/bin/}" 2>/dev/null |
    sed -n 's/^shlibs:Depends=//p') || die "what the programs in $binaries link is not known to dpkg"

mkdir "$tree/DEBIAN"
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@DEPENDS@/${depends:-libc6}/" \
    packaging/debian/control >"$tree/DEBIAN/control"
install -m 644 packaging/debian/conffiles "$tree/DEBIAN/conffiles"
install -m 755 packaging/debian/postinst packaging/debian/prerm packaging/debian/postrm "$tree/DEBIAN/"

mkdir -p "$output"
package=$(cd "$output" && pwd)/sluice_${version}_$architecture.deb
dpkg-deb --root-owner-group ${fast:+-Znone} --build "$tree" "$package" >&2
echo "$package"
