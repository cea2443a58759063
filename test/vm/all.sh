#!/bin/sh
# Tests what this machine's kernel and init do not have, in virtual machines:
# cgroup v2, SELinux, an NFS server and arm64 (engine.sh), systemd on cgroup v2 and on its hybrid of v1 and v2,
# and the Debian packages (debian.sh). It installs and makes what is missing first (as root, on Debian),
# then runs two machines at a time and prints what each has said.
#
# Usage: all.sh [MACHINE...]    of: unified hybrid reboot install engine arm64 selinux nfs legacy short; all but the last two if none is named
# The variables of engine.sh and debian.sh hold; each machine ends within LIMIT (900) seconds.
set -eu
cd "$(dirname "$0")/../.."
[ "$(id -u)" = 0 ] || { echo "the virtual machines' roots are made as root: run it with sudo" >&2; exit 1; }
export LIMIT="${LIMIT:-900}"
[ $# -gt 0 ] || set -- unified hybrid reboot install engine arm64 selinux nfs # what takes the longest first
test/vm/debian.sh setup

dir=$(mktemp -d /tmp/hezi-vms-XXXXXX)
trap 'rm -rf "$dir"' EXIT

machine() { # machine NAME
	case $1 in
	engine) exec test/vm/engine.sh ;;
	selinux | nfs | arm64) exec test/vm/engine.sh "$1" ;;
	*) exec test/vm/debian.sh "$1" ;;
	esac
}
# lane runs one machine after the other of those that no lane has taken.
lane() {
	running=
	trap '[ -z "$running" ] || kill "$running" 2>/dev/null; wait; exit 130' INT TERM
	for name in "$@"; do
		mkdir "$dir/$name.taken" 2>/dev/null || continue
		begun=$(date +%s)
		machine "$name" >"$dir/$name" 2>&1 &
		running=$!
		wait "$running" || echo "$name" >>"$dir/failed"
		running=
		echo "== virtual machine $name, $(($(date +%s) - begun)) s"
		cat "$dir/$name"
	done
}
lane "$@" &
lanes=$!
lane "$@" &
lanes="$lanes $!"
# shellcheck disable=SC2064,SC2086 # a list of words, known now
trap "kill $lanes 2>/dev/null; wait; exit 130" INT TERM
# shellcheck disable=SC2086
wait $lanes
if [ -e "$dir/failed" ]; then
	# shellcheck disable=SC2046
	echo "virtual machines that failed:" $(cat "$dir/failed")
	exit 1
fi
echo "all virtual machines passed"
