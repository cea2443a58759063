package volume

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"
)

// records is the store in memory; it fails while broken.
type records struct {
	m      map[string][]byte
	broken bool
}

func (r *records) Put(bucket, key string, v any) error {
	if r.broken {
		return errors.New("the disk is full")
	}
	b, err := json.Marshal(v)
	r.m[bucket+"/"+key] = b
	return err
}

func (r *records) Delete(bucket, key string) error {
	if r.broken {
		return errors.New("the disk is full")
	}
	delete(r.m, bucket+"/"+key)
	return nil
}

func (r *records) Each(bucket string, f func(string, []byte) error) error {
	for k, v := range r.m {
		if in, key, _ := strings.Cut(k, "/"); in == bucket {
			if err := f(key, v); err != nil {
				return err
			}
		}
	}
	return nil
}

func open(t *testing.T, root string, db *records) *Store {
	t.Helper()
	s, err := Open(root, db)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func create(t *testing.T, s *Store, r volume.CreateRequest) volume.Volume {
	t.Helper()
	v, err := s.Create(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// folders are what lies in the volumes' folder.
func folders(t *testing.T, root string) string {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(root, "volumes"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestLife(t *testing.T) {
	ctx, root, db := context.Background(), t.TempDir(), &records{m: map[string][]byte{}}
	s := open(t, root, db)
	data := create(t, s, volume.CreateRequest{Name: "data", Labels: map[string]string{"a": "b"}})
	if again := create(t, s, volume.CreateRequest{Name: "data"}); again.CreatedAt != data.CreatedAt || again.Labels["a"] != "b" {
		t.Errorf("a second creation: %+v", again)
	}
	anonymous := create(t, s, volume.CreateRequest{})
	if _, ok := anonymous.Labels["com.docker.volume.anonymous"]; !ok || len(anonymous.Name) != 64 {
		t.Errorf("anonymous: %+v", anonymous)
	}
	if err := os.WriteFile(filepath.Join(data.Mountpoint, "file"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.SetInUse(func(name string) []string {
		if name == "data" {
			return []string{"c1"}
		}
		return nil
	})
	if err := s.Remove(ctx, "data", true); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "volume is in use - [c1]") {
		t.Errorf("in use: %v", err)
	}
	for _, f := range []struct {
		key, value string
		want       int
	}{{"name", "dat", 1}, {"label", "a=b", 1}, {"label", "a=c", 0}, {"driver", "local", 2}, {"dangling", "true", 1}, {"dangling", "false", 1}} {
		if got, err := s.List(ctx, map[string]map[string]bool{f.key: {f.value: true}}); err != nil || len(got) != f.want {
			t.Errorf("filter %s=%s: %d %v", f.key, f.value, len(got), err)
		}
	}
	if err := s.Remove(ctx, anonymous.Name, false); err != nil {
		t.Error(err)
	}
	s = open(t, root, db)
	if v, err := s.Get(ctx, "data"); err != nil || v.Mountpoint != data.Mountpoint {
		t.Errorf("after a restart: %+v %v", v, err)
	}
	if err := s.Remove(ctx, "data", false); err != nil {
		t.Error(err)
	}
	if got := folders(t, root); got != "" || len(db.m) != 0 {
		t.Errorf("left behind: %q and %d records", got, len(db.m))
	}
	if err := s.Remove(ctx, "data", false); !errdefs.IsNotFound(err) {
		t.Errorf("absent: %v", err)
	}
	if err := s.Remove(ctx, "data", true); err != nil {
		t.Errorf("absent, by force: %v", err)
	}
}

func TestRefused(t *testing.T) {
	s := open(t, t.TempDir(), &records{m: map[string][]byte{}})
	for _, x := range []struct {
		r    volume.CreateRequest
		says string
	}{
		{volume.CreateRequest{Name: "a"}, "too short"},
		{volume.CreateRequest{Name: "../a"}, "use absolute path"},
		{volume.CreateRequest{Name: ".removed-1"}, "invalid characters"},
		{volume.CreateRequest{Name: "data", Driver: "nfs"}, "plugin \"nfs\" not found"},
		{volume.CreateRequest{Name: "data", DriverOpts: map[string]string{"type": "tmpfs"}}, "missing required option: \"device\""},
	} {
		if _, err := s.Create(context.Background(), x.r); err == nil || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%+v: %v", x.r, err)
		}
	}
}

// TestFailures: a record that cannot be written leaves things as they were, and
// a removal that was interrupted is finished without touching a new volume.
func TestFailures(t *testing.T) {
	ctx, root, db := context.Background(), t.TempDir(), &records{m: map[string][]byte{}}
	s := open(t, root, db)
	kept := create(t, s, volume.CreateRequest{Name: "kept"})
	if err := os.WriteFile(filepath.Join(kept.Mountpoint, "file"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	db.broken = true
	if _, err := s.Create(ctx, volume.CreateRequest{Name: "new"}); err == nil {
		t.Error("a volume without a record was made")
	}
	if err := s.Remove(ctx, "kept", false); err == nil {
		t.Error("a volume whose record stays was removed")
	}
	if b, err := os.ReadFile(filepath.Join(kept.Mountpoint, "file")); string(b) != "kept" || folders(t, root) != "kept" {
		t.Errorf("after failures: %q %v, %q", b, err, folders(t, root))
	}
	db.broken = false

	// The engine died between moving the data away and deleting the record.
	half := create(t, s, volume.CreateRequest{Name: "half"})
	newer := create(t, s, volume.CreateRequest{Name: "newer"})
	for _, name := range []string{"half", "newer"} {
		if err := os.MkdirAll(filepath.Join(root, "volumes", trashPrefix+name, name, "_data"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Dir(half.Mountpoint)); err != nil {
		t.Fatal(err)
	}
	s = open(t, root, db)
	if _, err := s.Get(ctx, "half"); !errdefs.IsNotFound(err) {
		t.Errorf("half removed: %v", err)
	}
	if _, err := os.Stat(newer.Mountpoint); err != nil || folders(t, root) != "kept newer" {
		t.Errorf("a volume that has an old one's name: %v, %q", err, folders(t, root))
	}
}
