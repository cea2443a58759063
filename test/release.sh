#!/usr/bin/env bash
# Makes a release of the commit in two places, looks whether each byte is the same, and
# tries what was made: the other machine's programs by qemu.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() {
	echo "release: $*" >&2
	exit 1
}
for place in one another/place; do
	git clone -q . "$dir/$place"
	VERSION=v9.8.7 "$dir/$place/packaging/release.sh" >"$dir/said" 2>&1 || { cat "$dir/said"; exit 1; }
done
diff "$dir/one/dist/release/SHA256SUMS" "$dir/another/place/dist/release/SHA256SUMS" || fail "the same commit gave other bytes"
cd "$dir/one/dist/release"
sha256sum --quiet -c SHA256SUMS
[ "$(wc -l <SHA256SUMS)" = 10 ] || fail "not 10 files: $(cat SHA256SUMS)"

for arch in amd64 arm64; do
	name=hezi_v9.8.7_linux_$arch
	tar -xzf "$name.tar.gz"
	[ -z "$(dpkg-deb -c "hezi_9.8.7_$arch.deb" | grep -v '^l' | grep '^.....w\|^........w')" ] || fail "others than root may write to files of the package"
	[ "$(dpkg-deb -f "hezi_9.8.7_$arch.deb" Architecture)" = "$arch" ] || fail "the package of $arch is another's"
	DESTDIR="$dir/$arch" "$name/packaging/install.sh" install
	dpkg-deb -x "hezi_9.8.7_$arch.deb" "$dir/deb-$arch"
	for program in hezi hezid hezi-keeper; do
		cmp "$dir/$arch/usr/local/bin/$program" "$dir/deb-$arch/usr/bin/$program"
		grep -q "$(sha256sum <"$dir/$arch/usr/local/bin/$program" | cut -d' ' -f1)" "$name.cdx.json" || fail "the list of parts of $arch does not know $program"
	done
done

"$dir/one/test/rpm.sh" hezi-9.8.7-1.x86_64.rpm
[ "$(rpm -qp --qf '%{ARCH}' hezi-9.8.7-1.aarch64.rpm)" = aarch64 ] || fail "the RPM of arm64 is another's"

at=$dir/arm64/usr/local/bin
emulated() { qemu-aarch64 "$@" 2>&1; }
[ "$(emulated "$at/hezi" --version)" = "Hezi version v9.8.7" ] || fail "the client of arm64: $(emulated "$at/hezi" --version)"
emulated "$at/hezid" --version | grep -q v9.8.7 || fail "the engine of arm64: $(emulated "$at/hezid" --version)"
emulated "$at/hezi-keeper" oci --version | grep -q v9.8.7 || fail "the keeper of arm64: $(emulated "$at/hezi-keeper" oci --version)"
# What the keeper carries.
make -s -C "$dir/one" embedded ARCH=arm64
code=0
qemu-aarch64 -0 hezi-init "$dir/one/internal/box/initbin/bin/hezi-tiny" /bin/sh sh -c 'exit 7' || code=$?
[ $code = 7 ] || fail "the tiny init of arm64 ended with $code, not with its program's 7"
for program in hezi-init hezi-tiny hezi-enter; do
	python3 -c 'import sys; sys.exit(open(sys.argv[1], "rb").read() not in open(sys.argv[2], "rb").read())' "$dir/one/internal/box/initbin/bin/$program" "$at/hezi-keeper" ||
		fail "the keeper of arm64 carries another $program"
done
echo "the release is the same in two places, and starts"
