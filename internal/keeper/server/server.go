package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/box/cgroup"
	"hezi/internal/keeper"
)

// Options of a Server.
type Options struct {
	Runtime    Runtime
	Others     Others // nil: there are none
	OpenCgroup OpenCgroup
	Logger     *slog.Logger
	Version    string
	Root       string // exec root
	Identity   string
	Binary     string // this program's path, to start a new holder
}

// Server is the keeper.
type Server struct {
	o          Options
	rt         Runtime
	openCgroup OpenCgroup
	logger     *slog.Logger
	listener   *net.UnixListener
	link       *link
	handover   *handover
	buffers    *sync.Pool
	queues     *sync.Pool
	logSlots   chan struct{}
	oom        *cgroup.Watcher
	leaving    chan struct{} // closed when the keeper replaces itself
	stopped    chan struct{}
	generation int

	active sync.WaitGroup // pumps, watchers and clients' loops
	starts sync.RWMutex   // read: a start is under way; write: none may be

	beginning atomic.Int32 // starts that wait for an upgrade's end

	mu           sync.Mutex
	containers   map[string]*process
	starting     map[string]bool
	pending      map[string]*pendingStart
	removals     map[string]*removal
	subs         map[chan keeper.Event]struct{}
	waits        map[*net.UnixConn]keeper.WaitRequest
	follows      map[*follower]struct{}
	upgradeError string
}

// New makes a keeper that is not serving yet.
func New(o Options, listener *net.UnixListener, holder *net.UnixConn) *Server {
	s := &Server{
		o: o, rt: o.Runtime, openCgroup: o.OpenCgroup, logger: o.Logger, listener: listener,
		buffers: newBuffers(), queues: newQueues(), logSlots: make(chan struct{}, 16),
		leaving: make(chan struct{}), stopped: make(chan struct{}),
		containers: map[string]*process{}, starting: map[string]bool{}, pending: map[string]*pendingStart{},
		removals: map[string]*removal{}, waits: map[*net.UnixConn]keeper.WaitRequest{}, follows: map[*follower]struct{}{}, subs: map[chan keeper.Event]struct{}{},
	}
	s.link = newLink(s, holder)
	s.handover = &handover{s: s}
	s.oom = cgroup.NewWatcher(func(o cgroup.OOM) { outOfMemory(s, o) })
	return s
}

func (s *Server) isLeaving() bool {
	select {
	case <-s.leaving:
		return true
	default:
		return false
	}
}

