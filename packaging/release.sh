#!/bin/sh
# Makes what a release has into dist/release: for each architecture an archive, a Debian
# package, an RPM and a list of what the programs are made of (CycloneDX), and the checksums of
# all. It builds the commit in a folder of its own; the same commit, Go and gcc give the
# same bytes. VERSION is what git describes.
set -eu
cd "$(dirname "$0")/.."
[ -z "$(git status --porcelain)" ] || { echo "release.sh: something here is in no commit: commit it, or take it away" >&2; exit 1; }
VERSION=${VERSION:-$(git describe --tags --always)}
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
GOTOOLCHAIN=go$(sed -n 's/^go //p' go.mod)
# What an environment could change in the programs.
GOFLAGS=-buildvcs=false GOEXPERIMENT='' GOAMD64=v1 GOARM64=v8.0 LC_ALL=C TZ=UTC
export VERSION SOURCE_DATE_EPOCH GOTOOLCHAIN GOFLAGS GOEXPERIMENT GOAMD64 GOARM64 LC_ALL TZ
umask 022
out=$PWD/dist/release
rm -rf "$out"
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
mkdir "$work/source"
git -c tar.umask=022 archive HEAD | tar -x -C "$work/source"
cd "$work/source"
for ARCH in amd64 arm64; do
	export ARCH
	make -s deb rpm
	name=hezi_${VERSION}_linux_$ARCH
	mkdir -p "$work/$name/dist"
	cp -r README.md CHANGELOG.md SECURITY.md "$work/$name/"
	cp -r --parents bin/hezi bin/hezid bin/hezi-keeper dist/share/man dist/share/completions packaging/install.sh packaging/preflight.sh packaging/daemon.json packaging/apparmor packaging/systemd "$work/$name/"
	tar -C "$work" -c --format=gnu --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --mtime="@$SOURCE_DATE_EPOCH" "$name" | gzip -9n >"$out/$name.tar.gz"
	go run ./packaging/sbom "$VERSION" bin/hezi bin/hezid bin/hezi-keeper internal/box/initbin/bin/hezi-init internal/box/initbin/bin/hezi-tiny internal/box/initbin/bin/hezi-enter internal/image/hello/bin/hezi-hello >"$out/$name.cdx.json"
done
mv dist/*.deb dist/*.rpm "$out/"
cd "$out"
sha256sum -- * >"$work/SHA256SUMS"
mv "$work/SHA256SUMS" .
cat SHA256SUMS
