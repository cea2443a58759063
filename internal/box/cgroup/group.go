package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Group is one container's cgroup. One goroutine at a time may use it.
type Group struct {
	paths    map[string]string
	fd       int
	late     Resources // what ApplyLate has to write
	warnings []string
	undo     *[]func() error // of an Update under way: puts back what was written
}

// Open takes up a group that exists, by the Paths of its making: after a
// restart, or for a process in another program. It holds no descriptor.
func Open(paths map[string]string) (*Group, error) {
	if len(paths) == 0 {
		return nil, errors.New("the container has no cgroup of its own")
	}
	for _, dir := range paths {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || filepath.Dir(filepath.Dir(dir)) == "/" {
			return nil, fmt.Errorf("%q is not a container's cgroup", dir)
		}
	}
	return &Group{paths: maps.Clone(paths), fd: -1}, nil
}

// Paths maps each controller (or "name=systemd") to the group's directory on
// v1; on v2 the only key is "". The caller may keep and change it.
func (g *Group) Paths() map[string]string { return maps.Clone(g.paths) }

// FD is the group's directory on v2, for CLONE_INTO_CGROUP, until Remove or
// Close; else -1.
func (g *Group) FD() int { return g.fd }

// Warnings are sentences about limits that this host cannot set.
func (g *Group) Warnings() []string { return g.warnings }

// Close lets the descriptor go. The cgroup stays.
func (g *Group) Close() {
	if g.fd >= 0 {
		unix.Close(g.fd)
		g.fd = -1
	}
}

// v2 is the directory on v2, or "".
func (g *Group) v2() string {
	if len(g.paths) == 1 {
		return g.paths[""]
	}
	return ""
}

// dirs are the directories, each once: controllers mounted together share one.
func (g *Group) dirs() []string {
	out := slices.Collect(maps.Values(g.paths))
	slices.Sort(out)
	return slices.Compact(out)
}

// Add moves a process with all its threads into the group. Files are opened
// first and written in a row, so that only the first write waits for an RCU
// grace period; see the package doc.
func (g *Group) Add(pid int) error {
	dirs := g.dirs()
	fds := make([]int, 0, len(dirs))
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for _, dir := range dirs {
		fd, err := openRetry(filepath.Join(dir, "cgroup.procs"), unix.O_WRONLY)
		if err != nil {
			return fmt.Errorf("cannot enter the cgroup %s: %w", dir, err)
		}
		fds = append(fds, fd)
	}
	value := strconv.Itoa(pid)
	for i, fd := range fds {
		if err := writeFD(fd, value); err != nil {
			return fmt.Errorf("cannot move process %d into the cgroup %s: %w%s", pid, dirs[i], err, hint(err))
		}
	}
	return nil
}

// Rename gives the leaf another name, with what is inside: v1 only
// (cgroup v2 cannot rename). On failure the old names are restored.
func (g *Group) Rename(leaf string) error {
	if err := checkName(leaf); err != nil {
		return err
	}
	if g.v2() != "" {
		return fmt.Errorf("cgroup v2 cannot rename: %w", errors.ErrUnsupported)
	}
	dirs := g.dirs()
	for i, dir := range dirs {
		if err := unix.Rename(dir, filepath.Join(filepath.Dir(dir), leaf)); err != nil {
			for _, done := range dirs[:i] {
				if back := unix.Rename(filepath.Join(filepath.Dir(done), leaf), done); back != nil {
					err = errors.Join(err, back)
				}
			}
			return fmt.Errorf("cannot rename the cgroup %s to %s: %w", dir, leaf, err)
		}
	}
	for k, dir := range g.paths {
		g.paths[k] = filepath.Join(filepath.Dir(dir), leaf)
	}
	return nil
}

// Remove removes the group from all hierarchies, groups made inside first. It
// must be empty of processes (a moment of delay is waited for); what is absent
// already is no error.
func (g *Group) Remove() error {
	g.Close()
	var errs []error
	for _, dir := range g.dirs() {
		if err := removeTree(dir); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// abandon removes of a group what nobody is in, and leaves the rest to whoever is.
func abandon(g *Group) {
	g.Close()
	for _, dir := range g.dirs() {
		_ = unix.Rmdir(dir)
	}
}

func removeTree(dir string) error {
	if err := unix.Rmdir(dir); err == nil || err == unix.ENOENT {
		return nil // the usual case: nothing was made inside
	}
	if err := removeBelow(dir); err != nil {
		return err
	}
	return rmdir(dir)
}

// level is a group whose children are being removed.
type level struct {
	name string // in the one above
	left []string
}

// removeBelow removes what a container has made in its group: perhaps so deep
// that no path leads there. It holds one descriptor, and goes up by "..", which
// is what it was: groups are never moved to another parent.
func removeBelow(dir string) error {
	at, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot open the cgroup %s: %w", dir, err)
	}
	return removeAt(at, dir)
}

// removeAt is removeBelow of an open group, dir, which it closes.
func removeAt(at int, dir string) error {
	defer func() { unix.Close(at) }()
	enter := func(name string) error {
		next, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(at)
			at = next
		}
		return err
	}
	levels := []level{{left: childrenAt(at)}}
	for {
		l := &levels[len(levels)-1]
		if len(l.left) > 0 {
			name := l.left[0]
			l.left = l.left[1:]
			if unix.Unlinkat(at, name, unix.AT_REMOVEDIR) == nil {
				continue
			}
			switch err := enter(name); err {
			case nil:
				levels = append(levels, level{name: name, left: childrenAt(at)})
			case unix.ENOENT:
			default:
				return fmt.Errorf("cannot open the cgroup %s below %s: %w", name, dir, err)
			}
			continue
		}
		if len(levels) == 1 {
			return nil
		}
		if err := enter(".."); err != nil {
			return fmt.Errorf("cannot return to the cgroup above %s below %s: %w", l.name, dir, err)
		}
		if err := rmdirAt(at, l.name); err != nil {
			return fmt.Errorf("cannot remove the cgroup %s below %s: %w", l.name, dir, err)
		}
		levels = levels[:len(levels)-1]
	}
}

// childrenAt are the names of the cgroups made in an open one.
func childrenAt(fd int) []string {
	own, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) // whose place in the list is its own
	if err != nil {
		return nil // gone: it has none
	}
	f := os.NewFile(uintptr(own), ".")
	defer f.Close()
	entries, _ := f.ReadDir(-1) // as many as there are
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out
}

// children are the cgroups made in dir.
func children(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // gone: it has none
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out
}
