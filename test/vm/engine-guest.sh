# Runs inside the virtual machine of engine.sh.
. /lib.sh
mkdir -p /tmp/data
data=/tmp/data
engine() {
	hezid --data-root $data --exec-root /run/hezi >>/tmp/hezid.log 2>&1 &
	pid=$!
	eventually hezi version || { echo "hezid does not answer:"; tail -n 20 /tmp/hezid.log; exit 1; }
}
engine
check "the built-in image" "Hello from inside a box" hezi run --rm hezi/hello
tar -C /image -c . | hezi import -c 'CMD ["sh"]' - busybox:latest >/dev/null
tar -C /image -c ./etc | hezi import - second:latest >/dev/null
check "run" "hello" hezi run --rm busybox echo hello
code "exit code" 7 hezi run --rm busybox sh -c 'exit 7'
code "a missing program" 127 hezi run --rm busybox nosuch
check "its own cgroup" "0::/" hezi run --rm busybox cat /proc/self/cgroup
check "the cgroup is mounted read-only" "ro," hezi run --rm busybox grep /sys/fs/cgroup /proc/self/mountinfo
check "memory limit" "67108864" hezi run --rm -m 64m busybox cat /sys/fs/cgroup/memory.max
check "cpu limit" "50000 100000" hezi run --rm --cpus 0.5 busybox cat /sys/fs/cgroup/cpu.max
check "pids limit" "55" hezi run --rm --pids-limit 55 busybox cat /sys/fs/cgroup/pids.max
code "out of memory" 137 hezi run --name oom -m 16m busybox sh -c 'a=x; while :; do a=$a$a; done'
check "out of memory is told" "true" hezi inspect -f '{{.State.OOMKilled}}' oom
check "mknod of a disk" "Operation not permitted" hezi run --rm busybox sh -c 'mknod /tmp/d b 8 0; dd if=/tmp/d of=/dev/null count=1'
check "privileged" "0" hezi run --rm --privileged busybox sh -c 'mknod /tmp/z c 1 5 && dd if=/tmp/z bs=1 count=1 2>/dev/null | wc -c | grep -q 1; echo $?'
check "a disk in a privileged box" "No such device" hezi run --rm --privileged busybox sh -c 'mknod /tmp/d b 8 0; dd if=/tmp/d of=/dev/null count=1'
check "privileges" "000001ffffffffff" hezi run --rm --privileged busybox grep CapEff /proc/self/status
check "init" "ok" hezi run --rm --init busybox echo ok
check "init of a user" "33" hezi run --rm --init -u 33 busybox id -u
check "init is out of reach" "Read-only file system" hezi run --rm --init busybox chmod 0 /proc/1/exe
check "init after that" "ok" hezi run --rm --init busybox echo ok
check "the smallest memory limit" "6291456" hezi run --rm -m 6m busybox cat /sys/fs/cgroup/memory.max
check "resource limits" "100 200" hezi run --rm --ulimit nofile=100:200 busybox sh -c 'echo $(ulimit -n) $(ulimit -Hn)'
check "the host's cgroup namespace" "0::/hezi" hezi run --rm --cgroupns host busybox cat /proc/self/cgroup
check "seccomp" "Operation not permitted" hezi run --rm busybox unshare -n true
check "masked paths" "0 /proc/timer_list" hezi run --rm busybox wc -c /proc/timer_list
check "read-only paths" "Read-only file system" hezi run --rm busybox sh -c 'echo 0 >/proc/sys/kernel/panic'
check "descriptors" "0 1 2 3" hezi run --rm --init busybox sh -c 'echo $(ls /proc/self/fd)'
check "a device of the host" "a:e5" hezi run --rm --device /dev/rtc0:/dev/x --device-cgroup-rule 'c 10:229 rwm' busybox sh -c 'ls /dev/x >/dev/null; mknod /f c 10 229; stat -c %t:%T /f'
code "a device is opened" 0 hezi run --rm --device /dev/rtc0:/dev/x:r busybox sh -c 'exec 3</dev/x'
check "a device is not written" "Operation not permitted" hezi run --rm --device /dev/ttyS1:/dev/x:r busybox sh -c 'exec 3>/dev/x'
check "AppArmor is in info" "name=apparmor" hezi info -f '{{.SecurityOptions}}'
check "the default AppArmor profile" "hezi-default (enforce)" hezi run --rm busybox cat /proc/self/attr/current
check "Docker's name of it" "hezi-default (enforce)" hezi run --rm --security-opt apparmor=docker-default busybox cat /proc/self/attr/current
check "AppArmor of --init" "hezi-default (enforce)" hezi run --rm --init busybox cat /proc/self/attr/current
check "AppArmor unconfined" "unconfined" hezi run --rm --security-opt apparmor=unconfined busybox cat /proc/self/attr/current
check "AppArmor of a privileged container" "unconfined" hezi run --rm --privileged busybox cat /proc/self/attr/current
check "AppArmor denies mounts" "Permission denied" hezi run --rm --cap-add SYS_ADMIN --security-opt seccomp=unconfined busybox mount -t tmpfs x /tmp
check "AppArmor with no new privileges" "hezi-default (enforce)" hezi run --rm --security-opt no-new-privileges busybox cat /proc/self/attr/current
check "an AppArmor profile that is missing" "unable to apply apparmor profile" hezi run --rm --security-opt apparmor=nosuch busybox true
echo 'profile own flags=(attach_disconnected) { file, capability, network, deny /etc/passwd r, }' | apparmor_parser -Kr
check "an AppArmor profile of one's own" "Permission denied" hezi run --rm --security-opt apparmor=own busybox cat /etc/passwd
echo 'profile hezi-default { }' | apparmor_parser -R
check "the default profile is loaded again" "hezi-default (enforce)" hezi run --rm busybox cat /proc/self/attr/current
hezi run -d --name box -p 127.0.0.1:8080:8080 hezi/hello serve >/dev/null
eventually wget -qO- http://127.0.0.1:8080/healthz
check "a published port" "" wget -qO- http://127.0.0.1:8080/healthz
check "exec" "Hello" hezi exec box /hello
check "inspect has the AppArmor profile" "hezi-default" hezi inspect -f '{{.AppArmorProfile}}' box
hezi run -d --name idle --pids-limit 8 busybox sleep 100000 >/dev/null
check "AppArmor in exec" "hezi-default (enforce)" hezi exec idle cat /proc/self/attr/current
check "AppArmor in a privileged exec" "hezi-default (enforce)" hezi exec --privileged idle cat /proc/self/attr/current
check "exec is in the cgroup" "8 0::/" hezi exec idle sh -c 'echo $(cat /sys/fs/cgroup/pids.max /proc/self/cgroup)'
check "descriptors of exec" "0 1 2 3" hezi exec idle sh -c 'echo $(ls /proc/self/fd)'
check "a disk in exec" "Operation not permitted" hezi exec --privileged idle sh -c 'mknod /tmp/d b 8 0; dd if=/tmp/d of=/dev/null count=1'
code "exec of a missing program" 127 hezi exec idle nosuch
check "a soft limit of memory" "33554432" hezi run --rm --memory-reservation 32m busybox cat /sys/fs/cgroup/memory.low
check "swap without memory" "33554432" hezi run --rm -m 64m --memory-swap 96m busybox cat /sys/fs/cgroup/memory.swap.max
check "shares" "59" hezi run --rm -c 512 busybox cat /sys/fs/cgroup/cpu.weight
check "a cpuset" "0" hezi run --rm --cpuset-cpus 0 busybox cat /sys/fs/cgroup/cpuset.cpus
check "swappiness is discarded" "Memory swappiness discarded." hezi run --rm --memory-swappiness 10 busybox true
check "the OOM killer stays" "OomKillDisable discarded." hezi run --rm -m 64m --oom-kill-disable busybox true
check "no real-time budget" "does not support real-time scheduling of groups" hezi run --rm --cpu-rt-runtime 1000 busybox true
echo 8 >/proc/sys/vm/nr_hugepages
mkdir -p /tmp/huge
mount -t hugetlbfs -o pagesize=2M huge /tmp/huge
hezi run -d --name huge --hugetlb-limit 2MB=4m -v /tmp/huge:/huge busybox sleep 100000 >/dev/null
check "huge pages" "4194304 4194304" hezi exec huge sh -c 'cd /sys/fs/cgroup; echo $(cat hugetlb.2MB.max hugetlb.2MB.rsvd.max)'
code "within their limit" 0 hezi exec huge fallocate -l 4M /huge/a
code "more than their limit" 1 hezi exec huge fallocate -l 2M /huge/b
check "more of them while it runs" "huge" hezi update --hugetlb-limit 2MB=6m huge
code "is more" 0 hezi exec huge fallocate -l 2M /huge/b
check "stored" "2MB=6m" hezi inspect -f '{{index .Config.Labels "hezi.hugetlb"}}' huge
check "a size that there is not" "this host's are of" hezi update --hugetlb-limit 32MB=0 huge
check "what was, is" "6291456" hezi exec huge cat /sys/fs/cgroup/hugetlb.2MB.max
check "their limit lifted" "max" sh -c 'hezi update --hugetlb-limit "" huge >/dev/null; hezi exec huge cat /sys/fs/cgroup/hugetlb.2MB.max'
hezi rm -f huge >/dev/null
rm -f /tmp/huge/*
check "a parent of one's own" "0::/mine/a/" sh -c 'hezi run -d --name mine --cgroup-parent /mine/a busybox sleep 100000 >/dev/null; cat /proc/$(hezi inspect -f {{.State.Pid}} mine)/cgroup'
check "its device rules" "Operation not permitted" hezi exec mine sh -c 'mknod /tmp/d b 8 0; dd if=/tmp/d of=/dev/null count=1'
check "update" "idle" hezi update -m 80m --memory-swap 80m --pids-limit 12 --cpu-quota 30000 --cpu-shares 2048 idle
check "an update holds" "83886080 0 12 30000 100000 174" hezi exec idle sh -c 'cd /sys/fs/cgroup; echo $(cat memory.max memory.swap.max pids.max cpu.max cpu.weight)'
check "an update that cannot be" "Conflicting options" hezi update --cpus 1 idle
check "info of the limits" "true true true true true true false 2" hezi info -f '{{.MemoryLimit}} {{.SwapLimit}} {{.CPUCfsQuota}} {{.CPUShares}} {{.CPUSet}} {{.PidsLimit}} {{.OomKillDisable}} {{.CgroupVersion}}'
for disk in /sys/block/*; do
	[ -e "$disk/dev" ] || continue
	disk=/dev/${disk##*/}
	check "a limit of a disk" "rbps=1048576 wbps=max riops=max wiops=50" hezi run --rm --device-read-bps $disk:1mb --device-write-iops $disk:50 busybox cat /sys/fs/cgroup/io.max
	break
