# Runs inside the virtual machine of engine.sh with the kernel's NFS server: volumes on
# NFS, and a data root on it. What exportfs and rpc.mountd would tell the server is
# written to it (Linux, net/sunrpc/cache.c).
. /lib.sh
mkdir -p /export /var/lib/nfs/v4recovery /nfs
mount -o loop /disk /export
mkdir -p /export/shared /export/root
serve() {
	mount -t nfsd nfsd /proc/fs/nfsd
	flags=$((0x2 | 0x400 | 0x2000)) # NFSEXP_INSECURE_PORT, NOSUBTREECHECK, FSID: root is root
	forever=2147483647
	echo "nfsd 127.0.0.1 $forever here" >/proc/net/rpc/auth.unix.ip/channel
	echo "here /export $forever $flags 65534 65534 0" >/proc/net/rpc/nfsd.export/channel
	echo "here 1 \\x00000000 $forever /export" >/proc/net/rpc/nfsd.fh/channel
	echo 10 >/proc/fs/nfsd/nfsv4leasetime
	echo 10 >/proc/fs/nfsd/nfsv4gracetime
	echo "-2 -3 +4.2" >/proc/fs/nfsd/versions
	echo "tcp 2049" >/proc/fs/nfsd/portlist
	echo 2 >/proc/fs/nfsd/threads
}
engine() {
	hezid --data-root $data --exec-root /run/hezi >>/tmp/hezid.log 2>&1 &
	pid=$!
	eventually hezi version || { echo "hezid does not answer:"; tail -n 20 /tmp/hezid.log; exit 1; }
}
serve
options=addr=127.0.0.1,vers=4.2,soft,timeo=50,retrans=1
eventually mount -t nfs4 -o $options 127.0.0.1:/ /nfs
eventually sh -c 'echo x >/nfs/shared/first' # the server begins with a pause

data=/tmp/data
engine
tar -C /image -c . | hezi import -c 'CMD ["sh"]' - busybox:latest >/dev/null
check "a volume" "far" hezi volume create -o type=nfs4 -o device=:/shared -o o=$options far
check "its options" "nfs4 :/shared $options" hezi volume inspect -f '{{.Options.type}} {{.Options.device}} {{.Options.o}}' far
hezi run -d --name one -v far:/v busybox sh -c 'echo 1 >/v/one; exec sleep 100000' >/dev/null
check "is shared" "x 1" hezi run --rm -v far:/v busybox sh -c 'until [ -s /v/one ]; do sleep 0.1; done; echo $(cat /v/first /v/one)'
check "on the server" "1" cat /export/shared/one
check "type=nfs with a version" "x" hezi run --rm --mount type=volume,dst=/v,volume-opt=type=nfs,volume-opt=device=:/shared,\"volume-opt=o=$options\" busybox cat /v/first
check "a subpath" "below" hezi run --rm --mount type=volume,src=far,dst=/all busybox sh -c 'mkdir /all/sub; echo below >/all/sub/file; cat /all/sub/file'
check "of it" "below" hezi run --rm --mount type=volume,src=far,dst=/v,volume-subpath=sub busybox cat /v/file
check "cp into it" "" hezi cp /etc/passwd one:/v/passwd
check "and out of it" "root:x:0:0" sh -c 'hezi cp one:/v/passwd - | tar -xO'
check "owners" "1000:1001" hezi run --rm -v far:/v busybox sh -c 'touch /v/owned; chown 1000:1001 /v/owned; stat -c %u:%g /v/owned'
kill -9 $pid
engine
check "after kill -9 of hezid" "1" hezi exec one cat /v/one
hezi rm -f one >/dev/null
eventually sh -c '! grep -q "/tmp/data.* nfs4 " /proc/mounts'
check "it is unmounted after the last container" "0" sh -c 'grep -c "/tmp/data.* nfs4 " /proc/mounts'
check "an empty one is filled" "root:x:0:0" sh -c "mkdir /export/empty; hezi volume create -o type=nfs4 -o device=:/empty -o o=$options filled >/dev/null; hezi run --rm -v filled:/etc busybox cat /etc/passwd"
check "on the server too" "root:x:0:0" cat /export/empty/passwd
check "rm leaves the server's files" "x" sh -c 'hezi volume rm far >/dev/null; cat /export/shared/first'
hezi volume create -o type=nfs4 -o device=:/nothing -o o=$options nothing >/dev/null
check "a folder that the server has not" "failed to mount local volume" hezi run --rm -v nothing:/v busybox true
hezi volume create -o type=nfs4 -o device=:/shared -o o=addr=127.0.0.1,port=9,vers=4.2,soft,timeo=10,retrans=0,retry=0 deaf >/dev/null
check "a server that is away" "failed to mount local volume" timeout 60 hezi run --rm -v deaf:/v busybox true
check "others go on" "fine" hezi run --rm busybox echo fine
kill $pid
wait $pid

data=/nfs/root
engine
check "the driver of a data root on NFS" "vfs" hezi info -f '{{.Driver}}'
check "with the reason" "NFS has neither the extended attributes nor the renames that overlay needs" hezi info
tar -C /image -c . | hezi import -c 'CMD ["sh"]' - busybox:latest >/dev/null
check "run" "hello" hezi run --name there busybox sh -c 'echo hello | tee /file; rm /etc/group; chown 5:6 /file'
check "diff" "A /file" hezi diff there
check "commit" "5 6" sh -c 'hezi commit there made >/dev/null; hezi run --rm made stat -c "%u %g" /file'
check "a volume of it" "1" hezi run --rm -v own:/v busybox sh -c 'echo 1 >/v/a; cat /v/a'
check "and its state" "1" sh -c 'hezi volume snapshot own early >/dev/null; hezi run --rm -v own:/v busybox rm /v/a; hezi volume restore own early; hezi run --rm -v own:/v busybox cat /v/a'
check "a limit" "No space left" hezi run --rm --storage-opt size=4m busybox dd if=/dev/zero of=/f bs=1M count=8
kill -9 $pid
engine
check "after kill -9 of hezid" "hello" hezi start -a there
hezi rm there >/dev/null
check "system check" "" hezi system check --images
code "it finds nothing" 0 hezi system check --images
kill $pid
wait $pid
code "overlay2 when it is asked for" 1 timeout 20 hezid --data-root $data --exec-root /run/hezi --storage-driver overlay2
check "says why" "use --storage-driver=fuse-overlayfs or vfs" timeout 20 hezid --data-root $data --exec-root /run/hezi --storage-driver overlay2
[ $bad = 0 ] || tail -n 15 /tmp/hezid.log
exit $bad
