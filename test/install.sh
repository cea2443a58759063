#!/usr/bin/env bash
# Installs the engine, and refuses to, on machines that lack something: this one, with what
# it has taken away in namespaces of the test's own. Then runs it beside a Docker daemon.
# DOCKERD is its program, DOCKERD_ARGS further arguments.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1-}" != inside ]; then
	[ "$(id -u)" = 0 ] || { echo "the test installs into copies of this machine's folders and needs root: sudo test/install.sh" >&2; exit 1; }
	[ -e dist/share/man/man1/hezi.1 ] || make -s share
	dir=$(mktemp -d /tmp/hezi-install-XXXXXX)
	code=0
	DIR=$dir unshare --mount --net --pid --fork --kill-child --mount-proc "$0" inside || code=$?
	# What was killed is gone a moment later, and Docker leaves the parent of its containers.
	for _ in $(seq 50); do
		find /sys/fs/cgroup -depth -type d -path "*/${dir##*/}*" -exec rmdir {} + 2>/dev/null && break
		sleep 0.1
	done
	rm -rf --one-file-system "$dir"
	exit $code
fi
dir=$DIR
export PREFIX=$dir/prefix
fail() {
	echo "install: $*" >&2
	exit 1
}
ip link set lo up
# Nothing of the machine's own is written to.
cp -a /etc "$dir/etc"
mount --bind "$dir/etc" /etc
mount -t tmpfs -o mode=755 run /run # no systemd is here
mkdir -p "$dir/tmp" "$dir/prefix" && export TMPDIR=$dir/tmp
sed -i '/^hezi:/d' /etc/group /etc/gshadow
rm -rf /etc/hezi /etc/apparmor.d/hezi-default

state() { find "$dir/prefix" /etc -printf '%p %s %T@\n' 2>/dev/null | sort | sha256sum; }
# refused NAME SENTENCE COMMAND...: the installation says so, and has changed nothing.
refused() {
	local name=$1 want=$2 before said code=0
	shift 2
	before=$(state)
	said=$("$@" packaging/install.sh install 2>&1) || code=$?
	case $said in *"$want"*) ;; *) fail "$name: it said: $said" ;; esac
	[ $code = 1 ] || fail "$name: exit code $code"
	[ "$before" = "$(state)" ] || fail "$name: something was changed"
	echo "refused: $name"
}
# lacking LINE [COMMAND...]: the kernel does not say that it has what the lines are of, and has no modules.
lacking() {
	local pattern=$1
	shift
	grep -v "$pattern" /proc/filesystems >"$dir/filesystems"
	grep -v "$pattern" /proc/kallsyms >"$dir/kallsyms"
	mkdir -p "$dir/none"
	unshare --mount sh -c '
		mount --bind "$0/filesystems" /proc/filesystems && mount --bind "$0/kallsyms" /proc/kallsyms || exit 99
		[ ! -d /lib/modules ] || mount --bind "$0/none" /lib/modules || exit 99
		exec "$@"' "$dir" "$@"
}
readonly_etc() { unshare --mount sh -c 'mount -o remount,bind,ro /etc && exec "$@"' sh "$@"; }

refused "an old kernel" "is too old: 5.12 or newer is needed" setarch "$(uname -m)" --uname-2.6
refused "/etc is read-only" "/etc cannot be written to" readonly_etc
refused "no bridges" "the kernel has no bridges: load the module bridge" lacking ' br_add_if\>'
refused "no veth" "the kernel has no veth devices: load the module veth" lacking ' veth_newlink\>'
refused "all at once" "the kernel has no veth devices" lacking 'overlay\|ovl_fill_super\|br_add_if\|veth_newlink\|nft_do_chain'

