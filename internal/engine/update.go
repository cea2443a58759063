package engine

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"hezi/internal/box"
	"hezi/internal/box/scope"
	"hezi/internal/engine/spec"
	"hezi/internal/engine/usage"
	"hezi/internal/keeper"
)

// Limits changes and measures what containers may use.
type Limits struct {
	*records
	samples *usage.Collector
}

// Update changes the limits and the restart policy of a container: what is set
// in q. It is stored before it is applied, and taken back when the kernel refuses.
func (e *Limits) Update(ctx context.Context, ref string, q container.UpdateConfig) (container.UpdateResponse, error) {
	var none container.UpdateResponse
	if err := checkUpdate(&q); err != nil {
		return none, err
	}
	warnings, err := e.enforce(&q.Resources)
	if err != nil {
		return none, err
	}
	if fixed := spec.Fixed(&q.Resources); fixed != "" {
		warnings = append(warnings, fixed+" cannot change in a container that exists and was left as it is: create the container again")
	}
	c, unlock, err := e.lock(ctx, ref)
	if err != nil {
		return none, err
	}
	defer unlock()
	old := c.latest.Load()
	host, change, err := updated(old, &q)
	if err != nil {
		return none, cannotUpdate(old, err)
	}
	r, err := e.change(c, func(r *record) { r.HostConfig = host })
	if err != nil {
		return none, cannotUpdate(old, err)
	}
	if r.running() {
		if err := e.apply(ctx, old, host, change); err != nil {
			_, back := e.change(c, func(r *record) { r.HostConfig = old.HostConfig })
			if back != nil {
				err = fmt.Errorf("%w; and what was there before could not be stored again: %w", err, back)
			}
			return none, cannotUpdate(old, err)
		}
	}
	e.publish(r, events.ActionUpdate)
	return container.UpdateResponse{Warnings: append([]string{}, warnings...)}, nil
}

// apply has the kernel, and systemd where it made the container's cgroup, hold to
// an update: to all of it, or to what was before. A container that has just
// ended has it at its next start.
func (e *Limits) apply(ctx context.Context, old *record, host *container.HostConfig, change box.Resources) error {
	if old.scoped() {
		change = scope.Rounded(change)
	}
	err := scoping{e.records}.limit(ctx, old, host)
	if err == nil {
		err = e.o.Keeper.Update(ctx, keeper.UpdateRequest{ContainerID: old.ID, Resources: change})
	}
	if hasEnded(err) {
		return nil
	}
	if err != nil {
		if back := (scoping{e.records}).limit(ctx, old, old.HostConfig); back != nil {
			err = fmt.Errorf("%w; and the limits before could not be set again: %w", err, back)
		}
	}
	return err
}

func checkUpdate(q *container.UpdateConfig) error {
	if err := spec.CheckLimits(&q.Resources, true); err != nil {
		return err
	}
	if err := spec.CheckSets(&q.Resources); err != nil {
		return err
	}
	if q.RestartPolicy.Name == "" {
		return nil
	}
	if err := container.ValidateRestartPolicy(q.RestartPolicy); err != nil {
		return errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	return nil
}

// updated is a container's configuration after the update, and what the kernel
// must be told of it.
func updated(r *record, q *container.UpdateConfig) (*container.HostConfig, box.Resources, error) {
	host := *r.HostConfig
	var err error
	if host.Resources, err = spec.Updated(host.Resources, q.Resources); err != nil {
		return nil, box.Resources{}, err
	}
	if q.RestartPolicy.Name != "" {
		if host.AutoRemove && !q.RestartPolicy.IsNone() {
			return nil, box.Resources{}, errdefs.ErrConflict.WithMessage("Restart policy cannot be updated because AutoRemove is enabled for the container")
		}
		host.RestartPolicy = q.RestartPolicy
	}
	change, err := spec.Change(r.HostConfig.Resources, q.Resources, host.Resources)
	return &host, change, err
}

func cannotUpdate(r *record, err error) error {
	text := fmt.Sprintf("Cannot update container %s: %v", r.ID, err)
	switch {
	case errdefs.IsConflict(err):
		return errdefs.ErrConflict.WithMessage(text)
	case errdefs.IsInvalidArgument(err):
		return errdefs.ErrInvalidArgument.WithMessage(text)
	}
	return errdefs.ErrInternal.WithMessage(text)
}
