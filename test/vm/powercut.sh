#!/bin/sh
# Cuts the power of a small virtual machine while its engine pulls, loads,
# imports and removes images, and looks what is on the disk afterwards: every
# image that the engine had acknowledged is there, and `hezi system check
# --images` finds nothing wrong. Then it goes through other moments of the same
# log of writes, each with an arbitrary part of what the disk had not flushed.
#
# Usage: powercut.sh         CUTS (3) machines, MOMENTS (20) of each one's log,
#                            SECONDS_UP (60) at most before the power goes
#        powercut.sh setup   installs what it needs (as root, on Debian)
# KERNEL=/boot/vmlinuz-... and ACCEL=kvm to choose; BIN is the folder of the programs. It needs root.
set -eu
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin
[ "${1-}" != setup ] || exec test/vm/cgroupv2.sh setup
for program in qemu-system-x86_64 busybox cpio modprobe go mkfs.ext4; do
	command -v $program >/dev/null || { echo "$program is missing: test/vm/powercut.sh setup"; echo FAIL; exit 1; }
done
bin=$(realpath "${BIN:-bin}")
[ -x "$bin/hezid" ] || { echo "no $bin/hezid: run make build first"; echo FAIL; exit 1; }
kernel=${KERNEL-}
for k in /boot/vmlinuz-*; do
	[ -n "${KERNEL-}" ] || kernel=$k
done
[ -r "$kernel" ] || { echo "no kernel in /boot: test/vm/powercut.sh setup"; echo FAIL; exit 1; }
version=${kernel#*vmlinuz-}

dir=$(mktemp -d /tmp/hezi-powercut-XXXXXX)
engine= machine=
clean() {
	[ -z "$machine" ] || kill -9 "$machine" 2>/dev/null || true
	[ -z "$engine" ] || kill "$engine" 2>/dev/null || true
	umount -l "$dir/mnt" "$dir/run" 2>/dev/null || true
	[ -n "${KEEP-}" ] || rm -rf "$dir"
}
trap clean EXIT
trap 'exit 130' INT TERM

root=$dir/root
mkdir -p "$root/bin" "$root/proc" "$root/sys" "$root/dev" "$root/tmp" "$root/run" "$root/etc" "$root/modules" "$root/disk" "$dir/mnt" "$dir/run"
cp "$(command -v busybox)" "$root/bin/busybox"
cp "$bin/hezi" "$bin/hezid" "$bin/hezi-keeper" "$root/bin/"
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$root/bin/work" ./test/vm/powercut/work
CGO_ENABLED=0 go build -o "$dir/replay" ./test/vm/powercut/replay
: >"$root/modules.list"
for module in virtio_pci virtio_blk ext4 overlay bridge veth nf_tables nft_chain_nat nft_masq nft_nat nft_ct nft_fib nft_fib_ipv4 nft_fib_inet nft_redir nf_conntrack_netlink; do
	modprobe -S "$version" --show-depends "$module" 2>/dev/null | while read -r verb path rest; do
		[ "$verb" = insmod ] || continue
		name=$(basename "$path")
		if [ ! -e "$root/modules/$name" ]; then
			cp "$path" "$root/modules/$name"
			echo "/modules/$name" >>"$root/modules.list"
		fi
	done
done
cat >"$root/init" <<'INIT'
#!/bin/busybox sh
export PATH=/bin HOME=/tmp
if [ "${1-}" != again ]; then # the root must be a mount that can be left, which an initramfs is not
	/bin/busybox mkdir /new
	/bin/busybox mount -t tmpfs -o size=1g new /new
	for d in bin etc modules init modules.list; do /bin/busybox cp -a /$d /new/; done
	/bin/busybox mkdir -p /new/proc /new/sys /new/dev /new/tmp /new/run /new/disk
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
while read -r module; do insmod "$module" || echo "insmod $module failed"; done </modules.list
ip link set lo up
mount -t ext4 /dev/vda /disk || echo "no disk"
hezid --data-root /disk/data --exec-root /run/hezi >/tmp/hezid.log 2>&1 &
until hezi version >/dev/null 2>&1; do sleep 0.2; done
work
echo "the work ended:"
tail -n 20 /tmp/hezid.log
poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet) | gzip -1 >"$dir/initramfs"
truncate -s 512M "$dir/empty"
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$dir/empty"

