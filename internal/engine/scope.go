package engine

import (
	"cmp"
	"context"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"hezi/internal/box"
	"hezi/internal/box/cgroup"
	"hezi/internal/box/scope"
	"hezi/internal/engine/spec"
	"hezi/internal/keeper"
)

// scopes is what the engine needs of systemd. *scope.Driver has it.
type scopes interface {
	Start(ctx context.Context, r scope.Request) error
	Limit(ctx context.Context, unit string, r box.Resources) error
	End(ctx context.Context, unit string) error
	Left(ctx context.Context) (ids []string, _ error)
}

// scoping is the part of the engine that works with systemd.
type scoping struct{ *records }

// check holds --cgroup-parent against the driver in use.
func (e scoping) check(h *container.HostConfig) error {
	if !e.o.Systemd {
		return nil
	}
	_, _, err := scope.Slice(e.parent(h))
	return err
}

// parent is the cgroup that a container is to be in; "": the driver's.
func (e scoping) parent(h *container.HostConfig) string {
	return cmp.Or(h.CgroupParent, e.o.Defaults.CgroupParent)
}

// place has systemd make the scope that a container starts in, around its init:
// that of the process init, or one that is prepared now.
func (e launcher) place(ctx context.Context, r *record, s *box.Spec, init int) error {
	if !e.o.Systemd {
		return nil
	}
	run, err := e.o.Runtimes.Find(r.HostConfig.Runtime)
	if err != nil {
		return err
	}
	slice, dir, err := scope.Slice(scoping(e).parent(r.HostConfig))
	if err != nil {
		return err
	}
	g := &s.Cgroup
	g.Parent, g.Foreign, g.Scope, g.Resources = dir, true, cgroup.ScopeName(r.ID), scope.Rounded(g.Resources)
	if run != nil { // it asks systemd itself
		return nil
	}
	if init == 0 {
		made, err := e.o.Keeper.Prepare(ctx, keeper.PrepareRequest{ContainerID: r.ID, Users: s.Users, Namespaces: s.Namespaces, Hooked: s.Hooks != nil})
		if err != nil {
			return err
		}
		init = made.PID
	}
	return e.o.Scopes.Start(ctx, scope.Request{
		Unit: g.Scope, Name: r.Name, Slice: slice, PID: init, Resources: g.Resources, Devices: cgroup.Devices{All: g.AllDevices, Rules: g.DeviceRules},
	})
}

// settleLimits tells systemd what could not hold while init built the box. The
// kernel has it already.
func (e launcher) settleLimits(ctx context.Context, s *box.Spec) {
	if s.Cgroup.Scope == "" {
		return
	}
	if _, late := s.Cgroup.Resources.Split(); late.Empty() {
		return
	}
	if err := e.o.Scopes.Limit(ctx, s.Cgroup.Scope, s.Cgroup.Resources); err != nil {
		e.o.Log.Error("systemd does not know all limits of a container, and lifts them at its next reload", "container", s.ID, "error", err)
	}
}

// scoped says whether a running container is in a scope: it is also where the
// driver was another at its start.
func (r *record) scoped() bool {
	for _, dir := range r.Cgroups {
		return filepath.Base(dir) == cgroup.ScopeName(r.ID) // each has the same name
	}
	return false
}

// limit tells systemd the limits of a running container, before the kernel.
func (e scoping) limit(ctx context.Context, r *record, h *container.HostConfig) error {
	if !r.scoped() {
		return nil
	}
	all, err := spec.Resources(&h.Resources)
	if err != nil {
		return err
	}
	return e.o.Scopes.Limit(ctx, cgroup.ScopeName(r.ID), scope.Rounded(all))
}

// leave has systemd forget the scope of a container that has ended. It may not
// have noticed; a start that comes before ends the scope itself.
func (e scoping) leave(id string) {
	e.work.Go(func() {
		c, unlock, err := e.lockKnown(e.ctx, id)
		switch {
		case errdefs.IsNotFound(err): // removed
		case err != nil:
			return
		default:
			defer unlock()
			if c.latest.Load().running() {
				return
			}
		}
		e.end(id)
	})
}

func (e scoping) end(id string) {
	ctx, cancel := context.WithTimeout(e.ctx, time.Minute)
	defer cancel()
	if err := e.o.Scopes.End(ctx, cgroup.ScopeName(id)); err != nil && e.ctx.Err() == nil {
		e.o.Log.Warn("have systemd forget the scope of a container that has ended", "container", id, "error", err)
	}
}

// restore ends the scopes of containers that do not run, and tells systemd
// the limits of those that do: an engine that was killed may have told it half.
// No start is under way yet.
func (e scoping) restore(ctx context.Context) {
	var running []string
	for _, r := range e.all() {
		if !r.running() || !r.scoped() {
			continue
		}
		running = append(running, r.ID)
		if err := e.limit(ctx, r, r.HostConfig); err != nil {
			e.o.Log.Error("tell systemd the limits of a running container", "container", r.ID, "error", err)
		}
	}
	if !e.o.Systemd && len(running) == 0 {
		return
	}
	ids, err := e.o.Scopes.Left(ctx)
	if err != nil {
		e.o.Log.Warn("ask systemd for scopes that were left", "error", err)
	}
	for _, id := range ids {
		if !slices.Contains(running, id) {
			e.o.Log.Warn("a container's scope that was left is ended", "container", id)
			e.end(id)
		}
	}
}
