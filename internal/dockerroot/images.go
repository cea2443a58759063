package dockerroot

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/image/archive"
)

// store keeps images, in one of Docker's two ways.
type store interface {
	// entries are the images that are there. Their ids are Docker's.
	entries() []entry
	// config is the configuration of an image; of several platforms, this machine's.
	config(id digest.Digest) (ocispec.Image, error)
	// saved is what an archive has of an image, without names, and how its blobs are read.
	saved(id digest.Digest) (archive.Saved, map[digest.Digest]opener, error)
	close()
}

type opener func() (io.ReadCloser, error)

// entry is an image with its canonical names.
type entry struct {
	id      digest.Digest
	tags    []string // docker.io/library/busybox:latest
	digests []string // docker.io/library/busybox@sha256:...
	of      store
}

// addName gives an entry a name, in canonical form.
func (e *entry) addName(name string) error {
	n, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return fmt.Errorf("%q is no name that the image %s can have: %w", name, e.id, err)
	}
	list := &e.tags
	if _, ok := n.(reference.Digested); ok {
		list = &e.digests
	}
	if name := reference.TagNameOnly(n).String(); !slices.Contains(*list, name) {
		*list = append(*list, name)
	}
	return nil
}

func (r *Root) entries() []entry {
	if r.store == nil {
		return nil
	}
	return r.store.entries()
}

// find is the image that ref means: an id, the beginning of one, or a name.
func (r *Root) find(ref string) (entry, error) {
	all := r.entries()
	if n, err := reference.ParseNormalizedNamed(ref); err == nil {
		name := reference.TagNameOnly(n).String()
		if i := slices.IndexFunc(all, func(e entry) bool { return slices.Contains(e.tags, name) || slices.Contains(e.digests, name) }); i >= 0 {
			return all[i], nil
		}
	}
	if hex := strings.TrimPrefix(ref, "sha256:"); hex != "" {
		if i := slices.IndexFunc(all, func(e entry) bool { return strings.HasPrefix(e.id.Encoded(), hex) }); i >= 0 {
			return all[i], nil
		}
	}
	return entry{}, errdefs.ErrNotFound.WithMessage("No such image: " + ref)
}

// familiar are names as people write them.
func familiar(names []string) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = name
		if n, err := reference.ParseNormalizedNamed(name); err == nil {
			out[i] = reference.FamiliarString(n)
		}
	}
	return out
}

// Images lists the images.
func (r *Root) Images() []image.Summary {
	out := []image.Summary{}
	for _, e := range r.entries() {
		out = append(out, image.Summary{ID: e.id.String(), RepoTags: familiar(e.tags), RepoDigests: familiar(e.digests)})
	}
	return out
}

// Image is what Docker says of an image, as far as it matters to who takes it over.
func (r *Root) Image(ref string) (image.InspectResponse, error) {
	e, err := r.find(ref)
	if err != nil {
		return image.InspectResponse{}, err
	}
	config, err := e.of.config(e.id)
	if err != nil {
		return image.InspectResponse{}, err
	}
	out := image.InspectResponse{ID: e.id.String(), RepoTags: familiar(e.tags), RepoDigests: familiar(e.digests), Os: config.OS, Architecture: config.Architecture}
	out.RootFS.Type = config.RootFS.Type
	for _, d := range config.RootFS.DiffIDs {
		out.RootFS.Layers = append(out.RootFS.Layers, d.String())
	}
	return out, nil
}

// Save prepares an archive of images. One that is named by its id has no name in it.
func (r *Root) Save(refs []string) (func(context.Context, io.Writer) error, error) {
	var list []archive.Saved
	blobs := map[digest.Digest]opener{}
	for _, ref := range refs {
		e, err := r.find(ref)
		if err != nil {
			return nil, err
		}
		at := slices.IndexFunc(list, func(s archive.Saved) bool { return s.Target.Digest == e.id || s.Manifest.Config.Digest == e.id })
		if at < 0 {
			s, more, err := e.of.saved(e.id)
			if err != nil {
				return nil, fmt.Errorf("image %s: %w", ref, err)
			}
			for d, open := range more {
				blobs[d] = open
			}
			at, list = len(list), append(list, s)
		}
		if n, err := reference.ParseNormalizedNamed(ref); err == nil {
			if name := reference.TagNameOnly(n).String(); slices.Contains(e.tags, name) {
				list[at].Names = append(list[at].Names, name)
			}
		}
	}
	plan, err := archive.NewPlan(list)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, w io.Writer) error {
		return plan.Write(ctx, w, func(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) { return blobs[d.Digest]() })
	}, nil
}
