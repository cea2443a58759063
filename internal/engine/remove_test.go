package engine

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"hezi/internal/keeper"
	"hezi/internal/store"
)

// TestStartWhileRemoved: a start that gets its turn between the kill and the
// removal is refused, and what runs is never removed: the record is all that
// knows of its processes.
func TestStartWhileRemoved(t *testing.T) {
	e := viewed(t, &record{Name: "going", State: container.StateExited}, &record{Name: "runs", State: container.StateRunning})
	e.o.DataRoot, e.o.ExecRoot = t.TempDir(), t.TempDir()
	db, err := store.Open(filepath.Join(e.o.DataRoot, "hezi.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	e.o.Store, e.o.Keeper = db, keeper.NewClient(e.o.ExecRoot)
	agreeable(t, e.o.ExecRoot)

	c, err := e.entry("going")
	if err != nil {
		t.Fatal(err)
	}
	c.removing = true
	if err := e.Start(t.Context(), "going"); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "marked for removal") {
		t.Errorf("start: %v", err)
	}
	if r := c.latest.Load(); r.State != container.StateExited || r.Error != "" {
		t.Errorf("after the start: %s %q", r.State, r.Error)
	}

	c, err = e.entry("runs")
	if err != nil {
		t.Fatal(err)
	}
	if err := e.remove(c, RemoveOptions{}); !errdefs.IsConflict(err) {
		t.Errorf("remove: %v", err)
	}
	if _, err := e.entry("runs"); err != nil || c.gone {
		t.Errorf("a container that runs was removed: %v", err)
	}
}
