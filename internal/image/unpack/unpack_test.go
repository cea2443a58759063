package unpack

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

type entry struct {
	tar.Header
	body string
}

func archiveOf(t *testing.T, list ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range list {
		h := e.Header
		h.Size = int64(len(e.body))
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1700000000, 0)
		}
		if h.Format == tar.FormatUnknown {
			h.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func folder(name string, mode int64) entry {
	return entry{Header: tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: mode}}
}

func plain(name, body string, mode int64) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode}, body: body}
}

func special(name string, kind byte, link string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: kind, Linkname: link, Mode: 0o640, Devmajor: 1, Devminor: 3}}
}

func with(e entry, f func(*tar.Header)) entry {
	f(&e.Header)
	return e
}

// facts lists all that can be seen of a tree.
func facts(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	inodes := map[uint64]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		name := strings.TrimPrefix(p, root)
		fmt.Fprintf(&b, "%q %o %d:%d dev %d mtime %d.%d", name, st.Mode, st.Uid, st.Gid, st.Rdev, st.Mtim.Sec, st.Mtim.Nsec)
		if first, ok := inodes[st.Ino]; ok {
			b.WriteString(" is " + first)
		}
		inodes[st.Ino] = name
		if d.Type()&fs.ModeSymlink != 0 {
			to, _ := os.Readlink(p)
			b.WriteString(" -> " + to)
		}
		if d.Type().IsRegular() {
			body, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %q", body)
		}
		list := make([]byte, 4096)
		n, err := unix.Llistxattr(p, list)
		if err != nil {
			return err
		}
		keys := strings.Split(strings.Trim(string(list[:n]), "\x00"), "\x00")
		slices.Sort(keys)
		for _, key := range keys {
			if key != "" {
				value := make([]byte, 4096)
				n, err := unix.Lgetxattr(p, key, value)
				if err != nil {
					return err
				}
				fmt.Fprintf(&b, " %s=%x", key, value[:n])
			}
		}
		b.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// What Alone makes of a layer is what containerd makes of it.
func TestAloneIsLikeApply(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may make such files and owners")
	}
	for name, list := range map[string][]entry{
		"rights":  {folder("a", 0o755), folder("a/s", 0o2775), plain("a/s/f", "1", 0o644), folder("t", 0o1777), plain("t/x", "", 0o4755), plain("t/y", "", 0o666), plain("t/z", "1", 0o2000), folder("n", 0)},
		"owners":  {with(folder("a", 0o2750), func(h *tar.Header) { h.Uid, h.Gid = 7, 8 }), plain("a/f", "1", 0o644), with(plain("a/s", "1", 0o6755), func(h *tar.Header) { h.Uid, h.Gid = 1000, 1000 }), with(special("a/l", tar.TypeSymlink, "f"), func(h *tar.Header) { h.Uid = 5 })},
		"links":   {folder("d", 0o755), plain("d/f", "1", 0o644), special("l", tar.TypeSymlink, "/etc/passwd"), special("h", tar.TypeLink, "d/f"), special("d/hl", tar.TypeLink, "l"), special("d/abs", tar.TypeLink, "/d/f")},
		"devices": {special("c", tar.TypeChar, ""), special("b", tar.TypeBlock, ""), special("p", tar.TypeFifo, "")},
		"attributes": {with(plain("f", "1", 0o755), func(h *tar.Header) {
			h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "SCHILY.xattr.user.a": "b\x00c"}
			h.Uid = 3
		}), with(folder("d", 0o755), func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr.user.d": "1"} }),
			with(special("l", tar.TypeSymlink, "f"), func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr.user.l": "1"} })},
		"times": {with(plain("old", "", 0o644), func(h *tar.Header) { h.ModTime = time.Unix(-5, 0) }), with(plain("exact", "", 0o644), func(h *tar.Header) { h.ModTime = time.Unix(1600000000, 123456789) }),
			with(folder("d", 0o755), func(h *tar.Header) { h.ModTime = time.Unix(1500000000, 1) }), folder("d/e", 0o755), plain("d/e/f", "", 0o644), with(folder("d", 0o755), func(h *tar.Header) { h.ModTime = time.Unix(1500000001, 1) })},
		"twice": {plain("a", "1", 0o600), plain("a", "2", 0o644), special("a", tar.TypeSymlink, "b"), plain("a", "3", 0o640), folder("d", 0o755), plain("d/x", "", 0o644), folder("d", 0o700), plain("e", "", 0o644), folder("e", 0o755), plain("e/f", "", 0o644)},
		"names": {folder("./x", 0o755), plain("./x/\xff\xfe", "1", 0o644), plain("x/ä\n\"", "1", 0o644), plain("/abs", "1", 0o644), plain("x/./../y", "1", 0o644), plain(strings.Repeat("n", 255), "1", 0o644)},
		"aufs":  {folder("a", 0o755), folder(".wh..wh.plnk", 0o700), plain(".wh..wh.aufs", "", 0o644), plain("a/f", "", 0o644)},
		"large": {plain("f", strings.Repeat("0123456789abcdef", 100_000), 0o644), plain("empty", "", 0o644)},
	} {
		t.Run(name, func(t *testing.T) {
			data := archiveOf(t, list...)
			a, b := t.TempDir(), t.TempDir()
			if err := Alone(t.Context(), a, true, bytes.NewReader(data)); err != nil {
				t.Fatal(err)
			}
			if _, err := archive.Apply(t.Context(), b, bytes.NewReader(data), archive.WithFilter(clean)); err != nil {
				t.Fatal(err)
			}
			if got, want := facts(t, a), facts(t, b); got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}

// A hole in the archive of a sparse file is a hole on the disk.
func TestSparse(t *testing.T) {
	dir := t.TempDir()
	f := filepath.Join(dir, "sparse")
	if err := os.WriteFile(f, []byte("begin"), 0o644); err != nil {
		t.Fatal(err)
	}
	const size = 64 << 20
	if err := os.Truncate(f, size); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"gnu", "pax"} {
		out, err := exec.Command("tar", "-C", dir, "--sparse", "--format="+format, "-cf", "-", "sparse").Output()
		if err != nil {
			t.Fatal(err)
		}
		if len(out) > 1<<20 {
			t.Fatalf("tar wrote %d bytes: the file system has no holes here", len(out))
		}
		root := t.TempDir()
		if err := Alone(t.Context(), root, true, bytes.NewReader(out)); err != nil {
			t.Fatal(format, err)
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(root, "sparse"), &st); err != nil {
			t.Fatal(err)
		}
		if st.Size != size || st.Blocks*512 > 1<<20 {
			t.Errorf("%s: %d bytes in %d blocks", format, st.Size, st.Blocks)
		}
		b, err := os.ReadFile(filepath.Join(root, "sparse"))
		if err != nil || !bytes.HasPrefix(b, []byte("begin\x00")) {
			t.Errorf("%s: %q, %v", format, b[:min(len(b), 10)], err)
		}
	}
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		list []entry
		is   func(error) bool
		text string
	}{
		"climbs":                  {[]entry{plain("../../x", "", 0o644)}, errdefs.IsInvalidArgument, `"../../x" leads out of the image`},
		"climbs later":            {[]entry{folder("a", 0o755), plain("a/../../x", "", 0o644)}, errdefs.IsInvalidArgument, `"a/../../x" leads out of the image`},
		"links out":               {[]entry{special("h", tar.TypeLink, "../etc/shadow")}, errdefs.IsInvalidArgument, `"../etc/shadow" leads out of the image`},
		"no name":                 {[]entry{folder("d", 0o755), plain("d/.wh.", "", 0o644)}, errdefs.IsInvalidArgument, `a whiteout without a name: "d/.wh."`},
		"dots":                    {[]entry{folder("d", 0o755), plain("d/.wh...", "", 0o644)}, errdefs.IsInvalidArgument, `a whiteout without a name`},
		"a device that cannot be": {[]entry{with(special("c", tar.TypeChar, ""), func(h *tar.Header) { h.Devmajor, h.Format = 1<<40, tar.FormatGNU })}, errdefs.IsInvalidArgument, "a device number that cannot be: 1099511627776:3"},
		"trusted":                 {[]entry{with(plain("f", "", 0o644), func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr.trusted.a": "1"} })}, errdefs.IsInvalidArgument, "only the administrator"},
		"parents":                 {[]entry{plain("d/f", "", 0o644)}, NeedsParents, ""},
		"link to below":           {[]entry{special("h", tar.TypeLink, "d/f")}, NeedsParents, ""},
		"through a link":          {[]entry{special("l", tar.TypeSymlink, "/"), plain("l/f", "", 0o644)}, NeedsParents, ""},
		"hidden and made anew":    {[]entry{plain(".wh.d", "", 0o644), folder("d", 0o755)}, NeedsParents, ""},
		"the other way":           {[]entry{folder("d", 0o755), plain(".wh.d", "", 0o644)}, NeedsParents, ""},
		"opaque root":             {[]entry{plain(".wh..wh..opq", "", 0o644)}, NeedsParents, ""},
		"a folder becomes a link": {[]entry{folder("d", 0o755), special("d", tar.TypeSymlink, "/")}, NeedsParents, ""},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			err := Alone(t.Context(), root, false, bytes.NewReader(archiveOf(t, c.list...)))
			if err == nil || !c.is(err) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v", err)
			}
		})
	}
}

// Overlay's whiteouts and opaque folders, and none where nothing is below.
func TestWhiteouts(t *testing.T) {
	list := []entry{folder("d", 0o755), plain("d/.wh.a", "", 0o644), plain("d/b", "1", 0o644), plain("d/.wh.b", "", 0o644), plain(".wh.c", "", 0o644), plain("c", "2", 0o644), folder("o", 0o755), plain("o/.wh..wh..opq", "", 0o644)}
	root := t.TempDir()
	if err := Alone(t.Context(), root, false, bytes.NewReader(archiveOf(t, list...))); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(root, "d/a"), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		t.Errorf("d/a: %v %o", err, st.Mode)
	}
	for name, want := range map[string]string{"d/b": "1", "c": "2"} {
		if b, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q %v", name, b, err)
		}
	}
	value := make([]byte, 8)
	if n, err := unix.Getxattr(filepath.Join(root, "o"), "trusted.overlay.opaque", value); err != nil || string(value[:n]) != "y" {
		t.Errorf("opaque: %q %v", value, err)
	}
	bottom := t.TempDir()
	if err := Alone(t.Context(), bottom, true, bytes.NewReader(archiveOf(t, list...))); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(bottom, "d/a")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a whiteout of nothing was made: %v", err)
	}
}

// A layer of nothing but names ends before the memory does, whether it is
// unpacked alone or over others.
func TestABombOfNames(t *testing.T) {
	oldNames, oldMade := maxNames, maxMade
	maxNames, maxMade = 1<<20, 1<<20
	defer func() { maxNames, maxMade = oldNames, oldMade }()
	for kind, want := range map[byte]string{tar.TypeDir: "more folders", tar.TypeReg: "more files"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		go func() {
			defer w.Close()
			tw := tar.NewWriter(w)
			for i := range 100_000 {
				h := tar.Header{Name: fmt.Sprintf("%0200d", i), Typeflag: kind, Mode: 0o755}
				if tw.WriteHeader(&h) != nil {
					return
				}
			}
		}()
		if kind == tar.TypeDir {
			err = Alone(t.Context(), t.TempDir(), true, r)
		} else {
			err = Apply(t.Context(), t.TempDir(), r)
		}
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%c: %v", kind, err)
		}
	}
}
