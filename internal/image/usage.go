package image

import (
	"context"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"hezi/internal/disk"
	"hezi/internal/image/space"
)

// overlap is what each image has, and what several have.
type overlap struct {
	all    *space.Map
	sets   map[digest.Digest]*space.Set
	counts *space.Counts
}

func (s *Service) overlap(ctx context.Context, c *catalog) (*overlap, error) {
	m, err := s.space.Read(ctx)
	if err != nil {
		return nil, err
	}
	sh := &overlap{all: m, sets: make(map[digest.Digest]*space.Set, len(c.byDigest))}
	sets := make([]*space.Set, 0, len(c.byDigest))
	for d := range c.byDigest {
		sh.sets[d] = m.Reach(d)
		sets = append(sets, sh.sets[d])
	}
	sh.counts = space.Count(sets...)
	return sh, nil
}

// of gives an image's size, and the part of it that other images have, too.
func (sh *overlap) of(id digest.Digest) (size, shared int64) {
	set := sh.sets[id]
	if set == nil { // it came after the map was made
		set = sh.all.Reach(id)
	}
	return set.Size(), set.Shared(sh.counts).Size()
}

// DiskUsage is what images take on disk.
func (s Upkeep) DiskUsage(ctx context.Context) (*disk.ImageUsage, error) {
	list, err := s.List(ctx, ListOptions{All: true, SharedSize: true})
	if err != nil {
		return nil, err
	}
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	m, err := s.space.Read(ctx)
	if err != nil {
		return nil, err
	}
	var named, kept []digest.Digest
	for d := range c.byDigest {
		named = append(named, d)
		if s.used(ctx, d) {
			kept = append(kept, d)
		}
	}
	images := m.Reach(named...)
	u := &disk.ImageUsage{Items: list, Size: images.Disk(), Reclaimable: images.Without(m.Reach(kept...)).Disk(),
		Layers: s.form.dir, Blobs: make(map[string]bool, len(images.Blobs)), Folders: make(map[string]bool, len(images.Layers))}
	for _, i := range list {
		if i.Containers > 0 {
			u.Active++
		}
	}
	for d := range images.Blobs {
		u.Blobs[d.Encoded()] = true
	}
	for l := range images.Layers {
		u.Folders[filepath.Base(m.Layers[l].Folder)] = true
	}
	return u, nil
}
