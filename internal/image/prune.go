package image

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	imagetypes "github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"

	"hezi/internal/disk"
	"hezi/internal/image/space"
)

// Use is a container's use of an image.
type Use struct {
	Container string // its id
	Image     digest.Digest
	Name      string // what the user typed
}

// Prune removes names of images, and the images with their last ones: those
// that no container uses and that pass the filters until, label and label!;
// without dangling=false only those that have no name of a user's. It also
// gives up what pulls that were cut off had downloaded. A dry run only tells
// what would go. Errors: InvalidArgument for a filter, Conflict while another runs.
func (s Upkeep) Prune(ctx context.Context, o disk.PruneOptions) (imagetypes.PruneReport, error) {
	var report imagetypes.PruneReport
	if !s.pruning.TryLock() {
		return report, errdefs.ErrConflict.WithMessage("a prune operation is already running")
	}
	defer s.pruning.Unlock()
	passes, dangling, err := s.pruneFilters(o.Filters)
	if err != nil {
		return report, err
	}
	s.change.Lock()
	defer s.change.Unlock()
	c, err := s.catalog(ctx)
	if err != nil {
		return report, err
	}
	names := s.prunable(ctx, c, passes, dangling, o)
	all, err := s.space.Read(ctx)
	if err != nil {
		return report, err
	}
	cut, err := s.cutOff(ctx)
	if err != nil {
		return report, err
	}
	p := s.plan(ctx, c, all, cut, names)
	report = imagetypes.PruneReport{ImagesDeleted: p.deleted, SpaceReclaimed: uint64(p.bytes)}
	if o.DryRun {
		return report, nil
	}
	if err := s.carryOut(ctx, c, p, nil); err != nil {
		return report, err
	}
	s.announcePrune(report.SpaceReclaimed)
	return report, nil
}

func (s Upkeep) announcePrune(reclaimed uint64) {
	if s.announce != nil {
		s.announce("image", "prune", "", map[string]string{"reclaimed": strconv.FormatUint(reclaimed, 10)})
	}
}

// allUsers are the containers' uses of images.
func (s Upkeep) allUsers() []Use {
	if s.users == nil {
		return nil
	}
	return s.users()
}

// pruneFilters makes a test of an image's filters. As Docker has it, until is
// about when a name came here.
func (s Upkeep) pruneFilters(f map[string]map[string]bool) (passes func(i images.Image, labels map[string]string) bool, dangling bool, err error) {
	dangling = true
	var tests []func(images.Image, map[string]string) bool
	for key, values := range f {
		for value := range values {
			switch key {
			case "dangling":
				if len(values) > 1 {
					return nil, false, errdefs.ErrInvalidArgument.WithMessage("invalid filter 'dangling': only one value is expected")
				}
				if dangling, err = strconv.ParseBool(value); err != nil {
					return nil, false, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter 'dangling=[%s]'", value))
				}
			case "until":
				until, err := moment(value)
				if err != nil {
					return nil, false, err
				}
				tests = append(tests, func(i images.Image, _ map[string]string) bool { return i.CreatedAt.Before(until) })
			case "label", "label!":
				k, v, exact := strings.Cut(value, "=")
				tests = append(tests, func(_ images.Image, labels map[string]string) bool {
					got, ok := labels[k]
					return (ok && (!exact || got == v)) == (key == "label")
				})
			default:
				return nil, false, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter '%s'", key))
			}
		}
	}
	return func(i images.Image, labels map[string]string) bool {
		return !slices.ContainsFunc(tests, func(t func(images.Image, map[string]string) bool) bool { return !t(i, labels) })
	}, dangling, nil
}

// prunable are the names that may go: never one that a container was made by,
// nor the last one of an image that a container uses.
func (s Upkeep) prunable(ctx context.Context, c *catalog, passes func(images.Image, map[string]string) bool, danglingOnly bool, o disk.PruneOptions) []string {
	protected, used := map[string]bool{}, map[digest.Digest]bool{}
	for _, u := range s.allUsers() {
		if o.Without[u.Container] {
			continue
		}
		used[u.Image] = true
		if n, err := reference.ParseNormalizedNamed(u.Name); err == nil {
			protected[reference.TagNameOnly(n).String()] = true
			if t, ok := n.(reference.NamedTagged); ok { // of NAME:TAG@DIGEST
				protected[reference.TrimNamed(n).Name()+":"+t.Tag()] = true
			}
		}
	}
	var names []string
	left := map[digest.Digest]int{}
	for _, name := range slices.Sorted(maps.Keys(c.byName)) {
		i := c.byName[name]
		if strings.HasPrefix(name, pinnedPrefix) {
			continue
		}
		left[i.Target.Digest]++
		dangling := strings.HasPrefix(name, danglingPrefix)
		if danglingOnly && !dangling || protected[name] || !passes(i, s.labelsOf(ctx, c, i)) {
			continue
		}
		names = append(names, name)
	}
	return slices.DeleteFunc(names, func(name string) bool {
		d := c.byName[name].Target.Digest
		if left[d] == 1 && (used[d] || !o.DryRun && s.pins.holds(d)) {
			return true
		}
		left[d]--
		return false
	})
}

