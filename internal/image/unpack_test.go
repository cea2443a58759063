package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"hezi/internal/image/registry"
)

// entry is one entry of a layer under test; kind 0 is a file.
type entry struct {
	name  string
	kind  byte
	body  string
	link  string
	mode  int64
	uid   int
	xattr map[string]string
	major int64
	minor int64
}

func dir(name string) entry { return entry{name: name, kind: tar.TypeDir, mode: 0o755} }

func file(name, body string) entry { return entry{name: name, body: body} }

func archiveOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		if e.mode == 0 {
			e.mode = 0o644
		}
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Mode: e.mode, Uid: e.uid, Gid: e.uid, Size: int64(len(e.body)), Linkname: e.link, Devmajor: e.major, Devminor: e.minor, Format: tar.FormatPAX}
		for k, v := range e.xattr {
			if h.PAXRecords == nil {
				h.PAXRecords = make(map[string]string)
			}
			h.PAXRecords["SCHILY.xattr."+k] = v
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstded(t testing.TB, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(data, nil)
}

// blobLayer is a layer whose stored form is given.
type blobLayer struct {
	v1.Layer
	diff v1.Hash
}

func (l blobLayer) DiffID() (v1.Hash, error) { return l.diff, nil }

func layerFrom(t testing.TB, plain, stored []byte, kind types.MediaType) v1.Layer {
	t.Helper()
	diff, err := v1.NewHash(digest.FromBytes(plain).String())
	if err != nil {
		t.Fatal(err)
	}
	return blobLayer{static.NewLayer(stored, kind), diff}
}

func imageFrom(t testing.TB, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layers...)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", "amd64"
	img, err = mutate.ConfigFile(img, c)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func imageOf(t testing.TB, layers ...[]entry) v1.Image {
	t.Helper()
	var list []v1.Layer
	for _, l := range layers {
		plain := archiveOf(t, l...)
		list = append(list, layerFrom(t, plain, gzipped(t, plain), types.OCILayer))
	}
	return imageFrom(t, list...)
}

// within mounts the file tree of an image that s has.
func within(t *testing.T, s *Service, img v1.Image, f func(root string)) {
	t.Helper()
	ctx := s.context(context.Background())
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	var chain digest.Digest
	for i, d := range c.RootFS.DiffIDs {
		if i == 0 {
			chain = digest.Digest(d.String())
			continue
		}
		chain = digest.FromString(chain.String() + " " + d.String())
	}
	mounts, err := s.layers.View(ctx, "view-"+t.Name(), chain.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := mount.WithReadonlyTempMount(ctx, mounts, func(root string) error { f(root); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := s.layers.Remove(ctx, "view-"+t.Name()); err != nil {
		t.Fatal(err)
	}
}

// tree lists a folder: one line for each entry, files with their content.
func tree(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		switch {
		case d.IsDir():
			fmt.Fprintf(&b, "%s/\n", rel)
		case d.Type().IsRegular():
			body, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "%s=%s\n", rel, body)
		case d.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "%s->%s\n", rel, to)
		default:
			fmt.Fprintf(&b, "%s %s\n", rel, d.Type())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestLayersBuildOnEachOther(t *testing.T) {
	base := []entry{dir("d"), file("d/a", "1"), file("d/b", "1"), dir("usr"), dir("usr/lib"), {name: "lib", kind: tar.TypeSymlink, link: "usr/lib"}, file("usr/lib/x", "1")}
	for _, c := range []struct {
		name   string
		layers [][]entry
		want   string
	}{
		{"whiteout", [][]entry{base, {dir("d"), file("d/.wh.a", "")}}, "d/\nd/b=1\nlib->usr/lib\nusr/\nusr/lib/\nusr/lib/x=1\n"},
		{"whiteout of a folder", [][]entry{base, {file(".wh.d", "")}}, "lib->usr/lib\nusr/\nusr/lib/\nusr/lib/x=1\n"},
		{"opaque", [][]entry{base, {dir("d"), file("d/.wh..wh..opq", ""), file("d/c", "2")}}, "d/\nd/c=2\nlib->usr/lib\nusr/\nusr/lib/\nusr/lib/x=1\n"},
		{"opaque after its files", [][]entry{base, {dir("d"), file("d/c", "2"), file("d/.wh..wh..opq", "")}}, "d/\nd/c=2\nlib->usr/lib\nusr/\nusr/lib/\nusr/lib/x=1\n"},
		{"hidden and made anew", [][]entry{base, {file(".wh.d", ""), dir("d"), file("d/c", "2")}}, "d/\nd/c=2\nlib->usr/lib\nusr/\nusr/lib/\nusr/lib/x=1\n"},
		{"hidden after it was made anew", [][]entry{base, {dir("d"), file("d/c", "2"), file(".wh.d", "")}}, "d/\nd/c=2\nlib->usr/lib\nusr/\nusr/lib/\nusr/lib/x=1\n"},
		{"a file in a folder of the layers below, which is then hidden", [][]entry{base, {file("d/c", "2"), file(".wh.d", "")}}, "d/\nd/c=2\nlib->usr/lib\nusr/\nusr/lib/\nusr/lib/x=1\n"},
		{"folder becomes a link within a layer", [][]entry{base, {dir("e"), dir("e/f"), {name: "e", kind: tar.TypeSymlink, link: "d"}, file("e/f", "2")}}, "d/\nd/a=1\nd/b=1\nd/f=2\ne->d\nlib->usr/lib\nusr/\nusr/lib/\nusr/lib/x=1\n"},
		{"opaque root", [][]entry{base, {file(".wh..wh..opq", ""), file("c", "2")}}, "c=2\n"},
		{"opaque root after its files", [][]entry{base, {dir("d"), file("d/c", "2"), file("./.wh..wh..opq", "")}}, "d/\nd/c=2\n"},
		{"opaque folder that only the layers below have", [][]entry{base, {file("usr/lib/.wh..wh..opq", ""), file("usr/lib/y", "2")}}, "d/\nd/a=1\nd/b=1\nlib->usr/lib\nusr/\nusr/lib/\nusr/lib/y=2\n"},
		{"whiteout after the file", [][]entry{base, {dir("d"), file("d/a", "2"), file("d/.wh.a", "")}}, "d/\nd/a=2\nd/b=1\nlib->usr/lib\nusr/\nusr/lib/\nusr/lib/x=1\n"},
		{"link to a lower file", [][]entry{base, {dir("d"), {name: "d/c", kind: tar.TypeLink, link: "d/a"}}}, "d/\nd/a=1\nd/b=1\nd/c=1\nlib->usr/lib\nusr/\nusr/lib/\nusr/lib/x=1\n"},
		{"link two layers down", [][]entry{base, {file("z", "2")}, {{name: "c", kind: tar.TypeLink, link: "usr/lib/x"}}}, "c=1\nd/\nd/a=1\nd/b=1\nlib->usr/lib\nusr/\nusr/lib/\nusr/lib/x=1\nz=2\n"},
		{"through a symbolic link below", [][]entry{base, {file("lib/y", "2")}}, "d/\nd/a=1\nd/b=1\nlib->usr/lib\nusr/\nusr/lib/\nusr/lib/x=1\nusr/lib/y=2\n"},
		{"parent only below", [][]entry{base, {file("usr/lib/y", "2")}}, "d/\nd/a=1\nd/b=1\nlib->usr/lib\nusr/\nusr/lib/\nusr/lib/x=1\nusr/lib/y=2\n"},
		{"file becomes folder", [][]entry{base, {dir("d"), dir("d/a"), file("d/a/f", "2")}}, "d/\nd/a/\nd/a/f=2\nd/b=1\nlib->usr/lib\nusr/\nusr/lib/\nusr/lib/x=1\n"},
		{"folder becomes file", [][]entry{base, {file("d", "2")}}, "d=2\nlib->usr/lib\nusr/\nusr/lib/\nusr/lib/x=1\n"},
		{"absolute", [][]entry{base, {file("/d2", "2"), {name: "l", kind: tar.TypeSymlink, link: "/etc"}}}, "d/\nd/a=1\nd/b=1\nd2=2\nl->/etc\nlib->usr/lib\nusr/\nusr/lib/\nusr/lib/x=1\n"},
		{"same layer twice", [][]entry{{file("q", "1")}, {file("q", "1")}, {file("r", "1")}}, "q=1\nr=1\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			reg := newFake(t)
			img := imageOf(t, c.layers...)
			reg.push("x:1", img)
			s := open(t, registry.Config{})
			reg.pull(s, "x:1")
			within(t, s, img, func(root string) {
				if got := tree(t, root); got != c.want {
					t.Errorf("got\n%swant\n%s", got, c.want)
				}
			})
		})
	}
}

func TestPermissionsOfAParentBelowAreKept(t *testing.T) {
	reg := newFake(t)
	img := imageOf(t, []entry{{name: "tmp", kind: tar.TypeDir, mode: 0o1777, uid: 7}}, []entry{file("tmp/f", "x")})
	reg.push("x:1", img)
	s := open(t, registry.Config{})
	reg.pull(s, "x:1")
	within(t, s, img, func(root string) {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(root, "tmp"), &st); err != nil {
			t.Fatal(err)
		}
		if st.Mode&0o7777 != 0o1777 || st.Uid != 7 {
			t.Errorf("mode %o, uid %d", st.Mode&0o7777, st.Uid)
		}
	})
}

func TestSpecialFiles(t *testing.T) {
	reg := newFake(t)
	img := imageOf(t,
		[]entry{file("base", "")},
		[]entry{
			{name: "null", kind: tar.TypeChar, major: 1, minor: 3, mode: 0o666},
			{name: "pipe", kind: tar.TypeFifo},
			{name: "suid", body: "x", mode: 0o4755, uid: 42},
			{name: "cap", body: "x", xattr: map[string]string{"user.hello": "world", "trusted.overlay.redirect": "/etc"}},
			{name: "one", body: "1"}, {name: "two", kind: tar.TypeLink, link: "one"},
		})
	reg.push("x:1", img)
	s := open(t, registry.Config{})
	reg.pull(s, "x:1")
	within(t, s, img, func(root string) {
		st := func(n string) *syscall.Stat_t {
			i, err := os.Lstat(filepath.Join(root, n))
			if err != nil {
				t.Fatal(err)
			}
			return i.Sys().(*syscall.Stat_t)
		}
		if n := st("null"); n.Mode&syscall.S_IFMT != syscall.S_IFCHR || n.Rdev != unix.Mkdev(1, 3) {
			t.Errorf("null is %o, device %d", n.Mode, n.Rdev)
		}
		if st("pipe").Mode&syscall.S_IFMT != syscall.S_IFIFO {
			t.Error("pipe is no pipe")
		}
		if n := st("suid"); n.Mode&0o7777 != 0o4755 || n.Uid != 42 {
			t.Errorf("suid is %o of %d", n.Mode, n.Uid)
		}
		if st("one").Ino != st("two").Ino {
			t.Error("a hard link became a copy")
		}
		buf := make([]byte, 64)
		if n, err := unix.Getxattr(filepath.Join(root, "cap"), "user.hello", buf); err == nil && string(buf[:n]) != "world" || err != nil && !errors.Is(err, unix.ENOTSUP) {
			t.Errorf("attribute: %q, %v", buf[:max(n, 0)], err)
		}
		if _, err := unix.Getxattr(filepath.Join(root, "cap"), "trusted.overlay.redirect", buf); err == nil {
			t.Error("an image could set an attribute of overlay's")
		}
	})
}

func TestCompressions(t *testing.T) {
	plain := archiveOf(t, file("a", strings.Repeat("hello ", 1000)))
	two := archiveOf(t, file("b", "2"))
	three := archiveOf(t, file("c", "3"))
	reg := newFake(t)
	img := imageFrom(t,
		layerFrom(t, plain, zstded(t, plain), types.OCILayerZStd),
		layerFrom(t, two, two, types.OCIUncompressedLayer),
		layerFrom(t, three, append(gzipped(t, three[:512]), gzipped(t, three[512:])...), types.DockerLayer), // pigz and others write members
	)
	reg.push("x:1", img)
	s := open(t, registry.Config{})
	reg.pull(s, "x:1")
	within(t, s, img, func(root string) {
		if got := tree(t, root); len(got) != 6011 {
			t.Errorf("got %d bytes:\n%.100s", len(got), got)
		}
	})
}

// Some tools write a layer without files as an archive without a byte.
func TestEmptyLayers(t *testing.T) {
	reg := newFake(t)
	first, last := archiveOf(t, file("a", "1")), archiveOf(t, file("b", "2"))
	end := make([]byte, 1024)
	last = last[:len(last)-1024] // and some archives have no end
	img := imageFrom(t,
		layerFrom(t, nil, gzipped(t, nil), types.OCILayer),
		layerFrom(t, first, gzipped(t, first), types.OCILayer),
		layerFrom(t, nil, gzipped(t, nil), types.OCILayer),
		layerFrom(t, nil, zstded(t, nil), types.OCILayerZStd),
		layerFrom(t, end, gzipped(t, end), types.OCILayer),
		layerFrom(t, last, gzipped(t, last), types.OCILayer),
	)
	reg.push("x:1", img)
	s := open(t, registry.Config{})
	reg.pull(s, "x:1")
	within(t, s, img, func(root string) {
		if got := tree(t, root); strings.TrimSpace(got) != "a=1\nb=2" {
			t.Errorf("got %s", got)
		}
	})
}

func TestWrongDiffID(t *testing.T) {
	reg := newFake(t)
	plain := archiveOf(t, file("a", "1"))
	other := archiveOf(t, file("a", "2"))
	reg.push("x:1", imageFrom(t, layerFrom(t, other, gzipped(t, plain), types.OCILayer)))
	s := open(t, registry.Config{})
	_, err := reg.try(s, "x:1")
	if !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), "wrong diff id") {
		t.Fatalf("got %v", err)
	}
	nothingLeft(t, s)
}