done
hezi run -d --name child -m 16m --memory-swap 16m busybox sh -c '(a=x; while :; do a=$a$a; done); sleep 100000' >/dev/null
eventually sh -c 'hezi inspect -f "{{.State.OOMKilled}}" child | grep true'
check "a kill is told while it runs" "true running" hezi inspect -f '{{.State.OOMKilled}} {{.State.Status}}' child
check "and its event" "oom" hezi events --since 100s --until 0s --filter container=child --filter event=oom --format '{{.Action}}'
hezi run -d --name busy -m 64m busybox sh -c 'while :; do :; done' >/dev/null
check "stats" " / 64MiB yes" sh -c 'hezi stats --no-stream --format "{{.MemUsage}} {{.CPUPerc}} {{.PIDs}}" busy | sed "s/ [1-9][0-9.]*% 1$/ yes/"'
check "stats of all" "busy" hezi stats --no-stream
hezi rm -f mine child busy >/dev/null
rmdir /sys/fs/cgroup/mine/a /sys/fs/cgroup/mine
hezi exec -d idle sh -c '(setsid sleep 501 &); exec sleep 502'
eventually sh -c 'hezi execs ls | grep -q " 2$"'
check "execs are listed" "2" hezi execs ls --format '{{.Processes}}' idle
hezi execs kill $(hezi execs ls -q idle) >/dev/null
eventually sh -c '! hezi top idle | grep -q "sleep 50"'
check "execs are killed" "" sh -c '! hezi top idle | grep "sleep 50"'
hezi rm -f idle >/dev/null
hezi run -d --name nested --privileged busybox sh -c 'mkdir /sys/fs/cgroup/own && echo 1 >/sys/fs/cgroup/own/cgroup.procs && echo +pids >/sys/fs/cgroup/cgroup.subtree_control && exec sleep 100000' >/dev/null
eventually sh -c 'hezi exec nested grep -q pids /sys/fs/cgroup/cgroup.subtree_control'
check "exec beside limited groups of the box's own" "0::/exec-" hezi exec nested cat /proc/self/cgroup
hezi rm -f nested >/dev/null
hezi run -d --name health --health-cmd 'test ! -e /ill || sleep 100; true' --health-timeout 5s --health-interval 200ms --health-retries 1 busybox sleep 100000 >/dev/null
eventually sh -c 'test "$(hezi inspect -f "{{.State.Health.Status}}" health)" = healthy'
check "a health check" "healthy" hezi inspect -f '{{.State.Health.Status}}' health
hezi exec health touch /ill
eventually sh -c 'test "$(hezi inspect -f "{{.State.Health.Status}}" health)" = unhealthy'
check "a health check that takes too long" "unhealthy" hezi inspect -f '{{.State.Health.Status}}' health
hezi rm -f health >/dev/null
check "no group of an exec is left" "0" sh -c 'find /sys/fs/cgroup -name "exec-*" | wc -l'
hezi pause box >/dev/null
check "pause" "paused" hezi inspect -f '{{.State.Status}}' box
hezi unpause box >/dev/null
check "unpause" "running" hezi inspect -f '{{.State.Status}}' box
hezi run -d --name ticks busybox sh -c 'i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo tick $i; sleep 0.1; done; exit 4' >/dev/null
sleep 1
kill -9 $pid
wait $pid 2>/dev/null
engine
check "after kill -9 of hezid" "running" hezi inspect -f '{{.State.Status}}' box
for p in /proc/[0-9]*; do # busybox has no pgrep here
	if tr '\0' ' ' 2>/dev/null <"$p/cmdline" | grep -q 'hezi-keeper serve'; then
		kill -9 "${p#/proc/}"
	fi
