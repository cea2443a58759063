package server

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/box/cgroup"
	"hezi/internal/keeper"
)

// signalExec sends a signal to all processes of an exec: those that its first one
// has left behind too. NotFound: it has none any more.
func signalExec(s *Server, id, execID string, sig unix.Signal) error {
	c, err := s.lookup(id, "")
	if err != nil {
		return err
	}
	n := 0
	if dir := cgroup.Inner(c.snapshot().CgroupPaths, cgroup.ExecName(execID)); dir != "" {
		if n, err = cgroup.SignalAll(dir, sig); n > 0 || err != nil {
			return err
		}
	}
	x, err := s.lookup(id, execID)
	if err != nil {
		return keeper.Classed(errdefs.ErrNotFound, "No such exec instance: "+execID)
	}
	if x.exit() != nil {
		return keeper.Classed(errdefs.ErrFailedPrecondition, fmt.Sprintf("exec %s is not running", execID))
	}
	return x.signal(sig) // this host has no group for it
}

// leaveExec removes the group of an exec that has ended, and those of earlier
// ones whose last process has ended since. What a keeper before this one left
// goes with the container.
func leaveExec(c *process, execID string) {
	paths := c.snapshot().CgroupPaths
	if cgroup.Inner(paths, cgroup.ExecName(execID)) == "" {
		return
	}
	c.mu.Lock()
	left := c.leftGroups
	c.leftGroups = nil
	c.mu.Unlock()
	left = append(left, execID)
	left = slices.DeleteFunc(left, func(id string) bool { return cgroup.RemoveInner(cgroup.Inner(paths, cgroup.ExecName(id))) })
	c.mu.Lock()
	c.leftGroups = append(c.leftGroups, left...)
	c.mu.Unlock()
}
