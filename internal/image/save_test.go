package image

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/image/registry"
)

func save(t testing.TB, s *Service, wanted []ocispec.Platform, refs ...string) []byte {
	t.Helper()
	a, err := s.Save(t.Context(), refs, wanted)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	var b bytes.Buffer
	if err := a.Write(&b); err != nil {
		t.Fatal(err)
	}
	if int64(b.Len()) != a.Size() {
		t.Errorf("%d bytes, said were %d", b.Len(), a.Size())
	}
	return b.Bytes()
}

// ids are the names and ids of what a service has: "a:1=sha256:...".
func ids(t *testing.T, s *Service) (list []string) {
	t.Helper()
	all, err := s.List(t.Context(), ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if len(i.RepoTags) == 0 {
			list = append(list, "="+i.ID)
		}
		for _, n := range i.RepoTags {
			list = append(list, n+"="+i.ID)
		}
	}
	slices.Sort(list)
	return list
}

// sharing are two images with the same lowest layer.
func sharing(t *testing.T) (one, two v1.Image) {
	t.Helper()
	base := archiveOf(t, dir("d"), file("d/base", noise(200_000)))
	image := func(text string) v1.Image {
		top := archiveOf(t, dir("d"), file("d/top", text))
		return imageFrom(t, layerFrom(t, base, gzipped(t, base), types.OCILayer), layerFrom(t, top, zstded(t, top), types.OCILayerZStd))
	}
	return image("one"), image("two")
}

