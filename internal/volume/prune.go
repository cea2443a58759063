package volume

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"

	"hezi/internal/disk"
)

// anonymousLabel is on volumes that were made without a name; Docker's.
const anonymousLabel = "com.docker.volume.anonymous"

// Prune removes the volumes that no container uses: those without a name of
// their user's, and all with the filter all. They must pass label and label!.
// What cannot be removed stays, and so does a mount of something else, which takes
// no space here. A dry run only tells what would go. Errors:
// InvalidArgument for a filter, Conflict while another runs.
func (s *Store) Prune(ctx context.Context, o disk.PruneOptions) (volume.PruneReport, error) {
	report := volume.PruneReport{VolumesDeleted: []string{}}
	if !s.pruning.TryLock() {
		return report, errdefs.ErrConflict.WithMessage("a prune operation is already running")
	}
	defer s.pruning.Unlock()
	passes, err := pruneFilter(o.Filters)
	if err != nil {
		return report, err
	}
	list, err := s.List(ctx, nil)
	if err != nil {
		return report, err
	}
	s.mu.Lock()
	inUse, tell, wait := s.inUse, s.tell, s.wait
	s.mu.Unlock()
	for _, v := range list {
		used := slices.ContainsFunc(inUse(v.Name), func(id string) bool { return !o.Without[id] })
		if _, protected := v.Status["Protected"]; used || protected || !passes(v.Labels) || (&record{Volume: v}).foreign() {
			continue
		}
		if ctx.Err() != nil {
			break // what was removed is told, if there is still somebody to tell
		}
		size, err := disk.Usage(ctx, filepath.Dir(v.Mountpoint)) // with its snapshots and its disk
		if _, anonymous := v.Labels[anonymousLabel]; err != nil || wait > 0 && !o.Now && !anonymous {
			size = 0 // it is removed all the same, or is in the trash and not freed yet
		}
		if !o.DryRun {
			if err := s.remove(v.Name, false, o.Now); err != nil {
				s.log.Warn("a volume was not pruned", "volume", v.Name, "error", err)
				continue
			}
		}
		report.VolumesDeleted = append(report.VolumesDeleted, v.Name)
		report.SpaceReclaimed += uint64(size)
	}
	if !o.DryRun {
		tell("prune", "", map[string]string{"reclaimed": strconv.FormatUint(report.SpaceReclaimed, 10)})
	}
	return report, nil
}

// pruneFilter makes a test of a volume's labels.
func pruneFilter(f map[string]map[string]bool) (func(labels map[string]string) bool, error) {
	all := false
	for key, values := range f {
		switch key {
		case "label", "label!":
		case "all":
			if len(values) > 1 {
				return nil, errdefs.ErrInvalidArgument.WithMessage("invalid filter 'all': only one value is expected")
			}
			for v := range values {
				on, err := strconv.ParseBool(v)
				if err != nil {
					return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter 'all': %v", err))
				}
				all = on
			}
		default:
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter '%s'", key))
		}
	}
	return func(labels map[string]string) bool {
		has := func(l string) bool {
			k, want, exact := strings.Cut(l, "=")
			got, ok := labels[k]
			return ok && (!exact || got == want)
		}
		if !all && !has(anonymousLabel) {
			return false
		}
		for l := range f["label"] {
			if !has(l) {
				return false
			}
		}
		for l := range f["label!"] {
			if has(l) {
				return false
			}
		}
		return true
	}, nil
}
