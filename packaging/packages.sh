#!/bin/sh
# Makes packages in dist, of ARCH, for which make has built what the programs carry;
# without it of this machine's.
# VERSION is what git describes; the same commit gives the same bytes.
# Usage: packages.sh deb|rpm...
set -eu
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2; }
go=${GO:-go}
ARCH=${ARCH:-$($go env GOHOSTARCH)}
[ -n "${VERSION-}" ] || VERSION=$(git describe --tags --always --dirty 2>/dev/null || echo dev)
stamp=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
programs=$VERSION
case $VERSION in # versions of packages begin with a digit
v[0-9]*) VERSION=${VERSION#v} ;;
[0-9]*.*) ;;
*) VERSION=0~$VERSION ;;
esac
# What comes before a release sorts before it by a tilde; what is behind a minus is the package's revision.
VERSION=$(echo "$VERSION" | sed 's/-\(alpha\|beta\|pre\|rc\)/~\1/; y/-/+/')
MAINTAINER=${MAINTAINER:-"The Hezi authors <hezi@localhost>"}
export ARCH VERSION MAINTAINER SOURCE_DATE_EPOCH="$stamp"
mkdir -p "bin/$ARCH" dist/scripts
CGO_ENABLED=0 GOARCH=$ARCH $go build -trimpath -ldflags "-s -w -X hezi/internal/version.Version=$programs" -o "bin/$ARCH/" ./cmd/hezi ./cmd/hezid ./cmd/hezi-keeper
for script in debian/preinst rpm/pre; do
	name=$(echo "$script" | sed 's|debian|deb|; s|/|-|')
	{
		echo '#!/bin/sh'
		cat packaging/preflight.sh "packaging/$script"
	} >"dist/scripts/$name"
done
rm -rf dist/share/man-gz
cp -r dist/share/man dist/share/man-gz
find dist/share/man-gz -type f -exec gzip -9n {} +
find dist/share dist/scripts -exec touch -h -d "@$stamp" {} +
for form in "$@"; do
	for package in nfpm nfpm-docker; do
		$go tool -modfile=packaging/tools/go.mod nfpm package -p "$form" -f packaging/$package.yaml -t dist/
	done
done
