package harness

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ManyImages writes an archive of n small images, many:0 and so on. Each has a
// manifest, a config and a layer of its own above one that all share, as the
// builds of one program have.
func ManyImages(w io.Writer, n int) error {
	t := tar.NewWriter(w)
	put := func(name string, body []byte) error {
		if err := t.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body))}); err != nil {
			return err
		}
		_, err := t.Write(body)
		return err
	}
	blob := func(mediaType string, body []byte) (ocispec.Descriptor, error) {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
		return d, put("blobs/sha256/"+d.Digest.Encoded(), body)
	}
	layer := func(name, text string) ([]byte, error) {
		var b bytes.Buffer
		l := tar.NewWriter(&b)
		err := l.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text)), ModTime: time.Unix(1, 0)})
		if err == nil {
			_, err = io.WriteString(l, text)
		}
		if err == nil {
			err = l.Close()
		}
		return b.Bytes(), err
	}
	if err := put("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	base, err := layer("base", "shared")
	if err != nil {
		return err
	}
	shared, err := blob(ocispec.MediaTypeImageLayer, base)
	if err != nil {
		return err
	}
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	index.SchemaVersion = 2
	created := time.Unix(1_700_000_000, 0).UTC()
	for i := range n {
		body, err := layer("own", fmt.Sprint(i))
		if err != nil {
			return err
		}
		own, err := blob(ocispec.MediaTypeImageLayer, body)
		if err != nil {
			return err
		}
		at := created.Add(time.Duration(i) * time.Minute)
		config, err := json.Marshal(ocispec.Image{
			Created: &at, Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
			Config: ocispec.ImageConfig{Cmd: []string{"/own"}, Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, Labels: map[string]string{"org.example.build": fmt.Sprint(i)}},
			RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{shared.Digest, own.Digest}},
		})
		if err != nil {
			return err
		}
		c, err := blob(ocispec.MediaTypeImageConfig, config)
		if err != nil {
			return err
		}
		m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: c, Layers: []ocispec.Descriptor{shared, own}}
		m.SchemaVersion = 2
		manifest, err := json.Marshal(m)
		if err != nil {
			return err
		}
		d, err := blob(ocispec.MediaTypeImageManifest, manifest)
		if err != nil {
			return err
		}
		d.Annotations = map[string]string{"io.containerd.image.name": fmt.Sprintf("docker.io/library/many:%d", i), ocispec.AnnotationRefName: fmt.Sprint(i)}
		index.Manifests = append(index.Manifests, d)
	}
	top, err := json.Marshal(index)
	if err != nil {
		return err
	}
	if err := put("index.json", top); err != nil {
		return err
	}
	return t.Close()
}
