# What this machine needs to run Hezi; sourced by the installers before they change
# anything. What is missing is said on standard error; preflight then fails.
preflight() {
	bad=
	say() {
		echo "hezi: $1" >&2
		bad=1
	}
	release=$(uname -r)
	major=${release%%.*} minor=${release#*.}
	minor=${minor%%[!0-9]*}
	if [ "$major" -lt 5 ] || { [ "$major" -eq 5 ] && [ "${minor:-0}" -lt 10 ]; }; then
		say "the kernel $release is too old: 5.10 or newer is needed"
	fi
	module() { # module NAME: it is in the kernel, or can be loaded
		[ -d "/sys/module/$1" ] || grep -qw "$1" "/lib/modules/$release/modules.builtin" 2>/dev/null || modprobe -n -q "$1" 2>/dev/null
	}
	grep -qw overlay /proc/filesystems || module overlay ||
		echo "hezi: the kernel has no overlay file system: another storage driver is chosen at the first start, which is slower (load the module overlay, or install fuse-overlayfs)" >&2
	[ -e /proc/net/netfilter/nf_log ] && { module nf_tables || zcat /proc/config.gz 2>/dev/null | grep -q '^CONFIG_NF_TABLES=y'; } ||
		echo "hezi: the kernel seems to have no nf_tables: hezid starts only with \"iptables\": false in /etc/hezi/daemon.json, and no port can be published (load the module nf_tables)" >&2
	[ -w "${DESTDIR:-}/etc" ] || [ -n "${DESTDIR:-}" ] || say "/etc cannot be written to: the group hezi and the configuration go there"
	[ -z "$bad" ]
}
