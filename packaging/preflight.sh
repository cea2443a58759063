# What this machine needs to run Hezi; sourced by the installers before they change
# anything. What is missing is said on standard error; preflight fails where hezid could
# not start a container.
preflight() {
	bad=
	say() {
		echo "hezi: $1" >&2
		bad=1
	}
	release=$(uname -r)
	major=${release%%.*} minor=${release#*.}
	minor=${minor%%[!0-9]*}
	if [ "$major" -lt 5 ] || { [ "$major" -eq 5 ] && [ "${minor:-0}" -lt 12 ]; }; then
		say "the kernel $release is too old: 5.12 or newer is needed (mount_setattr)"
	fi
	has() { # has MODULE FUNCTION: it is in the kernel, by one of its functions, or can be loaded
		grep -q " $2\>" /proc/kallsyms || modprobe -n -q "$1" 2>/dev/null
	}
	grep -qw overlay /proc/filesystems || has overlay ovl_fill_super ||
		echo "hezi: the kernel has no overlay file system: another storage driver is chosen at the first start, which is slower (load the module overlay, or install fuse-overlayfs)" >&2
	has bridge br_add_if || say "the kernel has no bridges: load the module bridge"
	has veth veth_newlink || say "the kernel has no veth devices: load the module veth"
	has nf_tables nft_do_chain ||
		echo "hezi: the kernel has no nf_tables: hezid starts only with \"iptables\": false and \"ip6tables\": false in /etc/hezi/daemon.json, and no port can be published (load the module nf_tables)" >&2
	[ -n "${DESTDIR:-}" ] || [ -w /etc ] || say "/etc cannot be written to: the group hezi and the configuration go there"
	[ -z "$bad" ]
}
