package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/box"
	"hezi/internal/keeper"
)

// watch waits for the exit, tells it at once, and does the rest behind.
func (p *process) watch(pumps *sync.WaitGroup) {
	if p.exit() == nil {
		if err := waitReadable(p.pidfd); err != nil {
			if p.srv.isLeaving() {
				return
			}
			p.srv.logger.Error("wait for a process", "error", err)
		}
		r := p.exitNow()
		if r.ExecID == "" {
			p.tellExit(r)
		} else { // its client gets the exit code from the stream and waits for nobody else
			p.srv.active.Go(func() { p.tellExit(r) })
		}
	} else {
		close(p.told)
	}
	if p.srv.isLeaving() {
		return
	}
	for _, s := range p.streams {
		p.awaitReady()
		if s != nil {
			p.extendDrain(s)
		}
	}
	pumps.Wait()
	if p.srv.isLeaving() {
		return
	}
	p.outMu.Lock()
	close(p.drained)
	clients := make([]*attached, 0, len(p.clients))
	for a := range p.clients {
		clients = append(clients, a)
	}
	p.outMu.Unlock()
	for _, a := range clients {
		a.end()
	}
	if err := p.closeStdin(); err != nil && !errors.Is(err, errdefs.ErrUnavailable) {
		p.srv.logger.Warn("close standard input after the exit", "error", err)
	}
	p.awaitCaughtUp(clients)
	if p.srv.isLeaving() {
		return
	}
	<-p.told
	p.closeAll()
	close(p.closed)
}

// discard deletes a removed container's folder once no client reads its log.
// When the keeper is replaced meanwhile, the engine sweeps it at its next start.
func (s *Server) discard(p *process, id, folder string) {
	if p != nil {
		select {
		case <-p.closed:
		case <-s.leaving:
			return
		}
	}
	for s.isFollowed(id) {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-s.leaving:
			return
		}
	}
	if err := os.RemoveAll(folder); err != nil {
		s.logger.Warn("remove a container's folder", "container", id, "error", err)
	}
}

func (s *Server) isFollowed(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.follows {
		if f.req.ContainerID == id {
			return true
		}
	}
	return false
}

func (p *process) awaitReady() {
	select {
	case <-p.ready:
	case <-p.srv.leaving:
	}
}

// awaitCaughtUp lets clients that read from the log and the spool finish.
func (p *process) awaitCaughtUp(clients []*attached) {
	if p.log == nil {
		return
	}
	for _, a := range clients {
		a.mu.Lock()
		behind := a.lag != nil
		a.mu.Unlock()
		if behind {
			select {
			case <-a.over:
			case <-p.srv.leaving:
				return
			}
		}
	}
}

// exitNow learns the exit and answers everyone who waits here.
func (p *process) exitNow() record {
	killed := false
	if p.rec.ExecID == "" { // first of all: systemd removes a scope that is empty
		kills, known := p.oomKills()
		lost := p.srv.oom.Remove(p.rec.ContainerID)
		killed = kills > 0 || !known && lost
	}
	e := p.learnExit()
	p.releasePorts()
	p.mu.Lock()
	e.OOMKilled = killed || p.rec.OOMs > 0
	p.rec.Exit = &e
	r := p.rec
	p.mu.Unlock()
	close(p.exited)
	return r
}

// tellExit tells the engine and the holder, and ends the zombie.
func (p *process) tellExit(r record) {
	defer close(p.told)
	kills, _ := p.oomKills()
	if r.Exit.OOMKilled && p.newKills(max(r.OOMs, kills, 1)) {
		p.srv.publish(keeper.Event{Type: keeper.EventOOM, ContainerID: r.ContainerID, PID: r.PID, Killed: true})
	}
	p.srv.publish(exitEvent(r))
	if r.ExecID == "" && r.HostPID {
		if g, err := p.srv.openCgroup(r.CgroupPaths); err == nil {
			if err := g.Kill(); err != nil {
				p.srv.logger.Warn("kill what the container left in the host's pid namespace", "container", r.ContainerID, "error", err)
			}
		}
	}
	// The holder has it before the zombie goes: one of them always knows.
	if err := p.update(); err != nil {
		p.srv.logger.Warn("tell the holder an exit", "error", err)
	}
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PIDFD, rawFD(p.pidfd), &info, unix.WEXITED|unix.WNOHANG, nil); err != nil && err != unix.ECHILD {
		p.srv.logger.Warn("reap a process", "error", err)
	}
	p.pidfd.Close()
}

