package engine

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
)

// PruneContainers removes the containers that neither run nor are about to,
// and that pass the filters until, label and label!. Their volumes stay. What
// cannot be removed is left and logged. Error: InvalidArgument for a filter.
func (e *Engine) PruneContainers(ctx context.Context, f map[string]map[string]bool) (container.PruneReport, error) {
	var report container.PruneReport
	conditions, err := pruneConditions(f, time.Now())
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
		size, err := e.o.Layers.Size(r.ID)
		if err != nil {
			size = 0 // a layer that is damaged is removed all the same
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
	e.o.Events.Publish(events.Message{Type: events.ContainerEventType, Action: events.ActionPrune,
		Actor: events.Actor{Attributes: map[string]string{"reclaimed": strconv.FormatUint(report.SpaceReclaimed, 10)}}})
	return report, nil
}
