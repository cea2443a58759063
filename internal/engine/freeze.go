package engine

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
)

// Freezer pauses all that runs with a volume, for a moment.
type Freezer struct{ *Engine }

// Freeze pauses the containers that have a volume and run, until thaw is called. One
// that a user has paused stays so.
func (e Freezer) Freeze(ctx context.Context, volume string) (thawAll func(), err error) {
	var frozen []*record
	thawAll = func() {
		for _, r := range frozen {
			if err := thaw(context.WithoutCancel(ctx), e.Engine, r, true); err != nil {
				e.o.Log.Error("a container stays paused after a copy of its volume: hezi unpause lets it go on", "container", r.ID, "error", err)
			}
		}
	}
	for _, c := range e.entries() {
		r := c.latest.Load()
		if r.State != container.StateRunning || !slices.Contains(r.volumes(), volume) {
			continue
		}
		err := e.pause(ctx, r.ID, true)
		switch {
		case err == nil:
			frozen = append(frozen, c.latest.Load()) // maybe another run than r
		case !errdefs.IsConflict(err) && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err): // paused already, or ended
			thawAll()
			return nil, fmt.Errorf("pause container %s for a copy of its volume %s: %w", r.ID, volume, err)
		}
	}
	return thawAll, nil
}
