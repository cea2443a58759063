package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hezi/test/harness"
)

// TestSnapshotLost removes what a snapshot keeps: all that needs it says so and what to
// do, other snapshots and containers are not concerned, and the container can be removed.
func TestSnapshotLost(t *testing.T) {
	e := harness.Start(t, "--storage-driver=overlay2")
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	id := e.Must(t, "run", "-d", "--name", "lost", "busybox", "sh", "-c", "echo x >> /x")
	e.Must(t, "wait", "lost")
	for _, name := range []string{"one", "two"} {
		e.Must(t, "snapshot", "lost", name)
		e.Must(t, "start", "-a", "lost")
	}
	if err := os.RemoveAll(filepath.Join(e.Dir, "data", "writable", id, "fs.2")); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]string{{"start", "-a", "lost"}, {"diff", "lost"}, {"cp", "lost:/x", "-"}, {"commit", "lost", "lost:lost"}, {"rollback", "lost", "two"}} {
		r := e.Hezi(c...)
		if r.Code == 0 || !strings.Contains(r.Err, "fs.2 is ") || !strings.Contains(r.Err, "had what the container wrote") || strings.Contains(r.Err, "--repair") {
			t.Errorf("%v: %d %s", c, r.Code, r.Err)
		}
	}
	e.Must(t, "run", "--rm", "busybox", "true")
	e.Must(t, "rollback", "lost", "one")
	if r := e.Hezi("start", "-a", "lost"); r.Code != 0 {
		t.Errorf("after a rollback to the snapshot before: %s", r.Err)
	}
	e.Must(t, "rm", "lost")
}