func exitEvent(r record) keeper.Event {
	e := keeper.Event{Type: keeper.EventExit, ContainerID: r.ContainerID, ExecID: r.ExecID, Exit: r.Exit}
	if r.ExecID != "" {
		e.Type = keeper.EventExecExit
	}
	return e
}

// waitReadable blocks until a pidfd says that its process has ended.
func waitReadable(f *os.File) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return rc.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		return err == nil && n > 0
	})
}

// learnExit finds the status: our own child, else the holder's, else the
// pidfd's exit information (kernel 6.15), else unknown.
func (p *process) learnExit() box.Exit {
	e := box.Exit{At: time.Now().UTC()}
	fd := rawFD(p.pidfd)
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PIDFD, fd, &info, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil)
	if err == nil && info.Signo == int32(unix.SIGCHLD) {
		status := *(*int32)(unsafe.Add(unsafe.Pointer(&info), 24)) // si_status, sigaction(2)
		const exited = 1
		if info.Code == exited {
			e.Code = int(status)
		} else {
			e.Signal, e.Code = int(status), 128+int(status)
		}
		return e
	}
	if ws, ok := p.srv.link.wait(p.rec.PID); ok {
		return fromStatus(e, ws)
	}
	if ws, ok := pidfdExit(fd, p.rec.PID); ok {
		return fromStatus(e, ws)
	}
	e.Code = 255
	e.Reason = "the process ended while neither the keeper nor its holder could wait for it, and this kernel does not tell an exit status afterwards (Linux 6.15 does)"
	return e
}

func fromStatus(e box.Exit, ws unix.WaitStatus) box.Exit {
	if ws.Signaled() {
		e.Signal, e.Code = int(ws.Signal()), 128+int(ws.Signal())
	} else {
		e.Code = ws.ExitStatus()
	}
	return e
}

// pidfdInfo is struct pidfd_info, PIDFD_INFO_SIZE_VER0.
type pidfdInfo struct {
	mask, cgroupID uint64
	ids            [11]uint32
	exitCode       int32
}

// pidfdExit asks the pidfd once the process is reaped, and reads the status of the
// zombie from proc(5)'s stat before.
func pidfdExit(fd, pid int) (unix.WaitStatus, bool) {
	const getInfo, infoExit = 0xc040ff0b, 1 << 3 // PIDFD_GET_INFO, PIDFD_INFO_EXIT
	for range 20 {
		if ws, ok := zombieStatus(pid); ok {
			return ws, true
		}
		info := pidfdInfo{mask: infoExit}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), getInfo, uintptr(unsafe.Pointer(&info)))
		if errno == 0 && info.mask&infoExit != 0 {
			return unix.WaitStatus(info.exitCode), true
		}
		if errno != 0 && errno != unix.ESRCH {
			return 0, false
		}
		time.Sleep(2 * time.Millisecond) // between the two
	}
	return 0, false
}

// zombieStatus is field 52 of /proc/PID/stat. The number cannot have been
// used again while the zombie has it.
func zombieStatus(pid int) (unix.WaitStatus, bool) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	f := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if len(f) < 50 || f[0] != "Z" {
		return 0, false
	}
	n, err := strconv.Atoi(f[49])
	return unix.WaitStatus(n), err == nil
}

// signal sends sig by the pidfd, so never to another process with its number.
func (p *process) signal(sig unix.Signal) error {
	if p.exit() != nil {
		return keeper.Classed(errdefs.ErrFailedPrecondition, fmt.Sprintf("container %s is not running", p.rec.ContainerID))
	}
	err := using(p.pidfd, func(fd int) error { return unix.PidfdSendSignal(fd, sig, nil, 0) })
	if err == unix.ESRCH || errors.Is(err, os.ErrClosed) {
		return keeper.Classed(errdefs.ErrFailedPrecondition, fmt.Sprintf("container %s is not running", p.rec.ContainerID))
	}
	if err != nil {
		return fmt.Errorf("send signal %d to container %s: %w", sig, p.rec.ContainerID, err)
	}
	return nil
}

// waitFor blocks until the condition holds for the container.
func (s *Server) waitFor(ctx context.Context, id string, cond keeper.WaitCondition) (box.Exit, error) {
	if cond == keeper.WaitRemoved {
		r := s.removal(id)
		select {
		case <-r.done:
			return r.exit, nil
		case <-ctx.Done():
			return box.Exit{}, ctx.Err()
		}
	}
	s.mu.Lock()
	p := s.containers[id]
	s.mu.Unlock()
	if cond == keeper.WaitNextExit && (p == nil || p.exit() != nil) {
		var err error
		if p, err = s.nextStart(ctx, id); err != nil {
			return box.Exit{}, err
		}
	}
	if p == nil {
		return box.Exit{}, notFound(id)
	}
	select {
	case <-p.exited:
		return *p.exit(), nil
	case <-ctx.Done():
		return box.Exit{}, ctx.Err()
	}
}

