package plain

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
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
