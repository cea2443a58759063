package image

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	imagetypes "github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// removePlatforms deletes some platforms of an image and leaves its names. The
// last one that is here, one that another image has too, and any of an image
// that a container uses are conflicts.
func (s *Service) removePlatforms(ctx context.Context, ref string, list []ocispec.Platform) ([]imagetypes.DeleteResponse, error) {
	s.change.Lock()
	defer s.change.Unlock()
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	target, _, err := s.find(ctx, c, ref)
	if err != nil {
		return nil, err
	}
	in, err := s.read(ctx, c, target)
	if err != nil {
		return nil, err
	}
	var doomed []digest.Digest
	for _, p := range list {
		i := slices.IndexFunc(in.variants, func(v *variant) bool { return v.here && platforms.OnlyStrict(p).Match(v.platform) })
		if i < 0 {
			return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("image %s has no platform %s here", ref, platforms.Format(p)))
		}
		if !slices.Contains(doomed, in.variants[i].desc.Digest) {
			doomed = append(doomed, in.variants[i].desc.Digest)
		}
	}
	left := slices.ContainsFunc(in.variants, func(v *variant) bool { return v.here && !slices.Contains(doomed, v.desc.Digest) })
	if !left {
		return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("conflict: unable to delete the only platform of %s that is here: remove the image, without --platform", ref))
	}
	done := s.pins.leave(doomed) // whoever pins from now on sees it, whoever has pinned is seen
	defer done()
	if s.used(ctx, target.Digest) {
		by := "a container"
		if running, stopped := s.inUse(ctx, target.Digest); len(running)+len(stopped) > 0 {
			by = "container " + short(append(running, stopped...)[0])
		}
		return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("conflict: unable to delete platforms of %s (cannot be forced) - image is being used by %s", ref, by))
	}
	if err := s.alone(ctx, c, target.Digest, doomed); err != nil {
		return nil, err
	}
	gone := slices.Clone(doomed)
	for _, a := range in.attestations {
		if slices.Contains(doomed, a.of) {
			gone = append(gone, a.desc.Digest)
		}
	}
	if err := s.untie(ctx, target.Digest, gone); err != nil {
		return nil, err
	}
	var out []imagetypes.DeleteResponse
	for _, d := range doomed {
		out = append(out, imagetypes.DeleteResponse{Deleted: d.String()})
		s.publish("delete", d.String(), d.String(), nil)
	}
	err = s.collect(ctx)
	s.changed() // what the image has here is read anew
	return out, err
}

// alone fails if another image than target has one of the manifests.
func (s *index) alone(ctx context.Context, c *catalog, target digest.Digest, manifests []digest.Digest) error {
	for d, same := range c.byDigest {
		if d == target {
			continue
		}
		in, err := s.read(ctx, c, same[0].Target)
		if err != nil {
			continue // a broken image holds nothing
		}
		for _, v := range in.variants {
			if v.here && slices.Contains(manifests, v.desc.Digest) {
				return errdefs.ErrConflict.WithMessage(fmt.Sprintf("conflict: unable to delete platform %s: image %s has it, too: remove that first", platforms.Format(v.platform), familiar(same[0].Name)))
			}
		}
	}
	return nil
}

// untie makes a blob hold some of those that it names no longer.
func (s *depot) untie(ctx context.Context, from digest.Digest, to []digest.Digest) error {
	ctx = s.context(ctx)
	info, err := s.blobs.Info(ctx, from)
	if err != nil {
		return fmt.Errorf("read what %s refers to: %w", from, err)
	}
	change := content.Info{Digest: from, Labels: map[string]string{}}
	var paths []string
	for k, v := range info.Labels {
		if slices.Contains(to, digest.Digest(v)) {
			change.Labels[k] = "" // which removes it
			paths = append(paths, "labels."+k)
		}
	}
	if len(paths) == 0 {
		return nil
	}
	if _, err := s.blobs.Update(ctx, change, paths...); err != nil {
		return fmt.Errorf("note what %s refers to: %w", from, err)
	}
	return nil
}