// Serve serves until Stop. A connection that arrived earlier waits in the
// listening socket.
func (s *Server) Serve(ctx context.Context) error {
	if err := s.link.serving(s.o.Binary); err != nil {
		s.logger.Warn("tell the holder that the keeper serves", "error", err)
	}
	for {
		c, err := s.listener.AcceptUnix()
		if err != nil {
			select {
			case <-s.stopped:
				return nil
			case <-s.leaving:
				<-s.stopped
				return nil
			default:
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			s.logger.Error("accept a connection", "error", err)
			time.Sleep(10 * time.Millisecond)
			continue
		}
		go s.handle(ctx, c)
	}
}

// handle serves one request.
func (s *Server) handle(ctx context.Context, c *net.UnixConn) {
	defer c.Close()
	if err := sameUser(c); err != nil {
		s.logger.Warn("a connection was refused", "error", err)
		return
	}
	var req keeper.Request
	fds, err := keeper.ReadFrame(c, &req)
	defer func() { keeper.CloseFDs(fds) }()
	if errors.Is(err, keeper.ErrFilesLost) {
		respond(c, nil, err)
		return
	}
	if err != nil {
		return // the peer left before it had asked
	}
	filter, err := keeper.ReadTail(c, req.Tail)
	if err != nil {
		return
	}
	if s.isLeaving() {
		respond(c, nil, errReplaced) // the new image does not know this connection
		return
	}
	switch req.Op {
	case keeper.OpStart, keeper.OpLaunch, keeper.OpExec, keeper.OpPrepare:
		s.beginning.Add(1)
		err := admit(s)
		if err != nil {
			respond(c, nil, err)
		}
		s.beginning.Add(-1)
		if err != nil {
			return
		}
		defer s.starts.RUnlock() // once it is answered
	}
	var answer any
	switch req.Op {
	case keeper.OpSubscribe:
		s.subscribe(c)
		return
	case keeper.OpAttach, keeper.OpLogs, keeper.OpWait:
		if len(fds) != 1 {
			err = keeper.Classed(errdefs.ErrInvalidArgument, "the request must carry exactly one connection")
			break
		}
		fd := fds[0]
		fds = nil
		var then func()
		if then, err = s.takeOver(req.Body, fd); err == nil {
			respond(c, nil, nil)
			then()
			return
		}
	case keeper.OpUpgrade:
		s.handover.upgrade(req.Body, c)
		return
	case keeper.OpStart, keeper.OpLaunch:
		var r *keeper.StartRequest
		if r, err = decode[keeper.StartRequest](req.Body); err == nil {
			n := len(fds) - min(max(r.NameSockets, 0), len(fds))
			r.Ports, r.Names, fds = fds[:n], fds[n:], nil
			r.Spec.Process.Seccomp = filter
			answer, err = s.start(r)
		}
	case keeper.OpExec:
		var r *keeper.ExecRequest
		if r, err = decode[keeper.ExecRequest](req.Body); err == nil {
			conn := fds
			fds = nil
			r.Process.Seccomp = filter
			answer, err = execFor(s, r, conn)
		}
	case keeper.OpPorts:
		var r *keeper.PortsRequest
		if r, err = decode[keeper.PortsRequest](req.Body); err == nil {
			r.Ports, fds = fds, nil
			err = keepPorts(s, r)
		}
	case keeper.OpNames:
		if len(fds) > 0 {
			err, fds = keepNames(s, req.Body, fds), nil
		} else if err = giveSockets(s, c, req.Body, func(p *process) []*os.File { return p.names }); err == nil {
			return
		}
	case keeper.OpHeld:
		if err = giveSockets(s, c, req.Body, func(p *process) []*os.File { return p.ports }); err == nil {
			return
		}
	default:
		answer, err = s.answer(ctx, c, req)
	}
	respond(c, answer, err)
	if req.Op == keeper.OpStop && err == nil {
		s.shutdown()
	}
}

var errReplaced = keeper.Classed(errdefs.ErrAborted, "the keeper is being replaced: ask again")

// admit lets a start begin once no upgrade is tried, and hold off upgrades.
func admit(s *Server) error {
	for !s.starts.TryRLock() {
		select {
		case <-s.leaving:
			return errReplaced
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// sameUser lets only the keeper's own user in (SO_PEERCRED).
func sameUser(c *net.UnixConn) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var cerr error
	if err := rc.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if cerr != nil {
		return cerr
	}
	if cred.Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("process %d of user %d is not this keeper's user", cred.Pid, cred.Uid)
	}
	return nil
}

func respond(c *net.UnixConn, answer any, err error) {
	var r keeper.Response
	if err != nil {
		r.Error = keeper.NewWireError(err)
	} else if answer != nil {
		raw, merr := json.Marshal(answer)
		if merr != nil {
			r.Error = keeper.NewWireError(merr)
		}
		r.Body = raw
	}
	// The asker may be gone; what it asked for is done.
	_ = keeper.WriteFrame(c, r)
}

func decode[T any](raw json.RawMessage) (*T, error) {
	v := new(T)
	if err := json.Unmarshal(raw, v); err != nil {
		return nil, keeper.Classed(errdefs.ErrInvalidArgument, "request to the keeper: "+err.Error())
	}
	return v, nil
}

// answer serves the requests that are one question and one answer.
func (s *Server) answer(ctx context.Context, c *net.UnixConn, req keeper.Request) (any, error) {
	switch req.Op {
	case keeper.OpInfo:
		return s.info(), nil
	case keeper.OpList:
		return s.list(), nil
	case keeper.OpStop:
		return nil, s.mayStop()
	case keeper.OpPrepare:
		r, err := decode[keeper.PrepareRequest](req.Body)
		if err != nil {
			return nil, err
		}
		return prepare(s, r)
	case keeper.OpAdopt:
		r, err := decode[keeper.AdoptRequest](req.Body)
		if err != nil {
			return nil, err
		}
		return nil, find(s, r)
	case keeper.OpSweep:
		r, err := decode[keeper.SweepRequest](req.Body)
		if err != nil {
			return nil, err
		}
		return sweep(s, r)
	case keeper.OpUpdate:
		r, err := decode[keeper.UpdateRequest](req.Body)
		if err != nil {
			return nil, err
		}
		return nil, updateLimits(s, r)
	}
	t, err := decode[keeper.Target](req.Body)
	if err != nil {
		return nil, err
	}
	switch req.Op {
	case keeper.OpWaitExit:
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() { untilClosed(c); cancel() }()
		return s.waitFor(ctx, t.ContainerID, t.Condition)
	case keeper.OpForget:
		return nil, s.forget(ctx, t)
	case keeper.OpForgetExec:
		return nil, s.forgetExec(t.ContainerID, t.ExecID)
	}
	if req.Op == keeper.OpSignal && t.ExecID != "" {
		return nil, signalExec(s, t.ContainerID, t.ExecID, unix.Signal(t.Signal))
	}
	p, err := s.lookup(t.ContainerID, t.ExecID)
	if err != nil {
		return nil, err
	}
	return nil, s.act(p, req.Op, t)
}

// act serves the requests about one process.
func (s *Server) act(p *process, op keeper.Op, t *keeper.Target) error {
	switch op {
	case keeper.OpSignal:
		return sendSignal(p, unix.Signal(t.Signal))
	case keeper.OpKillAll:
		g, err := s.openCgroup(p.rec.CgroupPaths)
		if err != nil {
			return err
		}
		return g.Kill()
	case keeper.OpPause, keeper.OpResume:
		return s.pause(p, op == keeper.OpPause)
	case keeper.OpResize:
		if p.console == nil {
			return keeper.Classed(errdefs.ErrFailedPrecondition, "the process has no terminal to resize")
		}
		err := using(p.console, func(fd int) error {
			return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: t.Height, Col: t.Width})
		})
		if errors.Is(err, os.ErrClosed) {
			return keeper.Classed(errdefs.ErrFailedPrecondition, "the process has ended, and its terminal with it")
		}
		return err
	case keeper.OpCloseStdin:
		return p.closeStdin()
	}
	return keeper.Classed(errdefs.ErrInvalidArgument, fmt.Sprintf("the keeper does not know the request %q: it is of an older version", op))
}

