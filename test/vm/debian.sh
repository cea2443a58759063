#!/bin/sh
# Runs the engine on a Debian with systemd, in a virtual machine:
# test/vm/systemd-guest.sh says what is tested. Prints what a user would see, and
# PASS or FAIL at the end.
#
# Usage: debian.sh unified    cgroup v2: the systemd driver
#        debian.sh reboot     the same machine reboots: restart policies, then cgroupfs and the walls
#        debian.sh short      the most important of the first two, in the shortest time
#        debian.sh hybrid     systemd's hybrid of cgroup v1 and v2
#        debian.sh legacy     cgroup v1 alone
#        debian.sh install    the Debian packages: install, use, upgrade, reboot, remove, purge
#        debian.sh setup      installs what it needs and makes the root image (as root, on Debian)
# KERNEL=/boot/vmlinuz-... and ACCEL=kvm to choose; BIN is the folder of the
# programs, CACHE that of the root image, LIMIT how many seconds a machine may take,
# CPUS how many processors it has: with one, others are free for what runs beside it.
set -eu
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin
cache=${CACHE:-/var/cache/hezi-vm}
image=$cache/debian-12.ext4
made=3 # to be counted up when the image changes
packages=systemd,systemd-sysv,dbus,udev,kmod,iproute2,nftables,apparmor,busybox-static,runc,crun

# make_image debootstraps into memory, where nothing is synced to a disk.
make_image() {
	mkdir -p "$cache"
	root=$(mktemp -d "$cache/root-XXXXXX")
	trap 'umount -l "$root" 2>/dev/null || true; rm -rf "$root" "$image.new"' EXIT
	trap 'exit 130' INT TERM
	mount -t tmpfs -o size=1500m,mode=755 root "$root"
	echo "the root image of the virtual machines is made"
	debootstrap --variant=minbase --include=$packages bookworm "$root" "${MIRROR:-http://deb.debian.org/debian}" >"$cache/debootstrap.log" 2>&1 || {
		tail -n 20 "$cache/debootstrap.log"
		echo "debootstrap failed"
		exit 1
	}
	rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc "$root"/usr/share/locale "$root"/usr/share/man
	echo hezi-vm >"$root/etc/hostname"
	printf '/dev/vda / ext4 defaults 0 0\n/dev/vdb /test ext4 ro 0 0\n' >"$root/etc/fstab"
	mkdir -p "$root/test" "$root/etc/systemd/system.conf.d"
	# At a reboot nothing waits longer for what ignores SIGTERM. A busy host may
	# take minutes to show a disk.
	printf '[Manager]\nDefaultTimeoutStopSec=5s\nDefaultTimeoutStartSec=infinity\nDefaultDeviceTimeoutSec=infinity\n' >"$root/etc/systemd/system.conf.d/stop.conf"
	cat >"$root/etc/systemd/system/hezi-test.service" <<-'UNIT'
		[Unit]
		After=multi-user.target
		[Service]
		Type=oneshot
		ExecStart=/bin/sh /test/guest
		StandardOutput=tty
		StandardError=inherit
		TTYPath=/dev/ttyS0
		Environment=HOME=/root
		TimeoutStartSec=infinity
	UNIT
	mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
	for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer systemd-timesyncd.service getty@tty1.service serial-getty@ttyS0.service \
		systemd-journal-flush.service systemd-random-seed.service systemd-pcrphase.service systemd-pcrphase-sysinit.service; do
		ln -sf /dev/null "$root/etc/systemd/system/$unit"
	done
	ln -sf ../hezi-test.service "$root/etc/systemd/system/multi-user.target.wants/hezi-test.service"
	mkfs.ext4 -q -d "$root" "$image.new" 2G
	mv "$image.new" "$image"
	echo "$packages $made" >"$image.packages"
}

if [ "${1-}" = setup ]; then
	test/vm/cgroupv2.sh setup
	[ -e "$image" ] && [ "$(cat "$image.packages" 2>/dev/null)" = "$packages $made" ] || make_image
	exit
fi
mode=${1-} guest=test/vm/systemd-guest.sh
case $mode in
unified | reboot | short) options= ;;
install) options= guest=test/vm/install-guest.sh ;;
hybrid) options=systemd.unified_cgroup_hierarchy=0 ;;
legacy) options="systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1" ;;
*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
for program in qemu-system-x86_64 busybox cpio modprobe mkfs.ext4; do
	command -v $program >/dev/null || { echo "$program is missing: test/vm/debian.sh setup"; echo FAIL; exit 1; }
done
bin=${BIN:-bin}
[ -x "$bin/hezid" ] || { echo "no $bin/hezid: run make build first"; echo FAIL; exit 1; }
[ -r "$image" ] || { echo "no $image: test/vm/debian.sh setup"; echo FAIL; exit 1; }
kernel=${KERNEL-}
for k in /boot/vmlinuz-*; do
	[ -n "${KERNEL-}" ] || kernel=$k
