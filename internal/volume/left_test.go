package volume

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"
	"github.com/moby/sys/mount"
)

// mounted mounts a file system that holds a file f.
func mounted(t *testing.T, at string) (file string) {
	t.Helper()
	must(t, os.MkdirAll(at, 0o755))
	if err := mount.Mount("tmpfs", at, "tmpfs", ""); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = mount.Unmount(at) }) // it may be unmounted
	file = filepath.Join(at, "f")
	must(t, os.WriteFile(file, []byte("text"), 0o644))
	return file
}

// TestMountedBelow: what is mounted in a volume is removed with none.
func TestMountedBelow(t *testing.T) {
	ctx, s := context.Background(), open(t, t.TempDir(), &records{m: map[string][]byte{}})
	s.SetTrash(time.Hour)
	v := create(t, s, volume.CreateRequest{Name: "data"})
	if _, err := (States{s}).Snapshot(ctx, "data", "one", false); err != nil {
		t.Fatal(err)
	}
	file := mounted(t, filepath.Join(v.Mountpoint, "sub"))
	for what, err := range map[string]error{
		"removed": s.Remove(ctx, "data", false), "removed at once": s.RemoveNow(ctx, "data", false),
		"restored": (States{s}).RestoreSnapshot(ctx, "data", "one"),
	} {
		if !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	must(t, mount.Unmount(filepath.Dir(file)), s.RemoveNow(ctx, "data", false))
}

// TestOpenAfterDeath: a disk that was being made is no reason not to start.
func TestOpenAfterDeath(t *testing.T) {
	root := t.TempDir()
	mounted(t, filepath.Join(root, "volumes/.new-1/x/_data"))
	open(t, root, &records{m: map[string][]byte{}})
	if got := folders(t, root); got != "" {
		t.Errorf("left behind: %q", got)
	}
}

// TestNamedAndNotRecorded: a volume whose engine died before its record was stored is
// not there, and its name is free; one whose record was stored is.
func TestNamedAndNotRecorded(t *testing.T) {
	root, db := t.TempDir(), &records{m: map[string][]byte{}}
	s := open(t, root, db)
	for _, name := range []string{"through", "dead"} {
		_, err := s.Fill(t.Context(), volume.CreateRequest{Name: name}, func(path string) error {
			return os.WriteFile(filepath.Join(path, "f"), []byte("text"), 0o644)
		})
		must(t, err, os.WriteFile(filepath.Join(s.root, name, newMark), nil, 0o600))
	}
	must(t, db.Delete(bucket, "dead"), os.MkdirAll(filepath.Join(s.root, "of-somebody/_data"), 0o755))
	s = open(t, root, db)
	holds(t, s, "through", "text")
	_, err := s.Fill(t.Context(), volume.CreateRequest{Name: "dead"}, func(string) error { return nil })
	must(t, err)
	for _, name := range []string{"through", "dead"} {
		if _, err := os.Lstat(filepath.Join(s.root, name, newMark)); err == nil {
			t.Errorf("the mark of %s is left", name)
		}
	}
	if _, err := os.Stat(filepath.Join(s.root, "of-somebody/_data")); err != nil {
		t.Error(err)
	}
}

// TestHalfGivenUp: a removed volume that was given up in part does not come back.
func TestHalfGivenUp(t *testing.T) {
	ctx, root, db := context.Background(), t.TempDir(), &records{m: map[string][]byte{}}
	s := open(t, root, db)
	s.SetTrash(time.Hour)
	write(t, create(t, s, volume.CreateRequest{Name: "data"}), "text")
	must(t, s.Remove(ctx, "data", false))
	for id := range s.trash {
		mounted(t, filepath.Join(s.keptIn(id), "data/_data/sub"))
	}
	if _, err := (Bin{s}).EmptyTrash(ctx, ""); err == nil {
		t.Fatal("what is mounted there is removed")
	}
	if _, err := (Bin{s}).Undo(ctx, "data", ""); !errdefs.IsNotFound(err) {
		t.Errorf("half a volume is back: %v", err)
	}
	left, err := mountsIn(root)
	if err != nil || len(left) != 1 {
		t.Fatal(left, err)
	}
	must(t, mount.Unmount(left[0]))
	open(t, root, db)
	if got := folders(t, root); got != "" || len(db.m) != 0 {
		t.Errorf("left behind: %q and %d records", got, len(db.m))
	}
}

// TestRenamedAndMadeAgain: a rename whose last record was not stored leaves a new
// volume of the old name alone.
func TestRenamedAndMadeAgain(t *testing.T) {
	root, db := t.TempDir(), &records{m: map[string][]byte{}}
	s := open(t, root, db)
	write(t, create(t, s, volume.CreateRequest{Name: "after"}), "moved")
	write(t, create(t, s, volume.CreateRequest{Name: "before"}), "new")
	r := s.all["after"]
	r.RenamedFrom = "before"
	must(t, db.Put(bucket, "after", r))
	s = open(t, root, db)
	holds(t, s, "after", "moved")
	holds(t, s, "before", "new")
	if s.all["after"].RenamedFrom != "" {
		t.Error("it is not through")
	}
}

// TestLateMount: a mount that comes too late takes back its own use alone.
func TestLateMount(t *testing.T) {
	u := newUse()
	u.by["c"] = 2
	u.forgetOne("c")
	if u.users() != 1 {
		t.Error("another place is forgotten")
	}
	u.forgetOne("c")
	if u.users() != 0 {
		t.Error("a place is left")
	}
}
