package tree

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sample makes a tree with everything that a layer may have.
func sample(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("devices and owners need root")
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.MkdirAll(at("etc/deep"), 0o755))
	must(t, os.WriteFile(at("etc/passwd"), []byte("root:x:0:0\n"), 0o644))
	must(t, os.WriteFile(at("etc.conf"), []byte("between etc and etc/deep by bytes"), 0o600))
	must(t, os.WriteFile(at("etc/deep/big"), bytes.Repeat([]byte("0123456789abcdef"), 60_000), 0o755))
	must(t, os.WriteFile(at("name with \"quotes\" and \xff\n"), nil, 0o644))
	must(t, os.Symlink("../etc/passwd", at("etc/link")))
	must(t, os.Link(at("etc/passwd"), at("etc/zpasswd")))
	must(t, unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mkfifo(at("pipe"), 0o600))
	must(t, os.Chown(at("etc/passwd"), 1, 2))
	must(t, unix.Setxattr(at("etc/deep"), "trusted.overlay.opaque", []byte("y"), 0))
	must(t, unix.Setxattr(at("etc/deep"), "trusted.overlay.origin", []byte("here"), 0))
	must(t, unix.Setxattr(at("etc/passwd"), "user.a", []byte("\x00b"), 0))
	for _, name := range []string{"etc/passwd", "etc.conf", "etc/deep/big", "name with \"quotes\" and \xff\n"} {
		must(t, os.Chtimes(at(name), time.Time{}, time.Unix(1_000_000_000, 123)))
	}
	return dir
}

func sum(t *testing.T, dir string) (string, []byte) {
	t.Helper()
	var list bytes.Buffer
	d, err := Sum(t.Context(), dir, nil, &list)
	must(t, err)
	return d.String(), list.Bytes()
}

func TestSumSeesEveryChange(t *testing.T) {
	dir := sample(t)
	want, list := sum(t, dir)
	if again, _ := sum(t, dir); again != want {
		t.Fatalf("the same tree has two digests: %s, %s", want, again)
	}
	keepTime := func(name string, f func(path string) error) func() error {
		return func() error {
			path := filepath.Join(dir, name)
			st, err := os.Lstat(path)
			if err != nil {
				return err
			}
			if err := f(path); err != nil {
				return err
			}
			return os.Chtimes(path, time.Time{}, st.ModTime())
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, c := range []struct {
		change func() error
		path   string
		what   string
	}{
		{keepTime("etc/deep/big", func(p string) error { return os.Truncate(p, 0) }), "etc/deep/big", "is empty: it had 960000 bytes"},
		{keepTime("etc/deep/big", func(p string) error { return os.Truncate(p, 4096) }), "etc/deep/big", "has 4096 bytes, not 960000"},
		{keepTime("etc/deep/big", func(p string) error { return flip(p, 500_000) }), "etc/deep/big", "has other content"},
		{keepTime("etc/deep/big", func(p string) error { return punch(p, 8192, 4096) }), "etc/deep/big", "has other content"},
		{func() error { return os.Remove(at("etc/deep/big")) }, "etc/deep/big", "is missing"},
		{func() error { return os.WriteFile(at("etc/new"), nil, 0o644) }, "etc/new", "does not belong there"},
		{func() error { return os.Chmod(at("etc.conf"), 0o644) }, "etc.conf", "has mode 0644, not 0600"},
		{func() error { return os.Chown(at("etc.conf"), 5, 0) }, "etc.conf", "belongs to 5:0, not to 0:0"},
		{func() error { return os.Chtimes(at("etc.conf"), time.Time{}, time.Unix(1, 0)) }, "etc.conf", "was changed at 1970"},
		{func() error { return unix.Setxattr(at("etc/passwd"), "user.a", []byte("c"), 0) }, "etc/passwd", "has other extended attributes"},
		{func() error { return unix.Removexattr(at("etc/deep"), "trusted.overlay.opaque") }, "etc/deep", "has other extended attributes"},
		{func() error {
			return replace(at("etc/link"), func(p string) error { return os.Symlink("/etc/shadow", p) })
		}, "etc/link", `points to "/etc/shadow", not to "../etc/passwd"`},
		{func() error {
			return replace(at("null"), func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) })
		}, "null", "is another device"},
		{func() error {
			return replace(at("pipe"), func(p string) error { return os.WriteFile(p, nil, 0o600) })
		}, "pipe", "is a file, not a pipe"},
		{func() error { return os.RemoveAll(at("etc/deep")) }, "etc/deep", "is missing"},
	} {
		must(t, c.change())
		if got, _ := sum(t, dir); got == want {
			t.Errorf("%s %s: the digest is the same", c.path, c.what)
		}
		var found []string
		must(t, Compare(t.Context(), dir, bytes.NewReader(list), nil, func(c Change) { found = append(found, c.Path+" "+c.What) }))
		if !slices.ContainsFunc(found, func(s string) bool { return strings.HasPrefix(s, c.path+" "+c.what) }) {
			t.Errorf("wanted %q of %s, got %q", c.what, c.path, found)
		}
		dir = sample(t)
		if got, now := sum(t, dir); got != want {
			t.Fatalf("the same tree made again has another digest:\n%s\nnot\n%s", now, list)
		}
	}
}

