package archive

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Saved is an image that goes into an archive.
type Saved struct {
	Target ocispec.Descriptor
	// Names are canonical: docker.io/library/busybox:latest.
	Names []string
	// Manifest is what Docker's form has of it: of an index, one platform.
	Manifest ocispec.Manifest
	// Blobs are all that the archive holds of it, the target too; none of
	// them twice. Manifests and configs stand before layers.
	Blobs []ocispec.Descriptor
}

// Open reads a blob.
type Open func(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)

// Plan is an archive that has not been written yet.
type Plan struct {
	files []entry
	size  int64
}

// entry is one file or folder of an archive.
type entry struct {
	header tar.Header
	body   []byte
	blob   *ocispec.Descriptor // instead of body
}

// NewPlan lays out an archive as Docker does, but for the order: what says
// which images it holds comes first, so that who reads it can use a layer as
// soon as it is there.
func NewPlan(list []Saved) (*Plan, error) {
	p := &Plan{}
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return nil, err
	}
	index, err := json.Marshal(indexOf(list))
	if err != nil {
		return nil, err
	}
	docker, err := dockerManifest(list)
	if err != nil {
		return nil, err
	}
	p.file(ocispec.ImageLayoutFile, 0o444, layout)
	p.file(ocispec.ImageIndexFile, 0o644, index)
	p.file(manifestFile, 0o644, docker)
	p.folder(blobsPrefix)
	p.folder(blobsPrefix + digest.SHA256.String() + "/")
	seen := map[digest.Digest]bool{}
	for _, layers := range []bool{false, true} {
		for _, s := range list {
			for _, d := range s.Blobs {
				if images.IsLayerType(d.MediaType) != layers || seen[d.Digest] {
					continue
				}
				seen[d.Digest] = true
				p.files = append(p.files, entry{header: tar.Header{Name: blobPath(d.Digest), Typeflag: tar.TypeReg, Mode: 0o444, Size: d.Size}, blob: &d})
			}
		}
	}
	return p, p.measure()
}

func blobPath(d digest.Digest) string {
	return path.Join(ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

func (p *Plan) file(name string, mode int64, body []byte) {
	p.files = append(p.files, entry{header: tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(body))}, body: body})
}

func (p *Plan) folder(name string) {
	p.files = append(p.files, entry{header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}})
}

// Size of the archive in bytes.
func (p *Plan) Size() int64 { return p.size }

const block = 512 // bytes; tar's unit

// measure adds up headers, bodies and the two empty blocks at the end.
func (p *Plan) measure() error {
	p.size = 2 * block
	for i := range p.files {
		var c counted
		if err := tar.NewWriter(&c).WriteHeader(&p.files[i].header); err != nil {
			return err
		}
		p.size += int64(c) + (p.files[i].header.Size+block-1)/block*block
	}
	return nil
}

// counted counts what is written.
type counted int64

func (c *counted) Write(b []byte) (int, error) {
	*c += counted(len(b))
	return len(b), nil
}

// Write writes the archive. A blob that is not what its digest says ends it.
func (p *Plan) Write(ctx context.Context, w io.Writer, open Open) error {
	t := tar.NewWriter(w)
	buf := make([]byte, 256<<10)
	for i := range p.files {
		e := &p.files[i]
		if err := t.WriteHeader(&e.header); err != nil {
			return err
		}
		if e.blob == nil {
			if _, err := t.Write(e.body); err != nil {
				return err
			}
			continue
		}
		if err := copyBlob(ctx, t, *e.blob, open, buf); err != nil {
			return err
		}
	}
	return t.Close()
}

func copyBlob(ctx context.Context, w io.Writer, d ocispec.Descriptor, open Open, buf []byte) error {
	r, err := open(ctx, d)
	if err != nil {
		return fmt.Errorf("read blob %s: %w", d.Digest, err)
	}
	defer r.Close()
	sum := d.Digest.Algorithm().Digester()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.Read(buf)
		_, _ = sum.Hash().Write(buf[:n]) // never fails
		if _, werr := w.Write(buf[:n]); werr != nil {
			return werr
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("read blob %s: %w", d.Digest, err)
		}
	}
	if got := sum.Digest(); got != d.Digest {
		return fmt.Errorf("blob %s is damaged on disk: its content has digest %s", d.Digest, got)
	}
	return nil
}

// indexOf has an entry for each name, as containerd writes it.
func indexOf(list []Saved) ocispec.Index {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	for _, s := range list {
		if len(s.Names) == 0 {
			index.Manifests = append(index.Manifests, s.Target)
		}
		for _, name := range s.Names {
			d := s.Target
			d.Annotations = maps.Clone(d.Annotations)
			if d.Annotations == nil {
				d.Annotations = map[string]string{}
			}
			d.Annotations[images.AnnotationImageName], d.Annotations[ocispec.AnnotationRefName] = name, tagOf(name)
			index.Manifests = append(index.Manifests, d)
		}
	}
	return index
}

func tagOf(name string) string {
	if n, err := reference.ParseNormalizedNamed(name); err == nil {
		if t, ok := n.(reference.Tagged); ok {
			return t.Tag()
		}
	}
	return name
}

// dockerManifest names configs and layers by their blobs' paths. The same
// manifest under several names is one item.
func dockerManifest(list []Saved) ([]byte, error) {
	type item struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	var items []item
	at := map[string]int{}
	for _, s := range list {
		it := item{Config: blobPath(s.Manifest.Config.Digest)}
		for _, l := range s.Manifest.Layers {
			it.Layers = append(it.Layers, blobPath(l.Digest))
		}
		key := fmt.Sprint(it.Config, it.Layers)
		i, ok := at[key]
		if !ok {
			i = len(items)
			at[key] = i
			items = append(items, it)
		}
		for _, name := range s.Names {
			n, err := reference.ParseNormalizedNamed(name)
			if err != nil {
				return nil, err
			}
			if f := reference.FamiliarString(reference.TagNameOnly(n)); !slices.Contains(items[i].RepoTags, f) {
				items[i].RepoTags = append(items[i].RepoTags, f)
			}
		}
	}
	return json.Marshal(items)
}
