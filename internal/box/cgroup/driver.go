package cgroup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Sub-parents; see the package doc.
const (
	subDefault = "default"
	subDevices = "devices"
)

// Driver makes groups in the hierarchies of this host. Its methods may be
// called from any goroutine.
type Driver struct {
	// Version is 1 or 2; hybrid hosts are 1.
	Version int

	identity    string
	hierarchies []hierarchy

	mu    sync.Mutex          // guards ready; held while a parent is prepared, once for each
	ready map[string]struct{} // prepared sub-parents, such as "hezi/default"
}

// New finds out what this host has. Identity names the engine's own parent,
// "hezi-IDENTITY" or "hezi" when it is empty.
func New(identity string) (*Driver, error) {
	if identity != "" {
		if err := checkName(identity); err != nil {
			return nil, fmt.Errorf("invalid identity: %w", err)
		}
	}
	version, list, err := detect("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return &Driver{Version: version, identity: identity, hierarchies: list, ready: map[string]struct{}{}}, nil
}

// Parent is where containers go that ask for no other parent.
func (d *Driver) Parent() string {
	if d.identity == "" {
		return "/hezi"
	}
	return "/hezi-" + d.identity
}

// Create makes the group of one container, with the limits that init can live
// with. A leaf that exists is taken over: one prepared before, or a
// container's own from before a restart. Nothing is left when it fails, but such a
// leaf in which something runs. An empty parent is Parent().
func (d *Driver) Create(ctx context.Context, parent, leaf string, r Resources, dev Devices) (*Group, error) {
	if parent == "" {
		parent = d.Parent()
	}
	sub, own, err := d.place(parent, dev)
	if err != nil {
		return nil, err
	}
	return d.create(ctx, sub, leaf, r, own, true)
}

// CreateIn is Create directly below a parent that others made or look at
// (--cgroup-parent), as PARENT/LEAF, or at the root for "/": the device rules
// are all the leaf's own.
func (d *Driver) CreateIn(ctx context.Context, parent, leaf string, r Resources, dev Devices) (*Group, error) {
	p, err := d.strange(parent)
	if err != nil {
		return nil, err
	}
	rules, all, err := expand(dev)
	if err != nil {
		return nil, err
	}
	var own []DeviceRule
	if !all {
		own = append(DefaultRules(), rules...)
	}
	return d.create(ctx, p, leaf, r, own, false)
}

// strange is a parent that is not the engine's; "" for the root.
func (d *Driver) strange(parent string) (string, error) {
	if parent == "/" {
		return "", nil
	}
	p, err := cleanParent(parent)
	if ours := d.Parent(); err == nil && strings.HasPrefix("/"+p+"/", ours+"/") {
		err = fmt.Errorf("the cgroup parent %s is in the engine's own cgroup %s: name another", parent, ours)
	}
	return p, err
}

// Place prepares a parent for leaves that another program makes and limits, as
// Create and CreateIn (foreign) do for theirs, and gives its path below the root of
// each hierarchy. No device rules hold there but those of the leaves.
func (d *Driver) Place(parent string, foreign bool) (string, error) {
	var p string
	var err error
	if foreign {
		p, err = d.strange(parent)
	} else if p, err = cleanParent(parent); err == nil {
		p += "/" + subDevices
	}
	if err != nil {
		return "", err
	}
	if err := d.prepare(p, !foreign); err != nil {
		return "", err
	}
	for _, h := range d.hierarchies {
		if exists(filepath.Join(h.dir, p), "cgroup.procs") {
			continue
		}
		d.forget(p) // someone removed it meanwhile
		if err := d.prepare(p, !foreign); err != nil {
			return "", err
		}
	}
	return "/" + p, nil
}

// Paths are the directories of a leaf that exists, as Group.Paths has them.
func (d *Driver) Paths(parent, leaf string) map[string]string {
	paths := map[string]string{}
	for _, h := range d.hierarchies {
		dir := filepath.Join(h.dir, parent, leaf)
		if !exists(dir, "cgroup.procs") {
			continue
		}
		for _, k := range h.keys {
			paths[k] = dir
		}
	}
	return paths
}

// create: engines says that the parent is the engine's own.
func (d *Driver) create(ctx context.Context, sub, leaf string, r Resources, own []DeviceRule, engines bool) (*Group, error) {
	if err := checkName(leaf); err != nil {
		return nil, fmt.Errorf("invalid container id: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := d.prepare(sub, engines); err != nil {
		return nil, err
	}
	g, taken, err := d.make(sub, leaf)
	if errors.Is(err, os.ErrNotExist) { // someone removed the parent meanwhile
		d.forget(sub)
		if err = d.prepare(sub, engines); err == nil {
			g, taken, err = d.make(sub, leaf)
		}
	}
	if err != nil {
		return nil, err
	}
	if err = g.applyDevices(own); err == nil {
		err = g.begin(r)
	}
	switch {
	case err == nil:
		return g, nil
	case taken:
		abandon(g)
		return nil, err
	}
	return nil, errors.Join(err, g.Remove())
}

// place says below which sub-parent a container belongs, and which device
// rules its leaf needs itself.
func (d *Driver) place(parent string, dev Devices) (sub string, own []DeviceRule, err error) {
	p, err := cleanParent(parent)
	if err != nil {
		return "", nil, err
	}
	rules, all, err := expand(dev)
	switch {
	case err != nil:
		return "", nil, err
	case all:
		return p + "/" + subDevices, nil, nil
	case len(rules) == 0:
		return p + "/" + subDefault, nil, nil
	}
	return p + "/" + subDevices, append(DefaultRules(), rules...), nil
}

// prepare makes a parent ready, once. own: it is the engine's.
func (d *Driver) prepare(sub string, own bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.ready[sub]; ok {
		return nil
	}
	for _, h := range d.hierarchies {
		if err := h.prepare(sub, own); err != nil {
			return err
		}
	}
	if own && filepath.Base(sub) == subDefault {
		if err := d.defaultDevices(sub); err != nil {
			return err
		}
	}
	d.ready[sub] = struct{}{}
	return nil
}

func (d *Driver) forget(sub string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.ready, sub)
}

// prepare makes the directories down to sub.
func (h hierarchy) prepare(sub string, own bool) error {
	dir := h.dir
	parts := strings.Split(sub, "/")
	for i := 0; ; i++ {
		if h.has("") {
			if err := delegate(dir, own && i > 0); err != nil {
				return err
			}
		}
		if i == len(parts) {
			return nil
		}
		above := dir
		dir = filepath.Join(dir, parts[i])
		if _, err := mkdir(dir); err != nil {
			return err
		}
		if err := h.inherit(above, dir); err != nil {
			return err
		}
	}
}

// inherit fills in what v1 leaves empty in a new directory.
func (h hierarchy) inherit(above, dir string) error {
	if h.has("cpuset") {
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			have, err := read(dir, name)
			if err != nil {
				return err
			}
			if have != "" {
				continue
			}
			value, err := read(above, name)
			if err != nil {
				return err
			}
			if err := write(dir, name, value); err != nil {
				return err
			}
		}
	}
	if h.has("memory") { // before Linux 5.11 a hierarchy must be asked for
		if v, err := read(dir, "memory.use_hierarchy"); err == nil && v == "0" {
			return write(dir, "memory.use_hierarchy", "1")
		}
	}
	return nil
}

