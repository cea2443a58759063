package image

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// pins is which container holds which image. It is in memory only.
type pins struct {
	mu        sync.Mutex
	container map[string]digest.Digest
	count     map[digest.Digest]int
	going     map[digest.Digest]struct{} // manifests of platforms that are being removed
}

func (p *pins) add(container string, id digest.Digest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.container == nil {
		p.container, p.count = map[string]digest.Digest{}, map[digest.Digest]int{}
	}
	p.drop(container)
	p.container[container] = id
	p.count[id]++
}

// remove gives the image that nothing holds any more, or "".
func (p *pins) remove(container string) digest.Digest {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.drop(container)
}

func (p *pins) drop(container string) digest.Digest {
	id, ok := p.container[container]
	if !ok {
		return ""
	}
	delete(p.container, container)
	if p.count[id]--; p.count[id] > 0 {
		return ""
	}
	delete(p.count, id)
	return id
}

// leave says that manifests are being removed, until the returned function is called.
func (p *pins) leave(manifests []digest.Digest) (done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.going == nil {
		p.going = map[digest.Digest]struct{}{}
	}
	for _, d := range manifests {
		p.going[d] = struct{}{}
	}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, d := range manifests {
			delete(p.going, d)
		}
	}
}

func (p *pins) leaving(manifest digest.Digest) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.going[manifest]
	return ok
}

func (p *pins) holds(id digest.Digest) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count[id] > 0
}

// Pin keeps an image's layers for a container until Unpin, whatever is
// removed. It writes nothing: whoever stores containers pins again, by the
// image's id, when hezid starts and before the first CollectGarbage. The error
// is errdefs.ErrNotFound when the image was removed since it was resolved.
func (s *Service) Pin(ctx context.Context, img *Image, containerID string) error {
	s.pins.add(containerID, img.ID)
	c, err := s.catalog(ctx)
	if err == nil && (len(c.byDigest[img.ID]) == 0 || !has(ctx, s, c, img)) {
		err = noSuchImage(img.ID.String())
	}
	if err != nil {
		s.pins.remove(containerID)
	}
	return err
}

// has says whether the platform of img is still there; one that is not said is.
func has(ctx context.Context, s *Service, c *catalog, img *Image) bool {
	if img.Manifest.Digest == "" {
		return true
	}
	if s.pins.leaving(img.Manifest.Digest) {
		return false
	}
	in, err := s.read(ctx, c, c.byDigest[img.ID][0].Target)
	return err == nil && slices.ContainsFunc(in.variants, func(v *variant) bool { return v.here && v.desc.Digest == img.Manifest.Digest })
}

// Unpin ends a container's hold. An image that was removed meanwhile is
// deleted in the background when its last hold ends.
func (s *Service) Unpin(ctx context.Context, containerID string) error {
	id := s.pins.remove(containerID)
	if id == "" {
		return nil
	}
	c, err := s.catalog(ctx)
	if err != nil {
		return err
	}
	if _, removed := c.byName[pinnedPrefix+id.String()]; removed && s.life.Err() == nil {
		s.inBackground(func(ctx context.Context) {
			if err := s.CollectGarbage(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("delete an image that its last container left", "image", id, "error", err)
			}
		})
	}
	return nil
}

// CollectGarbage deletes what no name, lease or container holds. It waits for
// changes of names, not for starts, nor they for it.
func (s *Service) CollectGarbage(ctx context.Context) error {
	s.change.Lock()
	defer s.change.Unlock()
	if err := s.dropUnpinned(ctx); err != nil {
		return err
	}
	return s.collect(ctx)
}

// collect runs containerd's collector, s.change being held.
func (s *Service) collect(ctx context.Context) error {
	defer s.cleaning.begin()()
	begin := time.Now()
	if _, err := s.db.GarbageCollect(s.context(ctx)); err != nil {
		return fmt.Errorf("delete image content that is not in use: %w", err)
	}
	s.rootfs.Range(func(top, v any) bool {
		if !exists(v.(RootFS).Lower[0]) {
			s.rootfs.Delete(top)
		}
		return true
	})
	s.space.Forget()
	s.sizes.Clear()
	s.changed() // what is here may have become less
	s.log.Debug("collected image content", "took", time.Since(begin))
	return nil
}

// dropUnpinned forgets removed images that no container uses any more.
func (s *Service) dropUnpinned(ctx context.Context) error {
	c, err := s.catalog(ctx)
	if err != nil {
		return err
	}
	var gone []string
	for name, i := range c.byName {
		if strings.HasPrefix(name, pinnedPrefix) && !s.used(ctx, i.Target.Digest) {
			gone = append(gone, name)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	if err := s.update(ctx, func(ctx context.Context) error {
		for _, name := range gone {
			if err := s.dropName(ctx, name); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	return s.keepPinned(ctx, c, gone)
}

// keepPinned gives removed images back a hidden name if a container took hold
// of them while their names went; s.change is held, so nothing was collected.
func (s *Service) keepPinned(ctx context.Context, before *catalog, gone []string) error {
	now, err := s.catalog(ctx)
	if err != nil {
		return err
	}
	for _, name := range gone {
		t := before.byName[name].Target
		if len(now.byDigest[t.Digest]) > 0 || !s.pins.holds(t.Digest) {
			continue
		}
		err := s.update(ctx, func(ctx context.Context) error { return s.putName(ctx, pinnedPrefix+t.Digest.String(), t) })
		if err != nil {
			return err
		}
	}
	return nil
}

// used says whether a container holds the image.
func (s *Service) used(ctx context.Context, id digest.Digest) bool {
	if s.pins.holds(id) {
		return true
	}
	running, stopped := s.inUse(ctx, id)
	return len(running)+len(stopped) > 0
}

func noSuchImage(ref string) error {
	return errdefs.ErrNotFound.WithMessage("No such image: " + ref)
}
