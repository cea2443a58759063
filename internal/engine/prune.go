package engine

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"hezi/internal/disk"
)

// PruneContainers removes the containers that neither run nor are about to,
// and that pass the filters until, label and label!. Their volumes stay. What
// cannot be removed is left and logged. A dry run only tells what would go.
// Error: InvalidArgument for a filter.
func (e *Engine) PruneContainers(ctx context.Context, o disk.PruneOptions) (container.PruneReport, error) {
	var report container.PruneReport
	conditions, err := pruneConditions(o.Filters, time.Now())
	if err != nil {
		return report, err
	}
	records := e.settled()
	slices.SortFunc(records, newestFirst)
	for _, r := range records {
		if ctx.Err() != nil {
			break // what was removed is told, if there is still somebody to tell
		}
		if r.alive() || slices.ContainsFunc(conditions, func(ok condition) bool { return !ok(r) }) {
			continue
		}
		size, err := e.o.Layers.Size(ctx, r.ID)
		if err != nil {
			size = 0 // a layer that is damaged is removed all the same
		}
		if o.DryRun {
			report.ContainersDeleted = append(report.ContainersDeleted, r.ID)
			report.SpaceReclaimed += uint64(max(0, size))
			continue
		}
		if err := e.Remove(ctx, r.ID, RemoveOptions{}); errdefs.IsNotFound(err) {
			continue // somebody else removed it
		} else if err != nil {
			e.o.Log.Warn("a container was not pruned, or something of it is left", "container", r.ID, "error", err)
			if _, err := e.entry(r.ID); err == nil {
				continue
			}
		}
		report.ContainersDeleted = append(report.ContainersDeleted, r.ID)
		report.SpaceReclaimed += uint64(max(0, size))
	}
	if o.DryRun {
		return report, nil
	}
	e.o.Events.Publish(events.Message{Type: events.ContainerEventType, Action: events.ActionPrune,
		Actor: events.Actor{Attributes: map[string]string{"reclaimed": strconv.FormatUint(report.SpaceReclaimed, 10)}}})
	return report, nil
}
