package server

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/box"
	"hezi/internal/box/cgroup"
	"hezi/internal/keeper"
	"hezi/internal/logs"
	"hezi/internal/timeline"
)

// attachWait is how long an exec's output waits for its Attach.
const attachWait = 10 * time.Second

func (s *Server) start(req *keeper.StartRequest) (keeper.Started, error) {
	id := req.Spec.ID
	ports, names := portFiles(req.Ports, 0), nameFiles(req.Names)
	p := newProcess(s, record{ContainerID: id, StdinOnce: req.StdinOnce, Log: req.Log, Terminal: req.Spec.Process.Terminal, HostPID: req.Spec.Namespaces.PID.Mode != box.NamespaceNew, Limited: req.Spec.Cgroup.Resources.Memory > 0 || req.Spec.Cgroup.Foreign})
	s.mu.Lock()
	if s.containers[id] != nil || s.starting[id] {
		s.mu.Unlock()
		closeFiles(slices.Concat(ports, names)...)
		return keeper.Started{}, keeper.Classed(errdefs.ErrConflict, fmt.Sprintf("container %s is already running, or its last exit was not acknowledged", id))
	}
	s.starting[id] = true
	s.mu.Unlock()
	p.ports, p.names = ports, names
	out, err := s.launch(p, req)
	s.mu.Lock()
	delete(s.starting, id)
	n := s.pending[id]
	delete(s.pending, id)
	if err == nil {
		s.containers[id] = p
	}
	s.mu.Unlock()
	if err != nil {
		closeFiles(slices.Concat(ports, names)...)
		if n != nil {
			s.failPending(id, n)
		}
		return out, err
	}
	if n != nil {
		n.p = p
		close(n.started)
		for _, a := range n.clients {
			if err := p.join(a); err != nil {
				a.kick(err.Error())
			}
		}
	}
	p.release()
	p.run()
	return out, nil
}

// failPending: who attached for a start that failed is closed; who waits for
// an exit goes on waiting.
func (s *Server) failPending(id string, n *pendingStart) {
	for _, a := range n.clients {
		a.close()
	}
	n.clients = nil
	s.mu.Lock()
	if s.pending[id] == nil {
		s.pending[id] = n
	}
	s.mu.Unlock()
}

func (s *Server) launch(p *process, req *keeper.StartRequest) (out keeper.Started, err error) {
	ctx, lap := context.Background(), (*timeline.Record)(nil)
	if req.Timeline {
		ctx, lap = timeline.New(ctx)
	}
	owned, err := owners(s, &req.Spec.Namespaces, req.Spec.Mounts)
	defer closeFiles(owned...)
	if err != nil {
		return out, err
	}
	pr := &req.Spec.Process
	ps, err := makePipes(pr.OpenStdin && !pr.Terminal, !pr.Terminal, !pr.Terminal)
	if err != nil {
		return out, err
	}
	undo := []func(){ps.closeOurs}
	defer func() {
		ps.closeTheirs()
		if err != nil {
			for i := len(undo) - 1; i >= 0; i-- {
				undo[i]()
			}
		}
	}()
	if d := req.Log.Driver; d != "none" && d != "" {
		if p.log, err = logs.Open(logConfig(req.Log), firstGeneration); err != nil {
			return out, err
		}
		undo = append(undo, func() { p.log.Close() })
	}
	lap.Mark("streams", "the pipes or the terminal and the log")
	proc, err := begin(ctx, s, p, req, ps.theirs)
	if err != nil {
		return out, err
	}
	ps.closeTheirs()
	undo = append(undo, func() { endStarted(s, p.rec, proc) })
	out, err = s.register(p, proc, ps)
	lap.Mark("hold", "copies of what must not be lost go to the holder")
	out.Phases = lap.Phases()
	return out, err
}

// register deposits a started process with the holder.
func (s *Server) register(p *process, proc *box.Proc, ps *pipes) (keeper.Started, error) {
	p.rec.PID, p.rec.StartedAt, p.rec.CgroupPaths = proc.PID, time.Now().UTC(), proc.CgroupPaths
	if err := p.adoptProc(proc, ps, p.log != nil); err != nil {
		return keeper.Started{}, err
	}
	if err := p.deposit(); errdefs.IsUnavailable(err) {
		// The holder has just died: the new one is given everything.
		s.logger.Warn("deposit a process with the holder", "error", err)
	} else if err != nil { // nobody would have it if the keeper died
		p.closeAll()
		return keeper.Started{}, err
	}
	return keeper.Started{PID: proc.PID, StartedAt: p.rec.StartedAt, CgroupPaths: proc.CgroupPaths, Pipes: pipesOf(ps.out)}, nil
}

