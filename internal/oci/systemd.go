package oci

import (
	"context"
	"errors"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"

	"hezi/internal/box"
	"hezi/internal/box/cgroup"
	"hezi/internal/box/scope"
)

// byFiles is what a caller does who cannot have systemd make the cgroups.
const byFiles = "have the caller use the cgroupfs driver (dockerd: native.cgroupdriver=cgroupfs; podman: --cgroup-manager=cgroupfs)"

// scopeOf reads a cgroupsPath of systemd's, SLICE:PREFIX:NAME as runc has it: the
// scope PREFIX-NAME.scope in that slice.
func scopeOf(id, at string) (slice, dir, unit string, err error) {
	parts := strings.Split(at, ":")
	switch {
	case at == "":
		parts = []string{"", "hezi-oci", id}
	case len(parts) != 3:
		return "", "", "", fmt.Errorf(`expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got %q instead`, at)
	case strings.HasSuffix(parts[2], ".slice"):
		return "", "", "", fmt.Errorf("the cgroup %q is a slice, not a scope, which is not supported by this runtime: write slice:prefix:name with another name", at)
	}
	unit = parts[1] + "-" + parts[2] + ".scope"
	if good := unitName(unit); !good || parts[2] == "" {
		return "", "", "", fmt.Errorf("the cgroup %q makes no name of a scope of systemd's: letters, digits and :-_.\\ can be used, and %d in all", at, maxUnit)
	}
	slice, dir, err = scope.Slice(parts[0])
	if err != nil {
		return "", "", "", fmt.Errorf("the cgroup %q: %q is no slice of systemd's: write one as xxx.slice", at, parts[0])
	}
	return slice, dir, unit, nil
}

// maxUnit is how long the name of a unit may be (systemd.unit(5)).
const maxUnit = 255

func unitName(name string) bool {
	return len(name) <= maxUnit && !strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(`:-_.\`, r))
	})
}

// systemd is what this command asks of it.
func systemd() (*scope.Driver, error) {
	if !scope.Running() {
		return nil, errors.New("--systemd-cgroup: systemd does not run this machine (there is no /run/systemd/system): " + byFiles)
	}
	return scope.New("oci"), nil
}

// place has systemd make the scope of a container around its init, which rt prepares.
func place(ctx context.Context, rt *box.Runtime, id string, s *box.Spec, slice string) error {
	d, err := systemd()
	if err != nil {
		return err
	}
	defer d.Close()
	pid, err := rt.Prepare(s.ID, s.Users, &s.Namespaces, s.Hooks != nil)
	if err != nil {
		return err
	}
	g := &s.Cgroup
	return d.Start(ctx, scope.Request{Unit: g.Scope, Name: id, Slice: slice, PID: pid, Resources: g.Resources, Devices: cgroup.Devices{All: g.AllDevices, Rules: g.DeviceRules}})
}

// settle tells systemd what could not hold while init built the box. The kernel
// has it already.
func settle(ctx context.Context, g *box.Cgroup) error {
	if _, late := g.Resources.Split(); late.Empty() {
		return nil
	}
	d, err := systemd()
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Limit(ctx, g.Scope, g.Resources)
}

func endScope(unit string) error {
	d, err := systemd()
	if err != nil {
		return err
	}
	defer d.Close()
	return d.End(context.Background(), unit)
}

// limit changes the limits of a container: in the kernel, and at systemd where it
// made the cgroup. Where one refuses, both have what was before.
func (c *container) limit(ctx context.Context, change box.Resources) error {
	g, err := c.group()
	if err != nil {
		return err
	}
	if c.Scope == "" {
		return g.Update(change)
	}
	d, err := systemd()
	if err != nil {
		return err
	}
	defer d.Close()
	before := c.Resources
	after := scope.Rounded(over(before, change))
	if err := d.Limit(ctx, c.Scope, after); err != nil {
		return err
	}
	if err := g.Update(after); err != nil {
		return errors.Join(err, d.Limit(ctx, c.Scope, before))
	}
	c.Resources = after
	return c.save()
}

// over are the limits old with those that change has.
func over(old, change box.Resources) box.Resources {
	to, from := reflect.ValueOf(&old).Elem(), reflect.ValueOf(change)
	io := overIO(old.IO, change.IO)
	for i := range from.NumField() {
		if f := from.Field(i); !f.IsZero() {
			to.Field(i).Set(f)
		}
	}
	old.IO = io
	return old
}

func overIO(old, change *cgroup.IO) *cgroup.IO {
	if old == nil || change == nil {
		if change == nil {
			return old
		}
		return change
	}
	list := func(old, change []cgroup.DeviceLimit) []cgroup.DeviceLimit {
		out := slices.Clone(change)
		for _, l := range old {
			if !slices.ContainsFunc(change, func(c cgroup.DeviceLimit) bool { return c.Major == l.Major && c.Minor == l.Minor }) {
				out = append(out, l)
			}
		}
		return out
	}
	out := &cgroup.IO{Weight: change.Weight, WeightDevice: list(old.WeightDevice, change.WeightDevice), ReadBps: list(old.ReadBps, change.ReadBps),
		WriteBps: list(old.WriteBps, change.WriteBps), ReadIOps: list(old.ReadIOps, change.ReadIOps), WriteIOps: list(old.WriteIOps, change.WriteIOps)}
	if out.Weight == 0 {
		out.Weight = old.Weight
	}
	return out
}

// scoped places the box in a scope of systemd's, which is to be made.
func scoped(s *box.Spec, id, at string) (slice string, err error) {
	g := &s.Cgroup
	if slice, g.Parent, g.Scope, err = scopeOf(id, at); err != nil {
		return "", err
	}
	g.Foreign, s.ID = true, id
	return slice, cgroup.CheckParent(path.Join(g.Parent, g.Scope))
}
