package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hezi/test/harness"
)

// await runs hezi until its output is as wanted.
func await(t *testing.T, e *harness.Engine, want func(string) bool, args ...string) string {
	t.Helper()
	out := ""
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if out = e.Hezi(args...).Out; want(strings.TrimSpace(out)) {
			return strings.TrimSpace(out)
		}
	}
	t.Fatalf("hezi %s: %q after 20 s", strings.Join(args, " "), out)
	return ""
}

func is(want string) func(string) bool { return func(got string) bool { return got == want } }

// TestHealthSurvives: hezid is killed and comes back: what it knew of healths it
// knows, checks go on, and one that was under way is not left behind.
func TestHealthSurvives(t *testing.T) {
	e := harness.Start(t)
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	e.Must(t, "run", "-d", "--name", "ill", "--health-cmd", "test -e /well", "--health-interval", "300ms", "--health-retries", "2", "busybox", "sleep", "1000")
	e.Must(t, "run", "-d", "--name", "hung", "--health-cmd", "sleep 700; true", "--health-interval", "100ms", "--health-timeout", "10m", "busybox", "sleep", "1000")
	e.Must(t, "run", "-d", "--name", "idle", "--health-cmd", "test -e /well", "--health-interval", "100ms", "--health-retries", "1", "busybox", "sleep", "1000")
	status := func(name string) []string { return []string{"inspect", "-f", "{{.State.Health.Status}}", name} }
	streak := []string{"inspect", "-f", "{{.State.Health.FailingStreak}}", "ill"}
	await(t, e, is("unhealthy"), status("ill")...)
	await(t, e, is("unhealthy"), status("idle")...)
	e.Must(t, "pause", "idle")
	await(t, e, func(out string) bool { return strings.Contains(out, "sleep 700") }, "top", "hung")
	before, err := strconv.Atoi(e.Must(t, streak...))
	if err != nil {
		t.Fatal(err)
	}
	e.Kill()
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	if got := e.Must(t, status("ill")...); got != "unhealthy" {
		t.Errorf("after the restart: %s", got)
	}
	await(t, e, func(out string) bool { n, err := strconv.Atoi(out); return err == nil && n > before }, streak...)
	e.Must(t, "exec", "ill", "touch", "/well")
	await(t, e, is("healthy"), status("ill")...)
	await(t, e, func(out string) bool { return strings.Count(out, "sleep 700; true") == 1 }, "top", "hung")
	e.Must(t, "unpause", "idle")
	e.Must(t, "exec", "idle", "touch", "/well")
	await(t, e, is("healthy"), status("idle")...)

	// So does the keeper: a check that it had under way says nothing.
	keeper, _ := e.Keeper()
	e.Must(t, "exec", "ill", "rm", "/well")
	await(t, e, is("unhealthy"), status("ill")...)
	kill(t, keeper)
	e.Must(t, "exec", "ill", "touch", "/well")
	await(t, e, is("healthy"), status("ill")...)
}

// TestHealthActionSurvives: hezid is killed while it stops an unhealthy container:
// the next one goes on with that, and the container is started again.
func TestHealthActionSurvives(t *testing.T) {
	for _, away := range []bool{false, true} { // when the container ends
		e := harness.Start(t)
		if err := e.LoadBusybox(); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		e.Must(t, "run", "-d", "--name", "ill", "-v", dir+":/d", "--stop-timeout", "600", "--health-action", "restart", "--health-cmd", "test ! -e /d/ill", "--health-interval", "100ms", "--health-retries", "1",
			"busybox", "sh", "-c", "trap 'touch /d/asked' TERM; rm -f /d/ill; while [ ! -e /d/end ]; do sleep 0.1; done; rm /d/end")
		write := func(name string) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		gone := func(name string, want bool) {
			t.Helper()
			for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				if _, err := os.Stat(filepath.Join(dir, name)); (err != nil) == want {
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("away=%v: %s: gone=%v", away, name, !want)
				}
			}
		}
		await(t, e, is("healthy"), "inspect", "-f", "{{.State.Health.Status}}", "ill")
		write("ill")
		gone("asked", false)
		e.Kill()
		if away {
			write("end")
			gone("end", true)
		} else if err := os.Remove(filepath.Join(dir, "asked")); err != nil {
			t.Fatal(err)
		}
		if err := e.Up(); err != nil {
			t.Fatal(err)
		}
		if !away {
			gone("asked", false) // once more
			write("end")
		}
		await(t, e, is("1 running healthy"), "inspect", "-f", "{{.RestartCount}} {{.State.Status}} {{.State.Health.Status}}", "ill")
	}
}

// TestManyChecks: all of many containers are checked, and those that wait take
// no goroutine.
func TestManyChecks(t *testing.T) {
	const containers = 30
	e := harness.Start(t)
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	for range containers {
		e.Must(t, "run", "-d", "--network", "none", "--health-cmd", "true", "--health-start-period", "1h", "--health-start-interval", "100ms", "--health-interval", "1h", "busybox", "sleep", "1000")
	}
	await(t, e, func(out string) bool { return len(strings.Fields(out)) == containers }, "ps", "-q", "--filter", "health=healthy")
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		n := countGoroutines(t, e)
		if n < containers {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines while %d checks wait", n, containers)
		}
	}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}
