package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func tarOf(t *testing.T, root string) []byte {
	t.Helper()
	dir, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var b bytes.Buffer
	if err := Tar(t.Context(), dir, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestTar(t *testing.T) {
	root := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(root, name) }
	long := strings.Repeat("long/", 60)
	must(os.MkdirAll(at(long), 0o755))
	must(os.WriteFile(at(long+"file"), []byte("deep"), 0o644))
	must(os.WriteFile(at("program"), []byte("x"), 0o755))
	must(os.Chmod(at("program"), 0o755|os.ModeSetuid))
	must(os.Chown(at("program"), 1000, 65534))
	must(os.Chmod(at("program"), 0o755|os.ModeSetuid))
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	must(unix.Setxattr(at("program"), "security.capability", []byte(capability), 0))
	must(unix.Setxattr(at("long"), "user.note", []byte("of a folder"), 0))
	must(os.Link(at("program"), at("same")))
	must(os.Symlink("/etc/passwd", at("out")))
	must(os.Symlink("nowhere", at("dangling")))
	must(os.Link(at("dangling"), at("dangling2")))
	must(unix.Mkfifo(at("fifo"), 0o622))
	must(unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(unix.Mknod(at("disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(8, 300))))
	must(os.WriteFile(at("\xff\xfe name\n"), []byte("odd"), 0o600))
	must(os.WriteFile(at("empty"), nil, 0o000))
	must(os.Mkdir(at("tmp"), 0o777))
	must(os.Chmod(at("tmp"), 0o777|os.ModeSticky))
	sparse, err := os.Create(at("sparse"))
	must(err)
	must(sparse.Truncate(3 << 20))
	must(sparse.Close())
	l, err := net.Listen("unix", at("socket"))
	must(err)
	defer l.Close()

	got := map[string]*tar.Header{}
	var order []string
	r := tar.NewReader(bytes.NewReader(tarOf(t, root)))
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		must(err)
		got[h.Name] = h
		order = append(order, h.Name)
		if h.Typeflag == tar.TypeReg {
			want, err := os.ReadFile(at(h.Name))
			must(err)
			body, err := io.ReadAll(r)
			must(err)
			if !bytes.Equal(body, want) {
				t.Errorf("%q has %d other bytes", h.Name, len(body))
			}
		}
	}
	line := func(name string) string {
		h := got[name]
		if h == nil {
			return "absent"
		}
		return fmt.Sprintf("%c %o %d:%d %d %q %d,%d", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Size, h.Linkname, h.Devmajor, h.Devminor)
	}
	for name, want := range map[string]string{
		long: `5 755 0:0 0 "" 0,0`, long + "file": `0 644 0:0 4 "" 0,0`,
		"program": `0 4755 1000:65534 1 "" 0,0`, "same": `1 4755 1000:65534 0 "program" 0,0`,
		"out": `2 777 0:0 0 "/etc/passwd" 0,0`, "dangling": `2 777 0:0 0 "nowhere" 0,0`, "dangling2": `1 777 0:0 0 "dangling" 0,0`,
		"fifo": `6 600 0:0 0 "" 0,0`, "null": `3 644 0:0 0 "" 1,3`, "disk": `4 640 0:0 0 "" 8,300`,
		"\xff\xfe name\n": `0 600 0:0 3 "" 0,0`, "empty": `0 0 0:0 0 "" 0,0`, "tmp/": `5 1777 0:0 0 "" 0,0`,
		"sparse": `0 644 0:0 3145728 "" 0,0`, "socket": "absent", "./": "absent", "": "absent",
	} {
		if have := line(name); have != want {
			t.Errorf("%q: got %s, want %s", name, have, want)
		}
	}
	if c := got["program"].PAXRecords["SCHILY.xattr.security.capability"]; c != capability {
		t.Errorf("capability %q", c)
	}
	if c := got["long/"].PAXRecords["SCHILY.xattr.user.note"]; c != "of a folder" {
		t.Errorf("attribute %q", c)
	}
	if order[0] != "dangling" || order[len(order)-1] != "\xff\xfe name\n" {
		t.Errorf("%q", order)
	}
	cut, cancel := context.WithCancel(t.Context())
	cancel()
	dir, err := os.Open(root)
	must(err)
	defer dir.Close()
	if err := Tar(cut, dir, io.Discard); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Whoever changes the tree while it is archived gets nothing from outside into
// the archive, and the archive stays whole.
func TestTarWhileItChanges(t *testing.T) {
	top := t.TempDir()
	outside, root := filepath.Join(top, "outside"), filepath.Join(top, "root")
	secret := "the secret of the host"
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{outside, filepath.Join(root, "d")} {
		must(os.MkdirAll(d, 0o755))
	}
	must(os.WriteFile(filepath.Join(outside, "f"), []byte(secret), 0o600))
	must(os.WriteFile(filepath.Join(root, "d", "f"), []byte("mine"), 0o600))
	must(os.WriteFile(filepath.Join(root, "f"), []byte("mine"), 0o600))
	must(unix.Mkfifo(filepath.Join(root, "fifo"), 0o600))
	must(os.Symlink(outside, filepath.Join(root, "to-d")))
	must(os.Symlink(filepath.Join(outside, "f"), filepath.Join(root, "to-f")))
	stop := make(chan struct{})
	var group sync.WaitGroup
	loop := func(f func(i int)) {
		group.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					f(i)
				}
			}
		})
	}
	exchange := func(a, b string) {
		_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(root, a), unix.AT_FDCWD, filepath.Join(root, b), unix.RENAME_EXCHANGE) // it may be away just now
	}
	loop(func(int) { exchange("d", "to-d") })
	loop(func(i int) { exchange([]string{"to-f", "fifo"}[i%2], "f") })
	loop(func(i int) { // what comes, goes, grows and shrinks
		name := filepath.Join(root, "z")
		_ = os.WriteFile(name, bytes.Repeat([]byte("x"), 4096*(i%7)), 0o644)
		_ = os.Truncate(name, 10)
		_ = os.Remove(name)
	})
	seen := map[byte]int{}
	for begin := time.Now(); time.Since(begin) < 2*time.Second; {
		b := tarOf(t, root)
		if bytes.Contains(b, []byte(secret)) {
			t.Fatal("the archive has a file from outside")
		}
		for r := tar.NewReader(bytes.NewReader(b)); ; {
			h, err := r.Next()
			if err == io.EOF {
				break
			}
			must(err)
			seen[h.Typeflag]++
			_, err = io.Copy(io.Discard, r)
			must(err)
		}
	}
	close(stop)
	group.Wait()
	if seen[tar.TypeSymlink] == 0 || seen[tar.TypeReg] == 0 || seen[tar.TypeDir] == 0 {
		t.Errorf("the tree did not change: %v", seen)
	}
}

// TestTarTooDeep: directories deeper in each other than any path can name do not
// have the engine hold a descriptor and a name for each.
func TestTarTooDeep(t *testing.T) {
	top, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	fd, err := unix.Dup(int(top.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	for range maxDepth + 10 {
		next := -1
		if err = unix.Mkdirat(fd, "d", 0o755); err == nil {
			next, err = unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		}
		unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		fd = next
	}
	unix.Close(fd)
	if err := Tar(t.Context(), top, io.Discard); !errdefs.IsInvalidArgument(err) {
		t.Errorf("all: %v", err)
	}
	if err := TarEntry(t.Context(), top, "", "x", nil, io.Discard); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an entry: %v", err)
	}
}