// make makes the leaf's directories; taken: there was one, also with an
// error; of what it made itself, it leaves nothing then.
func (d *Driver) make(sub, leaf string) (g *Group, taken bool, err error) {
	g = &Group{paths: map[string]string{}, fd: -1}
	fail := func(err error) (*Group, bool, error) {
		if taken { // whoever is inside is not waited for
			abandon(g)
			return nil, true, err
		}
		return nil, false, errors.Join(err, g.Remove())
	}
	for _, h := range d.hierarchies {
		above := filepath.Join(h.dir, sub)
		dir := filepath.Join(above, leaf)
		made, err := mkdir(dir)
		if err != nil {
			return fail(err)
		}
		taken = taken || !made
		for _, k := range h.keys {
			g.paths[k] = dir
		}
		if h.has("cpuset") || h.has("memory") {
			if err := h.inherit(above, dir); err != nil {
				return fail(err)
			}
		}
	}
	if dir, ok := g.paths[""]; ok {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fail(fmt.Errorf("cannot open the cgroup %s: %w", dir, err))
		}
		g.fd = fd
	}
	return g, taken, nil
}

// mkdir says whether it made the directory; else it was there.
func mkdir(dir string) (made bool, err error) {
	err = unix.Mkdir(dir, 0o755)
	if err == unix.EEXIST {
		var s unix.Stat_t
		if unix.Lstat(dir, &s) == nil && s.Mode&unix.S_IFMT == unix.S_IFDIR {
			return false, nil
		}
	}
	if err != nil {
		return false, fmt.Errorf("cannot make the cgroup %s: %w%s", dir, err, hint(err))
	}
	return true, nil
}

