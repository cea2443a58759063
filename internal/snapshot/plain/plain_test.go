package plain

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"hezi/internal/disk"
	"hezi/internal/disk/loop"
)

func suite(t *testing.T, name string, kind Kind) {
	testsuite.SnapshotterSuite(t, name, func(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		records, err := storage.NewMetaStore(filepath.Join(root, "metadata.db"))
		if err != nil {
			return nil, nil, err
		}
		s, err := New(root, records, kind)
		return s, func() error { return s.Close() }, err
	})
}

func TestCopies(t *testing.T) { suite(t, "native", NewCopies()) }

func TestSubvolumes(t *testing.T) {
	if _, err := exec.LookPath("mkfs.btrfs"); err != nil {
		t.Skip("mkfs.btrfs is missing: apt-get install btrfs-progs")
	}
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	at := t.TempDir()
	for _, c := range [][]string{{"truncate", "-s", "512M", image}, {"mkfs.btrfs", "-q", image}, {"mount", "-o", "loop", image, at}} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Skipf("this machine cannot mount btrfs from a file: %v: %v: %s", c, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	t.Setenv("TMPDIR", at)
	t.Run("suite", func(t *testing.T) { suite(t, "native", Subvolumes{}) })
}

// What a kill leaves while a tree is limited, or copied, goes with the folder: nothing
// stays mounted.
func TestDeleteWhatAKillLeft(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "1")
	for _, tree := range []string{"fs", limitedName} {
		at := filepath.Join(folder, tree)
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		if tree == "fs" { // where the host has no disks in files, something else is mounted alone
			if err := unix.Mount("none", at, "tmpfs", 0, ""); err != nil {
				t.Skipf("this machine mounts nothing: %v", err)
			}
		} else if err := loop.Make(t.Context(), 4<<20, folder, at); err != nil && !errdefs.IsNotImplemented(err) {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(at, "file"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = disk.Detach(folder) })            // it is gone
	held, err := os.Open(filepath.Join(folder, limitedName)) // in use
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := Delete(NewCopies(), folder); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(folder); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", folder, err)
	}
	if list, err := mountinfo.GetMounts(mountinfo.PrefixFilter(folder)); err != nil || len(list) > 0 {
		t.Errorf("mounted: %v, %v", list, err)
	}
	if names, err := held.Readdirnames(0); err != nil || len(names) != 1 {
		t.Errorf("what somebody uses was emptied: %q, %v", names, err)
	}
}

// Holes take nothing, nor do links and empty files, but each takes an inode of a disk.
func TestTaken(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{1 << 20, 1 << 30} {
		if _, err := f.WriteAt(make([]byte, 4096), at); err != nil {
			t.Fatal(err)
		}
	}
	file := func(name string, size int) error {
		return os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o644)
	}
	err = errors.Join(f.Truncate(1<<40), file("empty", 0), file("small", 10), os.Link(filepath.Join(dir, "small"), filepath.Join(dir, "same")),
		os.Symlink("small", filepath.Join(dir, "link")), os.Symlink(strings.Repeat("x/", 50), filepath.Join(dir, "long")), os.Mkdir(filepath.Join(dir, "dir"), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	data, onDisk, err := taken(t.Context(), dir)
	if want := int64((2 + 1 + 1 + 1) * 4096); err != nil || data != want && data != want+4096 { // with the top
		t.Errorf("%d bytes of data, not %d, %v", data, want, err)
	}
	if onDisk != data+2*4096 {
		t.Errorf("%d bytes on a disk, and %d of data", onDisk, data)
	}
}
