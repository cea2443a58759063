package snapshot

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/disk/loop"
)

func TestLimitWithoutPrograms(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "writable"), slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Make("aa"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", "")
	for what, err := range map[string]error{"a limit": s.Limit("aa", 1<<30), "the trial": s.CanLimit(1 << 30)} {
		if errdefs.IsNotImplemented(err) && strings.Contains(err.Error(), "'pquota'") && strings.Contains(err.Error(), "mkfs.ext4 (install e2fsprogs)") {
			continue
		}
		if err == nil {
			t.Skip("the file system of " + os.TempDir() + " has project quotas")
		}
		t.Errorf("%s: %v", what, err)
	}
	if _, err := os.Stat(s.Get("aa", nil).Upper); err != nil || s.limited("aa") {
		t.Errorf("the layer is limited: %v, %v", s.limited("aa"), err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// xfs is for larger disks alone: the trial is of the size that is asked for.
func TestLimitByXFSAlone(t *testing.T) {
	program, err := exec.LookPath("mkfs.xfs")
	if err != nil {
		t.Skip(err)
	}
	path := t.TempDir()
	if err := os.Symlink(program, filepath.Join(path, "mkfs.xfs")); err != nil {
		t.Fatal(err)
	}
	s, err := Open(filepath.Join(t.TempDir(), "writable"), slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", path)
	if err := s.CanLimit(1 << 20); !errdefs.IsNotImplemented(err) {
		t.Skipf("with too little: %v", err) // or there are project quotas
	}
	if err := s.CanLimit(400 << 20); err != nil && !strings.Contains(err.Error(), "modprobe") {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// A layer on a disk is as any other, also after its removal was cut off.
func TestLimitByDisk(t *testing.T) {
	root := filepath.Join(t.TempDir(), "writable")
	s, err := Open(root, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Make("aa"); err != nil {
		t.Fatal(err)
	}
	if err := s.onDisk("aa", 4<<20); err != nil {
		if errdefs.IsNotImplemented(err) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	var c Chain
	if c, err = s.Grow(t.Context(), "aa", c); err != nil {
		t.Fatal(err)
	}
	for layer, size := range map[string]int{"": 1000, "2": 200} {
		if err := os.WriteFile(filepath.Join(s.upper("aa", layer), "file"), make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(s.upper("aa", "2"), "much"), make([]byte, 40<<20), 0o644); err == nil {
		t.Error("40 MiB are written to a disk of 4")
	}
	if err := os.Remove(filepath.Join(s.upper("aa", "2"), "much")); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(s.folder("aa"), trashPrefix+"aa-1") // as a kill leaves it
	if err := os.Mkdir(left, 0o700); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Size(t.Context(), "aa"); n != 1200 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if loop.Mounted(s.diskOf("aa")) {
		t.Error("the disk is mounted, and nobody uses it")
	}
	if s, err = Open(root, slog.Default()); err != nil {
		t.Fatal(err)
	}
	if lost, err := s.Restore("aa", c); lost || err != nil {
		t.Errorf("restored: %v, %v", lost, err)
	}
	if err := loop.Unmount(s.diskOf("aa")); err != nil { // somebody did
		t.Fatal(err)
	}
	s.holdBack("aa") // as nothing is mounted, there is no place for it
	if list, err := os.ReadDir(s.diskOf("aa")); err != nil || len(list) > 0 {
		t.Errorf("on the host: %v, %v", list, err)
	}
	if n, err := s.SizeOf(t.Context(), "aa", "2"); n != 200 || err != nil {
		t.Errorf("%d bytes of one layer, %v", n, err)
	}
	if err := loop.Unmount(s.diskOf("aa")); err != nil {
		t.Fatal(err)
	}
	copied, err := s.Copy(t.Context(), "aa", Chain{"2"})
	if err != nil || len(copied) != 1 || !loop.Mounted(s.diskOf("aa")) {
		t.Errorf("a copy of what was not mounted: %q, %v", copied, err)
	}
	if err := s.Keep("aa", Chain{"2"}); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Size(t.Context(), "aa"); n != 200 || err != nil {
		t.Errorf("%d bytes of the layer that is kept, %v", n, err)
	}
	if err := s.Remove("aa"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil { // waits for what deletes
		t.Fatal(err)
	}
	list, err := os.ReadDir(root)
	if err != nil || len(list) != 1 || list[0].Name() != baseName {
		t.Errorf("what is left: %v, %v", list, err)
	}
}

// limited is a store with a container aa whose disk has size bytes; the test is skipped,
// with the reason, where nothing can limit it.
func limited(t *testing.T, root string, size int64) *Store {
	t.Helper()
	s, err := Open(root, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if _, err := s.Make("aa"); err != nil {
		t.Fatal(err)
	}
	if err := s.onDisk("aa", size); err != nil {
		if errdefs.IsNotImplemented(err) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	return s
}

// Starts of a full container leave space for snapshots, and what ends it says what to do.
func TestReserve(t *testing.T) {
	s := limited(t, filepath.Join(t.TempDir(), "writable"), 4<<20)
	file, err := os.Create(filepath.Join(s.upper("aa", first), "full"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for range 100 {
		for err := error(nil); err == nil; { // the container takes what it gets
			_, err = file.Write(make([]byte, 1024))
		}
		if err := s.startable("aa"); err != nil {
			t.Fatal(err)
		}
	}
	c := Chain(nil)
	for n := 0; ; n++ {
		grown, err := s.Grow(t.Context(), "aa", c)
		if err != nil {
			if !strings.Contains(err.Error(), "no space left on device: the disk space that the container is limited to is used up: remove snapshots of it") {
				t.Error(err)
			}
			if n < 10 {
				t.Errorf("after 100 starts there is space for %d layers", n)
			}
			break
		}
		if c = grown; n > 1000 {
			t.Fatal("a full disk takes 1000 layers")
		}
	}
	if err := s.Remove("aa"); err != nil {
		t.Error(err)
	}
}

// TestLimitOnHostThatGetsFull: what a limited container was made with is on the host's
// disk before there is a container.
func TestLimitOnHostThatGetsFull(t *testing.T) {
	host := t.TempDir()
	if err := unix.Mount("none", host, "tmpfs", 0, "size=32m"); err != nil {
		t.Skipf("this machine mounts nothing: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(host, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := limited(t, filepath.Join(host, "writable"), 200<<20)
	t.Cleanup(func() { _ = s.Remove("aa") })
	upper := s.upper("aa", first)
	f, err := os.Create(filepath.Join(upper, "file"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(make([]byte, 64<<20)) // it is only in memory
	if err = errors.Join(err, f.Sync()); err == nil {
		t.Error("64 MB were written to a host with 32")
	}
	f.Close()
	if err := loop.Sync(s.diskOf("aa")); err == nil {
		t.Skip("this kernel's disk has written its journal to a full host")
	}
	if err := unix.Mount("none", host, "tmpfs", unix.MS_REMOUNT, "size=400m"); err != nil {
		t.Fatal(err)
	}
	if err := s.startable("aa"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(upper, "again"), nil, 0o600); err != nil {
		t.Errorf("after the host had space again: %v", err)
	}
}
