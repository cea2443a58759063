package image

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"

	"hezi/internal/disk"
)

// keepLabel protects an image from the disk budget.
const keepLabel = "hezi.keep"

var _ disk.Evicter = Upkeep{}

// idle is an image that may go.
type idle struct {
	id       digest.Digest
	names    []string
	dangling bool
	used     time.Time
}

// Evict implements disk.Evicter. An image goes with all its names.
func (s Upkeep) Evict(ctx context.Context, need int64, since time.Time, why string) (freed int64, err error) {
	s.change.Lock()
	defer s.change.Unlock()
	c, err := s.catalog(ctx)
	if err != nil {
		return 0, err
	}
	last, err := s.LastUsed(ctx)
	if err != nil {
		return 0, err
	}
	all, err := s.space.Read(ctx)
	if err != nil {
		return 0, err
	}
	cut, err := s.cutOff(ctx)
	if err != nil {
		return 0, err
	}
	p := s.plan(ctx, c, all, cut, nil)
	for _, i := range s.idle(ctx, c, last, since) {
		if p.bytes >= need {
			break
		}
		before := p.bytes
		p = s.plan(ctx, c, all, cut, slices.Concat(p.names, i.names))
		s.log.Info("an image is removed for the disk budget", "image", shownName(i.names[0], i.id), "id", i.id, "last-used", i.used.Format(time.RFC3339),
			"frees", units.HumanSize(float64(p.bytes-before)), "why", why)
	}
	return p.bytes, s.carryOut(ctx, c, p, map[string]string{"reason": why})
}

// idle are the images that may go, those that have no name first, then those
// that were unused for longest.
func (s Upkeep) idle(ctx context.Context, c *catalog, last map[string]time.Time, since time.Time) []idle {
	used := map[digest.Digest]bool{}
	for _, u := range s.allUsers() {
		used[u.Image] = true
	}
	var list []idle
	for id, same := range c.byDigest {
		at := last[id.String()]
		if used[id] || s.pins.holds(id) || at.After(since) || s.kept(ctx, c, same[0]) {
			continue
		}
		i := idle{id: id, used: at, dangling: true}
		for _, n := range same {
			i.names = append(i.names, n.Name)
			i.dangling = i.dangling && reserved(n.Name)
		}
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b idle) int {
		if a.dangling != b.dangling {
			if a.dangling {
				return -1
			}
			return 1
		}
		return a.used.Compare(b.used)
	})
	return list
}

// kept says whether an image is labelled to stay.
func (s Upkeep) kept(ctx context.Context, c *catalog, i images.Image) bool {
	on, err := strconv.ParseBool(s.labelsOf(ctx, c, i)[keepLabel])
	return err == nil && on
}
