package engine

import (
	"context"
	"strings"

	"github.com/containerd/errdefs"
)

// Rename gives a container another name.
func (e *Engine) Rename(ctx context.Context, ref, name string) error {
	if e.linking.Load() { // one after the other, or links follow the wrong name
		e.renaming.Lock()
		defer e.renaming.Unlock()
	}
	old, now, err := rename(ctx, e, ref, name)
	if err == nil {
		renameLinks(e.records, old, now) // each under a lock of its own
	}
	return err
}

func rename(ctx context.Context, e *Engine, ref, name string) (old, now string, _ error) {
	if strings.TrimPrefix(name, "/") == "" {
		return "", "", errdefs.ErrInvalidArgument.WithMessage("Neither old nor new names may be empty")
	}
	c, unlock, err := e.lock(ctx, ref)
	if err != nil {
		return "", "", err
	}
	defer unlock()
	r := *c.latest.Load()
	old = r.Name
	if old == strings.TrimPrefix(name, "/") {
		return "", "", errdefs.ErrInvalidArgument.WithMessage("Renaming a container with the same name as its current name")
	}
	if r.Name, err = e.names.Reserve(r.ID, name); err != nil {
		return "", "", err
	}
	if err := e.save(c, &r); err != nil {
		if _, back := e.names.Reserve(r.ID, old); back != nil {
			e.o.Log.Error("give a container its old name back", "container", r.ID, "error", back)
		}
		return "", "", err
	}
	if r.running() {
		e.o.Networks.Renamed(r.ID, r.attached().Requests())
	}
	e.publish(&r, "rename", "oldName", "/"+old)
	return old, r.Name, nil
}
