#!/usr/bin/env bash
# Installs an RPM, over itself too, and takes it away again, by Debian's rpm on a copy of
# this machine's files that is gone afterwards.
# Usage: rpm.sh PACKAGE
set -euo pipefail
package=$(realpath "$1")
if [ "${2-}" != inside ]; then
	dir=$(mktemp -d)
	trap 'rm -rf "$dir"' EXIT
	DIR=$dir unshare -m "$0" "$package" inside
	exit
fi
fail() {
	echo "rpm: $*" >&2
	exit 1
}
mount -t tmpfs rpm "$DIR"
mkdir "$DIR"/{upper,work,root}
mount -t overlay -o "lowerdir=/,upperdir=$DIR/upper,workdir=$DIR/work" rpm "$DIR/root"
mount -t proc proc "$DIR/root/proc"
cp "$package" "$DIR/root/hezi.rpm"
here() { chroot "$DIR/root" "$@"; }
sed -i '/^hezi:/d' "$DIR"/root/etc/{group,gshadow}
rm -rf "$DIR/root/etc/hezi"

# systemd, as far as the scripts ask it: what they say is written down.
mkdir -p "$DIR/root/run/systemd/system" "$DIR/root/asked"
cat >"$DIR/root/usr/bin/systemctl" <<'STUB'
#!/bin/sh
echo "$*" >>/asked/systemctl
case $1 in is-active) [ -e /asked/active ] ;; esac
STUB
chmod 755 "$DIR/root/usr/bin/systemctl"
asked() { # asked WHEN CALLS: what the scripts asked of systemctl since the last time
	[ "$(paste -sd, "$DIR/root/asked/systemctl")" = "$2" ] || fail "$1, systemctl was asked: $(paste -sd, "$DIR/root/asked/systemctl"), not $2"
	rm "$DIR/root/asked/systemctl"
}

here rpm --quiet --force-debian -i --nodeps /hezi.rpm
asked "at the installation" "daemon-reload,preset hezi.socket hezi.service"
here rpm --force-debian -V --nodeps hezi || fail "files are not as in the package"
here getent group hezi >/dev/null || fail "there is no group hezi"
here /usr/bin/hezid --validate | grep -q 'configuration OK' || fail "its configuration: $(here /usr/bin/hezid --validate 2>&1)"
here systemd-analyze verify --man=no hezi.service hezi.socket >"$DIR/said" 2>&1 || fail "systemd does not take the units: $(cat "$DIR/said")"
! grep hezi "$DIR/said" || fail "systemd has a remark on the units"
echo '{"debug": true}' >"$DIR/root/etc/hezi/daemon.json"
echo 'OPTIONS=--debug' >"$DIR/root/etc/sysconfig/hezi"
mkdir -p "$DIR/root/var/lib/hezi/volumes"
touch "$DIR/root/asked/active"
here rpm --quiet --force-debian -U --force --nodeps /hezi.rpm
asked "at an upgrade" "daemon-reload,is-active -q hezi.service,restart hezi.service,daemon-reload"
grep -q debug "$DIR/root/etc/hezi/daemon.json" || fail "an upgrade has lost the configuration"
grep -q debug "$DIR/root/etc/sysconfig/hezi" || fail "an upgrade has lost the options"
printf '#!/bin/sh\necho "$*" >>/asked/hezi\n' >"$DIR/root/usr/bin/hezi"
here rpm --quiet --force-debian -e hezi
asked "at the removal" "is-active -q hezi.service,start hezi.socket,disable -q --now hezi.socket hezi.service,daemon-reload"
grep -qx -- '-H unix:///run/hezi/hezi.sock system stop' "$DIR/root/asked/hezi" || fail "the containers were not stopped at the removal"
for file in /usr/bin/hezid /usr/lib/systemd/system/hezi.service /usr/lib/systemd/system/hezi.socket; do
	[ ! -e "$DIR/root$file" ] || fail "$file stays after the package"
done
[ -d "$DIR/root/var/lib/hezi/volumes" ] || fail "data is gone with the package"
grep -q debug "$DIR/root/etc/hezi/daemon.json.rpmsave" || fail "the configuration is gone with the package"

# A kernel that is too old: nothing is changed.
printf '#!/bin/sh\necho 4.18.0\n' >"$DIR/root/usr/bin/uname"
chmod 755 "$DIR/root/usr/bin/uname"
said=$(here rpm --force-debian -i --nodeps /hezi.rpm 2>&1) && fail "it is installed on Linux 4.18"
grep -q 'the kernel 4.18.0 is too old' <<<"$said" || fail "on Linux 4.18: $said"
[ ! -e "$DIR/root/usr/bin/hezid" ] || fail "something is installed on Linux 4.18"
echo "the RPM installs, upgrades and goes"