// removal is what waiters for condition=removed wait on.
type removal struct {
	done chan struct{}
	exit box.Exit
}

func (s *Server) removal(id string) *removal {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.removals[id]
	if r == nil {
		r = &removal{done: make(chan struct{})}
		s.removals[id] = r
	}
	return r
}

// pendingStart is who waits for a container's next start.
type pendingStart struct {
	started chan struct{}
	p       *process // set before started is closed
	clients []*attached
}

func (s *Server) pendingLocked(id string) *pendingStart {
	n := s.pending[id]
	if n == nil {
		n = &pendingStart{started: make(chan struct{})}
		s.pending[id] = n
	}
	return n
}

func (s *Server) nextStart(ctx context.Context, id string) (*process, error) {
	s.mu.Lock()
	n := s.pendingLocked(id)
	s.mu.Unlock()
	select {
	case <-n.started:
		if n.p == nil {
			return nil, notFound(id) // removed
		}
		return n.p, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func notFound(id string) error {
	return keeper.Classed(errdefs.ErrNotFound, "No such container: "+id)
}

// drop takes an exited container out, once: whoever comes second waits until a
// new run can begin.
func (s *Server) drop(p *process) {
	p.dropping.Lock()
	defer p.dropping.Unlock()
	id := p.rec.ContainerID
	s.mu.Lock()
	mine := s.containers[id] == p
	s.mu.Unlock()
	if !mine {
		return
	}
	leave(s, p.snapshot())
	if g, err := s.openCgroup(p.rec.CgroupPaths); err == nil {
		if err := g.Remove(); err != nil {
			s.logger.Warn("remove a container's cgroup", "container", id, "error", err)
		}
	}
	p.mu.Lock()
	p.dropped = true
	keys := []string{p.key}
	for _, x := range p.execs {
		keys = append(keys, x.key)
	}
	p.mu.Unlock()
	for _, k := range keys {
		if err := s.link.del(k); err != nil {
			s.logger.Warn("tell the holder to forget", "error", err)
		}
	}
	s.mu.Lock()
	delete(s.containers, id)
	s.mu.Unlock()
}

// forget drops an exited container.
func (s *Server) forget(ctx context.Context, t *keeper.Target) error {
	id, removed := t.ContainerID, t.Removed
	s.mu.Lock()
	p := s.containers[id]
	s.mu.Unlock()
	exit := box.Exit{}
	if p != nil {
		e := p.exit()
		if e == nil {
			return keeper.Classed(errdefs.ErrFailedPrecondition, fmt.Sprintf("container %s is running: stop it before it is forgotten", id))
		}
		exit = *e
		if !removed { // a new run writes to the same log
			select {
			case <-p.drained:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		s.drop(p)
	} else if removed {
		dropOther(s, id)
	}
	if removed {
		s.mu.Lock()
		if r := s.removals[id]; r != nil {
			r.exit = exit
			close(r.done)
			delete(s.removals, id)
		}
		n := s.pending[id] // who waits for a start that will not come
		delete(s.pending, id)
		s.mu.Unlock()
		if n != nil {
			for _, a := range n.clients {
				a.close()
			}
			close(n.started)
		}
	}
	if t.Folder != "" {
		go s.discard(p, id, t.Folder)
	}
	return nil
}

func (s *Server) forgetExec(id, execID string) error {
	p, err := s.lookup(id, "")
	if err != nil {
		return err
	}
	p.mu.Lock()
	x := p.execs[execID]
	p.mu.Unlock()
	if x == nil {
		return keeper.Classed(errdefs.ErrNotFound, "No such exec instance: "+execID)
	}
	if x.exit() == nil {
		return keeper.Classed(errdefs.ErrFailedPrecondition, fmt.Sprintf("exec %s is running", execID))
	}
	go s.dropExec(p, x) // an attach that is on its way still finds it
	return nil
}

// dropExec takes an exec out once it has ended and its output is through.
func (s *Server) dropExec(p, x *process) {
	select {
	case <-x.drained:
	case <-s.leaving:
		return
	}
	<-x.told // or the holder would hear of it afterwards
	p.mu.Lock()
	delete(p.execs, x.rec.ExecID)
	p.mu.Unlock()
	leaveExec(p, x.rec.ExecID)
	if err := s.link.del(x.key); err != nil {
		s.logger.Warn("tell the holder to forget", "error", err)
	}
}
