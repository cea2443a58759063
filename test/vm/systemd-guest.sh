# Runs inside the virtual machine of debian.sh, as a service of systemd's.
. /test/lib
export PATH=/test/bin:/usr/sbin:/usr/bin:/sbin:/bin
mode=$(cat /test/mode)
stage=$(cat /var/stage 2>/dev/null || echo 1)
data=/var/lib/hezi

end() {
	[ $bad = 0 ] || { dmesg | grep -i 'overlay\|ext4' | tail -n 5; echo "the engine's log:"; journalctl -u hezid --no-pager -o cat | tail -n 25; }
	echo "exit code $bad."
	poweroff -f
	exit
}
engine() { # engine OPTION...: as a service, which is started again where it fails
	systemd-run -q -u hezid -p KillMode=process -p Delegate=yes -p Restart=on-failure -p RestartSec=1 -p StartLimitIntervalSec=0 hezid --data-root $data "$@"
	await_engine || end
}
await_engine() {
	eventually hezi version && return
	echo "FAIL hezid does not answer"
	systemctl status --no-pager hezid
	cat /run/hezi/keeper/keeper.log
	bad=1
	return 1
}
of() { hezi inspect -f "$2" "$1"; }
scope() { echo "hezi-$(of "$1" '{{.Id}}').scope"; }
state() { echo "is $(systemctl is-active "$1")"; }
scopes() { systemctl list-units --all --no-legend 'hezi-*.scope' | wc -l; }
none_left() { [ "$(scopes)" = 0 ]; }
pid() { of "$1" '{{.State.Pid}}'; }
groups() { cat "/proc/$(pid "$1")/cgroup"; }
inside() { # inside CONTAINER FILE...: the values of the container's cgroup
	c=$1
	shift
	hezi exec "$c" sh -c "cd /sys/fs/cgroup; echo \$(cat $*)"
}

# What holds with the systemd driver on each version of cgroups.
driver() {
	check "the driver is in info" "systemd" hezi info -f '{{.CgroupDriver}}'
	check "run" "hello" hezi run --rm busybox echo hello
	hezi run -d --name box -m 64m --memory-swap 96m --cpus 0.5 -c 512 --pids-limit 50 busybox sleep 100000 >/dev/null
	check "the scope is active" "is active" state "$(scope box)"
	check "its cgroup" "/system.slice/$(scope box)" groups box
	check "it is delegated" "system.slice yes container box (hezi, $data)" sh -c "echo \$(systemctl show -P Delegate -P Slice -P Description $(scope box))"
	check "a slice of one's own" "/my.slice/my-own.slice/hezi-" sh -c 'hezi run -d --name own --cgroup-parent my-own.slice busybox sleep 100000 >/dev/null; cat /proc/$(hezi inspect -f {{.State.Pid}} own)/cgroup'
	check "a parent that is no slice" 'cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice"' hezi run --rm --cgroup-parent /mine/a busybox true
	check "mknod of a disk" "Operation not permitted" hezi exec box sh -c 'mknod /tmp/d b 254 0; dd if=/tmp/d of=/dev/null count=1'
	code "a null device" 0 hezi exec box sh -c 'echo x >/dev/null'
	check "privileged" "0" hezi run --rm --privileged busybox sh -c 'mknod /tmp/d b 254 0; dd if=/tmp/d of=/dev/null count=1 2>/dev/null; echo $?'
	code "the exit code" 7 hezi run --rm busybox sh -c 'exit 7'
	code "a missing program" 127 hezi run --rm busybox nosuch
	check "huge pages" "2097152" hezi run --rm --hugetlb-limit 2MB=2m busybox sh -c 'cat /sys/fs/cgroup/hugetlb.2MB.max /sys/fs/cgroup/hugetlb/hugetlb.2MB.limit_in_bytes 2>/dev/null'
	check "few processes, little memory" "ok" hezi run --rm --pids-limit 1 -m 6m busybox echo ok
	for n in 1 2 3; do
		code "out of memory $n" 137 hezi run --name oom$n -m 16m --memory-swap 16m busybox sh -c 'a=x; while :; do a=$a$a; done'
		check "out of memory $n is told" "true" of oom$n '{{.State.OOMKilled}}'
	done
	hezi run --name fails --restart on-failure:2 busybox sh -c 'exit 3' >/dev/null
	eventually sh -c 'hezi inspect -f "{{.RestartCount}} {{.State.Status}}" fails | grep "2 exited"'
	check "a restart policy" "2 exited" of fails '{{.RestartCount}} {{.State.Status}}'
	check "a user namespace" "0 1000000" hezi run --rm --userns auto:size=1000 busybox sh -c 'echo $(awk "{print \$1, \$2}" /proc/self/uid_map)'
	check "its own network" "eth0" hezi run --rm --userns auto:size=1000 busybox ip link
	check "init" "ok" hezi run --rm --init busybox echo ok
	hezi rm -f oom1 oom2 oom3 fails >/dev/null
}
signal_keeper() {
	for p in /proc/[0-9]*; do
		if tr '\0' ' ' 2>/dev/null <"$p/cmdline" | grep -q 'hezi-keeper serve'; then kill -s "$1" "${p#/proc/}"; fi
	done
}
# ends_unseen NAME SCRIPT WANT: what is said of a container that ends by the script while
# the keeper stands still, until systemd has removed its scope with the count of kills.
ends_unseen() {
	rm -rf /var/go && mkdir /var/go
	hezi run -d --name unseen -m 16m --memory-swap 16m -v /var/go:/go busybox sh -c "until [ -e /go/now ]; do sleep 0.1; done; $2" >/dev/null
	dir=/sys/fs/cgroup/system.slice
	[ -d "$dir" ] || dir=/sys/fs/cgroup/memory/system.slice
	dir=$dir/$(scope unseen)
	signal_keeper STOP
	touch /var/go/now
	eventually test ! -e "$dir"
	signal_keeper CONT
	check "$1" "$3" sh -c 'hezi wait unseen >/dev/null; hezi inspect -f "{{.State.OOMKilled}} {{.State.ExitCode}}" unseen'
	hezi rm -f unseen >/dev/null
}
# And after the limits were tested.
life() {
	systemctl kill -s KILL --kill-who=main hezid
	sleep 1
	signal_keeper KILL
	await_engine || end
	check "after kill -9 of hezid and the keeper" "running" of box '{{.State.Status}}'
	check "exec after that" "ok" hezi exec box echo ok
	check "the scope is still active" "is active" state "$(scope box)"
	systemctl daemon-reexec
	check "run after systemd has begun anew" "ok" hezi run --rm busybox echo ok
	systemctl stop "$(scope own)"
	check "a scope that systemd stops" "exited" sh -c 'hezi wait own >/dev/null; hezi inspect -f {{.State.Status}} own'
	hezi start own >/dev/null
	check "and starts again" "is active" state "$(scope own)"
	hezi restart -t 0 own >/dev/null
	check "a restart" "running" of own '{{.State.Status}}'
	hezi rm -f box own >/dev/null
	eventually none_left
	check "no scope is left" "0" scopes
}

