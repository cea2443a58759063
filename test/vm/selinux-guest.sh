# Runs inside the virtual machine of engine.sh with SELinux enforcing: selinux.cil
# is the policy.
. /lib.sh
data=/tmp/data
mkdir -p $data
mount -o loop /disk $data # whose owners can be mapped
echo 'hezi:1000000:100000' | tee /etc/subuid >/etc/subgid
engine() {
	hezid --data-root $data --exec-root /run/hezi --selinux-enabled >>/tmp/hezid.log 2>&1 &
	pid=$!
	eventually hezi version || { echo "hezid does not answer:"; tail -n 20 /tmp/hezid.log; exit 1; }
}
check "the policy is enforced" "1 system_u:system_r:kernel_t:s0" sh -c 'echo $(cat /sys/fs/selinux/enforce) $(cat /proc/self/attr/current)'
engine
tar -C /image -c . | hezi import -c 'CMD ["sh"]' - busybox:latest >/dev/null
check "SELinux is in info" "name=selinux" hezi info -f '{{.SecurityOptions}}'
hezi run -d --name one --tmpfs /t --ipc shareable busybox sleep 100000 >/dev/null
hezi run -d --name two busybox sleep 100000 >/dev/null
process=$(hezi inspect -f '{{.ProcessLabel}}' one)
files=$(hezi inspect -f '{{.MountLabel}}' one)
check "a label of its own" "system_u:system_r:container_t:s0:c" echo "$process"
check "and its files'" "$(echo "$process" | sed 's/system_r:container_t/object_r:container_file_t/')" echo "$files"
code "no other has it" 1 test "$process" = "$(hezi inspect -f '{{.ProcessLabel}}' two)"
check "the process has it" "$process" sh -c 'cat /proc/$(hezi inspect -f {{.State.Pid}} one)/attr/current'
check "an exec has it" "$process" hezi exec one cat /proc/self/attr/current
check "a privileged exec too" "$process" hezi exec --privileged one cat /proc/self/attr/current
for m in / /dev /dev/pts /dev/shm /t; do
	check "the label of $m" "$(echo "$files" | sed 's/.*\(container_file_t.*\)/\1/')" hezi exec one sh -c "grep ' $m ' /proc/self/mountinfo"
done
check "its own files" "x" hezi exec one sh -c 'echo x >/root-file; echo x >/t/file; echo x >/dev/shm/file; cat /root-file; cat /etc/hosts /etc/hostname /etc/resolv.conf >/dev/null && ls /dev/mqueue /proc/self/fd >/dev/null && echo done >/dev/null || exit 1'
check "options" "system_u:system_r:spc_t:s0:c5,c6" hezi run --rm --security-opt label=type:spc_t --security-opt label=level:s0:c5,c6 busybox cat /proc/self/attr/current
check "the type of files" "container_ro_file_t" hezi run --rm --security-opt label=filetype:container_ro_file_t busybox grep ' / ' /proc/self/mountinfo
check "an unknown option" "bad label option" hezi run --rm --security-opt label=mine:x busybox true
check "an unknown type" 'knows no label "system_u:system_r:nosuch_t' hezi run --rm --security-opt label=type:nosuch_t busybox true
check "disabled" ":kernel_t:" hezi run --rm --security-opt label=disable busybox cat /proc/self/attr/current
check "privileged" ":kernel_t:" hezi run --rm --privileged busybox cat /proc/self/attr/current
check "the host's processes" ":kernel_t:" hezi run --rm --pid host busybox cat /proc/self/attr/current
check "who joins another" "$process" hezi run --rm --ipc container:one busybox cat /proc/self/attr/current
check "and its processes" "$process" hezi run --rm --pid container:one busybox cat /proc/self/attr/current

mkdir -p /tmp/host/below
echo secret | tee /tmp/host/file >/tmp/host/below/file
ln -s /etc/passwd /tmp/host/link
check "a file of the host" "Permission denied" hezi run --rm -v /tmp/host:/h busybox cat /h/file
hezi run -d --name mine -v /tmp/host:/h:Z busybox sleep 100000 >/dev/null
check ":Z" "secret" hezi exec mine cat /h/below/file
check ":Z labels what is there" "$(hezi inspect -f '{{.MountLabel}}' mine)" lsz -Zd /tmp/host/below/file
check ":Z follows no link" ":host_t:" lsz -ZLd /tmp/host/link
check "another container" "Permission denied" hezi run --rm -v /tmp/host:/h busybox cat /h/below/file
check ":z" "secret" hezi run --rm -v /tmp/host:/h:z busybox cat /h/below/file
check ":z is for all" "secret" hezi run --rm -v /tmp/host:/h busybox cat /h/below/file
check "folders of the host" "SELinux relabeling of /etc is not allowed" hezi run --rm -v /etc:/h:z busybox true
check "a volume" "1" hezi run --rm -v shared:/v busybox sh -c 'echo 1 >/v/file; cat /v/file'
check "is shared" "1" hezi run --rm -v shared:/v busybox cat /v/file
check "an image's files" "root:x:0:0" hezi run --rm --mount type=image,src=busybox,dst=/i busybox cat /i/etc/passwd
check "init" "container_t" hezi run --rm --init busybox cat /proc/1/attr/current
check "no new privileges" "container_t" hezi run --rm --security-opt no-new-privileges busybox cat /proc/self/attr/current
check "a terminal" "ok" hezi run -t --rm busybox sh -c 'test -t 1 && echo ok'
check "input" "words" sh -c 'echo words | hezi run -i --rm busybox cat'
check "a user namespace" "0 1000000 ok" hezi run --rm --userns auto:size=1000 --tmpfs /t busybox sh -c 'echo x >/t/file && echo $(awk "{print \$1, \$2}" /proc/self/uid_map) ok'
check "the label in it" ":container_t:" hezi run --rm --userns auto:size=1000 busybox cat /proc/self/attr/current
check "another's network" "localhost" hezi run --rm --network container:two busybox cat /etc/hosts
check "which still has its files" "localhost" hezi exec two cat /etc/hosts

kill -9 $pid
wait $pid 2>/dev/null
engine
check "after kill -9 of the engine" "$process" hezi exec one cat /proc/self/attr/current
hezi restart -t 0 one >/dev/null
check "after a restart" "$process" hezi exec one cat /proc/self/attr/current
check "its files after a restart" "x" hezi exec one cat /root-file

mkdir -p /tmp/bundle/rootfs
cp -a /image/. /tmp/bundle/rootfs/
cd /tmp/bundle
hezi-keeper oci spec
sed -i 's/"terminal": true/"terminal": false/; s|"sh"|"cat", "/proc/self/attr/current", "/proc/self/mountinfo"|; s|"process": {|"process": {"selinuxLabel": "system_u:system_r:kernel_t:s0:c7,c8",|; s|"linux": {|"linux": {"mountLabel": "system_u:object_r:container_file_t:s0:c9,c10",|' config.json
check "the label of a bundle" "system_u:system_r:kernel_t:s0:c7,c8" hezi-keeper oci run one
check "and of its file systems" "container_file_t:s0:c9,c10" hezi-keeper oci run two
hezi rm -f one two mine >/dev/null
exit $bad
