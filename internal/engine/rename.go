package engine

import (
	"context"
	"strings"

	"github.com/containerd/errdefs"
)

// Rename gives a container another name.
func (e *Engine) Rename(ctx context.Context, ref, name string) error {
	if strings.TrimPrefix(name, "/") == "" {
		return errdefs.ErrInvalidArgument.WithMessage("Neither old nor new names may be empty")
	}
	c, unlock, err := e.lock(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	r := *c.latest.Load()
	old := r.Name
	if old == strings.TrimPrefix(name, "/") {
		return errdefs.ErrInvalidArgument.WithMessage("Renaming a container with the same name as its current name")
	}
	if r.Name, err = e.names.reserve(r.ID, name); err != nil {
		return err
	}
	if err := e.save(&r); err != nil {
		if _, back := e.names.reserve(r.ID, old); back != nil {
			e.o.Log.Error("give a container its old name back", "container", r.ID, "error", back)
		}
		return err
	}
	c.latest.Store(&r)
	e.publish(&r, "rename")
	return nil
}

// lock finds a container and waits for its turn to be worked on.
func (e *Engine) lock(ctx context.Context, ref string) (*entry, func(), error) {
	id, err := e.names.resolve(ref)
	if err != nil {
		return nil, nil, err
	}
	e.mu.RLock()
	c := e.boxes[id]
	e.mu.RUnlock()
	if c == nil {
		return nil, nil, errdefs.ErrNotFound.WithMessage("No such container: " + ref)
	}
	select {
	case c.work <- struct{}{}:
		return c, func() { <-c.work }, nil
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
}
