package snapshot

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestLayers(t *testing.T) {
	root := filepath.Join(t.TempDir(), "writable")
	s, err := Open(root, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Make("aa")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Make("aa"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("the second layer of one id: %v", err)
	}
	for _, bad := range []string{"", "../x", "base", ".trash-aa"} {
		if _, err := s.Make(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("the id %q: %v", bad, err)
		}
	}
	if err := os.WriteFile(filepath.Join(w.Upper, "a"), make([]byte, 1000), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(w.Upper, "a"), filepath.Join(w.Upper, "b")); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Size(t.Context(), "aa"); n != 1000 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	if _, err := s.Make("bb"); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(func(id string) bool { return id == "bb" }); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"bb", "bb/work"} { // as after a power cut
		if err := os.RemoveAll(filepath.Join(root, dir)); err != nil {
			t.Fatal(err)
		}
		if lost, err := s.Restore("bb", nil); !lost || err != nil {
			t.Errorf("%s: %v, %v", dir, lost, err)
		}
		if lost, err := s.Restore("bb", nil); lost || err != nil {
			t.Errorf("%s again: %v, %v", dir, lost, err)
		}
	}
	if err := s.Remove("absent"); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadDir(root)
	if err != nil || len(list) != 2 || list[0].Name() != "base" || list[1].Name() != "bb" {
		t.Errorf("%v are left, %v", list, err)
	}
}

func TestFileSystemThatHoldsNoLayers(t *testing.T) {
	if _, err := Open("/proc/self/task", slog.Default()); err == nil {
		t.Error("procfs was taken for writable layers")
	}
}

// TestBusyLayer: a layer goes though something is mounted on it and in it, in
// use; what is mounted there stays as it was.
func TestBusyLayer(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	dir := t.TempDir()
	root, precious := filepath.Join(dir, "writable"), filepath.Join(dir, "precious")
	s, err := Open(root, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Make("aa")
	if err != nil {
		t.Fatal(err)
	}
	inside := filepath.Join(w.Upper, "in side")
	for _, d := range []string{precious, inside} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(precious, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	mount := func(source, target string) {
		if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
	}
	mount(precious, inside)
	mount(filepath.Join(root, "aa"), filepath.Join(root, "aa"))
	mount(precious, inside)
	f, err := os.Open(filepath.Join(inside, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := s.Remove("aa"); err != nil {
		t.Error(err)
	}
	left := ""
	for range 200 {
		list, err := os.ReadDir(root)
		if err != nil {
			t.Fatal(err)
		}
		left = ""
		for _, d := range list {
			if strings.Contains(d.Name(), "aa") {
				left = d.Name()
			}
		}
		if left == "" {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if left != "" {
		t.Errorf("%s is left", left)
	}
	if _, err := os.Stat(filepath.Join(precious, "file")); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