func replace(path string, f func(string) error) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return f(path)
}

func flip(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt([]byte{'!'}, at)
	return err
}

func punch(path string, at, n int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, n)
}

func TestSumDoesNotSeeWhatOverlayAndTheHostDo(t *testing.T) {
	dir := sample(t)
	want, _ := sum(t, dir)
	must(t, unix.Setxattr(filepath.Join(dir, "etc/passwd"), "trusted.overlay.impure", []byte("y"), 0))
	must(t, unix.Setxattr(filepath.Join(dir, "etc/deep"), "trusted.overlay.origin", []byte("there"), 0))
	must(t, os.Chtimes(filepath.Join(dir, "etc"), time.Time{}, time.Unix(5, 0)))
	if got, _ := sum(t, dir); got != want {
		t.Error("the digest has changed")
	}
}

// Holes are zeros, wherever they begin.
func TestHolesAreZeros(t *testing.T) {
	sums := map[string]string{}
	for _, dense := range []bool{true, false} {
		dir := t.TempDir()
		f, err := os.Create(filepath.Join(dir, "f"))
		must(t, err)
		must(t, f.Truncate(10<<20+5))
		if dense {
			_, err := f.Write(make([]byte, 10<<20+5))
			must(t, err)
		}
		for _, at := range []int64{100, 3 << 20, 3<<20 + 70_000, 9<<20 + 4095} {
			_, err := f.WriteAt(bytes.Repeat([]byte{7}, 5000), at)
			must(t, err)
		}
		must(t, f.Close())
		must(t, os.Chtimes(filepath.Join(dir, "f"), time.Time{}, time.Unix(1, 0)))
		sums[fmt.Sprint(dense)], _ = sum(t, dir)
	}
	if sums["true"] != sums["false"] {
		t.Error(sums)
	}
}

func TestRecordsAreReadAsTheyWereWritten(t *testing.T) {
	_, list := sum(t, sample(t))
	r := NewReader(bytes.NewReader(list))
	var again []byte
	for range bytes.Count(list, []byte("\n")) {
		e, err := r.Next()
		must(t, err)
		again = e.Append(again)
	}
	if !bytes.Equal(list, again) {
		t.Errorf("written:\n%s\nread:\n%s", list, again)
	}
	for _, bad := range []string{"x", `"a" f 644`, `"a" f 644 0:0 1 2 ab`, `"a" z 0 0:0`, `"a" h b`, `"a" h "b" c`} {
		if _, err := NewReader(strings.NewReader(bad)).Next(); err == nil {
			t.Errorf("%s was taken for a record", bad)
		}
	}
}

func TestDeepFolders(t *testing.T) {
	dir := t.TempDir()
	deep := filepath.Join(dir, strings.Repeat("d/", 500))
	must(t, os.MkdirAll(deep, 0o755))
	must(t, os.WriteFile(filepath.Join(deep, "f"), []byte("x"), 0o644))
	n := 0
	must(t, Walk(t.Context(), dir, nil, func(*Entry) error { n++; return nil }))
	if n != 502 {
		t.Errorf("%d entries", n)
	}
}

func FuzzRecords(f *testing.F) {
	f.Add([]byte("\".\" d 755 0:0\n\"a\" f 644 0:0 3 4 " + strings.Repeat("ab", 32) + " \"user.x\"=\"y\"\n\"b\" h \"a\"\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for r := NewReader(bytes.NewReader(b)); ; {
			e, err := r.Next()
			if err != nil {
				return
			}
			e.Append(nil)
		}
	})
}
