package image

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/image/check"
	"hezi/internal/image/registry"
)

// checked is what a check reports; a problem is "KIND WHAT | DETAILS".
func checked(t *testing.T, s *Service, repair bool) (*check.Report, []string) {
	t.Helper()
	var told []string
	report, err := Upkeep{s}.Check(t.Context(), CheckRequest{Options: check.Options{Content: true, Repair: repair}}, func(e check.Event) {
		if e.Problem != nil {
			told = append(told, e.Problem.Kind+" "+e.Problem.What+" | "+strings.Join(e.Problem.Details, ", "))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(told) != len(report.Problems) {
		t.Errorf("told %d problems of %d", len(told), len(report.Problems))
	}
	return report, told
}

// threeLayers is an image on a registry that is pulled: its second layer
// stands alone, its third needs those below.
func threeLayers(t *testing.T, s *Service, reg *fake) v1.Image {
	t.Helper()
	img := imageOf(t,
		[]entry{dir("bin"), file("bin/sh", noise(30_000)), file("etc/empty", "")},
		[]entry{dir("lib"), file("lib/a", noise(200_000)), file("lib/b", "b")},
		[]entry{file("bin/new", "new"), file("bin/.wh.sh", "")},
	)
	reg.push("x:1", img)
	reg.pull(s, "x:1")
	return img
}

func blobPath(s *Service, d fmt.Stringer) string {
	return filepath.Join(s.root, "content", "blobs", "sha256", strings.TrimPrefix(d.String(), "sha256:"))
}

// layerFolders are the layers' folders, lowest first.
func layerFolders(t *testing.T, s *Service, ref string) []string {
	t.Helper()
	img, err := s.Resolve(t.Context(), ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, c := range img.Layers {
		info, err := s.layers.Stat(s.context(t.Context()), c.String())
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, info.Labels[upperLabel])
	}
	return out
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// overwrite changes bytes in place and keeps the time.
func overwrite(t *testing.T, path string, at int64, with string) {
	t.Helper()
	st, err := os.Stat(path)
	must(t, err)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte(with), at)
	must(t, err, f.Close(), os.Chtimes(path, time.Time{}, st.ModTime()))
}

func TestCheckFindsAndRepairs(t *testing.T) {
	reg := newFake(t)
	s := open(t, registry.Config{Insecure: []string{reg.addr}})
	img := threeLayers(t, s, reg)
	if report, told := checked(t, s, false); report.Remaining != 0 || report.Images != 1 || report.Blobs != 5 || report.Layers != 3 || len(report.Unverified) > 0 || report.Bytes == 0 {
		t.Fatalf("a whole store: %+v %q", report, told)
	}
	manifest, err := img.Digest()
	must(t, err)
	config, err := img.ConfigName()
	must(t, err)
	list, err := img.Layers()
	must(t, err)
	var blobs []string
	for _, l := range list {
		d, err := l.Digest()
		must(t, err)
		blobs = append(blobs, blobPath(s, d))
	}
	dirs := layerFolders(t, s, reg.addr+"/x:1")
	for name, c := range map[string]struct {
		damage func()
		want   []string
	}{
		"an empty blob":            {func() { must(t, os.Chmod(blobs[0], 0o644), os.Truncate(blobs[0], 0)) }, []string{"blob is empty: it had "}},
		"a truncated blob":         {func() { must(t, os.Truncate(blobs[1], 1000)) }, []string{"blob is truncated: 1000 of "}},
		"a changed blob":           {func() { overwrite(t, blobs[1], 5000, "x!") }, []string{"blob has other content than its digest says"}},
		"a missing blob":           {func() { must(t, os.Remove(blobs[2])) }, []string{"blob is missing"}},
		"a changed config":         {func() { overwrite(t, blobPath(s, config), 3, "#") }, []string{"blob has other content than its digest says"}},
		"an empty manifest":        {func() { must(t, os.Truncate(blobPath(s, manifest), 0)) }, []string{"blob is empty: it had "}},
		"everything of an image":   {func() { must(t, os.RemoveAll(filepath.Dir(blobs[0]))) }, []string{"blob is missing", "blob is missing", "blob is missing", "blob is missing", "blob is missing"}},
		"an empty file":            {func() { must(t, os.Truncate(filepath.Join(dirs[0], "bin/sh"), 0)) }, []string{"layer has 1 file that is not as unpacked | /bin/sh is empty: it had 30000 bytes"}},
		"a missing file":           {func() { must(t, os.Remove(filepath.Join(dirs[1], "lib/b"))) }, []string{"layer has 1 file that is not as unpacked | /lib/b is missing"}},
		"a changed file":           {func() { overwrite(t, filepath.Join(dirs[1], "lib/a"), 100_000, "?") }, []string{"layer has 1 file that is not as unpacked | /lib/a has other content"}},
		"a missing whiteout":       {func() { must(t, os.Remove(filepath.Join(dirs[2], "bin/sh"))) }, []string{"layer has 1 file that is not as unpacked | /bin/sh is missing"}},
		"a missing layer":          {func() { must(t, os.RemoveAll(dirs[1])) }, []string{"layer is missing: its folder is not there"}},
		"a layer's whole place":    {func() { must(t, os.RemoveAll(filepath.Dir(dirs[0]))) }, []string{"layer is missing: its folder is not there"}},
		"a layer and its blob":     {func() { must(t, os.RemoveAll(dirs[2]), os.Remove(blobs[2])) }, []string{"blob is missing", "layer is missing: its folder is not there"}},
		"two layers, one on other": {func() { must(t, os.RemoveAll(dirs[0]), os.RemoveAll(dirs[2])) }, []string{"layer is missing: its folder is not there", "layer is missing: its folder is not there"}},
		"the names of the files, and one": {func() {
			must(t, os.Remove(filepath.Join(filepath.Dir(dirs[1]), "tree.zst")))
			overwrite(t, filepath.Join(dirs[1], "lib/b"), 0, "c")
		}, []string{"layer has other files than it had when it was unpacked"}},
	} {
		c.damage()
		for _, repair := range []bool{false, true} {
			report, told := checked(t, s, repair)
			if len(told) != len(c.want) || !slices.EqualFunc(told, c.want, strings.HasPrefix) {
				t.Errorf("%s: %q, not %q", name, told, c.want)
			}
			if repair && (report.Repaired != len(c.want) || report.Remaining != 0) || !repair && report.Remaining != len(c.want) {
				t.Errorf("%s: %+v", name, report)
			}
			for _, p := range report.Problems {
				if len(p.Images) == 0 || !strings.HasPrefix(p.Images[0], reg.addr+"/x") {
					t.Errorf("%s: the image is not named: %q", name, p.Images)
				}
			}
		}
		if _, told := checked(t, s, false); len(told) > 0 {
			t.Fatalf("%s: after the repair: %q", name, told)
		}
		within(t, s, img, func(root string) {
			if _, err := os.Stat(filepath.Join(root, "bin/sh")); !os.IsNotExist(err) {
				t.Errorf("%s: bin/sh is hidden by the third layer: %v", name, err)
			}
			if b, err := os.ReadFile(filepath.Join(root, "lib/a")); err != nil || string(b) != noise(200_000) {
				t.Errorf("%s: lib/a has %d bytes, %v", name, len(b), err)
			}
		})
	}
}

// What no registry has stays bad, and is said to.
func TestCheckSaysWhatCannotBeRepaired(t *testing.T) {
	s := open(t, registry.Config{})
	load(t, s, saved(t, small(t, "loaded"), "127.0.0.1:1/loaded:1"))
	must(t, os.Remove(layerBlob(t, s, "127.0.0.1:1/loaded:1")))
	report, told := checked(t, s, true)
	if len(told) != 1 || report.Remaining != 1 || !strings.Contains(report.Problems[0].Remedy, "it cannot be fetched: ") {
		t.Errorf("%q %+v", told, report)
	}
}

// A layer without a record is compared with its blob.
func TestCheckComparesWithTheBlob(t *testing.T) {
	s := open(t, registry.Config{})
	load(t, s, saved(t, small(t, "loaded"), "loaded:1"))
	if _, told := checked(t, s, false); len(told) > 0 {
		t.Fatal(told)
	}
	dirs := layerFolders(t, s, "loaded:1")
	forget := func() {
		img, err := s.Resolve(t.Context(), "loaded:1", nil)
		must(t, err)
		_, err = s.layers.Update(s.context(t.Context()), snapshots.Info{Name: img.Layers[0].String(), Labels: map[string]string{}}, "labels."+check.TreeLabel)
		must(t, err)
	}
	forget()
	if report, told := checked(t, s, false); len(told) > 0 || len(report.Unverified) > 0 {
		t.Errorf("a good layer: %q %+v", told, report)
	}
	info, err := s.layers.Stat(s.context(t.Context()), chainOf(t, s, "loaded:1"))
	must(t, err)
	if info.Labels[check.TreeLabel] == "" {
		t.Error("what was found good was not recorded")
	}
	forget()
	must(t, os.Truncate(filepath.Join(dirs[0], "d/text"), 0))
	if _, told := checked(t, s, false); len(told) != 1 || told[0] != "layer is not what its blob holds: 1 file is different | /d/text is empty: it had 6 bytes" {
		t.Errorf("a bad layer: %q", told)
	}
	if report, _ := checked(t, s, true); report.Repaired != 1 {
		t.Errorf("%+v", report)
	}
	forget()
	must(t, os.Remove(layerBlob(t, s, "loaded:1")))
	if report, _ := checked(t, s, false); len(report.Unverified) != 1 {
		t.Errorf("%+v", report)
	}
	if entries := files(t, filepath.Join(s.root, "layers/snapshots")); len(entries) != 1 {
		s.CollectGarbage(t.Context())
		if entries = files(t, filepath.Join(s.root, "layers/snapshots")); len(entries) != 1 {
			t.Errorf("left: %v", entries)
		}
	}
}

func mustResolve(t *testing.T, s *Service, ref string) *Image {
	t.Helper()
	img, err := s.Resolve(t.Context(), ref, nil)
	must(t, err)
	return img
}

// layerBlob is the file of an image's first layer.
func layerBlob(t *testing.T, s *Service, ref string) string {
	t.Helper()
	var m ocispec.Manifest
	must(t, s.readJSON(s.context(t.Context()), mustResolve(t, s, ref).Manifest, &m))
	return blobPath(s, m.Layers[0].Digest)
}

func chainOf(t *testing.T, s *Service, ref string) string {
	t.Helper()
	return mustResolve(t, s, ref).Layers[0].String()
}

// Under a running container nothing is replaced.
func TestCheckLeavesWhatRuns(t *testing.T) {
	root := t.TempDir()
	running := []string{"0123456789abcdef"}
	s, err := Open(context.Background(), Options{Root: root, InUse: func(context.Context, digest.Digest) ([]string, []string) { return running, nil }})
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	load(t, s, saved(t, small(t, "loaded"), "loaded:1"))
	s.trees.Drain(t.Context())
	file := filepath.Join(layerFolders(t, s, "loaded:1")[0], "d/text")
	must(t, os.Truncate(file, 0))
	report, _ := checked(t, s, true)
	if report.Remaining != 1 || !slices.Equal(report.Problems[0].Containers, running) || !strings.Contains(report.Problems[0].Remedy, "hezi stop 0123456789ab") {
		t.Errorf("%+v", report)
	}
	running = nil
	if report, _ := checked(t, s, true); report.Repaired != 1 {
		t.Errorf("%+v", report)
	}
	if b, err := os.ReadFile(file); string(b) != "loaded" {
		t.Errorf("%q, %v", b, err)
	}
}

// The snapshotter's own database can be lost: the layers are unpacked again.
func TestCheckResetsLostLayers(t *testing.T) {
	s, err := Open(context.Background(), Options{Root: t.TempDir()})
	must(t, err)
	load(t, s, saved(t, small(t, "one"), "one:1"))
	load(t, s, saved(t, small(t, "two"), "two:1"))
	must(t, s.Close(), os.Remove(filepath.Join(s.root, "layers/metadata.db")))
	s, err = Open(context.Background(), Options{Root: s.root})
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	if report, told := checked(t, s, false); report.Remaining != 1 || !strings.HasPrefix(told[0], "layer 2 layers are missing in layers/metadata.db") {
		t.Errorf("%q", told)
	}
	if report, told := checked(t, s, true); report.Repaired != 1 {
		t.Errorf("%q %+v", told, report)
	}
	for _, name := range []string{"one", "two"} {
		root, err := s.RootFS(t.Context(), mustResolve(t, s, name+":1"))
		must(t, err)
		if b, err := os.ReadFile(filepath.Join(root.Lower[0], "d/text")); string(b) != name {
			t.Errorf("%q, %v", b, err)
		}
	}
	if report, told := checked(t, s, false); report.Remaining != 0 || report.Layers != 2 {
		t.Errorf("%q %+v", told, report)
	}
}

// What was unpacked just before hezid was killed is recorded by the next one,
// unless the machine was started again in between.
func TestRecordsAreTakenUp(t *testing.T) {
	s, err := Open(context.Background(), Options{Root: t.TempDir()})
	must(t, err)
	load(t, s, saved(t, small(t, "x"), "x:1"))
	s = reopen(t, s)
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		info, err := s.layers.Stat(s.context(t.Context()), chainOf(t, s, "x:1"))
		must(t, err)
		if info.Labels[check.TreeLabel] != "" {
			b, err := os.ReadFile(filepath.Join(filepath.Dir(info.Labels[upperLabel]), "tree.zst"))
			if err != nil || !bytes.HasPrefix(b, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
				t.Error(err)
			}
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Error("nobody recorded the layer")
}
