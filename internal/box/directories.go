package box

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupMount = "/sys/fs/cgroup"

// directories are groups without limits: a directory in every hierarchy.
type directories struct{}

type directoryGroup struct {
	paths map[string]string
	fd    int
}

func newCgroups(string) cgroups { return directories{} }

func (directories) create(_ context.Context, c *Cgroup, leaf string) (group, error) {
	g := &directoryGroup{paths: map[string]string{}, fd: -1}
	if _, err := os.Stat(cgroupMount + "/cgroup.controllers"); err == nil {
		g.paths[""] = filepath.Join(cgroupMount, c.Parent, leaf)
	} else if err := hierarchyRoots(g.paths, c.Parent, leaf); err != nil {
		return nil, err
	}
	for _, dir := range g.paths {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, errors.Join(err, g.Remove())
		}
	}
	if dir, ok := g.paths[""]; ok {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, errors.Join(err, g.Remove())
		}
		g.fd = fd
	}
	return g, nil
}

func hierarchyRoots(paths map[string]string, parent, leaf string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) > 2 && f[2] == "cgroup" && strings.HasPrefix(f[1], cgroupMount+"/") {
			name := filepath.Base(f[1])
			if name != "cpuset" { // needs its cpus and mems filled in first
				paths[name] = filepath.Join(f[1], parent, leaf)
			}
		}
	}
	if len(paths) == 0 {
		return fmt.Errorf("no cgroup hierarchy is mounted below %s", cgroupMount)
	}
	return nil
}

func (g *directoryGroup) Paths() map[string]string { return g.paths }
func (g *directoryGroup) FD() int                  { return g.fd }
func (g *directoryGroup) Add(pid int) error        { return addToPaths(g.paths, pid) }
func (g *directoryGroup) ApplyLate() error         { return nil }

// Remove waits a moment for the kernel to let go of processes that ended.
func (g *directoryGroup) Remove() error {
	if g.fd >= 0 {
		unix.Close(g.fd)
		g.fd = -1
	}
	var all error
	for _, dir := range g.paths {
		var err error
		for range 200 {
			if err = unix.Rmdir(dir); err == nil || err == unix.ENOENT {
				err = nil
				break
			}
			time.Sleep(time.Millisecond)
		}
		all = errors.Join(all, err)
	}
	return all
}
