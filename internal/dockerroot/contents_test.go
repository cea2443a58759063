package dockerroot

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

const daemonDir = "containerd/daemon/" // of the containerd that dockerd starts

func (f fake) blob(mediaType string, v any) ocispec.Descriptor {
	f.t.Helper()
	body, ok := v.([]byte)
	if !ok {
		var err error
		body, err = json.Marshal(v)
		f.must(err)
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
	f.write(daemonDir+blobDir+d.Digest.Encoded(), string(body))
	return d
}

// platform stores an image of one platform.
func (f fake) platform(arch string) (manifest, layer ocispec.Descriptor) {
	f.t.Helper()
	layer = f.blob(ocispec.MediaTypeImageLayer, []byte("layer of "+arch))
	config := f.blob(ocispec.MediaTypeImageConfig, ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: arch}, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}},
	})
	manifest = f.blob(ocispec.MediaTypeImageManifest, ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer}})
	manifest.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
	return manifest, layer
}

// names stores images as containerd does.
func (f fake) names(all map[string]ocispec.Descriptor) {
	f.t.Helper()
	at := filepath.Join(f.path, daemonDir, metaFile)
	f.must(os.MkdirAll(filepath.Dir(at), 0o755))
	db, err := bolt.Open(at, 0o600, nil)
	f.must(err)
	defer db.Close()
	store := metadata.NewImageStore(metadata.NewDB(db, nil, nil))
	for name, d := range all {
		_, err := store.Create(namespaces.WithNamespace(context.Background(), "moby"), images.Image{Name: name, Target: d})
		f.must(err)
	}
}

// TestContainerdStore: what is there of an image of several platforms comes, and what is
// missing of the only one is said.
func TestContainerdStore(t *testing.T) {
	f := newFake(t)
	ours, oursLayer := f.platform(runtime.GOARCH)
	other, otherLayer := f.platform("riscv64")
	f.must(os.Remove(filepath.Join(f.path, daemonDir, blobDir, otherLayer.Digest.Encoded())))
	never := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("never pulled"), Size: 5}
	attestation := f.blob(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, Config: f.blob(ocispec.MediaTypeImageConfig, []byte("{}")),
		Layers: []ocispec.Descriptor{f.blob("application/vnd.in-toto+json", []byte("{ }"))},
	})
	attestation.Annotations = map[string]string{attests: "attestation-manifest"}
	index := f.blob(ocispec.MediaTypeImageIndex, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{attestation, other, never, ours}})
	f.names(map[string]ocispec.Descriptor{
		"docker.io/library/many:1": index, "docker.io/library/many@" + index.Digest.String(): index, "registry.example/x:2": ours,
		"moby-dangling@" + other.Digest.String(): other,
	})
	r := f.open()
	var tags []string
	for _, i := range r.Images() {
		tags = append(tags, i.RepoTags...)
	}
	slices.Sort(tags)
	if !slices.Equal(tags, []string{"many:1", "registry.example/x:2"}) {
		t.Errorf("names: %q", tags)
	}
	i, err := r.Image("many")
	if err == nil {
		t.Errorf("many:latest: %+v", i)
	}
	i, err = r.Image("many:1")
	if err != nil || i.ID != index.Digest.String() || !slices.Equal(i.RootFS.Layers, []string{oursLayer.Digest.String()}) {
		t.Errorf("%+v %v", i, err)
	}
	body, err := save(r, "many:1")
	f.must(err)
	var got []string
	for in := tar.NewReader(bytes.NewReader(body)); ; {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		f.must(err)
		got = append(got, strings.TrimPrefix(h.Name, "blobs/sha256/"))
	}
	for _, d := range []digest.Digest{index.Digest, ours.Digest, oursLayer.Digest, other.Digest, attestation.Digest} {
		if !slices.Contains(got, d.Encoded()) {
			t.Errorf("%s is not in the archive: %q", d, got)
		}
	}
	if _, err := save(r, other.Digest.String()); err == nil || !strings.Contains(err.Error(), "its layer "+otherLayer.Digest.String()+" is not in containerd's store") {
		t.Errorf("without its layer: %v", err)
	}
	f.write(daemonDir+blobDir+oursLayer.Digest.Encoded(), "layer of another")
	if _, err := save(r, "many:1"); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("with a damaged layer: %v", err)
	}
	f.pipe(daemonDir + blobDir + ours.Digest.Encoded())
	if _, err := save(r, "registry.example/x:2"); err == nil {
		t.Error("a pipe was read")
	}
}

// TestContainerdRuns: its store is needed only where Docker's images are in it.
func TestContainerdRuns(t *testing.T) {
	f := newFake(t)
	f.names(nil)
	db, err := os.Open(filepath.Join(f.path, daemonDir, metaFile))
	f.must(err)
	defer db.Close()
	f.must(syscall.Flock(int(db.Fd()), syscall.LOCK_EX))
	f.open().Close()
	id := strings.Repeat("a", 64)
	f.write("containers/"+id+"/config.v2.json", `{"ID":"`+id+`","Name":"/x","Config":{},"ImageManifest":{}}`)
	if got := f.refused(); !strings.Contains(got, "on which a containerd runs: stop it, too") {
		t.Error(got)
	}
}

// TestContainerdElsewhere: a containerd that dockerd did not start has its root beside
// Docker's, or anywhere.
func TestContainerdElsewhere(t *testing.T) {
	f := newFake(t)
	f.must(os.RemoveAll(filepath.Join(f.path, "image")))
	ours, _ := f.platform(runtime.GOARCH)
	f.names(map[string]ocispec.Descriptor{"docker.io/library/x:1": ours})
	beside, elsewhere := filepath.Join(filepath.Dir(f.path), "containerd"), filepath.Join(t.TempDir(), "c")
	f.must(os.Rename(filepath.Join(f.path, daemonDir), beside))
	r := f.open()
	if _, err := save(r, "x:1"); err != nil {
		t.Errorf("beside it: %v", err)
	}
	r.Close()
	f.must(os.Rename(beside, elsewhere))
	if got := f.refused(); !strings.Contains(got, "name it with --containerd-root") {
		t.Error(got)
	}
	r, err := Open(f.path, elsewhere)
	f.must(err)
	defer r.Close()
	if _, err := save(r, "x:1"); err != nil {
		t.Errorf("named: %v", err)
	}
}
