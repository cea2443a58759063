package image

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	imagetypes "github.com/moby/moby/api/types/image"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/image/registry"
)

const (
	provenance = "https://slsa.dev/provenance/v1"
	sbom       = "https://spdx.dev/Document"
)

// attested is an index of one image and BuildKit's statements about it.
func attested(t *testing.T) (index v1.ImageIndex, img v1.Image, statement v1.Hash) {
	t.Helper()
	img = imageOf(t, []entry{file("a", "1")})
	of, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	att := mutate.MediaType(v1.Image(empty.Image), types.OCIManifestSchema1)
	for kind, body := range map[string]string{provenance: `{"predicateType":"` + provenance + `"}`, sbom: `{"predicateType":"` + sbom + `"}`} {
		l := static.NewLayer([]byte(body), "application/vnd.in-toto+json")
		if att, err = mutate.Append(att, mutate.Addendum{Layer: l, Annotations: map[string]string{predicateType: kind}}); err != nil {
			t.Fatal(err)
		}
		if kind == sbom {
			if statement, err = l.Digest(); err != nil {
				t.Fatal(err)
			}
		}
	}
	index = mutate.IndexMediaType(mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: att, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"},
			Annotations: map[string]string{refersAs: isAttestation, refersTo: of.String()}}}), types.OCIImageIndex)
	return index, img, statement
}

func TestAttestations(t *testing.T) {
	reg := newFake(t)
	index, img, _ := attested(t)
	reg.pushIndex("x:1", index)
	reg.push("x:plain", img)
	s := open(t, registry.Config{})
	reg.pull(s, "x:1")
	reg.pull(s, "x:plain")
	if err := s.CollectGarbage(context.Background()); err != nil {
		t.Fatal(err)
	}
	ref := reg.addr + "/x:1"
	list := func(o AttestationOptions) []imagetypes.AttestationStatement {
		t.Helper()
		got, err := s.Attestations(t.Context(), ref, o)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := list(AttestationOptions{}); len(got) != 2 || got[0].Statement != nil || got[0].Descriptor.Size == 0 {
		t.Errorf("%+v", got)
	}
	got := list(AttestationOptions{Types: []string{sbom}, Statement: true})
	if len(got) != 1 || got[0].PredicateType != sbom || string(*got[0].Statement) != `{"predicateType":"`+sbom+`"}` {
		t.Errorf("%+v", got)
	}
	if got := list(AttestationOptions{Types: []string{"other"}}); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	if _, err := s.Attestations(t.Context(), ref, AttestationOptions{Platform: &ocispec.Platform{OS: "linux", Architecture: "s390x"}}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if got, err := s.Attestations(t.Context(), reg.addr+"/x:plain", AttestationOptions{}); err != nil || got == nil || len(got) != 0 {
		t.Errorf("an image without an index: %v, %v", got, err)
	}
	in, err := s.Inspect(t.Context(), ref, nil, true)
	if err != nil || len(in.Manifests) != 2 || in.Manifests[1].Kind != imagetypes.ManifestKindAttestation || !in.Manifests[1].Available || in.Manifests[1].AttestationData.For != in.Manifests[0].Descriptor.Digest {
		t.Errorf("%+v, %v", in.Manifests, err)
	}
}

// An image is pulled though what is said about it cannot be.
func TestAttestationsThatCannotBePulled(t *testing.T) {
	reg := newFake(t)
	index, _, statement := attested(t)
	reg.pushIndex("x:1", index)
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/blobs/"+statement.String()) {
			w.WriteHeader(http.StatusNotFound)
			return true
		}
		return false
	})
	s := open(t, registry.Config{})
	lines := reg.pull(s, "x:1")
	if !strings.Contains(lines.String(), "could not be pulled") {
		t.Errorf("nothing says so:\n%s", lines)
	}
	if _, err := s.Resolve(t.Context(), reg.addr+"/x:1", nil); err != nil {
		t.Error(err)
	}
	if _, err := s.Attestations(t.Context(), reg.addr+"/x:1", AttestationOptions{Statement: true}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}
