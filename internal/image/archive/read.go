// Package archive reads and writes archives of images: what `docker save` and
// the tools of OCI write, and `docker load` and they read. It knows the form of
// an archive and keeps nothing; where its blobs go, and come from, is the
// caller's.
//
//	oci-layout     which version of the OCI image layout this is
//	index.json     the images, with their names as annotations
//	blobs/ALG/HEX  every blob
//	manifest.json  the images as Docker names them: a config and layers by path
//
// OCI's form has the first three, Docker's the last one and files of any name;
// Docker writes both forms into one archive since version 25. Both are read,
// OCI's first. See image-layout.md of the OCI image specification.
package archive

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	manifestFile = "manifest.json" // Docker's
	v1File       = "repositories"  // of Docker before 1.10, and still written long after
	blobsPrefix  = ocispec.ImageBlobsDir + "/"

	maxJSON      = 8 << 20 // bytes of one JSON file
	maxFiles     = 100_000 // that are stored
	maxStrangers = 100     // files that no archive of images has
	maxLinks     = 16      // links one after another
)

// Depot takes what an archive holds.
type Depot interface {
	// Put stores a file of the archive and returns its digest. want is the
	// digest that the file must have, or "".
	Put(ctx context.Context, want digest.Digest, size int64, r io.Reader) (digest.Digest, error)
	// Make stores a manifest that the archive does not have.
	Make(ctx context.Context, d ocispec.Descriptor, body []byte) error
}

// Image is one image of an archive. Its blobs need not be in it.
type Image struct {
	Target ocispec.Descriptor // of a manifest or an index
	Name   string             // as the archive spells it; "" without
}

// Read takes an uncompressed archive to its end. As soon as the archive has
// said which images it holds, and if that is before its end, early is told;
// it may be nil.
func Read(ctx context.Context, r io.Reader, depot Depot, early func([]Image)) ([]Image, error) {
	a := reader{depot: depot, early: early, files: map[string]file{}, links: map[string]string{}, parts: map[string][]byte{}}
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("it is no tar archive: %w", err)
		}
		if err := a.take(ctx, h, t); err != nil {
			return nil, err
		}
	}
	// What follows the archive's end is the rest of the last block of a pipe.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return nil, err
	}
	return a.images(ctx)
}

// file is one that was stored.
type file struct {
	digest digest.Digest
	size   int64
	kind   string // of layer, by its first bytes
}

// reader is an archive while it is read.
type reader struct {
	depot     Depot
	early     func([]Image)
	files     map[string]file   // by cleaned path
	links     map[string]string // cleaned path to cleaned path
	parts     map[string][]byte // the JSON files that say what it is
	strangers int
}

// take handles one entry.
func (a *reader) take(ctx context.Context, h *tar.Header, r io.Reader) error {
	name, err := clean(h.Name)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
	case tar.TypeSymlink, tar.TypeLink: // of layers that several images have
		to := h.Linkname
		if h.Typeflag == tar.TypeSymlink {
			to = path.Join(path.Dir(name), to)
		}
		if to, err = clean(to); err != nil {
			return err
		}
		a.links[name] = to
		return a.bounded()
	default:
		return nil
	}
	switch name {
	case ocispec.ImageLayoutFile, ocispec.ImageIndexFile, manifestFile, v1File:
		body, err := io.ReadAll(io.LimitReader(r, maxJSON+1))
		if err != nil {
			return err
		}
		if len(body) > maxJSON {
			return fmt.Errorf("its %s has more than %d MiB", name, maxJSON>>20)
		}
		a.parts[name] = body
		return a.tell()
	}
	if !a.known(name) {
		if a.strangers++; a.strangers > maxStrangers {
			return fmt.Errorf("it holds files such as %q, not images", name)
		}
		return nil
	}
	return a.store(ctx, name, h.Size, r)
}

// clean refuses names that lead out of the archive.
func clean(name string) (string, error) {
	c := path.Clean(name)
	if c == ".." || strings.HasPrefix(c, "../") || path.IsAbs(c) {
		return "", fmt.Errorf("it names a file outside of it: %q", name)
	}
	return c, nil
}

