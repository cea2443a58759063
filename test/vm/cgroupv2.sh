#!/bin/sh
# Runs the tests of internal/box/cgroup on cgroup v2, in a small virtual
# machine: Debian's cloud kernel, and an initramfs of busybox and the test
# program. Prints PASS or FAIL at the end, after what the tests said.
#
# Usage: cgroupv2.sh [-test.run=REGEXP ...]     KERNEL=/boot/vmlinuz-... and ACCEL=kvm to choose
#        cgroupv2.sh setup                      installs what it needs (as root, on Debian)
set -eu
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/local/go/bin

if [ "${1-}" = setup ]; then
	missing=
	for package in qemu-system-x86 qemu-system-arm gcc-aarch64-linux-gnu linux-image-cloud-amd64 busybox-static cpio apparmor secilc e2fsprogs debootstrap; do
		dpkg-query -W -f '${db:Status-Abbrev}' $package 2>/dev/null | grep -q '^ii' || missing="$missing $package"
	done
	[ -n "$missing" ] || exit 0
	echo "installing:$missing"
	apt-get update -qq
	# shellcheck disable=SC2086 # a list of words
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null || {
		echo "the virtual machines of the tests cannot be run: not installed:$missing (they are Debian's)"
		exit 1
	}
	exit
fi
for program in qemu-system-x86_64 busybox cpio go; do
	command -v $program >/dev/null || { echo "$program is missing: test/vm/cgroupv2.sh setup"; echo FAIL; exit 1; }
done
kernel=${KERNEL-}
for k in /boot/vmlinuz-*; do
	[ -n "${KERNEL-}" ] || kernel=$k
done
[ -r "$kernel" ] || { echo "no kernel in /boot: test/vm/cgroupv2.sh setup"; echo FAIL; exit 1; }

dir=$(mktemp -d /tmp/hezi-vm-XXXXXX)
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
root=$dir/root
mkdir -p "$root/bin" "$root/proc" "$root/sys" "$root/dev" "$root/tmp"
cp "$(command -v busybox)" "$root/bin/busybox"
CGO_ENABLED=0 go test -c -o "$root/cgroup.test" ./internal/box/cgroup
# Arguments go in a file: a kernel command line is short.
for word in "$@"; do printf '%s\n' "$word"; done >"$root/arguments"
cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo; echo "cgroup v2 on Linux $(uname -r)"
cd /tmp
set --
while read -r word; do set -- "$@" "$word"; done </arguments
/cgroup.test -test.v -test.timeout=5m "$@"
echo "exit code $?."
poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet) | gzip -1 >"$dir/initramfs"

# Emulated unless ACCEL=kvm: KVM inside a virtual machine is not dependable.
timeout 400 qemu-system-x86_64 -accel "${ACCEL:-tcg}" -cpu max -m 1024 -smp 2 -nographic -no-reboot -net none \
	-kernel "$kernel" -initrd "$dir/initramfs" -append "console=ttyS0 quiet panic=-1 no_timer_check" </dev/null >"$dir/log" 2>&1 || true
tr -d '\r' <"$dir/log" | sed -n '/cgroup v2 on Linux/,$p'
if tr -d '\r' <"$dir/log" | grep -q '^exit code 0\.$'; then
	echo PASS
else
	tail -n 5 "$dir/log"
	echo FAIL
	exit 1
fi
