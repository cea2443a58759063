package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMakeTaken: where a leaf was taken over and another cannot be made, who is inside
// the first is left alone, and the error is of the second.
func TestMakeTaken(t *testing.T) {
	one, two := t.TempDir(), filepath.Join(t.TempDir(), "absent")
	inside := filepath.Join(one, "sub", "leaf", "child") // as of a container that runs
	if err := os.MkdirAll(inside, 0o755); err != nil {
		t.Fatal(err)
	}
	d := &Driver{Version: 1, hierarchies: []hierarchy{{dir: one, keys: []string{"pids"}}, {dir: two, keys: []string{"freezer"}}}}
	_, taken, err := d.make("sub", "leaf")
	if err == nil || !taken || strings.Contains(err.Error(), "cannot remove") {
		t.Errorf("taken over: %v, %v", taken, err)
	}
	if _, err := os.Stat(inside); err != nil {
		t.Error(err)
	}
}
