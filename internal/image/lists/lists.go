// Package lists serves `hezi manifest`: what it asks of registries and puts into
// them. The client keeps the lists, and links no registry's client.
package lists

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/image/registry"
)

// Manifest is a manifest or an index as a registry has it.
type Manifest struct {
	// Ref is its name; of one that an index names, by digest.
	Ref        string
	Descriptor ocispec.Descriptor // with the platform, if it is known
	Raw        []byte
	Manifests  []Manifest `json:",omitempty"` // of an index
}

// maxChildren bounds the manifests of one index that are fetched.
const maxChildren = 500

const maxConfig = 16 << 20 // bytes; as when it is pulled

// Lists asks registries.
type Lists struct{ Registries *registry.Client }

// Fetch reads what a name means at its registry. Of an index, each manifest
// is described, and with all also read. Nothing is stored.
func (l Lists) Fetch(ctx context.Context, name string, all bool, o registry.RepositoryOptions) (Manifest, error) {
	var none Manifest
	ref, err := named(name)
	if err != nil {
		return none, err
	}
	r := l.Registries.Repository(ref, o)
	d, err := r.Resolve(ctx, ref)
	if err != nil {
		return none, err
	}
	m, err := fetch(ctx, r, ref, d)
	if err != nil {
		return none, err
	}
	if !images.IsIndexType(m.Descriptor.MediaType) {
		return m, describe(ctx, r, &m)
	}
	var index ocispec.Index
	if err := json.Unmarshal(m.Raw, &index); err != nil {
		return none, notJSON(m.Descriptor, err)
	}
	if len(index.Manifests) > maxChildren {
		return none, errdefs.ErrOutOfRange.WithMessage(fmt.Sprintf("index %s of %s names %d manifests; at most %d are read", d.Digest, reference.FamiliarString(ref), len(index.Manifests), maxChildren))
	}
	for _, cd := range index.Manifests {
		at, err := reference.WithDigest(ref, cd.Digest)
		if err != nil {
			return none, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("index %s of %s names %q: %v", d.Digest, reference.FamiliarString(ref), cd.Digest, err))
		}
		child := Manifest{Ref: at.String(), Descriptor: cd}
		if all {
			if child, err = fetch(ctx, r, at, cd); err != nil {
				return none, err
			}
			child.Descriptor.Platform = cd.Platform
		}
		m.Manifests = append(m.Manifests, child)
	}
	return m, nil
}

func named(name string) (reference.Named, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid reference format: %q: %v", name, err))
	}
	return reference.TagNameOnly(ref), nil
}

func notJSON(d ocispec.Descriptor, err error) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("manifest %s is not JSON: %v: push the image again", d.Digest, err))
}

// fetch reads one manifest.
func fetch(ctx context.Context, r *registry.Repository, ref reference.Named, d ocispec.Descriptor) (Manifest, error) {
	body, kind, err := r.Manifest(ctx, d)
	if err != nil {
		return Manifest{}, err
	}
	m := Manifest{Ref: ref.String(), Descriptor: ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: int64(len(body))}, Raw: body}
	var self struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.Unmarshal(body, &self); err != nil {
		return Manifest{}, notJSON(d, err)
	}
	switch {
	case self.MediaType != "": // what it says of itself counts more
		m.Descriptor.MediaType = self.MediaType
	case m.Descriptor.MediaType == "":
		m.Descriptor.MediaType = kind
	}
	return m, nil
}

// describe adds the platform that a manifest's config says; an artifact's says
// none.
func describe(ctx context.Context, r *registry.Repository, m *Manifest) error {
	var body ocispec.Manifest
	if err := json.Unmarshal(m.Raw, &body); err != nil {
		return notJSON(m.Descriptor, err)
	}
	m.Descriptor.Platform = &ocispec.Platform{}
	c := body.Config
	if !images.IsConfigType(c.MediaType) || c.Digest.Validate() != nil || c.Size < 0 || c.Size > maxConfig {
		return nil
	}
	rc, err := contentOf(ctx, r, c)(0)
	if err != nil {
		return err
	}
	defer rc.Close()
	config, err := io.ReadAll(io.LimitReader(rc, c.Size))
	if err != nil {
		return fmt.Errorf("read config %s of %s: %w", c.Digest, m.Ref, err)
	}
	if got := c.Digest.Algorithm().FromBytes(config); got != c.Digest {
		return errdefs.ErrDataLoss.WithMessage(fmt.Sprintf("the registry sent a wrong config of %s: expected digest %s, got %s", m.Ref, c.Digest, got))
	}
	if err := json.Unmarshal(config, m.Descriptor.Platform); err != nil {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("config %s of %s is not JSON: %v: push the image again", c.Digest, m.Ref, err))
	}
	return nil
}