# Other runtimes ask systemd for their scopes; Hezi as an OCI runtime is one.
others() {
	for r in runc crun hezi-oci; do
		hezi run -d --name $r --runtime $r -m 64m --memory-swap 96m --cpus 0.5 --pids-limit 50 --cgroup-parent my-own.slice busybox sleep 100000 >/dev/null
		check "$r: the scope is active" "is active" state "$(scope $r)"
		check "$r: its cgroup" "0::/my.slice/my-own.slice/$(scope $r)" groups $r
		check "$r: limits" "67108864 33554432 50000 100000 50" inside $r memory.max memory.swap.max cpu.max pids.max
		systemctl daemon-reload
		check "$r: after a reload" "67108864 33554432 50000 100000 50" inside $r memory.max memory.swap.max cpu.max pids.max
		hezi update -m 80m --memory-swap 80m --pids-limit 40 $r >/dev/null
		systemctl daemon-reload
		check "$r: an update after a reload" "83886080 0 40" inside $r memory.max memory.swap.max pids.max
		hezi exec -d $r sh -c 'sleep 4321 & exec sleep 1234'
		eventually sh -c "hezi top $r | grep 'sleep 1234'"
		hezi execs kill "$(hezi execs ls -q --no-trunc $r)" >/dev/null
		eventually sh -c "! hezi top $r | grep 'sleep [14][23]'"
		check "$r: all of an exec is killed" "none" sh -c "hezi top $r | grep 'sleep [14][23]' || echo none"
		check "$r: stats" " / 80MiB" hezi stats --no-stream --format '{{.MemUsage}}' $r
		hezi restart -t 0 $r >/dev/null
		check "$r: a restart" "is active" state "$(scope $r)"
		hezi rm -f $r >/dev/null
	done
	check "a user namespace of another runtime" "0 1000000" hezi run --rm --runtime runc --userns auto:size=1000 busybox sh -c 'echo $(awk "{print \$1, \$2}" /proc/self/uid_map)'
}