// endStarted ends a container that was started and cannot be held.
func endStarted(s *Server, r record, proc *box.Proc) {
	killAndReap(proc.PID)
	leave(s, r)
	if g, err := s.openCgroup(proc.CgroupPaths); err == nil {
		if err := g.Remove(); err != nil {
			s.logger.Warn("remove the cgroup of a container that was not started", "error", err)
		}
	}
}

// killAndReap undoes a start; pid is our unreaped child, so still its own.
func killAndReap(pid int) {
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		return
	}
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}

// execFor is exec, with the connection of a client that is attached to it, if the
// request carries one.
func execFor(s *Server, req *keeper.ExecRequest, fds []int) (started keeper.Started, err error) {
	if req.Client == nil {
		keeper.CloseFDs(fds)
		return s.exec(req)
	}
	if len(fds) != 1 {
		keeper.CloseFDs(fds)
		return started, keeper.Classed(errdefs.ErrInvalidArgument, "the request must carry exactly one connection")
	}
	conn, err := keeper.FileConn(fds[0])
	if err != nil {
		return started, err
	}
	if started, err = s.exec(req); err != nil {
		conn.Close()
		return started, err
	}
	if _, err := s.attach(&keeper.TakeOver{Attach: req.Client, Buffered: req.Buffered}, conn); err != nil {
		conn.Close()
		started.Unattached = keeper.NewWireError(err)
	}
	return started, nil
}

func (s *Server) exec(req *keeper.ExecRequest) (keeper.Started, error) {
	c, err := s.lookup(req.ContainerID, "")
	if err != nil {
		return keeper.Started{}, err
	}
	notRunning := keeper.Classed(errdefs.ErrConflict, fmt.Sprintf("container %s is not running", req.ContainerID))
	if c.exit() != nil {
		return keeper.Started{}, notRunning
	}
	c.mu.Lock()
	_, dup := c.execs[req.ExecID]
	c.mu.Unlock()
	if dup {
		return keeper.Started{}, keeper.Classed(errdefs.ErrConflict, fmt.Sprintf("exec %s has already run", req.ExecID))
	}
	pr := &req.Process
	ps, err := makePipes(pr.OpenStdin && !pr.Terminal, pr.AttachStdout && !pr.Terminal, pr.AttachStderr && !pr.Terminal)
	if err != nil {
		return keeper.Started{}, err
	}
	pr.Group = cgroup.ExecName(req.ExecID)
	p := newProcess(s, record{ContainerID: req.ContainerID, ExecID: req.ExecID, StdinOnce: req.StdinOnce, Terminal: pr.Terminal, KillOnDisconnect: req.KillOnDisconnect})
	if err := c.beginExec(); err != nil {
		ps.closeTheirs()
		ps.closeOurs()
		return keeper.Started{}, err
	}
	proc, err := beside(s, c, pr, ps.theirs)
	c.endExec()
	ps.closeTheirs()
	if err != nil {
		ps.closeOurs()
		if ended(c.pidfd) { // that is why
			return keeper.Started{}, notRunning
		}
		return keeper.Started{}, err
	}
	out, err := s.register(p, proc, ps)
	if err != nil {
		killAndReap(proc.PID)
		ps.closeOurs()
		leaveExec(c, req.ExecID)
		return out, err
	}
	c.mu.Lock()
	c.execs[req.ExecID] = p
	late := c.dropped
	c.mu.Unlock()
	if late { // nobody will acknowledge it
		if err := p.signal(unix.SIGKILL); err != nil && !errdefs.IsFailedPrecondition(err) {
			s.logger.Warn("end an exec of a container that has ended", "exec", req.ExecID, "error", err)
		}
		p.release()
		p.run()
		go s.dropExec(c, p)
		return keeper.Started{}, notRunning
	}
	if req.AwaitAttach {
		time.AfterFunc(attachWait, p.release)
	} else {
		p.release()
	}
	p.run()
	return out, nil
}