# look MOUNTS what is on the disk image $1, and prints what is wrong.
look() {
	mount -o loop "$1" "$dir/mnt"
	mkdir -p "$dir/run"
	export HEZI_HOST="unix://$dir/run/hezi.sock"
	"$bin/hezid" --data-root "$dir/mnt/data" --exec-root "$dir/run" --pidfile "$dir/run/hezi.pid" -H "$HEZI_HOST" >"$dir/hezid.log" 2>&1 &
	engine=$!
	n=0
	until "$bin/hezi" version >/dev/null 2>&1; do
		n=$((n + 1))
		if [ $n -gt 300 ] || ! kill -0 $engine 2>/dev/null; then
			echo "the engine does not start:"
			tail -n 5 "$dir/hezid.log"
			bad=1
			break
		fi
		sleep 0.1
	done
	if [ $n -le 300 ] && kill -0 $engine 2>/dev/null; then
		if "$bin/hezi" system check --images >"$dir/check.log" 2>&1; then tail -n 1 "$dir/check.log"; else
			bad=1
			cat "$dir/check.log"
		fi
		"$bin/hezi" ps -a --format '{{.Names}}' >"$dir/containers"
		for id in $("$bin/hezi" ps -aq --no-trunc); do
			[ -d "$dir/mnt/data/writable/$id/fs" ] && [ -d "$dir/mnt/data/writable/$id/work" ] || { bad=1; echo "container $id has no layer"; }
		done
		"$bin/hezi" container prune -f >/dev/null
		"$bin/hezi" images --format '{{.Repository}}:{{.Tag}}' >"$dir/images"
		# What is left of nothing: no image, so no byte.
		"$bin/hezi" image prune -af >/dev/null 2>"$dir/prune.log" || { bad=1; cat "$dir/prune.log"; }
		left=$(find "$dir/mnt/data/content/blobs/sha256" "$dir/mnt/data/content/ingest" "$dir/mnt/data/layers/snapshots" "$dir/mnt/data/containers" -mindepth 1 -maxdepth 1 2>/dev/null || true)
		[ -z "$left" ] || { bad=1; echo "belong to nothing: $left"; find $left | head -n 20; }
	fi
	kill $engine 2>/dev/null || true
	wait $engine 2>/dev/null || true
	engine=
	n=0
	until umount "$dir/mnt" 2>/dev/null; do
		n=$((n + 1))
		[ $n -lt 50 ] || { umount -l "$dir/mnt"; break; }
		sleep 0.2
	done
}

# boot starts the machine and waits until it works.
boot() {
	rm -f "$dir/disk" "$dir/writes"
	cp --sparse=always "$dir/empty" "$dir/disk"
	truncate -s 0 "$dir/writes"
	qemu-system-x86_64 -accel "${ACCEL:-tcg}" -cpu max -m 2048 -smp 2 -nographic -no-reboot -net none \
		-blockdev driver=file,filename="$dir/disk",node-name=disk -blockdev driver=file,filename="$dir/writes",node-name=writes \
		-blockdev driver=blklogwrites,file=disk,log=writes,node-name=logged -device virtio-blk-pci,drive=logged \
		-kernel "$kernel" -initrd "$dir/initramfs" -append "console=ttyS0 quiet panic=-1 no_timer_check" </dev/null >"$dir/log" 2>&1 &
	machine=$!
	n=0
	until grep -q 'the work begins' "$dir/log"; do
		n=$((n + 1))
		if [ $n -gt 600 ] || ! kill -0 $machine 2>/dev/null; then
			echo "the machine does not come to work:"
			tail -n 20 "$dir/log"
			kill -9 $machine 2>/dev/null || true
			wait $machine 2>/dev/null || true
			machine=
			return 1
		fi
		sleep 0.5
	done
}

bad=0
for cut in $(seq "${CUTS:-3}"); do
	# An emulated processor loses its timer now and then, and stands still.
	boot || boot || boot || { echo FAIL; exit 1; }
	sleep "$(awk -v max="${SECONDS_UP:-60}" -v seed="$$$cut" 'BEGIN { srand(seed); print 10 + rand() * (max - 10) }')"
	kill -9 $machine
	wait $machine 2>/dev/null || true
	machine=
	tr -d '\r' <"$dir/log" >"$dir/said"
	if grep -q 'failed\|the work ended' "$dir/said"; then
		grep -A 20 'failed\|the work ended' "$dir/said"
		bad=1
	fi
	# What was acknowledged last, and whose removal had not begun.
	awk '/^has / { has[$2] = 1 } /^may lose / { delete has[$3] } END { for (i in has) print i }' "$dir/said" | sort >"$dir/acknowledged"
	echo "machine $cut: the power went after $(grep -c '^has ' "$dir/said") images were added and $(grep -c '^may lose' "$dir/said") removed"
	cp --sparse=always "$dir/disk" "$dir/moment"
	look "$dir/moment"
	sort "$dir/images" >"$dir/sorted"
	lost=$(comm -23 "$dir/acknowledged" "$dir/sorted")
	awk '/^made / { print $2 }' "$dir/said" | sort >"$dir/acknowledged"
	sort "$dir/containers" >"$dir/sorted"
	lost="$lost$(comm -23 "$dir/acknowledged" "$dir/sorted")"
	if [ -n "$lost" ]; then
		echo "acknowledged and lost: $lost"
		bad=1
	fi
	entries=$("$dir/replay" count "$dir/writes")
	first=$((entries / 10)) # the file system was just mounted before
	for moment in $(seq "${MOMENTS:-20}"); do
		at=$(awk -v a=$first -v b="$entries" -v seed="$$$cut$moment" 'BEGIN { srand(seed); print int(a + rand() * (b - a)) }')
		cp --sparse=always "$dir/empty" "$dir/moment"
		printf 'machine %s, write %s: ' "$cut" "$at"
		"$dir/replay" "$dir/writes" "$dir/moment" "$at" "$moment"
		look "$dir/moment"
		if [ $bad != 0 ] && [ -n "${KEEP-}" ]; then
			echo "kept: $dir"
			echo FAIL
			exit 1
		fi
	done
done
if [ $bad = 0 ]; then echo PASS; else
	echo FAIL
	exit 1
fi
