package fault

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hezi/test/harness"
)

// TestStuck: a container whose process does not die, as one that waits for a
// device does not, holds up nobody: whoever lists and inspects is answered while
// its removal waits, and that ends, and says why.
func TestStuck(t *testing.T) {
	e := harness.Start(t)
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	id := e.Must(t, "run", "-d", "--name", "stuck", "busybox", "sleep", "1000")
	e.Must(t, "run", "-d", "--name", "other", "busybox", "sleep", "1000")
	found, err := filepath.Glob("/sys/fs/cgroup/freezer/*/*/" + id)
	if err != nil || len(found) != 1 {
		t.Skip("without the freezer of cgroup v1 no process can be made to stand so still that SIGKILL waits")
	}
	freezer := filepath.Join(found[0], "freezer.state")
	set := func(state string) {
		t.Helper()
		if err := os.WriteFile(freezer, []byte(state), 0); err != nil {
			t.Fatal(err)
		}
	}
	set("FROZEN")
	defer func() {
		if t.Failed() {
			_ = os.WriteFile(freezer, []byte("THAWED"), 0)
		}
	}()
	removed := make(chan harness.Result, 1)
	go func() { removed <- e.Hezi("rm", "-f", "stuck") }()
	time.Sleep(200 * time.Millisecond)
	for _, args := range [][]string{{"ps", "-a"}, {"inspect", "stuck"}, {"inspect", "other"}, {"exec", "other", "true"}, {"stop", "-t", "0", "other"}, {"start", "other"}, {"rm", "-f", "other"}} {
		e.Must(t, args...)
		select {
		case r := <-removed:
			t.Fatalf("hezi %v came back after the removal: %s", args, r.Err)
		default:
		}
	}
	r := <-removed
	if r.Code == 0 || !strings.Contains(r.Err, "tried to kill container "+id+", but did not receive an exit event") || !strings.Contains(r.Err, "is in state D") {
		t.Errorf("rm: %d %s", r.Code, r.Err)
	}
	set("THAWED")
	e.Must(t, "rm", "-f", "stuck")
}