# installed NAME SENTENCE COMMAND...: it is installed with the remark.
installed() {
	local name=$1 want=$2 said
	shift 2
	said=$("$@" packaging/install.sh install 2>&1) || fail "$name: it is refused: $said"
	case $said in *"$want"*) ;; *) fail "$name: it said: $said" ;; esac
	[ -x "$PREFIX/bin/hezid" ] && getent group hezi >/dev/null || fail "$name: it is not installed"
	PREFIX=$PREFIX packaging/install.sh uninstall >/dev/null
	[ ! -e "$PREFIX/bin/hezid" ] || fail "$name: it is not taken away"
	echo "installed: $name"
}
installed "no overlay" "the kernel has no overlay file system: another storage driver is chosen" lacking 'overlay\|ovl_fill_super'
installed "no nftables" 'hezid starts only with "iptables": false' lacking ' nft_do_chain\>'
packaging/install.sh install >/dev/null
[ -z "$(packaging/install.sh install 2>&1 >/dev/null)" ] || fail "it says something of a machine that has all: $(packaging/install.sh install 2>&1)"

# Beside Docker, whose bridge, tables, sockets and cgroups are its own.
dockerd=${DOCKERD:-dockerd}
command -v "$dockerd" >/dev/null || fail "there is no $dockerd: test/setup.sh installs it"
PATH=$PREFIX/bin:$(dirname "$(command -v "$dockerd")"):$PATH
mkdir -p "$dir/image/bin" "$dir/image/www"
echo "a page" >"$dir/image/www/index.html"
cp "$(command -v busybox)" "$dir/image/bin/busybox"
ln -s busybox "$dir/image/bin/httpd"
tar -C "$dir/image" -cf "$dir/image.tar" .
until_ok() { # until_ok COMMAND...
	local n
	for n in $(seq 150); do
		! "$@" >/dev/null 2>&1 || return 0
		sleep 0.2
	done
	fail "$* did not succeed in 30 s: $("$@" 2>&1)"
}
# By the machine's own address and from outside, which is forwarded.
page() {
	[ "$(busybox wget -q -O- "http://127.0.0.1:$1/")" = "a page" ] &&
		[ "$(ip netns exec outside busybox wget -q -O- "http://10.99.0.1:$1/")" = "a page" ]
}
rules() { iptables -S && iptables -t nat -S; }
ip netns add outside
ip link add out0 type veth peer name in0 netns outside
ip addr add 10.99.0.1/24 dev out0
ip link set out0 up
ip -n outside addr add 10.99.0.2/24 dev in0
ip -n outside link set in0 up

export DOCKER_HOST=unix:///run/d.sock
# shellcheck disable=SC2086 # a list of words
$dockerd --data-root "$dir/docker" --exec-root /run/docker --pidfile /run/d.pid -H "$DOCKER_HOST" --cgroup-parent "/${dir##*/}" ${DOCKERD_ARGS-} >"$dir/dockerd.log" 2>&1 &
docker=$!
until_ok docker version
iptables -P FORWARD DROP # which it does itself where forwarding was off
docker import "$dir/image.tar" box >/dev/null
docker run -d --name theirs -p 8001:80 box /bin/httpd -f -h /www >/dev/null
until_ok page 8001
before=$(rules)

hezi() { HEZI_HOST=unix:///run/h.sock command hezi "$@"; }
echo '{}' >"$dir/daemon.json"
hezid --config-file "$dir/daemon.json" --data-root "$dir/hezi" --exec-root "/run/${dir##*/}" --pidfile /run/h.pid -H unix:///run/h.sock >"$dir/hezid.log" 2>&1 &
engine=$!
until_ok hezi version
hezi import "$dir/image.tar" box >/dev/null
hezi run -d --name ours -p 8002:80 box /bin/httpd -f -h /www >/dev/null
until_ok page 8002
page 8001 || fail "Docker's container is not reached any more"
[ "$(hezi ps --format '{{.Names}}')" = ours ] && [ "$(docker ps --format '{{.Names}}')" = theirs ] || fail "an engine shows the other's containers"
added=$(diff <(echo "$before") <(rules) | grep '^[<>]' || true)
[ "$(echo "$added" | grep -c '^> -A DOCKER-USER .*--comment hezi')" = 2 ] && [ "$(echo "$added" | wc -l)" = 2 ] || fail "Docker's rules have changed otherwise than documented: $added"
hezi rm -f ours >/dev/null
docker restart theirs >/dev/null
until_ok page 8001
kill $engine
wait $engine || true
page 8001 || fail "Docker's container is not reached after the engine's end"
docker rm -f theirs >/dev/null
kill $docker
wait $docker || true
echo "beside Docker: both work"
