package image

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/image/registry"
)

func TestPlatforms(t *testing.T) {
	reg := newFake(t)
	index := v1.ImageIndex(empty.Index)
	images := map[string]v1.Image{}
	for _, arch := range []string{"amd64", "arm64"} {
		img := imageOf(t, []entry{file("arch", arch)})
		c, _ := img.ConfigFile()
		c = c.DeepCopy()
		c.Architecture = arch
		img, err := mutate.ConfigFile(img, c)
		if err != nil {
			t.Fatal(err)
		}
		images[arch] = img
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	attestation, _ := random.Image(10, 1)
	index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: attestation, Descriptor: v1.Descriptor{
		Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}, Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest"},
	}})
	reg.pushIndex("x:1", index)
	reg.push("x:single", images["amd64"])
	s := open(t, registry.Config{})
	pull := func(ref, arch string) error {
		return s.Pull(context.Background(), PullRequest{Reference: reg.addr + "/" + ref, Platform: &ocispec.Platform{OS: "linux", Architecture: arch}}, nil)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		if err := pull("x:1", arch); err != nil {
			t.Fatal(err)
		}
		within(t, s, images[arch], func(root string) {
			if got := tree(t, root); got != "arch="+arch+"\n" {
				t.Errorf("got %s", got)
			}
		})
	}
	if err := s.CollectGarbage(context.Background()); err != nil {
		t.Fatal(err)
	}
	within(t, s, images["amd64"], func(string) {}) // the second pull does not take the first's
	err := pull("x:1", "s390x")
	if want := "no matching manifest for linux/s390x in the manifest list entries: " + reg.addr + "/x:1 exists for linux/amd64, linux/arm64"; !errdefs.IsNotFound(err) || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	err = pull("x:single", "arm64")
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "does not match the specified platform: wanted linux/arm64, actual: linux/amd64") {
		t.Errorf("got %v", err)
	}
}

func TestDigestsTagsAndAll(t *testing.T) {
	reg := newFake(t)
	img := imageOf(t, []entry{file("a", "1")})
	d, _ := img.Digest()
	for _, tag := range []string{"1", "2", "latest"} {
		reg.push("x:"+tag, img)
	}
	s := open(t, registry.Config{})
	names := func() (list []string) {
		all, err := s.names.List(s.context(context.Background()))
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range all {
			list = append(list, strings.TrimPrefix(i.Name, reg.addr+"/"))
		}
		return list
	}
	l := reg.pull(s, "x@"+d.String())
	if !strings.HasPrefix(l.String(), d.String()+": Pulling from x\n") {
		t.Errorf("got %s", l)
	}
	reg.pull(s, "x:1@"+d.String())
	if got := fmt.Sprint(names()); got != "[x@"+d.String()+"]" {
		t.Errorf("names %s", got)
	}
	if err := s.Pull(context.Background(), PullRequest{Reference: reg.addr + "/x", All: true}, nil); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(names()); got != "[x:1 x:2 x:latest x@"+d.String()+"]" {
		t.Errorf("names %s", got)
	}
}

func TestDownloadsAtOnceAreBoundedOverAllPulls(t *testing.T) {
	reg := newFake(t)
	for i := range 3 {
		var layers [][]entry
		for j := range 4 {
			layers = append(layers, []entry{file(fmt.Sprintf("f%d.%d", i, j), noise(50_000+i*10+j))})
		}
		reg.push(fmt.Sprintf("x%d:1", i), imageOf(t, layers...))
	}
	var now, most atomic.Int32
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		rec := httptest.NewRecorder()
		reg.real.ServeHTTP(rec, r)
		if rec.Body.Len() > 10_000 { // not a config
			n := now.Add(1)
			defer now.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			for range 500 { // until the second is there; then a third may come
				time.Sleep(20 * time.Millisecond)
				if most.Load() > 1 {
					break
				}
			}
		}
		_, _ = w.Write(rec.Body.Bytes())
		return true
	})
	s := open(t, registry.Config{MaxDownloads: 2})
	var g sync.WaitGroup
	for i := range 3 {
		g.Go(func() {
			if _, err := reg.try(s, fmt.Sprintf("x%d:1", i)); err != nil {
				t.Error(err)
			}
		})
	}
	g.Wait()
	if n := most.Load(); n != 2 {
		t.Errorf("%d downloads at once", n)
	}
}
