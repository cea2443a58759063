package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The name of a container's scope of systemd's, around its id.
const (
	scopePrefix = "hezi-"
	scopeSuffix = ".scope"
)

// ScopeName is the unit, and the directory in each hierarchy, of a container
// under the systemd driver.
func ScopeName(id string) string { return scopePrefix + id + scopeSuffix }

// ScopePattern matches all of them, as glob(7).
const ScopePattern = scopePrefix + "*" + scopeSuffix

// IDOf is the container that a directory is named after, as a leaf of the
// engine's own or as a scope; "": none.
func IDOf(name string) string {
	if rest, ok := strings.CutPrefix(name, scopePrefix); ok {
		if rest, ok = strings.CutSuffix(rest, scopeSuffix); ok {
			name = rest
		}
	}
	if len(name) != 64 || strings.Trim(name, "0123456789abcdef") != "" {
		return ""
	}
	return name
}

// Enter is CreateIn for a scope that systemd has made as PARENT/SCOPE. On v2
// all of it is there, and what systemd enables in the groups above is left to
// it; on v1 the hierarchies that systemd does not know are added.
func (d *Driver) Enter(ctx context.Context, parent, scope string, r Resources, dev Devices) (*Group, error) {
	if d.Version == 1 {
		return d.CreateIn(ctx, parent, scope, r, dev)
	}
	if err := errors.Join(ctx.Err(), checkName(scope)); err != nil {
		return nil, err
	}
	p := strings.Trim(parent, "/")
	if p != "" {
		var err error
		if p, err = cleanParent(parent); err != nil {
			return nil, err
		}
	}
	rules, all, err := expand(dev)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(d.hierarchies[0].dir, p, scope)
	g := &Group{paths: map[string]string{"": dir}}
	g.fd, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("systemd's scope %s is gone: something stopped it, or its process ended", scope)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the cgroup %s: %w", dir, err)
	}
	if !all {
		err = g.applyDevices(append(DefaultRules(), rules...))
	}
	if err == nil {
		err = g.begin(r)
	}
	if err != nil {
		return nil, errors.Join(err, g.Remove())
	}
	return g, nil
}

// Split gives those of the limits that can hold while init builds the box, and
// the others, which come before the program runs.
func (r Resources) Split() (now, late Resources) {
	now, late = r, Resources{PidsLimit: r.PidsLimit, CPUQuota: r.CPUQuota, CPUPeriod: r.CPUPeriod, OOMKillDisable: r.OOMKillDisable, IO: r.IO}
	now.PidsLimit, now.CPUQuota, now.CPUPeriod, now.OOMKillDisable, now.IO = 0, 0, 0, false, nil
	if r.Memory > 0 && r.Memory < smallMemory {
		late.Memory, late.MemorySwap = r.Memory, r.MemorySwap
		now.Memory, now.MemorySwap = 0, 0
	}
	return now, late
}

// SwapMax is the limit of swap alone, in bytes, as v2 counts it; -1: none.
func (r Resources) SwapMax() int64 {
	if total := swapTotal(r); r.Memory > 0 && total > 0 {
		return total - r.Memory
	}
	return -1
}

// CPUWeight is v2's weight for the shares; 0: none of its own.
func (r Resources) CPUWeight() uint64 { return weightOf(r.CPUShares) }
