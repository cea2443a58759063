package box

import (
	"context"

	"hezi/internal/box/cgroup"
)

// group is one box's cgroup, as package cgroup makes it.
type group interface {
	Paths() map[string]string // controller to directory on v1, "" to directory on v2
	FD() int                  // v2: the directory, for CLONE_INTO_CGROUP; else -1
	Add(pid int) error
	ApplyLate() error // limits that would hinder init itself
	Remove() error
	Close() // lets the descriptor go; the cgroup stays
}

// cgroups makes groups.
type cgroups interface {
	create(ctx context.Context, c *Cgroup, leaf string) (group, error)
}

// driver makes groups by package cgroup.
type driver struct{ *cgroup.Driver }

func newCgroups(identity string) (cgroups, error) {
	d, err := cgroup.New(identity)
	if err != nil {
		return nil, err
	}
	return driver{d}, nil
}

func (d driver) create(ctx context.Context, c *Cgroup, leaf string) (group, error) {
	create := d.Create
	switch {
	case c.Scope != "":
		create, leaf = d.Enter, c.Scope
	case c.Foreign:
		create = d.CreateIn
	}
	g, err := create(ctx, c.Parent, leaf, c.Resources, cgroup.Devices{All: c.AllDevices, Rules: c.DeviceRules})
	if err != nil {
		return nil, err
	}
	return g, nil
}

// plain says whether the box has the default device rules, and so the cgroup
// parent that spares wait below.
func (c *Cgroup) plain() bool { return !c.AllDevices && len(c.DeviceRules) == 0 && !c.Foreign }

// joinGroup puts a process into a container's cgroup; on v2 it is born there.
func joinGroup(paths map[string]string, inner string, pid int) error {
	if err := cgroup.Join(paths, inner, pid); err != nil {
		return stepError(StepCgroup, inner, nil, err.Error())
	}
	return nil
}
