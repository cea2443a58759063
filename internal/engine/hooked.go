package engine

import (
	"context"
	"path/filepath"

	"hezi/internal/box"
	"hezi/internal/engine/cdi"
	"hezi/internal/engine/hooks"
	"hezi/internal/keeper"
	"hezi/internal/runtimes"
)

// hook has the hooks of devices be run for a container of the engine's own
// runtime; another one (launch) runs them itself. nil: there are none.
func (e launcher) hook(r *record, s *box.Spec, launch *runtimes.Launch, devices *cdi.Edits) (*hooks.After, error) {
	if devices.Hooks == nil || launch != nil {
		return nil, nil
	}
	return hooks.Prepare(filepath.Join(e.o.ExecRoot, "hooks"), s, devices.Hooks, r.HostConfig.Annotations)
}

// started runs what is to be run once a container has started. One that fails ends it.
func (e launcher) started(ctx context.Context, c *entry, began keeper.Started) error {
	a := c.latest.Load().Hooks
	if a == nil {
		return nil
	}
	err := a.Started(ctx, began.PID)
	if err != nil {
		e.giveUp(c, began)
	}
	return err
}

// unhook runs what is to be run when a container has ended; it may be run again
// where the engine is killed before the end is stored.
func unhook(e *records, r *record) {
	if r.Hooks == nil {
		return
	}
	if err := r.Hooks.Ended(e.ctx); err != nil {
		e.o.Log.Warn("the hooks of a container's devices at its end", "container", r.ID, "error", err)
	}
}
