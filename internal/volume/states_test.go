package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"
)

func write(t *testing.T, v volume.Volume, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(v.Mountpoint, "f"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func holds(t *testing.T, s *Store, name, text string) {
	t.Helper()
	v, err := s.Get(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(v.Mountpoint, "f")); err != nil || string(b) != text {
		t.Errorf("%s holds %q, %v, not %q", name, b, err, text)
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// TestTrash: what was removed comes back over a restart, ends when its time is
// over, and is given up, the oldest first, where space is needed.
func TestTrash(t *testing.T) {
	ctx, root, db := context.Background(), t.TempDir(), &records{m: map[string][]byte{}}
	s := open(t, root, db)
	s.SetTrash(time.Hour)
	for _, name := range []string{"one", "two", "six"} {
		write(t, create(t, s, volume.CreateRequest{Name: name}), name)
		must(t, s.Remove(ctx, name, false))
	}
	anonymous := create(t, s, volume.CreateRequest{}).Name
	must(t, s.Remove(ctx, anonymous, false))
	s = open(t, root, db)
	s.SetTrash(time.Hour)
	list, err := (Bin{s}).Trash(ctx)
	if err != nil || len(list) != 3 || list[0].Name != "six" || list[0].Size == 0 || list[0].Expires.Sub(list[0].Removed) != time.Hour {
		t.Fatalf("%+v %v", list, err)
	}
	if _, err := (Bin{s}).Undo(ctx, "two", ""); err != nil {
		t.Fatal(err)
	}
	holds(t, s, "two", "two")
	if n, err := (Bin{s}).Evict(ctx, 1); err != nil || n == 0 {
		t.Error(n, err)
	}
	if list, err := (Bin{s}).Trash(ctx); err != nil || len(list) != 1 || list[0].Name != "six" {
		t.Errorf("after a need: %+v %v", list, err)
	}
	(Bin{s}).expire(ctx, time.Now().Add(59*time.Minute))
	if list, _ := (Bin{s}).Trash(ctx); len(list) != 1 {
		t.Error("what could still come back is gone")
	}
	(Bin{s}).expire(ctx, time.Now().Add(2*time.Hour))
	if list, _ := (Bin{s}).Trash(ctx); len(list) != 0 {
		t.Errorf("what has waited is there: %+v", list)
	}
	must(t, s.RemoveNow(ctx, "two", false))
	if got := folders(t, root); got != "" || len(db.m) != 0 {
		t.Errorf("left behind: %q and %d records", got, len(db.m))
	}
}

// TestInterrupted: what an engine that died left half done is finished or undone,
// and nothing that was there is lost.
func TestInterrupted(t *testing.T) {
	ctx, root, db := context.Background(), t.TempDir(), &records{m: map[string][]byte{}}
	s := open(t, root, db)
	s.SetTrash(time.Hour)
	write(t, create(t, s, volume.CreateRequest{Name: "removed"}), "removed")
	write(t, create(t, s, volume.CreateRequest{Name: "before"}), "moved")
	kept := s.all["removed"]
	must(t, s.Remove(ctx, "removed", false))
	// A removal whose record was left.
	must(t, db.Put(bucket, "removed", kept))
	// A rename that stored its new record only.
	moved := s.all["before"]
	moved.Name, moved.Mountpoint, moved.RenamedFrom = "after", s.dataOf("after"), "before"
	must(t, db.Put(bucket, "after", moved))
	// A volume that was being filled, a removal that was stored only, a place
	// without a record.
	must(t, os.MkdirAll(filepath.Join(root, "volumes/.new-1/x/_data"), 0o700), os.Mkdir(filepath.Join(root, "volumes/.trash-1"), 0o700))
	must(t, db.Put(trashBucket, "2", trashed{Volume: record{Volume: volume.Volume{Name: "never"}}, Removed: time.Now()}))
	s = open(t, root, db)
	s.SetTrash(time.Hour)
	if _, err := s.Get(ctx, "removed"); !errdefs.IsNotFound(err) {
		t.Errorf("removed: %v", err)
	}
	if _, err := s.Get(ctx, "before"); !errdefs.IsNotFound(err) {
		t.Errorf("before: %v", err)
	}
	holds(t, s, "after", "moved")
	if list, err := (Bin{s}).Trash(ctx); err != nil || len(list) != 1 {
		t.Fatalf("%+v %v", list, err)
	}
	// An undo that stored its record only.
	for id := range s.trash {
		back := s.trash[id].Volume
		back.Name, back.Mountpoint, back.Undone = "other", s.dataOf("other"), id
		must(t, db.Put(bucket, "other", back))
	}
	s = open(t, root, db)
	if _, err := s.Get(ctx, "other"); !errdefs.IsNotFound(err) {
		t.Errorf("an undo that was not through: %v", err)
	}
	if _, err := (Bin{s}).Undo(ctx, "removed", "back"); err != nil {
		t.Fatal(err)
	}
	holds(t, s, "back", "removed")
	s = open(t, root, db)
	holds(t, s, "back", "removed")
	if got := folders(t, root); got != "after back" {
		t.Errorf("folders: %q", got)
	}
}

// TestStatesKeepTheirVolume: a failure of the database changes nothing.
func TestStatesKeepTheirVolume(t *testing.T) {
	ctx, root, db := context.Background(), t.TempDir(), &records{m: map[string][]byte{}}
	s := open(t, root, db)
	s.SetTrash(time.Hour)
	write(t, create(t, s, volume.CreateRequest{Name: "data"}), "text")
	if _, err := (States{s}).Snapshot(ctx, "data", "one", false); err != nil {
		t.Fatal(err)
	}
	db.broken = true
	if err := s.Remove(ctx, "data", false); err == nil {
		t.Error("removed without a record of it")
	}
	if _, err := (States{s}).Rename(ctx, "data", "other"); err == nil {
		t.Error("renamed without a record of it")
	}
	if _, err := (States{s}).Clone(ctx, "data", "clone", false); err == nil {
		t.Error("cloned without a record of it")
	}
	if _, err := (States{s}).Snapshot(ctx, "data", "two", false); err == nil {
		t.Error("kept without a record of it")
	}
	if err := (States{s}).RemoveSnapshot(ctx, "data", "one"); err == nil {
		t.Error("forgotten without a record of it")
	}
	db.broken = false
	holds(t, s, "data", "text")
	write(t, s.all["data"].Volume, "other")
	must(t, (States{s}).RestoreSnapshot(ctx, "data", "one"))
	holds(t, s, "data", "text")
	if got := folders(t, root); got != "data" {
		t.Errorf("folders: %q", got)
	}
	if _, err := s.Mount(ctx, "data", Use{Container: "c"}); err != nil {
		t.Fatal(err)
	}
	if err := (States{s}).RestoreSnapshot(ctx, "data", "one"); !errdefs.IsConflict(err) {
		t.Errorf("restored while it is used: %v", err)
	}
	s.Unmount("c", []string{"data"})
	must(t, (States{s}).RestoreSnapshot(ctx, "data", "one"))
}