unified() {
	driver
	ends_unseen "out of memory in a scope that is removed at once" 'a=x; while :; do a=$a$a; done' "true 137"
	ends_unseen "a child out of memory there" 'sh -c "a=x; while :; do a=\$a\$a; done"; exit 3' "true 3"
	ends_unseen "an end for another reason there" 'kill -9 $$; exit 4' "false 4"
	others
	check "limits" "67108864 33554432 50000 100000 59 50" inside box memory.max memory.swap.max cpu.max cpu.weight pids.max
	check "systemd knows them" "59 500ms 67108864 33554432 50" sh -c "systemctl show -P MemoryMax -P MemorySwapMax -P CPUQuotaPerSecUSec -P CPUWeight -P TasksMax $(scope box) | tr '\n' ' '"
	systemctl daemon-reload
	check "after a reload" "67108864 33554432 50000 100000 59 50" inside box memory.max memory.swap.max cpu.max cpu.weight pids.max
	systemctl set-property --runtime "$(scope box)" IOWeight=200
	check "after a change of a property" "67108864 33554432 50000 100000 59 50" inside box memory.max memory.swap.max cpu.max cpu.weight pids.max
	check "an update that conflicts" "Conflicting options" hezi update --cpu-quota 20000 box
	hezi update -m 80m --memory-swap 80m --pids-limit 12 --cpus 0.333 --cpu-shares 2048 --cpuset-cpus 0 --memory-reservation 20m box >/dev/null
	values="83886080 0 34000 100000 174 12 0 20971520"
	files="memory.max memory.swap.max cpu.max cpu.weight pids.max cpuset.cpus memory.low"
	check "an update holds" "$values" inside box $files
	systemctl daemon-reload
	check "an update after a reload" "$values" inside box $files
	check "in systemd too" "0 12" sh -c "echo \$(systemctl show -P AllowedCPUs -P TasksMax $(scope box))"
	hezi run -d --name disk --device-read-bps /dev/vda:1mb --device-write-iops /dev/vda:50 --blkio-weight 300 busybox sleep 100000 >/dev/null
	check "limits of a disk" "rbps=1048576 wbps=max riops=max wiops=50" inside disk io.max
	systemctl daemon-reload
	check "limits of a disk after a reload" "rbps=1048576 wbps=max riops=max wiops=50" inside disk io.max
	check "a weight of disks" "300" inside disk io.bfq.weight
	hezi rm -f disk >/dev/null
	check "exec is in the scope" "0::/" hezi exec box cat /proc/self/cgroup
	check "stats" " / 80MiB" hezi stats --no-stream --format '{{.MemUsage}}' box
	hezi run -d --name plain busybox sleep 100000 >/dev/null
	check "no limits are none" "max max max 100000 100 max" inside plain memory.max memory.swap.max cpu.max cpu.weight pids.max
	systemctl daemon-reload
	check "no limits after a reload" "max max max 100000 100 max" inside plain memory.max memory.swap.max cpu.max cpu.weight pids.max
	check "devices after a reload" "Operation not permitted" hezi exec plain sh -c 'mknod /tmp/d b 254 0; dd if=/tmp/d of=/dev/null count=1'
	hezi rm -f plain >/dev/null
	life
}

# again reboots the machine, which then goes on with what it has found so far.
again() {
	echo 2 >/var/stage
	echo "$bad" >/var/bad
	sync
	echo "the machine reboots"
	systemctl reboot
}

# What runs when the machine reboots.
before() {
	hezi run -d --name always --restart always busybox sleep 100000 >/dev/null
	hezi run -d --name stopped --restart unless-stopped busybox sleep 100000 >/dev/null
	hezi run -d --name unless --restart unless-stopped busybox sleep 100000 >/dev/null
	hezi run -d --name never busybox sleep 100000 >/dev/null
	hezi stop -t 0 stopped >/dev/null
	again
}