func (s *Server) lookup(id, execID string) (*process, error) {
	s.mu.Lock()
	p := s.containers[id]
	s.mu.Unlock()
	if p == nil {
		return nil, notFound(id)
	}
	if execID == "" {
		return p, nil
	}
	p.mu.Lock()
	x := p.execs[execID]
	p.mu.Unlock()
	if x == nil {
		return nil, keeper.Classed(errdefs.ErrNotFound, "No such exec instance: "+execID)
	}
	return x, nil
}

func (s *Server) all() []*process {
	s.mu.Lock()
	defer s.mu.Unlock()
	ps := make([]*process, 0, len(s.containers))
	for _, p := range s.containers {
		ps = append(ps, p)
	}
	return ps
}

func (s *Server) info() keeper.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	return keeper.Info{Version: s.o.Version, ProtocolVersion: keeper.ProtocolVersion, PID: os.Getpid(), HolderPID: s.link.pid(),
		Containers: len(s.containers), Generation: s.generation, UpgradeError: s.upgradeError}
}

func (s *Server) list() []keeper.Status {
	var l []keeper.Status
	for _, p := range s.all() {
		p.mu.Lock()
		st := keeper.Status{ID: p.rec.ContainerID, PID: p.rec.PID, StartedAt: p.rec.StartedAt, Paused: p.rec.Paused, Ports: len(p.ports), Exit: p.rec.Exit, CgroupPaths: p.rec.CgroupPaths}
		var out [2]*os.File
		for i, o := range p.streams {
			if o != nil && !o.terminal {
				out[i] = o.f
			}
		}
		st.Pipes = pipesOf(out)
		execs := make([]*process, 0, len(p.execs))
		for _, x := range p.execs {
			execs = append(execs, x)
		}
		p.mu.Unlock()
		if st.Exit != nil {
			st.PID = 0
		}
		for _, x := range execs {
			r := x.snapshot()
			es := keeper.ExecStatus{ID: r.ExecID, PID: r.PID, Exit: r.Exit}
			if es.Exit != nil {
				es.PID = 0
			}
			st.Execs = append(st.Execs, es)
		}
		l = append(l, st)
	}
	return l
}

func (s *Server) mayStop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.containers) + len(s.starting); n > 0 {
		return keeper.Classed(errdefs.ErrFailedPrecondition, fmt.Sprintf("the keeper holds %d containers: stop and forget them first", n))
	}
	return nil
}

// shutdown ends the keeper; the holder is told that this is no accident.
func (s *Server) shutdown() {
	if err := s.rt.Close(); err != nil { // before Serve returns and the process ends
		s.logger.Warn("close the runtime", "error", err)
	}
	if err := s.link.stop(); err != nil {
		s.logger.Warn("stop the holder", "error", err)
	}
	close(s.stopped)
	s.listener.Close()
}

// untilClosed returns once the peer has closed or sent something unasked for.
func untilClosed(c *net.UnixConn) {
	var b [1]byte
	_, _ = c.Read(b[:])
}

// publish sends e to all subscribers. One that is 4096 events behind is
// disconnected: when it connects again it learns the state anew.
func (s *Server) publish(e keeper.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ch := range s.subs {
		select {
		case ch <- e:
		default:
			delete(s.subs, ch)
			close(ch)
		}
	}
}

func (s *Server) subscribe(c *net.UnixConn) {
	ch := make(chan keeper.Event, 4096)
	s.mu.Lock()
	s.subs[ch] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.subs, ch)
		s.mu.Unlock()
	}()
	respond(c, nil, nil)
	for _, p := range s.all() {
		p.mu.Lock()
		known := []*process{p}
		for _, x := range p.execs {
			known = append(known, x)
		}
		p.mu.Unlock()
		for _, k := range known {
			if r := k.snapshot(); r.Exit != nil && keeper.WriteFrame(c, exitEvent(r)) != nil {
				return
			}
		}
	}
	gone := make(chan struct{})
	go func() { untilClosed(c); close(gone) }()
	for {
		select {
		case e, ok := <-ch:
			if !ok || keeper.WriteFrame(c, e) != nil {
				return
			}
		case <-gone:
			return
		case <-s.leaving:
			return
		}
	}
}
