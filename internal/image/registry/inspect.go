package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/image/schema1"
)

// Inspect answers GET /distribution/{name}/json: what a reference names at its
// registry now, and for which platforms it is. Nothing is stored.
func (c *Client) Inspect(ctx context.Context, name string, o RepositoryOptions) (registry.DistributionInspect, error) {
	var out registry.DistributionInspect
	parsed, err := reference.ParseAnyReference(name)
	if err != nil {
		return out, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%v: %q", err, name))
	}
	ref, ok := parsed.(reference.Named)
	if !ok {
		return out, errdefs.ErrInvalidArgument.WithMessage("no manifest found for full image ID: write the image's name")
	}
	ref = reference.TagNameOnly(ref)
	r := c.Repository(ref, o)
	d, err := r.Resolve(ctx, ref)
	if err != nil {
		return out, unauthenticated(err)
	}
	body, kind, err := r.Manifest(ctx, d)
	if err != nil {
		return out, unauthenticated(err)
	}
	var m struct {
		MediaType    string               `json:"mediaType"`
		Config       ocispec.Descriptor   `json:"config"`
		Manifests    []ocispec.Descriptor `json:"manifests"`
		Architecture string               `json:"architecture"` // of schema 1
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return out, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("manifest %s of %s is not JSON: %v: push the image again", d.Digest, reference.FamiliarString(ref), err))
	}
	d.Size = int64(len(body))
	switch {
	case m.MediaType != "": // what it says of itself counts more
		d.MediaType = m.MediaType
	case kind != "":
		d.MediaType = kind
	}
	out.Descriptor = d
	if schema1.Is(d.MediaType) && m.Architecture != "" {
		out.Platforms = []ocispec.Platform{{OS: "linux", Architecture: m.Architecture}}
		return out, nil
	}
	if images.IsIndexType(d.MediaType) {
		for _, e := range m.Manifests {
			if e.Platform != nil {
				out.Platforms = append(out.Platforms, *e.Platform)
			}
		}
		return out, nil
	}
	if p, ok := r.platform(ctx, m.Config); ok {
		out.Platforms = []ocispec.Platform{p}
	}
	return out, nil
}

const maxConfig = 16 << 20 // bytes; as when it is pulled

// platform reads a config's platform; an image without one is none.
func (r *Repository) platform(ctx context.Context, config ocispec.Descriptor) (p ocispec.Platform, ok bool) {
	if config.Digest.Validate() != nil || config.Size > maxConfig {
		return p, false
	}
	b, err := r.Blob(ctx, config, 0)
	if err != nil {
		return p, false
	}
	defer b.Close()
	body, err := io.ReadAll(io.LimitReader(b, config.Size))
	if err != nil || config.Digest.Algorithm().FromBytes(body) != config.Digest || json.Unmarshal(body, &p) != nil {
		return ocispec.Platform{}, false
	}
	return p, p.OS != "" || p.Architecture != ""
}

// unauthenticated is a refusal as this operation has it: a client that asks
// for a manifest wants to know that a login is missing.
func unauthenticated(err error) error {
	var f *Failure
	if errors.As(err, &f) && f.class != nil && (errdefs.IsUnauthorized(f.class) || errdefs.IsPermissionDenied(f.class)) {
		return errdefs.ErrUnauthenticated.WithMessage(err.Error())
	}
	return err
}
