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

// unhook runs what is to be run when a container has ended, and then what is given.
// It is called under the lock once the record has the hooks no more, so that an
// engine that is killed meanwhile does not run them again, and returns at once: a
// hook may take long. The next start waits for it. No hooks: nothing is done.
func unhook(e *records, c *entry, a *hooks.After, then func()) {
	if a == nil {
		return
	}
	over := make(chan struct{})
	c.hooks = over
	e.work.Go(func() {
		// They would not be run again: an engine that ends waits for them.
		if err := a.Ended(context.WithoutCancel(e.ctx)); err != nil {
			e.o.Log.Warn("the hooks of a container's devices at its end", "container", a.State.ID, "error", err)
		}
		close(over)
		then()
	})
}

// unhooked returns when the hooks of the run before are over; under the lock.
func (c *entry) unhooked(ctx context.Context) error {
	if c.hooks == nil {
		return nil
	}
	select {
	case <-c.hooks:
		c.hooks = nil
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// removeUnhooked removes a --rm container whose end had hooks.
func removeUnhooked(e *Engine, c *entry, id string) {
	_, unlock, err := e.lockEntry(e.ctx, c, id)
	if err != nil {
		return // removed meanwhile, or by the next engine
	}
	defer unlock()
	if c.latest.Load().running() || c.removing || c.again > 0 {
		return
	}
	if err := e.remove(c, RemoveOptions{Volumes: true}); err != nil {
		e.o.Log.Error("remove a container that has ended", "container", id, "error", err)
	}
}

// sweepHooks removes the bundles of runs that are over.
func sweepHooks(e *records) error {
	return hooks.Sweep(filepath.Join(e.o.ExecRoot, "hooks"), func(id string) bool {
		e.mu.RLock()
		defer e.mu.RUnlock()
		c := e.boxes[id]
		return c != nil && (c.latest.Load().Hooks != nil || c.hooks != nil)
	})
}
