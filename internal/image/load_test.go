package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/image/registry"
)

// tarred is a directory as an archive.
func tarred(t testing.TB, root string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(root)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func platformed(t testing.TB, img v1.Image, arch string) v1.Image {
	t.Helper()
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.Architecture, c.OS = arch, "linux"
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

func TestLoadOCILayout(t *testing.T) {
	s := open(t, registry.Config{})
	root := t.TempDir()
	index := v1.ImageIndex(empty.Index)
	for _, arch := range []string{"amd64", "arm64"} {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        platformed(t, small(t, arch), arch),
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	p, err := layout.Write(root, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "example.org/multi:2"})); err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(small(t, "unnamed"), layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "No Name"})); err != nil {
		t.Fatal(err)
	}
	out := load(t, s, zstded(t, tarred(t, root)))
	if !strings.Contains(out, "Loaded image: example.org/multi:2\n") || !strings.Contains(out, "Loaded image ID: sha256:") {
		t.Errorf("%q", out)
	}
	ctx := t.Context()
	for _, arch := range []string{"amd64", "arm64"} {
		img, err := s.Resolve(ctx, "example.org/multi:2", &ocispec.Platform{OS: "linux", Architecture: arch})
		if err != nil || img.Config.Architecture != arch {
			t.Fatalf("%s: %v", arch, err)
		}
		files, err := s.RootFS(ctx, img)
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := os.ReadFile(filepath.Join(files.Lower[0], "d/text")); string(b) != arch {
			t.Errorf("%s has the files of %q", arch, b)
		}
	}
	_, err = s.Resolve(ctx, "example.org/multi:2", &ocispec.Platform{OS: "linux", Architecture: "s390x"})
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "does not provide the specified platform (linux/s390x)") {
		t.Errorf("%v", err)
	}
	err = s.Load(ctx, bytes.NewReader(tarred(t, root)), []ocispec.Platform{{OS: "linux", Architecture: "s390x"}}, true, nil)
	if !errdefs.IsNotFound(err) {
		t.Errorf("%v", err)
	}
	list, err := s.List(ctx, ListOptions{Filters: map[string]map[string]bool{"dangling": {"true": true}}})
	if err != nil || len(list) != 1 {
		t.Fatalf("%v %v", list, err)
	}
	remove(t, s, list[0].ID, false)
	removePlatforms(t, s, "example.org/multi:2")
	remove(t, s, "example.org/multi:2", false)
	empty0(t, s)
}

// removePlatforms takes arm64 from an image of amd64 and arm64.
func removePlatforms(t *testing.T, s *Service, ref string) {
	t.Helper()
	ctx := t.Context()
	arm, amd := ocispec.Platform{OS: "linux", Architecture: "arm64"}, ocispec.Platform{OS: "linux", Architecture: "amd64"}
	try := func(p ...ocispec.Platform) error {
		_, err := s.Remove(ctx, ref, RemoveOptions{Platforms: p})
		return err
	}
	if err := try(ocispec.Platform{OS: "linux", Architecture: "s390x"}); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "has no platform linux/s390x here") {
		t.Error(err)
	}
	if err := try(arm, amd); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "the only platform") {
		t.Error(err)
	}
	img, err := s.Resolve(ctx, ref, &arm)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Pin(ctx, img, "c"); err != nil {
		t.Fatal(err)
	}
	if err := try(arm); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "is being used by a container") {
		t.Error(err)
	}
	if err := s.Unpin(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	blobs, layers := left(t, s)
	list, err := s.Remove(ctx, ref, RemoveOptions{Platforms: []ocispec.Platform{arm}})
	if err != nil || len(list) != 1 || list[0].Deleted != img.Manifest.Digest.String() {
		t.Fatal(list, err)
	}
	if b, l := left(t, s); b != blobs-3 || l != layers-1 { // manifest, config and layer
		t.Errorf("%d blobs and %d layers became %d and %d", blobs, layers, b, l)
	}
	if err := s.Pin(ctx, img, "c"); !errdefs.IsNotFound(err) { // resolved before, pinned after
		t.Error(err)
	}
	if _, err := s.Resolve(ctx, ref, &arm); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	in, err := s.Inspect(ctx, ref, nil, false)
	if err != nil || in.Architecture != "amd64" {
		t.Error(in, err)
	}
	if in, err = s.Inspect(ctx, ref, &amd, false); err != nil || in.ID == "" || in.ID != in.Descriptor.Digest.String() || in.ID == img.ID.String() {
		t.Error(in, err)
	}
}

