#!/bin/sh
# Runs the whole engine on pure cgroup v2, in a small virtual machine: Debian's
# cloud kernel, and an initramfs of busybox, the engine and the modules that it
# needs. Prints what a user would see, and PASS or FAIL at the end.
#
# Usage: engine.sh         KERNEL=/boot/vmlinuz-... and ACCEL=kvm to choose; BIN is the folder of the programs,
#                          LIMIT how many seconds it may take, CPUS how many processors it has
#        engine.sh selinux the same with SELinux enforcing a policy of containers: selinux-guest.sh says what is tested
#        engine.sh nfs     the kernel's NFS server, for volumes and a data root: nfs-guest.sh says what is tested
#        engine.sh arm64   the engine on arm64, which it builds, on Debian's kernel of that: arm64-guest.sh says what is tested
#        engine.sh setup   installs what it needs (as root, on Debian)
set -eu
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin

if [ "${1-}" = setup ]; then
	exec test/vm/cgroupv2.sh setup
fi
dir=$(mktemp -d /tmp/hezi-vm-XXXXXX)
running=
clean() {
	[ -z "$running" ] || kill "$running" 2>/dev/null || true
	rm -rf "$dir"
}
trap clean EXIT
trap 'exit 130' INT TERM
mode=${1-} qemu=qemu-system-x86_64 base=/ busybox=$(command -v busybox) bin=${BIN:-bin}
# A plain processor without mitigations is emulated a quarter faster than the largest.
machine="-cpu ${CPU:-Nehalem}" console="ttyS0 no_timer_check" # see debian.sh
if [ "$mode" = arm64 ]; then
	qemu=qemu-system-aarch64 machine="-machine virt -cpu ${CPU:-cortex-a57}" console=ttyAMA0
fi
for program in $qemu busybox cpio modprobe depmod apparmor_parser mkfs.ext4 secilc; do
	command -v $program >/dev/null || { echo "$program is missing: test/vm/engine.sh setup"; echo FAIL; exit 1; }
done
if [ "$mode" = arm64 ]; then
	# shellcheck source=test/vm/arm64.sh
	. test/vm/arm64.sh
fi
[ -x "$bin/hezid" ] || { echo "no $bin/hezid: run make build first"; echo FAIL; exit 1; }
kernel=${KERNEL-}
for k in "${base%/}"/boot/vmlinuz-*; do
	[ -n "${KERNEL-}" ] || kernel=$k