func TestSaveAndLoad(t *testing.T) {
	s, other := open(t, registry.Config{}), open(t, registry.Config{})
	var mu sync.Mutex
	var events []string
	s.announce = func(_, action, id string, attributes map[string]string) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, action+" "+id+" "+attributes["name"])
	}
	one, two := sharing(t)
	load(t, s, saved(t, one, "h.example/one:1", "one:latest", "one:old"))
	load(t, s, saved(t, two, "two:2"))
	blobs, layers := left(t, s)
	events = nil
	img, err := s.Resolve(t.Context(), "two:2", nil)
	if err != nil {
		t.Fatal(err)
	}
	first, err := s.Resolve(t.Context(), "one", nil)
	if err != nil {
		t.Fatal(err)
	}

	all := save(t, s, nil, "one", "two:2", "h.example/one:1") // both tags of one
	if want := []string{"save " + first.ID.String() + " " + first.ID.String(), "save " + img.ID.String() + " " + img.ID.String()}; !slices.Equal(events, want) {
		t.Errorf("%q", events)
	}
	if out := load(t, other, all); out != "Loaded image: one:latest\nLoaded image: one:old\nLoaded image: h.example/one:1\nLoaded image: two:2\n" {
		t.Errorf("%q", out)
	}
	if have, want := ids(t, other), ids(t, s); !slices.Equal(have, want) {
		t.Errorf("got  %v\nwant %v", have, want)
	}
	if b, l := left(t, other); b != blobs || l != layers {
		t.Errorf("%d blobs and %d layers, want %d and %d", b, l, blobs, layers)
	}
	within(t, other, two, func(root string) {
		if got := tree(t, root); !strings.HasSuffix(got, "d/top=two\n") {
			t.Errorf("%.50q", got)
		}
	})
	for _, ref := range []string{img.ID.String(), img.ID.Encoded()[:12], "two@" + img.ID.String()} { // these leave the name out
		third := open(t, registry.Config{})
		if out := load(t, third, save(t, s, nil, ref)); out != "Loaded image ID: "+img.ID.String()+"\n" {
			t.Errorf("%s: %q", ref, out)
		}
		if have := ids(t, third); !slices.Equal(have, []string{"=" + img.ID.String()}) {
			t.Errorf("%s: %v", ref, have)
		}
	}
	for ref, want := range map[string]string{"nosuch": "No such image: nosuch:latest", "two": "", "two:1": "No such image: two:1", "h.example/one:2": "No such image: h.example/one:2", "sha256:" + strings.Repeat("0", 64): "No such image: sha256:0"} {
		_, err := s.Save(t.Context(), []string{ref}, nil)
		if want == "" {
			if err != nil { // a repository by its name alone: every tag
				t.Error(err)
			}
			continue
		}
		if !errdefs.IsNotFound(err) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

// What is being saved stays, whatever is removed meanwhile.
func TestSaveHoldsItsImages(t *testing.T) {
	s := open(t, registry.Config{})
	load(t, s, saved(t, small(t, "held"), "held:1"))
	a, err := s.Save(t.Context(), []string{"held:1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	remove(t, s, "held:1", false)
	if err := s.CollectGarbage(t.Context()); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := a.Write(&b); err != nil {
		t.Fatal(err)
	}
	a.Close()
	nothingLeft(t, s)
	load(t, s, b.Bytes())
	remove(t, s, "held:1", false)
	empty0(t, s)
}

// twoPlatforms loads an index of amd64 and arm64.
func twoPlatforms(t *testing.T, s *Service, name string) {
	t.Helper()
	root := t.TempDir()
	index := v1.ImageIndex(empty.Index)
	for _, arch := range []string{"arm64", "amd64"} {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: platformed(t, small(t, arch), arch), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	p, err := layout.Write(root, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendIndex(index, layout.WithAnnotations(map[string]string{"io.containerd.image.name": name})); err != nil {
		t.Fatal(err)
	}
	load(t, s, tarred(t, root))
}

func TestSavePlatforms(t *testing.T) {
	s := open(t, registry.Config{})
	ctx := t.Context()
	amd, arm, s390 := ocispec.Platform{OS: "linux", Architecture: "amd64"}, ocispec.Platform{OS: "linux", Architecture: "arm64"}, ocispec.Platform{OS: "linux", Architecture: "s390x"}
	twoPlatforms(t, s, "example.org/multi:2")
	whole, err := s.Resolve(ctx, "example.org/multi:2", &amd)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		save, load []ocispec.Platform
		blobs      int
		has        []ocispec.Platform
		single     bool
	}{
		"all":                {nil, nil, 7, []ocispec.Platform{amd, arm}, false},
		"both":               {[]ocispec.Platform{amd, arm}, nil, 7, []ocispec.Platform{amd, arm}, false},
		"one saved":          {[]ocispec.Platform{arm}, nil, 3, []ocispec.Platform{arm}, true},
		"one loaded":         {nil, []ocispec.Platform{arm}, 4, []ocispec.Platform{arm}, false},
		"with one not there": {[]ocispec.Platform{arm, s390}, nil, 4, []ocispec.Platform{arm}, false},
	} {
		t.Run(name, func(t *testing.T) {
			other := open(t, registry.Config{})
			if err := other.Load(ctx, bytes.NewReader(save(t, s, c.save, "example.org/multi:2")), c.load, true, nil); err != nil {
				t.Fatal(err)
			}
			other.background.Wait()
			if b, _ := left(t, other); b != c.blobs {
				t.Errorf("%d blobs, want %d", b, c.blobs)
			}
			for _, p := range []ocispec.Platform{amd, arm} {
				img, err := other.Resolve(ctx, "example.org/multi:2", &p)
				if has := slices.ContainsFunc(c.has, func(h ocispec.Platform) bool { return h.Architecture == p.Architecture }); has != (err == nil) {
					t.Errorf("%s: %v", p.Architecture, err)
				} else if has {
					if _, err := other.RootFS(ctx, img); err != nil {
						t.Error(err)
					}
					if (img.ID == whole.ID) == c.single {
						t.Errorf("its id is %s, the index's is %s", img.ID, whole.ID)
					}
				}
			}
		})
	}
	if _, err := s.Save(ctx, []string{"example.org/multi:2"}, []ocispec.Platform{s390}); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "does not provide the specified platform (linux/s390x)") {
		t.Error(err)
	}
}

// An image whose layers are only here unpacked cannot be saved, which is said
// before anything is written.
func TestSaveWithoutBlobs(t *testing.T) {
	s := open(t, registry.Config{})
	img := small(t, "unpacked")
	load(t, s, saved(t, img, "unpacked:1"))
	list, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	d, err := list[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.blobs.Delete(s.context(t.Context()), digest.Digest(d.String())); err != nil {
		t.Fatal(err)
	}
	_, err = s.Save(t.Context(), []string{"unpacked:1"}, nil)
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "pull the image again") || !strings.Contains(err.Error(), d.String()) {
		t.Error(err)
	}
	if all, err := s.leases.List(s.context(t.Context())); err != nil || len(all) > 0 {
		t.Error(all, err)
	}
}

// untar puts an archive's files into a folder.
func untar(t *testing.T, archive []byte) string {
	t.Helper()
	root := t.TempDir()
	cmd := exec.Command("tar", "-xf", "-", "-C", root)
	cmd.Stdin = bytes.NewReader(archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return root
}

func TestOthersReadWhatIsSaved(t *testing.T) {
	s := open(t, registry.Config{})
	one := ociImage(t)
	root := t.TempDir()
	p, err := layout.Write(root, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(one, layout.WithAnnotations(map[string]string{"io.containerd.image.name": "one:1"})); err != nil {
		t.Fatal(err)
	}
	load(t, s, tarred(t, root))
	archive := save(t, s, nil, "one:1")
	want, err := one.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	opener := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil }
	tag, err := name.NewTag("one:1")
	if err != nil {
		t.Fatal(err)
	}
	img, err := tarball.Image(opener, &tag)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := img.ConfigName(); err != nil || got != want {
		t.Errorf("%s %v", got, err)
	}
	root = untar(t, archive)
	index, err := layout.ImageIndexFromPath(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	path := filepath.Join(t.TempDir(), "one.tar")
	if err := os.WriteFile(path, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"docker-archive:" + path + ":one:1", "oci-archive:" + path + ":1"} {
		if got := skopeo(t, "inspect", "--config", "--raw", from); digest.FromString(got).String() != want.String() {
			t.Errorf("%s has config %s", from, got)
		}
	}
}

func skopeo(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("skopeo", append([]string{"--insecure-policy"}, args...)...)
	var errOut strings.Builder
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("skopeo %s: %v\n%s(is Debian's package skopeo installed? test/setup.sh does it)", strings.Join(args, " "), err, errOut.String())
	}
	return string(out)
}

// ociImage has OCI's types only, and gzip, which every tool reads.
func ociImage(t *testing.T) v1.Image {
	t.Helper()
	return mutate.ConfigMediaType(imageOf(t, []entry{dir("d"), file("d/base", noise(200_000))}, []entry{dir("d"), file("d/top", "one")}), types.OCIConfigJSON)
}

func TestLoadWhatSkopeoWrote(t *testing.T) {
	one := ociImage(t)
	dir := t.TempDir()
	p, err := layout.Write(filepath.Join(dir, "from"), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(one, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "x"})); err != nil {
		t.Fatal(err)
	}
	for to, want := range map[string]string{
		"docker-archive:" + filepath.Join(dir, "docker.tar") + ":skopeo:1": "Loaded image: skopeo:1\n",
		"oci-archive:" + filepath.Join(dir, "oci.tar") + ":h/skopeo:2":     "Loaded image: h/skopeo:2\n",
		"oci-archive:" + filepath.Join(dir, "tag.tar") + ":skopeo":         "Loaded image: skopeo:latest\n",
	} {
		skopeo(t, "copy", "-q", "oci:"+filepath.Join(dir, "from")+":x", to)
		s := open(t, registry.Config{})
		archive, err := os.ReadFile(strings.Split(to, ":")[1])
		if err != nil {
			t.Fatal(err)
		}
		if out := load(t, s, archive); !strings.HasPrefix(out, want) {
			t.Errorf("%s: %q", to, out)
		}
		within(t, s, one, func(root string) {
			if got := tree(t, root); !strings.HasSuffix(got, "d/top=one\n") {
				t.Errorf("%s: %.50q", to, got)
			}
		})
	}
}

func TestSaveStopsWithItsReader(t *testing.T) {
	s := open(t, registry.Config{})
	load(t, s, saved(t, small(t, noise(2_000_000)), "gone:1"))
	ctx, cancel := context.WithCancel(t.Context())
	a, err := s.Save(ctx, []string{"gone:1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	r, w := io.Pipe()
	go func() {
		_, _ = io.CopyN(io.Discard, r, 100_000)
		cancel()
		_, _ = io.Copy(io.Discard, r)
	}()
	if err := a.Write(w); err == nil {
		t.Error("written whole after its client had gone")
	}
}

// Of an archive that says first what it holds, layers are unpacked while the
// rest is on its way.
func TestLoadUnpacksWhileTheArchiveArrives(t *testing.T) {
	s, other := open(t, registry.Config{}), open(t, registry.Config{})
	img := imageOf(t, []entry{dir("d"), file("d/base", noise(100_000))}, []entry{dir("d"), file("d/top", noise(100_000))})
	load(t, s, saved(t, img, "ahead:1"))
	archive := save(t, s, nil, "ahead:1")
	list, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	lowest, err := list[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	complete := make(chan struct{})
	rest := len(archive) - 50_000 // in the middle of the second layer
	go func() {
		_, _ = w.Write(archive[:rest])
		<-complete
		_, _ = w.Write(archive[rest:])
		w.Close()
	}()
	var once sync.Once
	err = other.Load(t.Context(), r, nil, false, func(m jsonstream.Message) {
		if m.ID == lowest.Hex[:12] && m.Status == "Load complete" {
			once.Do(func() { close(complete) })
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if have, want := ids(t, other), ids(t, s); !slices.Equal(have, want) {
		t.Errorf("got  %v\nwant %v", have, want)
	}
}