func TestBrokenLayers(t *testing.T) {
	whole := archiveOf(t, file("a", strings.Repeat("x", 5000)))
	for name, c := range map[string]struct {
		plain, stored []byte
		want          string
	}{
		"cut gzip":       {whole, gzipped(t, whole)[:40], "it is no whole tar archive: unexpected EOF"},
		"cut tar":        {whole[:3000], gzipped(t, whole[:3000]), "it is no whole tar archive: unexpected EOF"},
		"cut zstd":       {whole, zstded(t, whole)[:30], "it is no whole tar archive: unexpected EOF"},
		"not tar":        {[]byte(strings.Repeat("hello", 300)), gzipped(t, []byte(strings.Repeat("hello", 300))), "it is no whole tar archive: archive/tar: invalid tar header"},
		"link to naught": {archiveOf(t, entry{name: "a", kind: tar.TypeLink, link: "/b"}), gzipped(t, archiveOf(t, entry{name: "a", kind: tar.TypeLink, link: "/b"})), "cannot be unpacked: link /b /a: no such file or directory: the image is broken"},
	} {
		t.Run(name, func(t *testing.T) {
			reg := newFake(t)
			reg.push("x:1", imageFrom(t, layerFrom(t, c.plain, c.stored, types.OCILayer)))
			s := open(t, registry.Config{})
			_, err := reg.try(s, "x:1")
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), s.root) {
				t.Errorf("got %v", err)
			}
			nothingLeft(t, s)
		})
	}
}