func (s Upkeep) labelsOf(ctx context.Context, c *catalog, i images.Image) map[string]string {
	sum, err := s.summarize(ctx, c, c.byDigest[i.Target.Digest])
	if err != nil {
		return nil
	}
	return sum.Labels
}

// removal is what goes with some names.
type removal struct {
	names   []string
	deleted []imagetypes.DeleteResponse
	bytes   int64 // on disk
	whole   []digest.Digest
	cut     *cutOff
}

// cutOff is what pulls left that were cut off.
type cutOff struct {
	leases []leases.Lease // hold whole blobs
	halves []string       // names of downloads
	bytes  int64          // of halves
}

func (s Upkeep) cutOff(ctx context.Context) (*cutOff, error) {
	ctx = s.context(ctx)
	c := &cutOff{}
	var err error
	if c.leases, err = s.leases.List(ctx, fmt.Sprintf("labels.%q", leftLabel)); err != nil {
		return nil, fmt.Errorf("read the leases on image content: %w", err)
	}
	halves, err := s.blobs.ListStatuses(ctx)
	if err != nil {
		return nil, fmt.Errorf("read what was half downloaded: %w", err)
	}
	for _, h := range halves {
		if blob, ok := strings.CutPrefix(h.Ref, "pull-"); ok && !s.flights.under("blob "+blob) {
			c.halves = append(c.halves, h.Ref)
			c.bytes += h.Offset
		}
	}
	return c, nil
}

// plan tells what the removal of names frees, with what pulls left that were
// cut off.
func (s Upkeep) plan(ctx context.Context, c *catalog, all *space.Map, cut *cutOff, names []string) *removal {
	p := &removal{names: names, cut: cut}
	stay := maps.Clone(c.byName)
	for _, n := range names {
		delete(stay, n)
	}
	var roots []digest.Digest
	rest := map[digest.Digest]int{}
	for _, i := range stay {
		roots = append(roots, i.Target.Digest)
		rest[i.Target.Digest]++
	}
	keep := all.Reach(roots...).Leased(func(labels map[string]string) bool { return labels[leftLabel] == "" })
	gone := all.All().Without(keep)
	p.bytes = gone.Disk() + cut.bytes
	for _, n := range names {
		target := c.byName[n].Target
		p.deleted = append(p.deleted, imagetypes.DeleteResponse{Untagged: shownName(n, target.Digest)})
		if rest[target.Digest] > 0 || slices.Contains(p.whole, target.Digest) {
			continue
		}
		if slices.ContainsFunc(names, func(o string) bool { return o > n && c.byName[o].Target.Digest == target.Digest }) {
			continue // told with its last name
		}
		p.whole = append(p.whole, target.Digest)
		p.deleted = append(p.deleted, imagetypes.DeleteResponse{Deleted: target.Digest.String()})
		if in, err := s.read(ctx, c, target); err == nil {
			for _, v := range in.variants {
				if v.here && v.desc.Digest != target.Digest && gone.Blobs[v.desc.Digest] {
					p.deleted = append(p.deleted, imagetypes.DeleteResponse{Deleted: v.desc.Digest.String()})
				}
			}
		}
	}
	return p
}

// shownName is a name as users know it; an image without one has its id.
func shownName(name string, id digest.Digest) string {
	if reserved(name) {
		return id.String()
	}
	return familiar(name)
}

// carryOut removes what was planned, s.change being held. why is added to the events.
func (s Upkeep) carryOut(ctx context.Context, c *catalog, p *removal, why map[string]string) error {
	defer s.cleaning.begin()()
	if len(p.names) > 0 {
		if err := s.update(ctx, func(ctx context.Context) error {
			for _, n := range p.names {
				if err := s.dropName(ctx, n); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
		if err := s.keepPinned(ctx, c, p.names); err != nil {
			return err
		}
	}
	lctx := s.context(ctx)
	for _, l := range p.cut.leases {
		if err := s.leases.Delete(lctx, l); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("give up the lease %s on image content: %w", l.ID, err)
		}
	}
	for _, ref := range p.cut.halves {
		if err := s.abandon(lctx, ref); err != nil {
			return err
		}
	}
	for _, n := range p.names {
		if id := c.byName[n].Target.Digest; !reserved(n) {
			s.publish("untag", id.String(), familiar(n), why)
		}
	}
	for _, id := range p.whole {
		s.publish("delete", id.String(), id.String(), why)
	}
	return s.collect(ctx)
}

// abandon gives up a half download unless somebody goes on with it.
func (s Upkeep) abandon(ctx context.Context, ref string) error {
	key := "blob " + strings.TrimPrefix(ref, "pull-")
	now, mine := s.flights.join(key)
	if !mine {
		return nil
	}
	defer s.flights.end(key, now)
	if err := s.blobs.Abort(ctx, ref); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("give up the download %s: %w", ref, err)
	}
	return nil
}
