#!/usr/bin/env bash
# The demo: an engine of its own under a temporary root runs the built-in image
# with a published port; its page is fetched; everything is cleaned up.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/bin
[ "$(id -u)" = 0 ] || { echo "the demo starts a real engine and needs root: sudo make demo" >&2; exit 1; }

dir=$(mktemp -d /tmp/hezi-demo-XXXXXX)
mkdir "$dir/run"
mount -t tmpfs -o mode=755 tmpfs "$dir/run"
export HEZI_HOST=unix://$dir/run/hezi.sock
engine=

cleanup() {
	code=$?
	set +e
	[ $code = 0 ] || { echo "the demo failed; hezid said:" >&2; tail -n 30 "$dir/hezid.log" >&2; }
	if [ -n "$engine" ]; then
		ids=$("$bin/hezi" ps -aq 2>/dev/null)
		[ -z "$ids" ] || "$bin/hezi" rm -f $ids >/dev/null
		"$bin/hezi" system stop >/dev/null 2>&1
		kill "$engine" 2>/dev/null
		wait "$engine" 2>/dev/null
	fi
	umount -R -l "$dir/run" 2>/dev/null
	rm -rf "$dir"
	exit $code
}
trap cleanup EXIT
trap 'exit 130' INT TERM

say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; }

say hezid --data-root "$dir/data" --exec-root "$dir/run"
echo '{}' >"$dir/daemon.json"
"$bin/hezid" --config-file "$dir/daemon.json" --data-root "$dir/data" --exec-root "$dir/run" \
	--pidfile "$dir/run/hezi.pid" -H "$HEZI_HOST" >"$dir/hezid.log" 2>&1 &
engine=$!
for _ in $(seq 100); do
	"$bin/hezi" version >/dev/null 2>&1 && break
	kill -0 $engine 2>/dev/null || { echo "hezid ended" >&2; exit 1; }
	sleep 0.1
done

say hezi run --rm hezi/hello
"$bin/hezi" run --rm hezi/hello

say hezi run -d --name web -p 127.0.0.1::8080 hezi/hello serve
"$bin/hezi" run -d --name web -p 127.0.0.1::8080 hezi/hello serve
address=$("$bin/hezi" port web 8080)

say hezi ps
"$bin/hezi" ps

say "fetch http://$address/"
page=
for _ in $(seq 50); do
	if page=$(exec 3<>"/dev/tcp/${address%:*}/${address#*:}" && printf 'GET / HTTP/1.0\r\nHost: %s\r\n\r\n' "$address" >&3 && cat <&3); then
		[ -z "$page" ] || break
	fi
	sleep 0.1
done
case $page in
*200*盒子*) printf '%s\n' "$page" | head -n 1; echo "(the page greets, $(printf %s "$page" | wc -c) bytes)" ;;
*) echo "the page did not come: $page" >&2; exit 1 ;;
esac

say hezi exec web /hello
"$bin/hezi" exec web /hello | head -n 5

say hezi rm -f web
"$bin/hezi" rm -f web
echo
echo "The demo went well. Everything it made is removed."
