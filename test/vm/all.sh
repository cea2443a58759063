#!/bin/sh
# Tests what this machine's kernel and init do not have, in virtual machines:
# cgroup v2 (engine.sh), SELinux (the same), systemd on cgroup v2 and on its hybrid of v1 and v2
# (debian.sh). It installs and makes what is missing first (as root, on Debian),
# then runs two machines at a time and prints what each has said.
#
# Usage: all.sh [MACHINE...]    of: unified engine reboot hybrid selinux legacy short; all but the last two if none is named
# The variables of engine.sh and debian.sh hold; each machine ends within LIMIT (900) seconds.
set -eu
cd "$(dirname "$0")/../.."
[ "$(id -u)" = 0 ] || { echo "the virtual machines' roots are made as root: run it with sudo" >&2; exit 1; }
export LIMIT="${LIMIT:-900}"
[ $# -gt 0 ] || set -- unified engine reboot hybrid selinux
test/vm/debian.sh setup

dir=$(mktemp -d /tmp/hezi-vms-XXXXXX)
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
# shellcheck disable=SC2016 # the inner shell has its own arguments
printf '%s\n' "$@" | xargs -P 2 -I NAME sh -c '
	begun=$(date +%s)
	case $1 in
	engine) test/vm/engine.sh ;;
	selinux) test/vm/engine.sh selinux ;;
	*) test/vm/debian.sh "$1" ;;
	esac >"$2/$1" 2>&1 || echo "$1" >>"$2/failed"
	echo "== virtual machine $1, $(($(date +%s) - begun)) s"
	cat "$2/$1"' - NAME "$dir"
if [ -e "$dir/failed" ]; then
	echo "virtual machines that failed:" $(cat "$dir/failed")
	exit 1
fi
echo "all virtual machines passed"
