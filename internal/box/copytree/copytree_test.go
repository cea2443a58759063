package copytree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// copied copies a folder into a new one.
func copied(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := between(context.Background(), from, to); err != nil {
		t.Fatal(err)
	}
	return to
}

func between(ctx context.Context, from, to string) error {
	a, err := os.Open(from)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.Open(to)
	if err != nil {
		return err
	}
	defer b.Close()
	return Apart(func() error { return Copy(ctx, int(a.Fd()), int(b.Fd())) })
}

// told lists a tree with all that a copy must have.
func told(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(p string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		name, _ := filepath.Rel(root, p)
		fmt.Fprintf(&b, "%s %o %d:%d %d %d.%d", name, st.Mode, st.Uid, st.Gid, st.Rdev, st.Mtim.Sec, st.Mtim.Nsec)
		value := make([]byte, 100)
		if n, err := unix.Lgetxattr(p, "trusted.kept", value); err == nil {
			fmt.Fprintf(&b, " %s", value[:n])
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %d %x", st.Nlink, data)
		case unix.S_IFLNK:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			b.WriteString(" " + to)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestCopy(t *testing.T) {
	root := t.TempDir()
	at := func(name string) string { return filepath.Join(root, name) }
	must(t, os.MkdirAll(at("a/b/c"), 0o700), os.Mkdir(at("empty"), 0o711))
	for i := range 500 { // enough for helpers
		dir := []string{"a", "a/b", "a/b/c"}[i%3]
		must(t, os.WriteFile(at(fmt.Sprintf("%s/f%d", dir, i)), bytes.Repeat([]byte{byte(i)}, i*3), 0o640))
	}
	must(t, os.WriteFile(at("run"), []byte("x"), 0o600), unix.Chown(at("run"), 1, 2), unix.Chmod(at("run"), 0o6755), unix.Setxattr(at("run"), "trusted.kept", []byte("capable"), 0))
	must(t, os.Link(at("run"), at("a/run")), os.Link(at("run"), at("a/b/run")), os.Symlink("/etc/passwd", at("a/out")), os.Lchown(at("a/out"), 3, 4))
	must(t, unix.Lsetxattr(at("a/out"), "trusted.kept", []byte("link"), 0), unix.Setxattr(at("a/b"), "trusted.kept", []byte("folder"), 0))
	must(t, unix.Mkfifo(at("fifo"), 0o644), unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Chown(at("a/b"), 7, 8), unix.Chmod(at("a/b"), 0o3777), unix.Chmod(root, 0o751))
	old := []unix.Timespec{{Sec: 1}, {Sec: 86400, Nsec: 5}}
	for _, name := range []string{"a/b/c", "a/b", "a/out", "run", "."} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, at(name), old, unix.AT_SYMLINK_NOFOLLOW))
	}
	to := copied(t, root)
	if want, got := told(t, root), told(t, to); want != got {
		t.Errorf("copied:\n%s\nwant:\n%s", got, want)
	}
	if a, b := inode(t, to+"/run"), inode(t, to+"/a/b/run"); a != b {
		t.Error("a hard link is a file of its own")
	}
}

func inode(t *testing.T, p string) uint64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(p, &st))
	return st.Ino
}

// TestHoles: what takes no space in the one takes none in the other.
func TestHoles(t *testing.T) {
	root := t.TempDir()
	f, err := os.Create(root + "/sparse")
	must(t, err)
	_, err = f.WriteAt([]byte("middle"), 40<<20)
	must(t, err, f.Truncate(100<<20), f.Close())
	must(t, os.WriteFile(root+"/hollow", nil, 0o600), os.Truncate(root+"/hollow", 1<<30))
	to := copied(t, root)
	for name, size := range map[string]int64{"sparse": 100 << 20, "hollow": 1 << 30} {
		var st unix.Stat_t
		must(t, unix.Stat(to+"/"+name, &st))
		if st.Size != size || st.Blocks*512 > 1<<20 {
			t.Errorf("%s: %d bytes, %d on disk", name, st.Size, st.Blocks*512)
		}
	}
	got := make([]byte, 6)
	f, err = os.Open(to + "/sparse")
	must(t, err)
	defer f.Close()
	if _, err := f.ReadAt(got, 40<<20); err != nil || string(got) != "middle" {
		t.Errorf("%q %v", got, err)
	}
}

// TestHostile: what is there already is not written to, and a link is no folder.
func TestHostile(t *testing.T) {
	root, to, outside := t.TempDir(), t.TempDir(), t.TempDir()
	must(t, os.Mkdir(root+"/dir", 0o755), os.WriteFile(root+"/dir/file", []byte("x"), 0o644))
	must(t, os.Symlink(outside, to+"/dir"))
	if err := between(context.Background(), root, to); !errors.Is(err, unix.EEXIST) {
		t.Errorf("over a link: %v", err)
	}
	if _, err := os.Lstat(outside + "/file"); err == nil {
		t.Error("the copy left its folder")
	}
	to = t.TempDir()
	must(t, os.Symlink(outside+"/file", to+"/dir"))
	if err := between(context.Background(), root, to); !errors.Is(err, unix.EEXIST) {
		t.Errorf("over a link: %v", err)
	}
}

func TestCancelled(t *testing.T) {
	root := t.TempDir()
	for i := range 200 {
		must(t, os.WriteFile(fmt.Sprintf("%s/%d", root, i), []byte("x"), 0o600))
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := between(ctx, root, t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestNoSpace: an error of a helper is the copy's.
func TestNoSpace(t *testing.T) {
	root, to := t.TempDir(), t.TempDir()
	must(t, unix.Mount("tmpfs", to, "tmpfs", 0, "size=1m"))
	defer unix.Unmount(to, unix.MNT_DETACH)
	for i := range 400 {
		must(t, os.WriteFile(fmt.Sprintf("%s/%d", root, i), make([]byte, 8192), 0o600))
	}
	if err := between(context.Background(), root, to); !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
}
