package image

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	imagetypes "github.com/moby/moby/api/types/image"
)

// Tag gives an image another name; a name that was another image's moves.
func (s *Service) Tag(ctx context.Context, source, target string) error {
	named, err := parseName(target)
	if err != nil {
		return err
	}
	if _, digested := named.(reference.Digested); digested {
		return errdefs.ErrInvalidArgument.WithMessage("refusing to create a tag with a digest reference: write NAME:TAG")
	}
	if _, err := s.Resolve(ctx, source, nil); err != nil && !errdefs.IsNotFound(err) {
		return err // NotFound may be an image of other platforms only
	}
	s.change.Lock()
	defer s.change.Unlock() // until the name is there, so that the source stays
	c, err := s.catalog(ctx)
	if err != nil {
		return err
	}
	d, _, err := s.find(ctx, c, source)
	if err != nil {
		return err
	}
	if err := s.moveName(ctx, named.String(), d); err != nil {
		return err
	}
	s.publish("tag", d.Digest.String(), reference.FamiliarString(named), nil)
	return nil
}

// Remove takes a name away, and the image with its last one. What a container
// uses stays for it, whatever is removed by force.
func (s *Service) Remove(ctx context.Context, ref string, o RemoveOptions) ([]imagetypes.DeleteResponse, error) {
	if len(o.Platforms) > 0 {
		return s.removePlatforms(ctx, ref, o.Platforms)
	}
	defer s.cleaning.begin()()
	s.change.Lock()
	defer s.change.Unlock()
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	target, name, err := s.find(ctx, c, ref)
	if err != nil {
		return nil, err
	}
	same := c.byDigest[target.Digest]
	doomed, err := s.doomed(ctx, ref, name, same, o.Force)
	if err != nil {
		return nil, err
	}
	whole := len(doomed) == countUsers(same)
	kept := whole && s.used(ctx, target.Digest)
	if err := s.update(ctx, func(ctx context.Context) error {
		for _, n := range doomed {
			if err := s.dropName(ctx, n); err != nil {
				return err
			}
		}
		if kept {
			return s.putName(ctx, pinnedPrefix+target.Digest.String(), target)
		}
		return nil
	}); err != nil {
		return nil, err
	}
	var out []imagetypes.DeleteResponse
	for _, n := range doomed {
		if !reserved(n) {
			out = append(out, imagetypes.DeleteResponse{Untagged: familiar(n)})
			s.publish("untag", target.Digest.String(), familiar(n), nil)
		}
	}
	if !whole {
		return out, nil
	}
	if err := s.keepPinned(ctx, c, []string{doomed[0]}); err != nil {
		return out, err
	}
	if kept && name != "" { // as Docker has it: only the name went
		return out, nil
	}
	if err := s.forgetDownloads(s.context(ctx), target.Digest.String()); err != nil {
		return out, err
	}
	out = append(out, imagetypes.DeleteResponse{Deleted: target.Digest.String()})
	s.publish("delete", target.Digest.String(), target.Digest.String(), nil)
	return out, s.collect(ctx)
}

func countUsers(same []images.Image) int {
	n := 0
	for _, i := range same {
		if !strings.HasPrefix(i.Name, pinnedPrefix) {
			n++
		}
	}
	return n
}

// doomed are the names that go, or the conflict that keeps them.
func (s *Service) doomed(ctx context.Context, ref, name string, same []images.Image, force bool) ([]string, error) {
	running, stopped := s.inUse(ctx, same[0].Target.Digest)
	id := same[0].Target.Digest.Encoded()[:12]
	if name != "" {
		names := together(ref, name, same)
		if countUsers(same) == len(names) && !force {
			if by := append(append([]string{}, running...), stopped...); len(by) > 0 {
				return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("conflict: unable to remove repository reference %q (must force) - container %s is using its referenced image %s", ref, short(by[0]), id))
			}
		}
		return names, nil
	}
	var names []string
	repositories := map[string]bool{}
	for _, i := range same {
		if strings.HasPrefix(i.Name, pinnedPrefix) {
			continue
		}
		names = append(names, i.Name)
		if n, err := reference.ParseNormalizedNamed(i.Name); err == nil && !reserved(i.Name) {
			repositories[n.Name()] = true
		}
	}
	switch {
	case len(running) > 0:
		return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("conflict: unable to delete %s (cannot be forced) - image is being used by running container %s", id, short(running[0])))
	case force:
	case len(repositories) > 1:
		return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("conflict: unable to delete %s (must be forced) - image is referenced in multiple repositories", id))
	case len(stopped) > 0:
		return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("conflict: unable to delete %s (must be forced) - image is being used by stopped container %s", id, short(stopped[0])))
	}
	return names, nil
}

// together are the names that go with one: for NAME@DIGEST all of this
// repository; for the last tag of a repository its digests, too.
func together(ref, name string, same []images.Image) []string {
	asked, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return []string{name}
	}
	_, all := asked.(reference.Digested)
	var tags, digests []string
	for _, i := range same {
		n, err := reference.ParseNormalizedNamed(i.Name)
		if err != nil || reserved(i.Name) || n.Name() != asked.Name() {
			continue
		}
		if _, digested := n.(reference.Digested); digested {
			digests = append(digests, i.Name)
		} else {
			tags = append(tags, i.Name)
		}
	}
	if all || len(tags) == 1 {
		return append(tags, digests...)
	}
	return []string{name}
}

func short(id string) string { return id[:min(12, len(id))] }
