# Runs inside the virtual machine of engine.sh arm64: what is different from one processor
# to another is the programs in machine code, the numbers of system calls and what the kernel offers.
. /lib.sh
engine() {
	hezid --data-root /data/hezi --exec-root /run/hezi >>/tmp/hezid.log 2>&1 &
	pid=$!
	eventually hezi version || { echo "hezid does not answer:"; tail -n 20 /tmp/hezid.log; exit 1; }
}
mkdir /data
mount -o loop /disk /data # tmpfs cannot map owners on this kernel
echo 'hezi:1000000:100000' | tee /etc/subuid >/etc/subgid
engine
check "the machine" "linux/arm64" hezi version -f '{{.Server.Os}}/{{.Server.Arch}}'
check "the built-in image" "Hello from inside a box" hezi run --rm hezi/hello
tar -C /image -c . | hezi import -c 'CMD ["sh"]' - busybox:latest >/dev/null
check "the image's architecture" "arm64" hezi image inspect -f '{{.Architecture}}' busybox
check "run" "hello" hezi run --rm busybox echo hello
code "exit code" 7 hezi run --rm busybox sh -c 'exit 7'
code "a missing program" 127 hezi run --rm busybox nosuch
check "uname" "aarch64" hezi run --rm busybox uname -m
check "seccomp is on" "Seccomp:	2" hezi run --rm busybox grep Seccomp: /proc/self/status
check "seccomp" "Operation not permitted" hezi run --rm busybox unshare -n true
check "seccomp unconfined" "Seccomp:	0" hezi run --rm --security-opt seccomp=unconfined busybox grep Seccomp: /proc/self/status
printf '{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_AARCH64","SCMP_ARCH_ARM"],"syscalls":[{"names":["mkdirat","mkdir"],"action":"SCMP_ACT_ERRNO","errnoRet":13}]}' >/tmp/profile
check "a profile of one's own" "Permission denied" hezi run --rm --security-opt seccomp=/tmp/profile busybox mkdir /x
check "its own cgroup" "0::/" hezi run --rm busybox cat /proc/self/cgroup
check "memory limit" "67108864" hezi run --rm -m 64m busybox cat /sys/fs/cgroup/memory.max
code "out of memory" 137 hezi run --name oom -m 16m busybox sh -c 'a=x; while :; do a=$a$a; done'
check "mknod of a disk" "Operation not permitted" hezi run --rm busybox sh -c 'mknod /tmp/d b 254 0; dd if=/tmp/d of=/dev/null count=1'
check "init" "ok" hezi run --rm --init busybox echo ok
check "init reaps and passes signals on" "exited 143" sh -c 'hezi run -d --init --name signalled busybox sleep 1000 >/dev/null; hezi stop signalled >/dev/null; hezi inspect -f "{{.State.Status}} {{.State.ExitCode}}" signalled'
check "resource limits" "100 200" hezi run --rm --ulimit nofile=100:200 busybox sh -c 'echo $(ulimit -n) $(ulimit -Hn)'
check "a user and no privileges" "33 0000000000000000" hezi run --rm -u 33 --security-opt no-new-privileges busybox sh -c 'echo $(id -u) $(grep CapEff /proc/self/status | cut -f2)'
check "a read-only root" "Read-only file system" hezi run --rm --read-only busybox touch /x
check "a volume" "kept" sh -c 'hezi run --rm -v data:/data busybox sh -c "echo kept >/data/f"; hezi run --rm -v data:/data busybox cat /data/f'
check "a terminal" "/dev/pts/0" hezi run --rm -t busybox tty
hezi run -d --name box -p 127.0.0.1:8080:8080 hezi/hello serve >/dev/null
eventually wget -qO- http://127.0.0.1:8080/healthz
check "a published port" "ok" sh -c 'wget -qO- http://127.0.0.1:8080/healthz && echo ok'
check "exec" "Hello" hezi exec box /hello
hezi run -d --name idle busybox sleep 100000 >/dev/null
check "exec in another" "aarch64" hezi exec idle uname -m
check "seccomp in exec" "Operation not permitted" hezi exec idle unshare -n true
check "another's namespaces" "1 sleep" sh -c 'hezi run --rm --pid container:idle busybox ps -o pid,comm | sed "s/^ *//; s/  */ /"'
hezi run -d --name mapped --userns auto:size=1000 busybox sleep 100000 >/dev/null
check "users of one's own" "0    1000000       1000" hezi exec mapped cat /proc/self/uid_map
check "the owners of files" "0:0" hezi exec mapped stat -c %u:%g /bin/busybox
check "another in its user namespace" "0    1000000       1000" hezi run --rm --network container:mapped busybox cat /proc/self/uid_map
check "and in its pid namespace" "sleep" hezi run --rm --pid container:mapped busybox ps
hezi network create lan >/dev/null
hezi run -d --name web --network lan hezi/hello serve >/dev/null
check "names" "ok" hezi run --rm --network lan busybox sh -c 'until wget -qO- http://web:8080/healthz >/dev/null; do sleep 1; done; echo ok'
check "stats" "web" hezi stats --no-stream web
kill -9 $pid
engine
check "after a kill of hezid" "idle" hezi exec idle sh -c 'echo idle'
keeper=$(pidof hezi-keeper | tr ' ' '\n' | while read -r p; do grep -qz '^serve$' "/proc/$p/cmdline" && echo "$p"; done)
kill -9 "$keeper"
eventually hezi exec idle true
check "after a kill of the keeper" "true" hezi inspect -f '{{.State.Running}}' idle
check "logs" "sent" sh -c 'hezi run --name said busybox echo sent >/dev/null; hezi logs said'
check "commit" "changed" sh -c 'hezi run --name edited busybox sh -c "echo changed >/f"; hezi commit edited new >/dev/null; hezi run --rm new cat /f'
check "--platform" "aarch64" sh -c 'hezi run --rm --platform linux/arm64 busybox uname -m'
check "info" "aarch64" hezi info -f '{{.Architecture}}'
[ $bad = 0 ] || tail -n 20 /tmp/hezid.log
exit $bad