// known says whether a file may be of an image: blobs, and at most one folder
// deep what manifest.json, which comes last, may name. Docker once wrote a
// VERSION and a json beside each layer, which nobody reads any more.
func (a *reader) known(name string) bool {
	if strings.HasPrefix(name, blobsPrefix) {
		return true
	}
	dir, base := path.Split(name)
	if strings.Count(name, "/") > 1 {
		return false
	}
	return dir == "" || base != "VERSION" && base != "json"
}

func (a *reader) bounded() error {
	if len(a.files)+len(a.links) > maxFiles {
		return fmt.Errorf("it has more than %d files", maxFiles)
	}
	return nil
}

func (a *reader) store(ctx context.Context, name string, size int64, r io.Reader) error {
	var want digest.Digest
	if rest, ok := strings.CutPrefix(name, blobsPrefix); ok {
		want = digest.Digest(strings.Replace(rest, "/", ":", 1))
		if want.Validate() != nil || want.Algorithm() != digest.SHA256 {
			return nil // what refers to it is refused
		}
	}
	head := make([]byte, min(size, 4))
	if _, err := io.ReadFull(r, head); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	got, err := a.depot.Put(ctx, want, size, io.MultiReader(bytes.NewReader(head), r))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	a.files[name] = file{digest: got, size: size, kind: LayerType(head)}
	return a.bounded()
}

// LayerType is a layer's media type, in OCI's words, by its first bytes.
func LayerType(head []byte) string {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return ocispec.MediaTypeImageLayerGzip
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return ocispec.MediaTypeImageLayerZstd
	}
	return ocispec.MediaTypeImageLayer
}

// tell says which images the archive holds, once, when OCI's parts are there.
func (a *reader) tell() error {
	if a.early == nil || a.parts[ocispec.ImageLayoutFile] == nil || a.parts[ocispec.ImageIndexFile] == nil {
		return nil
	}
	list, err := a.layout()
	if err != nil {
		return err
	}
	a.early(list)
	a.early = nil
	return nil
}

// images are those of the whole archive.
func (a *reader) images(ctx context.Context) ([]Image, error) {
	switch {
	case a.parts[ocispec.ImageLayoutFile] != nil:
		return a.layout()
	case a.parts[manifestFile] != nil:
		return a.docker(ctx)
	case a.parts[ocispec.ImageIndexFile] != nil:
		return nil, errors.New("it has an index.json but no oci-layout")
	case a.parts[v1File] != nil:
		return nil, errors.New("it is of Docker before 1.10: load it with a Docker of those days up to 24, and save it again")
	case len(a.files) == 0 && a.strangers == 0:
		return nil, errors.New("it is empty")
	}
	return nil, errors.New("it has neither manifest.json nor index.json")
}

// layout reads OCI's form.
func (a *reader) layout() ([]Image, error) {
	var version ocispec.ImageLayout
	if err := decode(ocispec.ImageLayoutFile, a.parts[ocispec.ImageLayoutFile], &version); err != nil {
		return nil, err
	}
	if version.Version != ocispec.ImageLayoutVersion {
		return nil, fmt.Errorf("it is of version %q of the OCI image layout; %s is understood", version.Version, ocispec.ImageLayoutVersion)
	}
	if a.parts[ocispec.ImageIndexFile] == nil {
		return nil, errors.New("it has an oci-layout but no index.json")
	}
	var index ocispec.Index
	if err := decode(ocispec.ImageIndexFile, a.parts[ocispec.ImageIndexFile], &index); err != nil {
		return nil, err
	}
	var list []Image
	for _, d := range index.Manifests {
		if d.Annotations[images.AnnotationManifestSubject] != "" {
			continue // a signature or the like of another one
		}
		if err := d.Digest.Validate(); err != nil || d.Digest.Algorithm() != digest.SHA256 || d.Size < 0 {
			return nil, fmt.Errorf("its index.json has a manifest with digest %q and size %d", d.Digest, d.Size)
		}
		if !images.IsManifestType(d.MediaType) && !images.IsIndexType(d.MediaType) {
			return nil, fmt.Errorf("its index.json has %s of media type %q, which is no image", d.Digest, d.MediaType)
		}
		list = append(list, Image{Target: d, Name: nameOf(d.Annotations)})
	}
	return list, nil
}