done
sleep 0.5
check "after kill -9 of the keeper" "Hello" hezi exec box /hello
check "the exit code is known" "4" hezi wait ticks
check "no output is lost" "100" sh -c 'hezi logs ticks | grep -c tick'
hezi rm -f box ticks oom >/dev/null
kill $pid
wait $pid
eventually sh -c '! ls -d /sys/fs/cgroup/hezi*'
check "nothing is left in the cgroups" "0" sh -c 'ls -d /sys/fs/cgroup/hezi* 2>/dev/null | wc -l'
mkdir /disk-data
mount -o loop,prjquota /disk /disk-data
data=/disk-data/data
engine
tar -C /image -c . | hezi import -c 'CMD ["sh"]' - busybox:latest >/dev/null
check "a small file below the limit of disk space" "0" hezi run --rm --storage-opt size=4m busybox sh -c 'dd if=/dev/zero of=/f bs=1M count=3 conv=fsync 2>/dev/null; echo $?'
check "the limit of disk space" "Disk quota exceeded" hezi run --rm --storage-opt size=4m busybox dd if=/dev/zero of=/f bs=1M count=8
check "no limit of disk space" "0" hezi run --rm busybox sh -c 'dd if=/dev/zero of=/f bs=1M count=8 2>/dev/null; echo $?'
check "the limit of disk space is seen" "4096" hezi run --rm --storage-opt size=4m busybox df -k /
hezi create --name limited --storage-opt size=4m busybox sh -c 'dd if=/dev/zero of=/f bs=1M count=8' >/dev/null
kill -9 $pid
sleep 0.5
engine
check "the limit of disk space after kill -9 of hezid" "Disk quota exceeded" hezi start -a limited
hezi rm -f limited >/dev/null
kill $pid
wait $pid
data="/disk-data/vfs --storage-driver vfs"
engine
tar -C /image -c . | hezi import -c 'CMD ["sh"]' - busybox:latest >/dev/null
check "with whole trees, a link that was copied can be moved" "0" hezi run --rm --storage-opt size=4m busybox sh -c 'mv /link /tmp/moved; echo $?'
check "with whole trees, the limit of disk space" "Disk quota exceeded" hezi run --name whole --storage-opt size=4m busybox dd if=/dev/zero of=/f bs=1M count=8
hezi snapshot whole kept >/dev/null
check "with whole trees, the limit after a snapshot" "Disk quota exceeded" hezi start -a whole
hezi rm whole >/dev/null
check "with whole trees, no limit" "0" hezi run --rm busybox sh -c 'dd if=/dev/zero of=/f bs=1M count=8 2>/dev/null; echo $?'
kill $pid
wait $pid
[ $bad = 0 ] || tail -n 15 /tmp/hezid.log
exit $bad
