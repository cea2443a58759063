package disk

import (
	"errors"
	"fmt"
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
