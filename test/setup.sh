#!/bin/sh
# Installs the Debian packages that the build (gcc) and the tests need, and makes
# the root of the tests' virtual machines.
# Usage: setup.sh [COMPILER]    only that: gcc, or that of another machine, as aarch64-linux-gnu-gcc
set -eu
[ "$(id -u)" = 0 ] || { echo "setup.sh: installing packages needs root; run it with sudo" >&2; exit 1; }

missing=
need() { # need PROGRAM PACKAGE
	PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null || missing="$missing $2"
}
compiler=${1:-gcc} package=gcc
[ "$compiler" = gcc ] || package=gcc-$(echo "${compiler%-gcc}" | tr _ -)
need "$compiler" "$package"
if [ $# = 0 ]; then
	need busybox busybox-static
	need debootstrap debootstrap
	need docker-registry docker-registry
	need nft nftables
	need ip iproute2
	need runc runc
	need crun crun
	need dockerd docker.io
	need curl curl
	need chromium chromium
	need tini-static tini
	need dumb-init dumb-init
	need skopeo skopeo
	need podman podman
	need dig bind9-dnsutils
	need fuse-overlayfs fuse-overlayfs
	need mkfs.btrfs btrfs-progs
	need mkfs.erofs erofs-utils
	need mkfs.ext4 e2fsprogs
	need igzip isal
	need rpm rpm
	need docker-compose docker-compose
	need rsyslogd rsyslog
	need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
	need qemu-aarch64 qemu-user
	need mkfs.xfs xfsprogs
	/usr/bin/python3 -c 'import docker' 2>/dev/null || missing="$missing python3-docker"
	[ -e /usr/share/doc/libseccomp-dev ] || missing="$missing libseccomp-dev"
	[ -e /usr/share/doc/libc6-dev ] || missing="$missing libc6-dev"
fi
if [ -n "$missing" ]; then
	echo "installing:$missing"
	# No service may start: the tests start what they need with roots of their own.
	policy=/usr/sbin/policy-rc.d
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod +x $policy
		trap 'rm -f $policy' EXIT
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# shellcheck disable=SC2086 # a list of words
	apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
[ $# != 0 ] || "$(dirname "$0")/vm/debian.sh" setup
