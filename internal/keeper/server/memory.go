package server

import (
	"fmt"

	"github.com/containerd/errdefs"

	"hezi/internal/box/cgroup"
	"hezi/internal/keeper"
)

// watchMemory has kills told as they come where the container's memory is
// limited. Where only the whole machine's is, the exit tells, but for scopes of
// systemd's, which may be gone by then.
func (p *process) watchMemory() {
	r := p.snapshot()
	if r.ExecID != "" || r.Exit != nil || !r.Limited && !cgroup.InScope(r.CgroupPaths) {
		return
	}
	if err := p.srv.oom.Add(r.ContainerID, r.CgroupPaths, r.OOMs); err != nil && p.exit() == nil {
		p.srv.logger.Warn("kills for lack of memory are told when the container ends", "container", r.ContainerID, "error", err)
	}
}

// oomKills counts the processes of the container that were killed. It is not known
// once the cgroup is gone.
func (p *process) oomKills() (n uint64, known bool) {
	g, err := p.srv.openCgroup(p.rec.CgroupPaths)
	if err == nil {
		n, err = g.OOMKills()
	}
	return n, err == nil
}

// newKills says whether there are kills that were not told, and counts them as told.
func (p *process) newKills(n uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n <= p.rec.OOMs {
		return false
	}
	p.rec.OOMs = n
	return true
}

// outOfMemory tells what a container's cgroup told.
func outOfMemory(s *Server, o cgroup.OOM) {
	p, err := s.lookup(o.ID, "")
	if err != nil || o.Kills > 0 && !p.newKills(o.Kills) {
		return
	}
	s.publish(keeper.Event{Type: keeper.EventOOM, ContainerID: o.ID, PID: p.snapshot().PID, Killed: o.Kills > 0})
	if err := p.update(); err != nil { // or a later keeper would tell it again
		s.logger.Warn("tell the holder of a kill", "container", o.ID, "error", err)
	}
}

// updateLimits changes the limits of a container that runs.
func updateLimits(s *Server, r *keeper.UpdateRequest) error {
	p, err := s.lookup(r.ContainerID, "")
	if err != nil {
		return err
	}
	if p.exit() != nil {
		return keeper.Classed(errdefs.ErrFailedPrecondition, fmt.Sprintf("container %s is not running", r.ContainerID))
	}
	if err := limit(s, p.snapshot(), r.Resources); err != nil {
		return err
	}
	if r.Resources.Memory <= 0 {
		return nil
	}
	p.mu.Lock()
	known := p.rec.Limited
	p.rec.Limited = true
	p.mu.Unlock()
	if known {
		return nil
	}
	p.watchMemory()
	return p.update()
}
