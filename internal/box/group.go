package box

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"

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

// addToPaths puts a process into every directory once.
func addToPaths(paths map[string]string, pid int) error {
	var done []string
	for _, dir := range paths {
		if slices.Contains(done, dir) {
			continue
		}
		done = append(done, dir)
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return stepError(StepCgroup, dir, err, "cannot enter the container's cgroup")
		}
	}
	return nil
}