// nameOf is containerd's annotation, which Docker writes too, or OCI's own: a
// word alone is taken for a repository, as Docker takes it.
func nameOf(annotations map[string]string) string {
	return cmp.Or(annotations[images.AnnotationImageName], annotations[ocispec.AnnotationRefName])
}

// docker reads Docker's form, and makes the manifests that it lacks.
func (a *reader) docker(ctx context.Context) ([]Image, error) {
	var items []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := decode(manifestFile, a.parts[manifestFile], &items); err != nil {
		return nil, err
	}
	var list []Image
	for _, it := range items {
		config, err := a.find(it.Config)
		if err != nil {
			return nil, err
		}
		layers := make([]file, len(it.Layers))
		for i, l := range it.Layers {
			if layers[i], err = a.find(l); err != nil {
				return nil, err
			}
		}
		d, body, err := manifestOf(config, layers).encode()
		if err != nil {
			return nil, err
		}
		if err := a.depot.Make(ctx, d, body); err != nil {
			return nil, err
		}
		if len(it.RepoTags) == 0 {
			list = append(list, Image{Target: d})
		}
		for _, name := range it.RepoTags {
			if _, err := reference.ParseDockerRef(name); err != nil {
				return nil, fmt.Errorf("its manifest.json has an image named %q: %w", name, err)
			}
			list = append(list, Image{Target: d, Name: name})
		}
	}
	return list, nil
}

// manifest has the fields, and their order, that Docker gives to the manifests
// of what it loads: the image gets the same id.
type manifest struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	Config        ocispec.Descriptor   `json:"config"`
	Layers        []ocispec.Descriptor `json:"layers"`
}

func (m manifest) encode() (ocispec.Descriptor, []byte, error) {
	body, err := json.Marshal(m)
	return ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}, body, err
}

// MakeManifest makes the manifest of an image whose layers are not compressed, as
// Read makes it for an archive of Docker's that has none.
func MakeManifest(config ocispec.Descriptor, layers []ocispec.Descriptor) (ocispec.Manifest, ocispec.Descriptor, []byte, error) {
	files := make([]file, len(layers))
	for i, l := range layers {
		files[i] = file{digest: l.Digest, size: l.Size, kind: ocispec.MediaTypeImageLayer}
	}
	m := manifestOf(file{digest: config.Digest, size: config.Size}, files)
	d, body, err := m.encode()
	return ocispec.Manifest{MediaType: m.MediaType, Config: m.Config, Layers: m.Layers}, d, body, err
}

// manifestOf makes a manifest of Docker's types, which have no zstd: with that
// it is one of OCI's.
func manifestOf(config file, layers []file) manifest {
	docker := map[string]string{ocispec.MediaTypeImageLayer: images.MediaTypeDockerSchema2Layer, ocispec.MediaTypeImageLayerGzip: images.MediaTypeDockerSchema2LayerGzip}
	m := manifest{
		SchemaVersion: 2, MediaType: images.MediaTypeDockerSchema2Manifest,
		Config: ocispec.Descriptor{MediaType: images.MediaTypeDockerSchema2Config, Digest: config.digest, Size: config.size},
		Layers: make([]ocispec.Descriptor, len(layers)),
	}
	if slices.ContainsFunc(layers, func(f file) bool { return f.kind == ocispec.MediaTypeImageLayerZstd }) {
		m.MediaType, m.Config.MediaType, docker = ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig, nil
	}
	for i, f := range layers {
		kind := f.kind
		if docker[kind] != "" {
			kind = docker[kind]
		}
		m.Layers[i] = ocispec.Descriptor{MediaType: kind, Digest: f.digest, Size: f.size}
	}
	return m
}

// find is the file that manifest.json names, by links too.
func (a *reader) find(name string) (file, error) {
	at, err := clean(name)
	if err != nil {
		return file{}, err
	}
	for range maxLinks {
		if f, ok := a.files[at]; ok {
			return f, nil
		}
		to, ok := a.links[at]
		if !ok {
			break
		}
		at = to
	}
	return file{}, fmt.Errorf("its manifest.json names %q, which is not in it", name)
}

func decode(name string, body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("its %s is not the JSON that it should be: %w", name, err)
	}
	return nil
}
