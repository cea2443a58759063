package image

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/image/registry"
	"hezi/test/harness"
)

// What is packed by gzip or zstd stays as it is; what is not, is packed.
func TestImportedLayers(t *testing.T) {
	s := open(t, registry.Config{})
	plain := archiveOf(t, dir("d"), file("d/x", noise(50_000)))
	for name, c := range map[string]struct {
		body []byte
		kind string
		kept bool
	}{
		"gzip":  {gzipped(t, plain), ocispec.MediaTypeImageLayerGzip, true},
		"zstd":  {zstded(t, plain), ocispec.MediaTypeImageLayerZstd, true},
		"plain": {plain, ocispec.MediaTypeImageLayerGzip, false},
		// What follows an archive belongs to the layer.
		"with a tail": {append(bytes.Clone(plain), make([]byte, 10240)...), ocispec.MediaTypeImageLayerGzip, false},
	} {
		t.Run(name, func(t *testing.T) {
			platform := &ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}
			if err := s.Import(t.Context(), ImportRequest{Source: "-", Body: bytes.NewReader(c.body), Reference: "imported", Platform: platform}, nil); err != nil {
				t.Fatal(err)
			}
			cat, err := s.catalog(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			in, err := s.read(t.Context(), cat, cat.byName["docker.io/library/imported:latest"].Target)
			if err != nil {
				t.Fatal(err)
			}
			v := in.variants[0]
			blob := v.manifest.Layers[0]
			if blob.MediaType != c.kind || c.kept && blob.Digest.String() != digestOf(c.body) || v.platform.Variant != "v7" {
				t.Errorf("%+v of %+v", blob, v.platform)
			}
			want := plain
			if !c.kept {
				want = c.body
			}
			if got := v.config.RootFS.DiffIDs; len(got) != 1 || got[0].String() != digestOf(want) {
				t.Errorf("diff id %v", got)
			}
			remove(t, s, "imported", false)
		})
	}
	empty0(t, s)
}

func TestImportFromAnAddress(t *testing.T) {
	s := open(t, registry.Config{})
	body := archiveOf(t, dir("d"), file("d/x", "y"))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/root.tar" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(body)
	}))
	defer srv.Close()
	for _, source := range []string{srv.URL + "/root.tar", strings.TrimPrefix(srv.URL, "http://") + "/root.tar"} {
		var l lines
		if err := s.Import(t.Context(), ImportRequest{Source: source}, l.show); err != nil {
			t.Fatal(err)
		}
		text := l.String()
		if !strings.HasPrefix(text, ": Downloading from "+srv.URL+"/root.tar\n: Importing\n") || !strings.Contains(text, ": sha256:") {
			t.Errorf("%q", text)
		}
	}
	for source, want := range map[string]string{
		srv.URL + "/nosuch":          "the server answered 404 Not Found",
		"ftp://example.org/root.tar": "write an http or https address",
		"http://127.0.0.1:1/root":    "connection refused",
		"http://":                    "write an http or https address",
	} {
		if err := s.Import(t.Context(), ImportRequest{Source: source}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", source, err)
		}
	}
}

// What was imported can be pushed, and saved.
func TestImportedTravels(t *testing.T) {
	addr := harness.Registry(t)
	s, other := open(t, registry.Config{}), open(t, registry.Config{})
	body := archiveOf(t, dir("d"), file("d/x", "travels"))
	if err := s.Import(t.Context(), ImportRequest{Source: "-", Body: bytes.NewReader(body), Reference: addr + "/imported:1", Changes: []string{"CMD x"}}, nil); err != nil {
		t.Fatal(err)
	}
	pushed(t, s, PushRequest{Reference: addr + "/imported:1"})
	load(t, other, save(t, s, nil, addr+"/imported:1"))
	if a, b := ids(t, s), ids(t, other); strings.Join(a, ",") != strings.Join(b, ",") {
		t.Errorf("%v became %v", a, b)
	}
	img, err := at(t, addr+"/imported:1").Image()
	if err != nil {
		t.Fatal(err)
	}
	within(t, other, img, func(root string) {
		if got := tree(t, root); got != "d/\nd/x=travels\n" {
			t.Errorf("%q", got)
		}
	})
	err = s.Import(t.Context(), ImportRequest{Source: "-", Body: bytes.NewReader(body), Reference: "x@sha256:" + strings.Repeat("0", 64)}, nil)
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "cannot import digest reference") {
		t.Error(err)
	}
}
