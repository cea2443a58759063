#!/bin/sh
# Runs an engine under a temporary root, with debug on, until ctrl-c, and leaves nothing.
set -eu
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "the engine needs root: sudo make dev" >&2; exit 1; }
dir=$(mktemp -d /tmp/hezi-dev-XXXXXX)
export HEZI_HOST="unix://$dir/run/hezi.sock"
engine=
clean() {
	trap '' INT TERM
	containers=$(bin/hezi ps -aq 2>/dev/null || true)
	# shellcheck disable=SC2086 # a list of words
	[ -z "$containers" ] || bin/hezi rm -f -v $containers >/dev/null || true
	[ -z "$engine" ] || { kill "$engine" && wait "$engine"; } 2>/dev/null || true
	rm -rf --one-file-system "$dir"
}
trap clean EXIT
trap 'exit 130' INT TERM
echo '{}' >"$dir/daemon.json"
setsid bin/hezid --debug --config-file "$dir/daemon.json" --data-root "$dir/data" --exec-root "$dir/run" "$@" &
engine=$!
until bin/hezi version >/dev/null 2>&1; do
	kill -0 $engine 2>/dev/null || exit 1
	sleep 0.1
done
printf '\nThe engine runs. In another shell:\n\n  export HEZI_HOST=%s PATH=%s:$PATH\n\nctrl-c ends it and removes all that it has.\n\n' "$HEZI_HOST" "$PWD/bin"
wait $engine
