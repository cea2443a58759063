package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/image/hello"
)

// builtIn marks the built-in image in its history.
const builtIn = "built into hezid"

// helloWanted says whether the built-in image must be made: when its name is
// not there, and, once for each hezid, when it is that of another build. An
// image of the user's with this name is left alone.
func (s *Service) helloWanted(ctx context.Context, c *catalog, target ocispec.Descriptor, err error) bool {
	if err != nil {
		return errdefs.IsNotFound(err)
	}
	if s.helloChecked.Swap(true) {
		return false
	}
	in, err := s.read(ctx, c, target)
	if err != nil {
		return true // its content is broken
	}
	return slices.ContainsFunc(in.variants, func(v *variant) bool {
		return v.here && len(v.config.History) == 1 && v.config.History[0].CreatedBy == builtIn
	}) && helloBuilt()
}

func helloBuilt() bool {
	_, err := hello.Files()
	return err == nil
}

// makeHello adds the built-in image under its name.
func (s *Service) makeHello(ctx context.Context) error {
	files, err := hello.Files()
	if err != nil {
		return errdefs.ErrNotFound.WithMessage(err.Error())
	}
	layer, err := helloLayer(files)
	if err != nil {
		return fmt.Errorf("make the built-in image: %w", err)
	}
	ctx, release, err := s.lease(ctx)
	if err != nil {
		return err
	}
	defer release()
	blob := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(layer), Size: int64(len(layer))}
	if err := s.write(ctx, blob, bytes.NewReader(layer), nil); err != nil {
		return err
	}
	config := hello.Config()
	created := time.Unix(0, 0).UTC()
	config.Created = &created
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{blob.Digest}}
	config.History = []ocispec.History{{Created: &created, CreatedBy: builtIn, Comment: "hezi/hello"}}
	target, err := s.assemble(ctx, config, []ocispec.Descriptor{blob})
	if err != nil {
		return err
	}
	name, err := parseName(hello.Name)
	if err != nil {
		return err
	}
	c, err := s.catalog(ctx)
	if err != nil {
		return err
	}
	if c.byName[name.String()].Target.Digest == target.Digest {
		return nil
	}
	return s.setName(ctx, name.String(), target)
}

func helloLayer(files []hello.File) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: strings.TrimPrefix(f.Path, "/"), Mode: int64(f.Mode.Perm()), Size: int64(len(f.Data)), ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg}
		if f.Mode.IsDir() {
			h.Name, h.Typeflag = h.Name+"/", tar.TypeDir
		}
		if f.Mode&fs.ModeSticky != 0 {
			h.Mode |= 0o1000
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

// write stores a blob, verified; one that is there already is no error.
func (s *depot) write(ctx context.Context, d ocispec.Descriptor, r io.Reader, labels map[string]string) error {
	err := content.WriteBlob(ctx, s.blobs, "hezi-"+d.Digest.String(), r, d, content.WithLabels(labels))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("store the image content %s: %w", d.Digest, err)
	}
	return nil
}

// assemble stores config and manifest of layers that are here, unpacks them,
// and returns the manifest's descriptor. ctx has a lease.
func (s *depot) assemble(ctx context.Context, config dockerspec.DockerOCIImage, layers []ocispec.Descriptor) (ocispec.Descriptor, error) {
	var none ocispec.Descriptor
	body, err := json.Marshal(config)
	if err != nil {
		return none, err
	}
	cd := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(body), Size: int64(len(body))}
	if err := s.write(ctx, cd, bytes.NewReader(body), nil); err != nil {
		return none, err
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: cd, Layers: layers}
	labels := map[string]string{"containerd.io/gc.ref.content.config": cd.Digest.String()}
	for i, l := range layers {
		labels[fmt.Sprintf("containerd.io/gc.ref.content.l.%d", i)] = l.Digest.String()
	}
	if body, err = json.Marshal(m); err != nil {
		return none, err
	}
	target := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(body), Size: int64(len(body))}
	if err := s.write(ctx, target, bytes.NewReader(body), labels); err != nil {
		return none, err
	}
	platform := config.Platform
	return target, s.unpack(ctx, target, &platform, unseen)
}
