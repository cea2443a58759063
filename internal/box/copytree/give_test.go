package copytree

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestGive(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may make such files and owners")
	}
	top := t.TempDir()
	tree, outside, mounted := filepath.Join(top, "tree"), filepath.Join(top, "outside"), filepath.Join(top, "tree", "mounted")
	for _, d := range []string{filepath.Join(tree, "sub", "deep"), outside, mounted} {
		must(t, os.MkdirAll(d, 0o755))
	}
	must(t, os.WriteFile(filepath.Join(tree, "sub", "file"), nil, 0o600), os.WriteFile(filepath.Join(outside, "file"), nil, 0o600),
		os.Symlink(outside, filepath.Join(tree, "link")), unix.Mkfifo(filepath.Join(tree, "fifo"), 0o600))
	must(t, os.Chown(filepath.Join(tree, "sub"), 5, 6)) // some have the owner
	must(t, unix.Mount("tmpfs", mounted, "tmpfs", 0, "size=64k"))
	defer func() { must(t, unix.Unmount(mounted, 0)) }()
	fd, err := unix.Open(tree, unix.O_PATH, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, Give(fd, 5, 6))
	for path, want := range map[string]string{tree: "5:6", "tree/sub": "5:6", "tree/sub/deep": "5:6", "tree/sub/file": "5:6", "tree/link": "5:6", "tree/fifo": "5:6",
		"tree/mounted": "0:0", "outside": "0:0", "outside/file": "0:0"} {
		if !filepath.IsAbs(path) {
			path = filepath.Join(top, path)
		}
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		if got := fmt.Sprintf("%d:%d", st.Uid, st.Gid); got != want {
			t.Errorf("%s belongs to %s, not %s", path, got, want)
		}
	}
}
