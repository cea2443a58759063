package disk

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

func TestDetach(t *testing.T) {
	top := t.TempDir()
	dir, beside := filepath.Join(top, "dir"), filepath.Join(top, "dir2")
	mounts := []string{dir, filepath.Join(dir, "below"), filepath.Join(dir, "below"), beside}
	for _, at := range mounts {
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("none", at, "tmpfs", 0, ""); err != nil {
			t.Skipf("this machine mounts nothing: %v", err)
		}
	}
	t.Cleanup(func() {
		if err := Detach(top); err != nil {
			t.Error(err)
		}
	})
	link := filepath.Join(top, "link")
	if err := os.Symlink(beside, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, link, filepath.Join(top, "nothing"), filepath.Join(top, "nothing", "at", "all")} {
		if err := Detach(path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	for at, want := range map[string]bool{dir: false, beside: true} {
		if got, err := mountinfo.Mounted(at); err != nil || got != want {
			t.Errorf("%s is mounted: %v, %v", at, got, err)
		}
	}
}
