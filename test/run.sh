#!/usr/bin/env bash
# Runs every test against the real engine. Called by `make test`, as root.
set -uo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "make test starts real engines and needs root: run it with sudo" >&2; exit 1; }

failed=()
step() { # step NAME COMMAND...
	local name=$1 begun=$SECONDS
	shift
	echo "== $name"
	if "$@"; then
		echo "== $name: ok, $((SECONDS - begun)) s"
	else
		echo "== $name: FAILED, $((SECONDS - begun)) s"
		failed+=("$name")
	fi
}

# under_race runs the tests against the engine that has the race detector: a
# race that one of its programs reports fails them, whatever they say.
under_race() {
	local reports code=0 f
	reports=$(mktemp -d)
	# By default each program sleeps for a second at its end.
	GORACE="atexit_sleep_ms=50 log_path=$reports/race" HEZI_TEST_BIN="$PWD/bin/race" "$@" || code=$?
	for f in "$reports"/*; do
		[ -e "$f" ] || continue
		echo "a data race in the engine:"
		cat "$f"
		code=1
	done
	rm -rf "$reports"
	return $code
}

# beside NAME COMMAND...: runs beside the steps that follow, with the time that they
# leave; awaited is the step that waits for it and says what it has said.
beside() {
	local name=$1
	shift
	echo "== $name: begins, beside what follows"
	log=$(mktemp)
	nice -n 19 "$@" >"$log" 2>&1 &
	job=$!
	trap 'kill $job 2>/dev/null; wait $job; rm -f "$log"' EXIT # it ends its machine
	trap 'exit 130' INT TERM
}
awaited() {
	local code=0
	wait "$job" || code=$?
	cat "$log"
	rm -f "$log"
	trap - EXIT INT TERM
	return $code
}

# What this machine's kernel and init do not have. Each has one processor, emulated, and
# the time that the steps leave; in the end both.
beside "virtual machines with cgroup v2, systemd, AppArmor, SELinux, NFS, a reboot, the Debian packages, arm64" env LIMIT=2400 test/vm/all.sh
step "rooms, under the race detector" env CGO_ENABLED=1 GORACE=atexit_sleep_ms=50 go test -race -timeout 40m ./internal/... ./cmd/...
step "changed modules" go test github.com/distribution/reference github.com/opencontainers/go-digest
step "end to end" go test -count=1 -timeout 40m ./test/e2e ./test/compat ./test/tutorial ./test/fault ./test/drivers
step "end to end, engine built with the race detector" under_race go test -count=1 -timeout 45m ./test/e2e
step "the demo" test/demo.sh
step "an installation" test/install.sh
step "a release" test/release.sh
step "virtual machines" awaited

if [ ${#failed[@]} -gt 0 ]; then
	printf 'FAILED: %s\n' "${failed[@]}"
	exit 1
fi
echo "all tests passed"