# After the reboot: what policies start, and the engine's own cgroups beside systemd.
rebooted() {
	engine --exec-opt native.cgroupdriver=systemd
	eventually sh -c 'hezi inspect -f "{{.State.Status}}" unless | grep running'
	check "started at boot: always" "running" of always '{{.State.Status}}'
	check "started at boot: unless-stopped" "running" of unless '{{.State.Status}}'
	check "in its scope" "is active" state "$(scope always)"
	check "not started: stopped by a user" "exited" of stopped '{{.State.Status}}'
	check "not started: without a policy" "exited" of never '{{.State.Status}}'
	hezi rm -f stopped unless never >/dev/null
	systemctl stop hezid
	engine
	check "the other driver" "cgroupfs" hezi info -f '{{.CgroupDriver}}'
	check "a scope from before" "running" of always '{{.State.Status}}'
	hezi update -m 64m always >/dev/null
	systemctl daemon-reload
	check "a scope from before is updated" "67108864 67108864" inside always memory.max memory.swap.max
	hezi restart -t 0 always >/dev/null
	check "and leaves it" "0::/hezi/" groups always
	eventually none_left
	check "no scope is left" "0" scopes
	hezi update -m 80m --memory-swap 80m --pids-limit 12 --cpu-shares 2048 always >/dev/null
	systemctl daemon-reload
	systemctl restart systemd-journald
	check "limits without systemd after a reload" "83886080 0 12 174" inside always memory.max memory.swap.max pids.max cpu.weight
	check "devices" "Operation not permitted" hezi exec always sh -c 'mknod /tmp/d b 254 0; dd if=/tmp/d of=/dev/null count=1'
	hezi rm -f always >/dev/null
	walls
	users
}

# The most important of the rest in the shortest time (make test-vm-short),
# in a machine that boots twice.
short() {
	hezi run -d --name box -m 64m --memory-swap 96m --cpus 0.5 -c 512 --pids-limit 50 --restart always busybox sleep 100000 >/dev/null
	check "the cgroup is a scope of systemd's" "0::/system.slice/$(scope box)" groups box
	short_limits
	systemctl daemon-reload
	check "limits after a reload" "67108864 33554432 50000 100000 59 50" inside box memory.max memory.swap.max cpu.max cpu.weight pids.max
	check "devices" "Operation not permitted" hezi exec box sh -c 'echo x >/dev/null; mknod /tmp/d b 254 0; dd if=/tmp/d of=/dev/null count=1'
	check "all devices of a privileged container" "read" hezi run --rm --privileged busybox sh -c 'mknod /tmp/d b 254 0; dd if=/tmp/d of=/dev/null count=1 2>/dev/null && echo read'
	check "the default AppArmor profile" "hezi-default (enforce)" hezi exec box cat /proc/self/attr/current
	check "AppArmor denies mounts" "Permission denied" hezi run --rm --cap-add SYS_ADMIN --security-opt seccomp=unconfined busybox mount -t tmpfs x /tmp
	check "stats" " / 64MiB 1" hezi stats --no-stream --format '{{.MemUsage}} {{.PIDs}}' box
	check "users of one's own, their files, and a network" "0 1000000 0:0 eth0" hezi run --rm --userns auto:size=1000 busybox sh -c 'echo $(awk "{print \$1, \$2}" /proc/self/uid_map) $(stat -c %u:%g /bin/busybox) $(ip -o link | grep -o eth0)'
	ends_unseen "out of memory, in a scope that is removed at once" 'a=x; while :; do a=$a$a; done' "true 137"
	ends_unseen "an end for another reason there" 'exit 4' "false 4"
	first=$(pid box)
	systemctl restart hezid
	await_engine || end
	check "another hezid" "running $first" of box '{{.State.Status}} {{.State.Pid}}'
	signal_keeper KILL
	check "another keeper" "ok" hezi exec box echo ok
	hezi update --pids-limit 40 box >/dev/null
	check "the same process, and an update" "40 $first" sh -c "echo \$(hezi exec box cat /sys/fs/cgroup/pids.max; hezi inspect -f {{.State.Pid}} box)"
	again
}
short_limits() { check "limits" "67108864 33554432 50000 100000 59 ${1:-50}" inside box memory.max memory.swap.max cpu.max cpu.weight pids.max; }
short_rebooted() {
	engine --exec-opt native.cgroupdriver=systemd
	eventually sh -c 'hezi inspect -f "{{.State.Status}}" box | grep running'
	check "started at boot, in its scope" "0::/system.slice/$(scope box)" groups box
	short_limits 40
	check "the default AppArmor profile after a reboot" "hezi-default (enforce)" hezi exec box cat /proc/self/attr/current
	hezi rm -f box >/dev/null
	eventually none_left
	check "no scope is left" "0" scopes
}

walls() {
	check "AppArmor is in info" "name=apparmor" hezi info -f '{{.SecurityOptions}}'
	check "the default AppArmor profile" "hezi-default (enforce)" hezi run --rm busybox cat /proc/self/attr/current
	check "AppArmor unconfined" "unconfined" hezi run --rm --security-opt apparmor=unconfined busybox cat /proc/self/attr/current
	check "AppArmor denies mounts" "Permission denied" hezi run --rm --cap-add SYS_ADMIN --security-opt seccomp=unconfined busybox mount -t tmpfs x /tmp
	echo 'profile own flags=(attach_disconnected) { file, capability, network, deny /etc/passwd r, }' | apparmor_parser -Kr
	check "an AppArmor profile of one's own" "Permission denied" hezi run --rm --security-opt apparmor=own busybox cat /etc/passwd
	check "a label without SELinux" "SELinux is not enabled" hezi run --rm --security-opt label=type:container_t busybox true
}

