package disk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestExplain(t *testing.T) {
	mount := func(options string) string {
		dir := t.TempDir()
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
			t.Skip("mounts need root:", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
		return dir
	}
	inodes, small, readOnly, large := mount("nr_inodes=8"), mount("size=64k"), mount(""), mount("size=512m")
	var none error
	for i := 0; none == nil; i++ {
		none = os.Mkdir(filepath.Join(inodes, fmt.Sprint(i)), 0o700)
	}
	full := os.WriteFile(filepath.Join(small, "x"), make([]byte, 1<<20), 0o600)
	if err := unix.Mount("", readOnly, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	ro := os.Mkdir(filepath.Join(readOnly, "x"), 0o700)
	for _, x := range []struct {
		root string
		err  error
		want string
	}{
		{inodes, none, "has no inodes left, though it may have space: remove"},
		{inodes, errors.New("mount it: " + none.Error()), "has no inodes left"},
		{small, full, "is full: remove images"},
		{small, errors.New("no space left on device: the disk of x is full: remove images"), ""},
		{readOnly, ro, "is mounted read-only (after an error"},
		{large, full, ""}, // of another file system
		{large, ro, ""},
		{small, errors.New("the name is in use"), ""},
	} {
		got := Explain(x.root, x.err)
		if !errors.Is(got, x.err) {
			t.Errorf("%v hides %v", got, x.err)
		}
		if added := strings.TrimPrefix(got.Error(), x.err.Error()); added != "" != (x.want != "") || !strings.Contains(added, x.want) {
			t.Errorf("%v: %q", x.err, got)
		}
		if again := Explain(x.root, got); again.Error() != got.Error() {
			t.Errorf("explained twice: %v", again)
		}
	}
}

// TestTrashWithoutInodes: removed volumes are given up one by one, as far as is needed.
func TestTrashWithoutInodes(t *testing.T) {
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "nr_inodes=400"); err != nil {
		t.Skip("mounts need root:", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	n := 0
	for ; os.Mkdir(filepath.Join(root, fmt.Sprint(n)), 0o700) == nil; n++ {
	}
	b := NewBudget(&Meter{Root: root}, nil, OpenReserve(root, 0, slog.New(slog.DiscardHandler)), Limits{}, slog.New(slog.DiscardHandler))
	given := 0
	b.Trash = func(context.Context, int64) (int64, error) {
		for range 10 {
			if err := os.Remove(filepath.Join(root, fmt.Sprint(given))); err != nil {
				return 0, err
			}
			given++
		}
		return 1, nil
	}
	b.spare(t.Context())
	b.spare(t.Context())
	if given != 30 { // 25 are hardly any of 400
		t.Errorf("%d of %d inodes were given up", given, n)
	}
}