done
[ -r "$kernel" ] || { echo "no kernel in /boot: test/vm/debian.sh setup"; echo FAIL; exit 1; }
version=${kernel#*vmlinuz-}

dir=$(mktemp -d /tmp/hezi-vm-XXXXXX)
machine=
clean() {
	[ -z "$machine" ] || kill -9 "$machine" 2>/dev/null || true
	rm -rf "$dir"
}
trap clean EXIT
trap 'exit 130' INT TERM

# The first root: it loads the disk's modules and goes on to the disk.
first=$dir/first
mkdir -p "$first/bin" "$first/proc" "$first/sys" "$first/dev" "$first/modules" "$first/root"
cp "$(command -v busybox)" "$first/bin/busybox"
# copy_modules DIR LIST NAME...: the modules with what they need, in order.
copy_modules() {
	to=$1 list=$2
	shift 2
	: >"$list"
	for module in "$@"; do
		modprobe -S "$version" --show-depends "$module" 2>/dev/null | while read -r verb path rest; do
			[ "$verb" = insmod ] || continue
			name=$(basename "$path")
			if [ ! -e "$to/$name" ]; then
				cp "$path" "$to/$name"
				echo "$name" >>"$list"
			fi
		done
	done
}
copy_modules "$first/modules" "$first/modules.list" virtio_pci virtio_blk ext4
cat >"$first/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module" || echo "insmod $module failed"; done </modules.list
mount -t ext4 /dev/vda /root || echo "the disk cannot be mounted"
umount /proc /sys
exec switch_root /root /sbin/init
INIT
chmod +x "$first/init"
(cd "$first" && find . | cpio -o -H newc --quiet) | gzip -1 >"$dir/initramfs"

# What is tested, on a disk of its own.
test=$dir/test
mkdir -p "$test/bin" "$test/modules" "$test/image/bin" "$test/image/etc" "$test/image/tmp"
cp "$bin/hezi" "$bin/hezid" "$bin/hezi-keeper" "$test/bin/"
cp "$(command -v busybox)" "$test/image/bin/busybox"
for applet in $(busybox --list); do
	[ "$applet" = busybox ] || ln -s busybox "$test/image/bin/$applet"
done
echo 'root:x:0:0:root:/root:/bin/sh' >"$test/image/etc/passwd"
echo 'root:x:0:' >"$test/image/etc/group"
cp test/vm/guest-lib.sh "$test/lib"
cp $guest "$test/guest"
if [ "$mode" = install ]; then # two versions, of which the guest has no others
	rm -f "$test"/bin/*
	. test/vm/source.sh
	source_in "$dir/source"
	for release in 1.0 2.0; do
		make -s -C "$dir/source" deb VERSION=$release >"$dir/build.log" 2>&1 || { tail "$dir/build.log"; echo FAIL; exit 1; }
		mv "$dir/source"/dist/hezi_$release*.deb "$test/hezi-$release.deb"
		mv "$dir/source"/dist/hezi-docker_$release*.deb "$test/hezi-docker-$release.deb"
	done
	rm -rf "$dir/source"
fi
echo "$mode" >"$test/mode"
copy_modules "$test/modules" "$test/modules.list" overlay bridge veth nf_tables nft_chain_nat nft_masq nft_nat nft_ct nft_fib nft_fib_ipv4 nft_fib_inet nft_redir nf_conntrack_netlink loop bfq
mkfs.ext4 -q -d "$test" "$dir/test.ext4" 200M

# A reboot is a new qemu on the same disk: one that boots again itself takes many
# times as long to write over what it has translated.
disk="file=$image,snapshot=on"
case $mode in
reboot | short | install)
	cp --sparse=always "$image" "$dir/disk"
	disk=file=$dir/disk
	;;
esac
: >"$dir/log"
seconds=0
# boot runs the machine until it is off. One that does not come up or does not end is
# ended; its console says where it was. The kernel does not try its timer at the start
# (no_timer_check), which fails where the host is busy.
boot() {
	qemu-system-x86_64 -accel "${ACCEL:-tcg}" -cpu "${CPU:-Nehalem}" -m 1536 -smp "${CPUS:-1}" -nographic -net none -no-reboot \
		-drive "$disk",format=raw,if=virtio -drive file="$dir/test.ext4",format=raw,if=virtio,readonly=on \
		-kernel "$kernel" -initrd "$dir/initramfs" \
		-append "console=ttyS0 quiet panic=0 no_timer_check mitigations=off systemd.show_status=0 apparmor=1 security=apparmor $options" </dev/null >>"$dir/log" 2>&1 &
	machine=$!
	while kill -0 $machine 2>/dev/null; do
		if [ $seconds -ge "${LIMIT:-600}" ] || grep -q 'Kernel panic\|You are in emergency mode' "$dir/log"; then
			echo "the machine is ended after $seconds s"
			kill -9 $machine
			break
		fi
		sleep 1
		seconds=$((seconds + 1))
	done
	wait $machine 2>/dev/null || true
	machine=
}
boot
if [ $seconds -lt "${LIMIT:-600}" ] && grep -q '^the machine reboots' "$dir/log"; then
	boot
fi
tr -d '\r' <"$dir/log" | sed -n '/the engine under systemd/,$p'
if tr -d '\r' <"$dir/log" | grep -q '^exit code 0\.$'; then
	echo PASS
else
	echo "the console of the machine ($mode):"
	tail -n 40 "$dir/log"
	echo FAIL
	exit 1
fi
