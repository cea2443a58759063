package image

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"hezi/internal/image/registry"
)

// old makes a registry serve an image of schema 1 whose layers are the given
// bytes, the topmost first.
func old(f *fake, layers ...string) {
	var fs, history []string
	for i, l := range layers {
		parent := ""
		if i < len(layers)-1 {
			parent = fmt.Sprint(i + 1)
		}
		fs = append(fs, fmt.Sprintf(`{"blobSum":%q}`, digest.FromString(l)))
		history = append(history, fmt.Sprintf(`{"v1Compatibility":"{\"id\":\"%d\",\"parent\":\"%s\",\"os\":\"linux\"}"}`, i, parent))
	}
	manifest := fmt.Sprintf(`{"schemaVersion":1,"architecture":"amd64","fsLayers":[%s],"history":[%s]}`, strings.Join(fs, ","), strings.Join(history, ","))
	f.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v1+json")
			fmt.Fprint(w, manifest)
			return true
		}
		for _, l := range layers {
			if strings.HasSuffix(r.URL.Path, digest.FromString(l).String()) {
				if r.Method == http.MethodHead { // some storage takes only GET
					w.WriteHeader(http.StatusForbidden)
					return true
				}
				w.Header().Set("Content-Length", fmt.Sprint(len(l)))
				fmt.Fprint(w, l)
				return true
			}
		}
		return false
	})
}

func TestSchema1IsConverted(t *testing.T) {
	f := newFake(t)
	s := open(t, registry.Config{})
	top, base := string(archiveOf(t, file("a", "1"))), string(archiveOf(t, file("b", "2")))
	old(f, top, strings.Repeat("\x00", 1024), base)
	l := f.pull(s, "x:1")
	if !strings.Contains(l.String(), "is converted") || !strings.Contains(l.String(), "Downloaded newer image") {
		t.Errorf("told\n%s", l)
	}
	img, err := s.Resolve(t.Context(), f.addr+"/x:1", nil)
	if err != nil || len(img.Layers) != 2 || len(img.Config.History) != 3 || !img.Config.History[1].EmptyLayer {
		t.Fatalf("%+v %v", img, err)
	}
	asked := len(f.asked("", "/blobs/"))
	if l := f.pull(s, "x:1"); !strings.Contains(l.String(), "Image is up to date") || len(f.asked("", "/blobs/")) != asked {
		t.Errorf("told\n%s", l)
	}
	noLeases(t, s)
}

func TestABrokenSchema1LeavesNothing(t *testing.T) {
	for _, layer := range []string{"\x1f\x8b cut", "no archive"} {
		f := newFake(t)
		s := open(t, registry.Config{})
		old(f, layer, layer)
		if _, err := f.try(s, "x:1"); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "the image is broken where it was built") {
			t.Errorf("%q: %v", layer, err)
		}
		nothingLeft(t, s)
	}
}
