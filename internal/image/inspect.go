package image

import (
	"context"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	imagetypes "github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/storage"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Inspect tells about an image; platform nil is the host's.
func (s *Service) Inspect(ctx context.Context, ref string, platform *ocispec.Platform, manifests bool) (imagetypes.InspectResponse, error) {
	var out imagetypes.InspectResponse
	c, target, v, err := s.lookup(ctx, ref, platform)
	if err != nil {
		return out, err
	}
	in, err := s.read(ctx, c, target)
	if err != nil {
		return out, err
	}
	same := c.byDigest[target.Digest]
	if platform != nil { // as Docker has it, it is then about the platform's manifest
		target = v.desc
		target.Platform = nil
	}
	config := v.config.Config
	out = imagetypes.InspectResponse{
		ID: target.Digest.String(), Author: v.config.Author, Config: &config, Architecture: v.config.Architecture, Variant: v.config.Variant,
		Os: v.config.OS, OsVersion: v.config.OSVersion, Descriptor: &target, RootFS: imagetypes.RootFS{Type: "layers", Layers: texts(v.config.RootFS.DiffIDs)},
		GraphDriver: &storage.DriverData{Name: s.form.name},
	}
	out.RepoTags, out.RepoDigests = namesOf(same)
	if n := len(v.config.History); n > 0 {
		out.Comment = v.config.History[n-1].Comment
	}
	if v.config.Created != nil {
		out.Created = v.config.Created.Format(time.RFC3339Nano)
	}
	for _, i := range same {
		if i.UpdatedAt.After(out.Metadata.LastTagTime) && !reserved(i.Name) {
			out.Metadata.LastTagTime = i.UpdatedAt
		}
	}
	content, unpacked, err := s.variantSize(ctx, c, v)
	if err != nil {
		return out, err
	}
	out.Size = content + unpacked
	if manifests {
		out.Manifests, err = s.manifests(ctx, c, in)
	}
	return out, err
}

func texts(list []digest.Digest) []string {
	out := make([]string, len(list))
	for i, d := range list {
		out[i] = d.String()
	}
	return out
}

// lookup finds an image and one of its platforms.
func (s *Service) lookup(ctx context.Context, ref string, platform *ocispec.Platform) (*catalog, ocispec.Descriptor, *variant, error) {
	img, err := s.Resolve(ctx, ref, platform)
	if errdefs.IsNotFound(err) && platform == nil {
		if c, target, v := s.foreign(ctx, ref); v != nil {
			return c, target, v, nil
		}
	}
	if err != nil {
		return nil, ocispec.Descriptor{}, nil, err
	}
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, ocispec.Descriptor{}, nil, err
	}
	same := c.byDigest[img.ID]
	if len(same) == 0 {
		return nil, ocispec.Descriptor{}, nil, noSuchImage(ref)
	}
	in, err := s.read(ctx, c, same[0].Target)
	if err != nil {
		return nil, ocispec.Descriptor{}, nil, err
	}
	i := slices.IndexFunc(in.variants, func(v *variant) bool { return v.desc.Digest == img.Manifest.Digest })
	if i < 0 {
		return nil, ocispec.Descriptor{}, nil, noSuchImage(ref)
	}
	return c, same[0].Target, in.variants[i], nil
}

// foreign finds an image of which only other machines' platforms are here, and
// the first of these; v is nil if there is none.
func (s *Service) foreign(ctx context.Context, ref string) (_ *catalog, _ ocispec.Descriptor, v *variant) {
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, ocispec.Descriptor{}, nil
	}
	target, _, err := s.find(ctx, c, ref)
	if err != nil {
		return nil, ocispec.Descriptor{}, nil
	}
	in, err := s.read(ctx, c, target)
	if err != nil {
		return nil, ocispec.Descriptor{}, nil
	}
	for _, v := range in.variants {
		if v.here {
			return c, target, v
		}
	}
	return nil, ocispec.Descriptor{}, nil
}

// History tells how an image was made, the latest step first.
func (s *Service) History(ctx context.Context, ref string, platform *ocispec.Platform) ([]imagetypes.HistoryResponseItem, error) {
	c, target, v, err := s.lookup(ctx, ref, platform)
	if err != nil {
		return nil, err
	}
	out := []imagetypes.HistoryResponseItem{}
	layer := 0
	for _, h := range v.config.History {
		item := imagetypes.HistoryResponseItem{ID: "<missing>", CreatedBy: h.CreatedBy, Comment: h.Comment}
		if h.Created != nil {
			item.Created = h.Created.Unix()
		}
		if !h.EmptyLayer && layer < len(v.chains) {
			if item.Size, err = s.unpackedSize(ctx, v.chains[layer]); err != nil {
				return nil, err
			}
			layer++
		}
		out = append(out, item)
	}
	slices.Reverse(out)
	if len(out) > 0 {
		out[0].ID = target.Digest.String()
		out[0].Tags, _ = namesOf(c.byDigest[target.Digest])
	}
	return out, nil
}
