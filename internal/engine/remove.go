package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
)

// Remove removes a container. One that runs is a Conflict without force; with
// it, it is killed first.
func (e *Engine) Remove(ctx context.Context, ref string, o RemoveOptions) error {
	if o.Link {
		return unlink(ctx, e, ref)
	}
	c, unlock, err := e.lock(ctx, ref)
	if err != nil {
		return err
	}
	r := c.latest.Load()
	switch {
	case c.removing:
		unlock()
		return errdefs.ErrConflict.WithMessage("removal of container " + ref + " is already in progress")
	case !r.running() && r.State != container.StateRestarting:
		defer unlock()
		return e.remove(c, o)
	case !o.Force:
		unlock()
		what := "stop the container before removing or force remove"
		if r.State == container.StatePaused {
			what = "unpause and then stop the container before removing or force remove"
		}
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("cannot remove container %q: container is %s: %s", "/"+r.Name, r.State, what))
	case r.State == container.StateRestarting:
		defer unlock()
		c.cancelRestart()
		return e.remove(c, o)
	}
	c.removing = true
	over := c.over
	unlock()
	err = e.kill(ctx, r, over)
	if _, unlock, lerr := e.lockEntry(context.WithoutCancel(ctx), c, ref); lerr == nil {
		defer unlock()
	} else {
		return lerr
	}
	c.removing = false
	if err != nil {
		if !c.latest.Load().running() { // it ended after all, and nobody acknowledged it
			err = errors.Join(err, e.o.Keeper.Forget(e.ctx, r.ID, false))
		}
		return err
	}
	return e.remove(c, o)
}

// remove drops the record, then all that belonged to it; under the lock. What
// cannot be removed then is swept at the next start of the engine.
func (e *Engine) remove(c *entry, o RemoveOptions) error {
	ctx := context.WithoutCancel(e.ctx)
	if r := c.latest.Load(); r.running() { // nobody would know of its processes any more
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("cannot remove container %q: container is %s", "/"+r.Name, r.State))
	}
	c.cancelRestart()
	if err := e.drop(c); err != nil {
		return err
	}
	r := c.latest.Load()
	c.gone = true
	e.mu.Lock()
	delete(e.boxes, r.ID)
	e.mu.Unlock()
	e.checks.end(c)
	errs := []error{e.index.Take(r.ID), e.o.Layers.Remove(r.ID), os.RemoveAll(filepath.Join(e.transient(), r.ID)), e.o.Images.Unpin(ctx, r.ID)}
	for _, p := range r.mountedImages() {
		errs = append(errs, e.o.Images.Unpin(ctx, imageHold(r, p)))
	}
	if o.Volumes || r.HostConfig.AutoRemove {
		for _, name := range r.Anonymous {
			if err := e.o.Volumes.Remove(ctx, name, true); err != nil && !errdefs.IsConflict(err) {
				errs = append(errs, err)
			}
		}
	}
	e.o.Images.Touch(digest.Digest(r.ImageID))
	e.names.Release(r.ID)
	mapper{e.records}.giveBack(r)
	labeller{e.records}.giveBack(r)
	e.publish(r, events.ActionDestroy)
	errs = append(errs, output{e.records}.releaseLog(r), e.o.Keeper.Remove(ctx, r.ID, e.folder(r.ID)))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("container %s is removed, but something of it is left, which hezid removes at its next start: %w", r.ID, err)
	}
	return nil
}