// A full disk is said, and what was half downloaded does not keep it full.
func TestAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=12m"); err == unix.EPERM {
		t.Skip("a small disk is a tmpfs, which only root may mount")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil { // a probe of containerd's leaves a descriptor to the collector
			t.Error(err)
		}
	})
	for name, size := range map[string]int{"download": 20 << 20, "unpack": 7 << 20} {
		t.Run(name, func(t *testing.T) {
			reg := newFake(t)
			reg.push("x:1", imageOf(t, []entry{file("a", noise(size))}))
			reg.push("y:1", imageOf(t, []entry{file("b", "2")}))
			s, err := Open(context.Background(), Options{Root: filepath.Join(dir, name)})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if _, err := reg.try(s, "x:1"); !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "no space left on device: the disk of "+s.root+" is full") {
				t.Errorf("got %v", err)
			}
			nothingLeft(t, s)
			if left := ingests(t, s); len(left) > 0 {
				t.Errorf("half downloaded: %v", left)
			}
			big := archiveOf(t, file("c", noise(20<<20)))
			err = s.Import(t.Context(), ImportRequest{Source: "-", Body: bytes.NewReader(big)}, nil)
			if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "no space left on device: the disk of "+s.root+" is full") || strings.Contains(err.Error(), "archive") {
				t.Errorf("import: %v", err)
			}
			nothingLeft(t, s)
			reg.pull(s, "y:1") // the store is whole
		})
	}
}

