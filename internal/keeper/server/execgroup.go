package server

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

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

// clientGone ends an exec that is to end with its client.
func clientGone(p *process) {
	r := p.snapshot()
	if !r.KillOnDisconnect || r.ExecID == "" {
		return
	}
	err := signalExec(p.srv, r.ContainerID, r.ExecID, unix.SIGKILL)
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
		p.srv.logger.Warn("end an exec whose client left", "error", err)
	}
}

// leaveExec removes the group of an exec that has ended, and those of earlier
// ones whose last process has ended since.
func leaveExec(c *process, execID string) {
	dir := cgroup.Inner(c.snapshot().CgroupPaths, cgroup.ExecName(execID))
	if dir == "" {
		return
	}
	c.mu.Lock()
	left := append(c.leftGroups, dir)
	c.leftGroups = nil
	c.mu.Unlock()
	left = slices.DeleteFunc(left, cgroup.RemoveInner)
	c.mu.Lock()
	c.leftGroups = append(c.leftGroups, left...)
	c.mu.Unlock()
}

// findGroups finds the groups that a keeper before this one has left.
func findGroups(c *process) {
	c.leftGroups = slices.DeleteFunc(cgroup.Inners(c.rec.CgroupPaths), func(dir string) bool {
		id, ok := strings.CutPrefix(filepath.Base(dir), cgroup.ExecPrefix)
		return ok && c.execs[id] != nil
	})
}