func TestLoadOldArchive(t *testing.T) {
	s := open(t, registry.Config{})
	one, two := archiveOf(t, file("a", "1"), file("b", "1"), dir("gone"), file("gone/x", "y")), archiveOf(t, file("a", "2"), file(".wh.b", ""), file(".wh.gone", ""), entry{name: "null", kind: tar.TypeChar, major: 1, minor: 3, mode: 0o666})
	config, err := json.Marshal(map[string]any{"architecture": "amd64", "os": "linux", "config": map[string]any{"Cmd": []string{"x"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digestOf(one), digestOf(two)}}})
	if err != nil {
		t.Fatal(err)
	}
	manifest := `[{"Config":"config.json","RepoTags":["old:1"],"Layers":["1/layer.tar","2/layer.tar"]}]`
	archive := archiveOf(t, file("repositories", "{}"), file("1/VERSION", "1.0"), file("1/layer.tar", string(one)), file("2/layer.tar", string(two)), file("config.json", string(config)), file("manifest.json", manifest))
	if out := load(t, s, archive); out != "Loaded image: old:1\n" {
		t.Errorf("%q", out)
	}
	img, err := s.Resolve(t.Context(), "old:1", nil)
	if err != nil {
		t.Fatal(err)
	}
	root, err := s.RootFS(t.Context(), img)
	if err != nil || len(root.Lower) != 2 {
		t.Fatalf("%v %v", root, err)
	}
	if b, err := os.ReadFile(filepath.Join(root.Lower[0], "a")); err != nil || string(b) != "2" {
		t.Errorf("the topmost layer is not first: %q %v", b, err)
	}
	for _, gone := range []string{"b", "gone", "null"} {
		if st, err := os.Lstat(filepath.Join(root.Lower[0], gone)); err != nil || st.Mode()&fs.ModeCharDevice == 0 {
			t.Errorf("%s: %v %v", gone, st, err)
		}
	}
	var seen []string
	remove(t, s, "old:1", false)
	if err := s.Load(t.Context(), bytes.NewReader(archive), nil, false, func(m jsonstream.Message) { seen = append(seen, m.ID+" "+m.Status+m.Stream) }); err != nil {
		t.Fatal(err)
	}
	first := slices.Index(seen, digestOf(one)[7:19]+" Load complete")
	second := slices.Index(seen, digestOf(two)[7:19]+" Load complete")
	if len(seen) == 0 || seen[0] != "archive Reading" || first < 0 || second < first || seen[len(seen)-1] != " Loaded image: old:1\n" {
		t.Errorf("%q", seen)
	}
	// Digests of layers are those that the config names.
	bad := bytes.Replace(archive, []byte(digestOf(two)), []byte(digestOf([]byte("other"))), 1)
	if err := s.Load(t.Context(), bytes.NewReader(bad), nil, true, nil); err == nil {
		t.Error("a layer that is not what the config says was loaded")
	}
	remove(t, s, "old:1", false)
	empty0(t, s)
}

func TestLoadsSideBySideAndCutOff(t *testing.T) {
	s := open(t, registry.Config{})
	var group sync.WaitGroup
	for i := range 6 {
		archive := saved(t, small(t, fmt.Sprint(i, noise(20_000))), fmt.Sprintf("side:%d", i))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		group.Go(func() {
			r := io.Reader(bytes.NewReader(archive))
			if i%2 == 1 { // this client goes away in the middle
				pr, pw := io.Pipe()
				r = pr
				go func() {
					_, _ = pw.Write(archive[:len(archive)/2])
					cancel()
					pw.CloseWithError(io.ErrUnexpectedEOF)
				}()
			}
			if err := s.Load(ctx, r, nil, true, nil); (err == nil) == (i%2 == 1) {
				t.Errorf("load %d: %v", i, err)
			}
		})
	}
	group.Wait()
	for i := 0; i < 6; i += 2 {
		remove(t, s, fmt.Sprintf("side:%d", i), false)
	}
	empty0(t, s)
}

func TestImagesSurviveReopening(t *testing.T) {
	root := t.TempDir()
	s, err := Open(t.Context(), Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	load(t, s, saved(t, small(t, "stays"), "stays:1"))
	if _, err := Open(t.Context(), Options{Root: root}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "in use by another hezid") {
		t.Errorf("%v", err)
	}
	// What a killed hezid left: a lease, and content that only it holds.
	lctx, _, err := s.lease(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.writeLayer(lctx, bytes.NewReader(archiveOf(t, file("x", "y")))); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if s, err = Open(t.Context(), Options{Root: root}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	t.Logf("opened in %v", time.Since(begin))
	img, err := s.Resolve(t.Context(), "stays:1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.RootFS(t.Context(), img); err != nil {
		t.Fatal(err)
	}
	s.background.Wait()
	if b, l := left(t, s); b != 3 || l != 1 {
		t.Errorf("%d blobs and %d layers, want 3 and 1", b, l)
	}
}

func BenchmarkWarmImage(b *testing.B) {
	s, err := Open(b.Context(), Options{Root: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	load(b, s, saved(b, small(b, "bench"), "bench:1"))
	for b.Loop() {
		img, err := s.Resolve(b.Context(), "bench:1", nil)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Pin(b.Context(), img, "c"); err != nil {
			b.Fatal(err)
		}
		if _, err := s.RootFS(b.Context(), img); err != nil {
			b.Fatal(err)
		}
		if err := s.Unpin(b.Context(), "c"); err != nil {
			b.Fatal(err)
		}
	}
}

func digestOf(b []byte) string { return digest.FromBytes(b).String() }