func TestUnpackLocalContent(t *testing.T) {
	reg := newFake(t)
	img := imageOf(t, []entry{dir("d"), file("d/a", "1")}, []entry{file("d/b", "2")})
	reg.push("x:1", img)
	s := open(t, registry.Config{})
	reg.pull(s, "x:1")
	ctx, release, err := s.lease(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	all, err := s.names.List(ctx)
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	var chains []string
	c, _ := img.ConfigFile()
	chain := digest.Digest(c.RootFS.DiffIDs[0].String())
	chains = append(chains, digest.FromString(chain.String()+" "+c.RootFS.DiffIDs[1].String()).String(), chain.String())
	for _, name := range chains {
		if err := s.layers.Remove(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.unpack(ctx, all[0].Target, nil, unseen); err != nil {
		t.Fatal(err)
	}
	within(t, s, img, func(root string) {
		if got := tree(t, root); got != "d/\nd/a=1\nd/b=2\n" {
			t.Errorf("got %s", got)
		}
	})
}

func TestManyLayers(t *testing.T) {
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	reg := newFake(t)
	layers := [][]entry{{file("first", "1")}}
	for i := range 119 {
		layers = append(layers, []entry{file(fmt.Sprint("f", i), "x")})
	}
	layers = append(layers, []entry{{name: "linked", kind: tar.TypeLink, link: "first"}})
	img := imageOf(t, layers...)
	reg.push("x:1", img)
	s := open(t, registry.Config{})
	reg.pull(s, "x:1")
	within(t, s, img, func(root string) {
		if got := tree(t, root); strings.Count(got, "\n") != 121 || !strings.HasSuffix(got, "linked=1\n") {
			t.Errorf("got %d lines", strings.Count(got, "\n"))
		}
	})
	after, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(after), s.root) > strings.Count(string(before), s.root) {
		t.Errorf("a mount was left:\n%s", after)
	}
}

func TestAnImageOfTooManyLayersIsRefused(t *testing.T) {
	reg := newFake(t)
	layers := make([][]entry, maxLayers+1)
	for i := range layers {
		layers[i] = []entry{file("f", "x")}
	}
	reg.push("x:1", imageOf(t, layers...))
	s := open(t, registry.Config{})
	if _, err := reg.try(s, "x:1"); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "at most 500 can be stacked") {
		t.Errorf("got %v", err)
	}
	nothingLeft(t, s)
}