users() {
	check "users of one's own" "0 1000000" hezi run --rm --userns auto:size=1000 busybox sh -c 'echo $(awk "{print \$1, \$2}" /proc/self/uid_map)'
	check "owners of the image's files" "0:0" hezi run --rm --userns auto:size=1000 busybox stat -c %u:%g /bin/busybox
	systemctl stop hezid
	engine --userns-remap default
	check "remapped users" "300000" hezi run --rm busybox awk '{print $2}' /proc/self/uid_map
	check "remapped users are asked otherwise" "4294967295" hezi run --rm --userns host busybox cat /proc/self/uid_map
}

v1() {
	driver
	limits() { hezi exec box sh -c 'cd /sys/fs/cgroup; echo $(cat memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.shares pids/pids.max)'; }
	check "limits" "67108864 100663296 50000 512 50" limits
	systemctl daemon-reload
	check "after a reload" "67108864 100663296 50000 512 50" limits
	check "devices after a reload" "Operation not permitted" hezi exec box sh -c 'dd if=/tmp/d of=/dev/null count=1'
	systemctl set-property --runtime "$(scope box)" CPUShares=512
	check "devices after a change of a property" "Operation not permitted" hezi exec box sh -c 'dd if=/tmp/d of=/dev/null count=1'
	hezi update -m 80m --memory-swap 80m --pids-limit 12 --cpus 0.333 --cpu-shares 2048 --cpuset-cpus 0 box >/dev/null
	check "an update holds" "83886080 83886080 34000 2048 12" limits
	systemctl daemon-reload
	check "an update after a reload" "83886080 83886080 34000 2048 12" limits
	check "a cpuset" "0" hezi exec box cat /sys/fs/cgroup/cpuset/cpuset.cpus
	hezi run -d --name oci --runtime hezi-oci -m 64m --pids-limit 50 --cgroup-parent my-own.slice busybox sleep 100000 >/dev/null
	check "Hezi as an OCI runtime: its scope" "is active" state "$(scope oci)"
	systemctl daemon-reload
	check "its limits after a reload" "67108864 50" hezi exec oci sh -c 'cd /sys/fs/cgroup; echo $(cat memory/memory.limit_in_bytes pids/pids.max)'
	check "its devices" "Operation not permitted" hezi exec oci sh -c 'mknod /tmp/d b 254 0; dd if=/tmp/d of=/dev/null count=1'
	hezi rm -f oci >/dev/null
	ends_unseen "out of memory in a scope that is removed at once" 'a=x; while :; do a=$a$a; done' "true 137"
	ends_unseen "a child out of memory there" 'sh -c "a=x; while :; do a=\$a\$a; done"; exit 3' "true 3"
	ends_unseen "an end for another reason there" 'kill -9 $$; exit 4' "false 4"
	check "each hierarchy" "0" sh -c "grep -v ':[^:]*:/system.slice/$(scope box)' /proc/$(pid box)/cgroup | grep -v '^0::' | wc -l"
	life
	check "no directory is left" "" sh -c 'find /sys/fs/cgroup -name "hezi-*.scope"'
}

if [ "$stage" = 1 ]; then
	echo "the engine under systemd, $mode, Linux $(uname -r), $(uptime) s"
	while read -r module; do insmod "/test/modules/$module" || echo "insmod $module failed"; done </test/modules.list
	echo 'hezi:1000000:100000' | tee /etc/subuid >/etc/subgid
	echo 'dockremap:300000:65536' | tee -a /etc/subuid >>/etc/subgid
	useradd -u 300 dockremap 2>/dev/null
	ln -s /test/bin/hezi-keeper /var/hezi-oci
	engine --exec-opt native.cgroupdriver=systemd --add-runtime runc=runc --add-runtime crun=crun --add-runtime hezi-oci=/var/hezi-oci
	tar -C /test/image -c . | hezi import -c 'CMD ["sh"]' - busybox:latest >/dev/null
	case $mode in
	reboot) before; exit ;;
	short) short; exit ;;
	unified) unified ;;
	*) v1 ;;
	esac
	end
fi
while read -r module; do insmod "/test/modules/$module" || echo "insmod $module failed"; done </test/modules.list
echo "it has booted again, $(uptime) s"
bad=$(cat /var/bad)
case $mode in
short) short_rebooted ;;
*) rebooted ;;
esac
end
