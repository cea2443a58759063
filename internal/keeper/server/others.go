package server

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/box"
	"hezi/internal/box/cgroup"
	"hezi/internal/keeper"
	"hezi/internal/timeline"
)

// What a container's own runtime does, where that is another than ours: to its
// first process and to the container as a whole. Its execs are processes of this
// host to which signals go directly, as everybody sends them.

// begin starts the container's first process.
func begin(ctx context.Context, s *Server, p *process, req *keeper.StartRequest, theirs box.Stdio) (*box.Proc, error) {
	if req.Launch == nil {
		return s.rt.Start(ctx, &req.Spec, theirs)
	}
	if s.o.Others == nil {
		return nil, keeper.Classed(errdefs.ErrNotImplemented, "this keeper has no other runtimes")
	}
	p.rec.Runtime = req.Launch.Runtime.Name
	proc, err := s.o.Others.Start(ctx, &req.Spec, req.Launch, theirs)
	timeline.Of(ctx).Mark("runtime", "another runtime starts the program")
	return proc, err
}

// beside starts an exec.
func beside(s *Server, c *process, pr *box.Process, theirs box.Stdio) (*box.Proc, error) {
	r := c.snapshot()
	if r.Runtime != "" {
		return s.o.Others.Exec(context.Background(), r.ContainerID, r.CgroupPaths, pr, theirs)
	}
	return s.rt.Exec(context.Background(), r.PID, c.pidfd, r.CgroupPaths, pr, theirs)
}

// leave gives up what a runtime keeps of a container that has ended.
func leave(s *Server, r record) {
	if r.Runtime == "" {
		s.rt.Leave(r.CgroupPaths)
		return
	}
	dropOther(s, r.ContainerID)
}

// dropOther removes what another runtime may have of a container: also of one whose
// start was cut off, of which there is no record.
func dropOther(s *Server, id string) {
	if s.o.Others == nil {
		return
	}
	if err := s.o.Others.Delete(id); err != nil {
		s.logger.Error("remove what a container of another runtime has left", "container", id, "error", err)
	}
}

// sendSignal sends a signal to a process.
func sendSignal(p *process, sig unix.Signal) error {
	r := p.snapshot()
	if r.Runtime == "" || r.ExecID != "" {
		return p.signal(sig)
	}
	gone := keeper.Classed(errdefs.ErrFailedPrecondition, fmt.Sprintf("container %s is not running", r.ContainerID))
	if p.exit() != nil {
		return gone
	}
	if err := p.srv.o.Others.Kill(r.ContainerID, sig); err != nil {
		if ended(p.pidfd) { // that is why
			return gone
		}
		return err
	}
	return nil
}

// standStill freezes a container's processes, or lets them go on.
func standStill(s *Server, r record, freeze bool) error {
	switch {
	case r.Runtime != "" && freeze:
		return s.o.Others.Pause(r.ContainerID)
	case r.Runtime != "":
		return s.o.Others.Resume(r.ContainerID)
	}
	g, err := s.openCgroup(r.CgroupPaths)
	if err != nil {
		return err
	}
	if freeze {
		return g.Freeze()
	}
	return g.Thaw()
}

// limit changes the limits of a container.
func limit(s *Server, r record, to box.Resources) error {
	if r.Runtime != "" {
		return s.o.Others.Update(r.ContainerID, &to)
	}
	g, err := cgroup.Open(r.CgroupPaths)
	if err != nil {
		return err
	}
	return g.Update(to)
}

// otherOf is the runtime of a container that this keeper has no record of; "" for
// ours.
func otherOf(s *Server, id string) string {
	if s.o.Others == nil {
		return ""
	}
	return s.o.Others.Name(id)
}

func allOthers(s *Server) []string {
	if s.o.Others == nil {
		return nil
	}
	return s.o.Others.All()
}