// Request puts a manifest list, or an index, into a registry.
type Request struct {
	Name      string
	MediaType string
	Raw       []byte
	// Manifests that may be in other repositories of the registry only; Ref
	// says where each is.
	Manifests []Manifest
}

// Pushed is the answer to a Request.
type Pushed struct {
	Digest digest.Digest
	Refs   []string // manifests that were brought from other repositories
}

// Put brings what a list names into its repository, from other ones of
// the same registry, and then the list. Where the registry cannot mount a
// blob, it is copied.
func (l Lists) Put(ctx context.Context, q Request, o registry.RepositoryOptions) (Pushed, error) {
	var out Pushed
	ref, err := named(q.Name)
	if err != nil {
		return out, err
	}
	if !images.IsIndexType(q.MediaType) {
		return out, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%q is no media type of a manifest list", q.MediaType))
	}
	to := l.Registries.Repository(ref, o)
	by, err := to.Pusher()
	if err != nil {
		return out, err
	}
	for _, m := range q.Manifests {
		if got := digest.FromBytes(m.Raw); got != m.Descriptor.Digest {
			return out, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("internal digest mismatch for %s: expected %s, got %s", m.Ref, m.Descriptor.Digest, got))
		}
		from, err := named(m.Ref)
		if err != nil {
			return out, err
		}
		switch {
		case reference.Domain(from) != reference.Domain(ref):
			return out, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("cannot use source images from a different registry than the target image: %s != %s", reference.Domain(from), reference.Domain(ref)))
		case reference.Path(from) == reference.Path(ref):
			continue
		}
		if err := bringOver(ctx, from, l.Registries.Repository(from, o), by, m); err != nil {
			return out, err
		}
		at, err := reference.WithDigest(reference.TrimNamed(ref), m.Descriptor.Digest)
		if err != nil {
			return out, errdefs.ErrInvalidArgument.WithMessage(err.Error())
		}
		out.Refs = append(out.Refs, at.String())
	}
	d := ocispec.Descriptor{MediaType: q.MediaType, Digest: digest.FromBytes(q.Raw), Size: int64(len(q.Raw))}
	tag := ""
	if t, ok := ref.(reference.Tagged); ok {
		tag = t.Tag()
	} else if g, ok := ref.(reference.Digested); ok && g.Digest() != d.Digest {
		return out, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s cannot be pushed: the list's digest is %s: name it by a tag", q.Name, d.Digest))
	}
	out.Digest = d.Digest
	return out, by.Manifest(ctx, d, q.Raw, tag)
}

// bringOver brings a manifest with its blobs from another repository.
func bringOver(ctx context.Context, at reference.Named, from *registry.Repository, by *registry.Pusher, m Manifest) error {
	var body ocispec.Manifest
	if err := json.Unmarshal(m.Raw, &body); err != nil {
		return notJSON(m.Descriptor, err)
	}
	blobs := append(slices.Clone(body.Layers), body.Config)
	for _, d := range blobs {
		if d.Digest == "" || images.IsNonDistributable(d.MediaType) && len(d.URLs) > 0 {
			continue
		}
		if err := d.Digest.Validate(); err != nil || d.Size < 0 {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("manifest %s names %q with %d bytes", m.Ref, d.Digest, d.Size))
		}
		ok, err := by.Has(ctx, d.Digest)
		if err != nil {
			return err
		}
		if ok {
			continue
		}
		_, err = by.Upload(ctx, d, []string{reference.Path(at)}, contentOf(ctx, from, d), func(int64) {}, pause)
		if err != nil {
			return fmt.Errorf("bring %s of %s: %w", d.Digest, m.Ref, err)
		}
	}
	return by.Manifest(ctx, m.Descriptor, m.Raw, "")
}

// pause waits unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// contentOf reads a blob of a repository from an offset.
func contentOf(ctx context.Context, r *registry.Repository, d ocispec.Descriptor) registry.Content {
	return func(offset int64) (io.ReadCloser, error) {
		var b *registry.Blob
		for n := 1; ; n++ {
			var err error
			if b, err = r.Blob(ctx, d, offset); err == nil {
				break
			}
			wait, ok := r.Again(err, n)
			if !ok {
				return nil, err
			}
			if err := pause(ctx, wait); err != nil {
				return nil, err
			}
		}
		if b.Offset == offset {
			return b, nil
		}
		if _, err := io.CopyN(io.Discard, b, offset-b.Offset); err != nil {
			b.Close()
			return nil, fmt.Errorf("read blob %s: %w", d.Digest, err)
		}
		return b, nil
	}
}
