package cgroup

import (
	"errors"
	"slices"
)

// Update is Limit for a group that runs: when the kernel refuses one of the
// limits, those that were written before are put back.
func (g *Group) Update(r Resources) error {
	var undo []func() error
	g.undo = &undo
	err := g.Limit(r)
	g.undo = nil
	if err == nil {
		return nil
	}
	for _, back := range slices.Backward(undo) {
		err = errors.Join(err, back())
	}
	return err
}

// write writes a limit, and in an Update remembers what held before.
func (g *Group) write(dir, name, value string) error {
	if g.undo == nil {
		return write(dir, name, value)
	}
	before, err := read(dir, name)
	if err != nil {
		return err
	}
	if before == "" {
		before = "\n" // an empty write reaches no file of the kernel's
	}
	return g.record(dir, name, value, before)
}

// record writes value; before takes it back.
func (g *Group) record(dir, name, value, before string) error {
	err := write(dir, name, value)
	if err == nil && g.undo != nil {
		*g.undo = append(*g.undo, func() error { return write(dir, name, before) })
	}
	return err
}
