#!/bin/sh
# Installs what make has built, or takes it away again; data and configuration stay.
#
# Usage: install.sh install|uninstall
# PREFIX (/usr/local) is where, DESTDIR the root of a package that is being made, BUILT
# the folder of man pages and completions (dist/share).
set -eu
cd "$(dirname "$0")/.."
prefix=${PREFIX:-/usr/local} root=${DESTDIR:-} built=${BUILT:-dist/share}
live() { [ -z "$root" ]; }
live && [ "$(id -u)" != 0 ] && { echo "install.sh: installing into $prefix needs root; run it with sudo, or set DESTDIR" >&2; exit 1; }
systemd() { live && [ -d /run/systemd/system ]; }

case ${1-} in
install)
	. packaging/preflight.sh
	live && ! preflight && exit 1
	[ -x bin/hezid ] && [ -e "$built/man/man1/hezi.1" ] || { echo "install.sh: nothing is built: make build share" >&2; exit 1; }
	install -D -t "$root$prefix/bin" bin/hezi bin/hezid bin/hezi-keeper
	for unit in hezi.service hezi.socket; do
		install -d "$root$prefix/lib/systemd/system"
		sed "s|/usr/bin/hezid|$prefix/bin/hezid|" "packaging/systemd/$unit" >"$root$prefix/lib/systemd/system/$unit"
	done
	install -D -m 644 packaging/systemd/hezi.sysusers "$root$prefix/lib/sysusers.d/hezi.conf"
	for section in 1 8; do
		install -D -m 644 -t "$root$prefix/share/man/man$section" "$built/man/man$section"/*
	done
	install -D -m 644 "$built/completions/hezi.bash" "$root$prefix/share/bash-completion/completions/hezi"
	install -D -m 644 "$built/completions/hezi.zsh" "$root$prefix/share/zsh/site-functions/_hezi"
	install -D -m 644 "$built/completions/hezi.fish" "$root$prefix/share/fish/vendor_completions.d/hezi.fish"
	[ -e "$root/etc/hezi/daemon.json" ] || install -D -m 644 packaging/daemon.json "$root/etc/hezi/daemon.json"
	if ! live || [ -d /etc/apparmor.d ]; then
		install -D -m 644 packaging/apparmor/hezi-default "$root/etc/apparmor.d/hezi-default"
	fi
	live || exit 0
	getent group hezi >/dev/null || groupadd --system hezi
	if systemd; then
		systemctl daemon-reload
		if systemctl is-active -q hezi.service; then
			systemctl restart hezi.service
			echo "Hezi is installed, and the engine that ran has been replaced; its containers run on."
		else
			echo "Hezi is installed. Start it now and at each boot: systemctl enable --now hezi"
		fi
	else
		echo "Hezi is installed. There is no systemd here: start the engine with: hezid &"
	fi
	echo "Let a user use it, which is as good as giving them root: usermod -aG hezi USER"
	;;
uninstall)
	if systemd; then
		systemctl disable --now hezi.service hezi.socket 2>/dev/null || true
	fi
	rm -f "$root$prefix/bin/hezi" "$root$prefix/bin/hezid" "$root$prefix/bin/hezi-keeper" \
		"$root$prefix/lib/systemd/system/hezi.service" "$root$prefix/lib/systemd/system/hezi.socket" "$root$prefix/lib/sysusers.d/hezi.conf" \
		"$root$prefix/share/bash-completion/completions/hezi" "$root$prefix/share/zsh/site-functions/_hezi" "$root$prefix/share/fish/vendor_completions.d/hezi.fish" \
		"$root$prefix/share/man/man8/hezid.8" "$root$prefix/share/man/man1/hezi.1" "$root$prefix/share/man/man1"/hezi-*.1 \
		"$root/etc/apparmor.d/hezi-default"
	systemd && systemctl daemon-reload
	live && echo "Hezi is taken away. /var/lib/hezi and /etc/hezi stay; what runs in containers runs on until the next boot."
	exit 0
	;;
*)
	sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
	exit 2
	;;
esac