done
[ -r "$kernel" ] || { echo "no kernel in /boot: test/vm/engine.sh setup"; echo FAIL; exit 1; }
version=${kernel#*vmlinuz-}

root=$dir/root
mkdir -p "$root/bin" "$root/proc" "$root/sys" "$root/dev" "$root/tmp" "$root/run" "$root/etc" "$root/modules" "$root/image/bin" "$root/image/etc" "$root/image/tmp"
cp "$busybox" "$root/bin/busybox"
cp "$bin/hezi" "$bin/hezid" "$bin/hezi-keeper" "$root/bin/"
cp "$busybox" "$root/image/bin/busybox"
for applet in $(busybox --list); do
	[ "$applet" = busybox ] || ln -s busybox "$root/image/bin/$applet"
done
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/image/etc/passwd"
echo 'root:x:0:' >"$root/image/etc/group"
ln -s bin "$root/image/link"
cp "$root/image/etc/passwd" "$root/image/etc/group" "$root/etc/"
more=
[ "$mode" != nfs ] || more="md5 nfsd nfsv4"
: >"$root/modules.list"
for module in overlay bridge veth nf_tables nft_chain_nat nft_masq nft_nat nft_ct nft_fib nft_fib_ipv4 nft_fib_inet nft_redir nf_conntrack_netlink loop quota_v2 $more; do
	modprobe -d "$base" -S "$version" --show-depends "$module" 2>/dev/null | while read -r verb path rest; do
		[ "$verb" = insmod ] || continue
		name=$(basename "$path")
		if [ ! -e "$root/modules/$name" ]; then
			cp "$path" "$root/modules/$name"
			echo "/modules/$name" >>"$root/modules.list"
		fi
	done
done
cp "test/vm/${mode:-engine}-guest.sh" "$root/guest"
cp test/vm/guest-lib.sh "$root/lib.sh"
mkfs.ext4 -q -O quota,project "$root/disk" 64M # for limits of disk space
mkdir -p "$root/lib" "$root/lib64"
# program FILE NAME: a program of this machine with its libraries.
program() {
	cp "$1" "$root/bin/$2"
	for lib in $(ldd "$1" | grep -o '/[^ ]*'); do
		mkdir -p "$root$(dirname "$lib")"
		cp "$lib" "$root$lib"
	done
}
options=
case $mode in
selinux)
	program "$(command -v ls)" lsz # busybox's knows no labels
	options="security=selinux selinux=1 enforcing=1"
	mkdir -p "$root/etc/selinux/hezi/contexts"
	echo SELINUXTYPE=hezi >"$root/etc/selinux/config"
	printf 'process = "system_u:system_r:container_t:s0"\nfile = "system_u:object_r:container_file_t:s0"\n' >"$root/etc/selinux/hezi/contexts/lxc_contexts"
	categories=$(seq -f c%g 0 1023)
	{
		printf '(category %s)\n' $categories
		echo "(categoryorder ($categories))"
		cat test/vm/selinux.cil
	} >"$dir/policy.cil"
	secilc -M true -c 31 -o "$root/etc/selinux/policy" -f /dev/null "$dir/policy.cil"
	;;
nfs) program "$(command -v mkfs.ext4)" mkfs.ext4 ;; # for limits of disk space
arm64) options="security= lsm=" ;;
*) program "$(command -v apparmor_parser)" apparmor_parser ;; # loads the profile of containers
esac
cat >"$root/init" <<'INIT'
#!/bin/busybox sh
export PATH=/bin HOME=/tmp
if [ "${1-}" != again ]; then # the root must be a mount that can be left, which an initramfs is not
	/bin/busybox mkdir /new
	/bin/busybox mount -t tmpfs -o size=1g new /new
	for d in bin etc modules image guest lib.sh init modules.list lib lib64 disk; do /bin/busybox cp -a /$d /new/; done
	/bin/busybox mkdir -p /new/proc /new/sys /new/dev /new/tmp /new/run
	exec /bin/busybox switch_root /new /init again
fi
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t securityfs securityfs /sys/kernel/security
while read -r module; do insmod "$module" || echo "insmod $module failed"; done </modules.list
if [ -e /etc/selinux/policy ]; then # in one write
	mount -t selinuxfs selinuxfs /sys/fs/selinux
	dd if=/etc/selinux/policy of=/sys/fs/selinux/load bs=4M 2>/dev/null || echo "the policy cannot be loaded"
fi
ip link set lo up
echo; echo "the engine on cgroup v2, Linux $(uname -r)"
sh /guest
echo "exit code $?."
poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet) | gzip -1 >"$dir/initramfs"

# shellcheck disable=SC2086 # a list of words
timeout "${LIMIT:-600}" $qemu $machine -accel "${ACCEL:-tcg}" -m 2048 -smp "${CPUS:-1}" -nographic -no-reboot -net none \
	-kernel "$kernel" -initrd "$dir/initramfs" -append "console=$console quiet panic=-1 mitigations=off $options" </dev/null >"$dir/log" 2>&1 &
running=$!
wait "$running" || true
running=
tr -d '\r' <"$dir/log" | sed -n '/the engine on cgroup v2/,$p'
if tr -d '\r' <"$dir/log" | grep -q '^exit code 0\.$'; then
	echo PASS
else
	echo "the console of the machine:"
	tail -n 40 "$dir/log"
	echo FAIL
	exit 1
fi
