package engine

import (
	"context"
	"fmt"
	"maps"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"hezi/internal/box"
	"hezi/internal/box/cgroup"
	"hezi/internal/engine/spec"
	"hezi/internal/keeper"
)

// enforce takes out of r what this host cannot enforce and Docker discards
// with a warning.
func (e *records) enforce(r *container.Resources) (warnings []string, err error) {
	host, err := e.support()
	if err != nil {
		return nil, err
	}
	return spec.Enforce(r, host)
}

// enforceAll is enforce, with the limits that labels hold.
func (e *records) enforceAll(r *container.Resources, labels map[string]string) (warnings []string, err error) {
	if _, err := e.hugePages(labels[spec.HugePagesLabel]); err != nil {
		return nil, err
	}
	return e.enforce(r)
}

// hugePages reads limits that this host can enforce.
func (e *records) hugePages(text string) (*cgroup.HugePages, error) {
	limits, err := spec.HugePages(text)
	if limits == nil || err != nil {
		return nil, err
	}
	host, err := e.support()
	if err != nil {
		return nil, err
	}
	return limits, spec.EnforceHugePages(limits, host)
}

// SetHugePages changes how much of the host's huge pages a container may use, at once
// while it runs, and for good; "" lifts all limits. Errors: NotFound,
// InvalidArgument.
func (e *Limits) SetHugePages(ctx context.Context, ref, text string) error {
	after, err := e.hugePages(text)
	if err != nil {
		return err
	}
	c, unlock, err := e.lock(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	old := c.latest.Load()
	before, err := spec.HugePages(old.Config.Labels[spec.HugePagesLabel])
	if err != nil {
		return cannotUpdate(old, err)
	}
	config := *old.Config
	config.Labels = maps.Clone(config.Labels)
	delete(config.Labels, spec.HugePagesLabel)
	if after != nil {
		if config.Labels == nil {
			config.Labels = map[string]string{}
		}
		config.Labels[spec.HugePagesLabel] = text
	}
	r, err := e.change(c, func(r *record) { r.Config = &config })
	if err != nil {
		return cannotUpdate(old, err)
	}
	if change := spec.ChangedHugePages(before, after); r.running() && len(change.Limits) > 0 {
		err := e.o.Keeper.Update(ctx, keeper.UpdateRequest{ContainerID: r.ID, Resources: box.Resources{HugePages: change}})
		if err != nil && !hasEnded(err) {
			if _, back := e.change(c, func(r *record) { r.Config = old.Config }); back != nil {
				err = fmt.Errorf("%w; and what was there before could not be stored again: %w", err, back)
			}
			return cannotUpdate(old, err)
		}
	}
	e.publish(r, events.ActionUpdate)
	return nil
}