func hint(err error) string {
	switch {
	case errors.Is(err, unix.EROFS):
		return " (it is mounted read-only: remount it, or start the outer container with --privileged)"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return " (the engine needs to be root, or a cgroup delegated to it)"
	case errors.Is(err, unix.ENOSPC):
		return " (the kernel's limit of cgroups is reached, or cpuset.cpus and cpuset.mems of the parent are empty)"
	}
	return ""
}

// delegate enables v2's controllers for the children of dir. own: dir is the
// engine's, so processes found there are moved away first: beside limited
// children none may be (but in the root of all), and enabling cpu or cpuset
// while some are would turn dir into a threaded group, useless for containers.
func delegate(dir string, own bool) error {
	have, err := read(dir, "cgroup.controllers")
	if err != nil {
		return err
	}
	enabled, err := read(dir, "cgroup.subtree_control")
	if err != nil {
		return err
	}
	var missing []string
	for _, c := range []string{"cpuset", "cpu", "io", "memory", "pids", hugetlb} {
		if word(have, c) && !word(enabled, c) {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 && exists(dir, "cgroup.type") { // the root of all has no type
		if err := evacuate(dir, own); err != nil {
			return err
		}
	}
	for _, c := range missing {
		err := write(dir, "cgroup.subtree_control", "+"+c)
		if err != nil && (c == hugetlb || c == "io") { // whose limits say so when they are set
			slog.Warn("a cgroup controller cannot be used", "controller", c, "cgroup", dir, "error", err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

func word(list, w string) bool {
	for f := range strings.FieldsSeq(list) {
		if f == w {
			return true
		}
	}
	return false
}

// evacuate moves the processes of dir (the keeper, when it was started there)
// to a child.
func evacuate(dir string, own bool) error {
	list, err := read(dir, "cgroup.procs")
	if err != nil || list == "" {
		return err
	}
	if !own {
		return fmt.Errorf("processes sit in the cgroup %s itself, where cgroup v2 allows none beside limited children: move them to a cgroup below it (%w)", dir, unix.EBUSY)
	}
	to := filepath.Join(dir, "engine")
	if _, err := mkdir(to); err != nil {
		return err
	}
	for pid := range strings.FieldsSeq(list) {
		if err := write(to, "cgroup.procs", pid); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// RemoveParent removes a parent and its sub-parents from all hierarchies,
// when no container is left there.
func (d *Driver) RemoveParent(parent string) error {
	p, err := cleanParent(parent)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.ready, p+"/"+subDefault)
	delete(d.ready, p+"/"+subDevices)
	var errs []error
	for _, h := range d.hierarchies {
		dir := filepath.Join(h.dir, p)
		for _, s := range []string{filepath.Join(dir, subDefault), filepath.Join(dir, subDevices), dir} {
			if err := rmdir(s); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}
