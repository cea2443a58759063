package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/keeper"
	"hezi/internal/logs"
)

// stateVersion is raised when an older state would be misread. A newer binary
// reads this and the two versions before.
const stateVersion = 1

// state is what a keeper leaves to the image that replaces it by execve(2).
// Numbers named FD are descriptors that are open across it.
type state struct {
	Version      int
	Generation   int
	UpgradeError string
	HolderPID    int
	ListenerFD   int
	LinkFD       int
	Processes    []processState
	Clients      []clientState
	Waits        []waitState
	Follows      []followState
}

type processState struct {
	Record record
	FDs    []int
	Pos    [2]int64
	Awaits bool // its output waits for the client that started it
}

type clientState struct {
	Request keeper.AttachRequest
	FD      int
	Queue   []byte // not written yet
	Stdin   []byte // read and not yet given to the process
	Held    int    // detach keys matched so far
	Pending bool   // waits for a start
	Lag     *lagState
}

type waitState struct {
	Request keeper.WaitRequest
	FD      int
}

// validateTime is what a new binary gets to read the state; stateAccepted what
// it then says.
const (
	validateTime  = 5 * time.Second
	stateAccepted = "hezi-keeper reads state version "
)

// settleTime is what clients get to take what is on its way to them.
const settleTime = 2 * time.Second

// handover replaces the keeper's image by another binary, in place.
type handover struct {
	s      *Server
	parked []*attached // clients whose writers have ended; guarded by Server.mu
}

// park keeps a client whose writer has ended for the next image.
func (h *handover) park(a *attached) {
	s := h.s
	s.mu.Lock()
	h.parked = append(h.parked, a)
	s.mu.Unlock()
}

// upgrade replaces this process's image by another binary. c is answered
// before: with an error when the binary cannot read the state.
func (h *handover) upgrade(body json.RawMessage, c *net.UnixConn) {
	s := h.s
	t, err := decode[keeper.Target](body)
	if err != nil {
		respond(c, nil, err)
		return
	}
	s.starts.Lock()
	defer s.starts.Unlock()
	if s.isLeaving() {
		respond(c, nil, keeper.Classed(errdefs.ErrConflict, "the keeper is being replaced already"))
		return
	}
	fail := func(err error) {
		s.mu.Lock()
		s.upgradeError = err.Error()
		s.mu.Unlock()
		respond(c, nil, keeper.Classed(errdefs.ErrFailedPrecondition, err.Error()))
	}
	draft, err := h.collect()
	if err != nil {
		fail(err)
		return
	}
	mem, err := draft.seal()
	if err != nil {
		fail(err)
		return
	}
	defer mem.Close()
	if err := validate(t.Binary, mem); err != nil {
		fail(err)
		return
	}
	s.mu.Lock()
	s.upgradeError = "" // of an earlier one
	s.mu.Unlock()
	respond(c, nil, nil)
	h.settle()
	if err := s.rt.Close(); err != nil { // spare inits would be nobody's in the next image
		s.logger.Warn("close the runtime", "error", err)
	}
	h.replaceBy(t.Binary)
}

// validate asks the new binary whether it reads the state. One that hangs is
// killed: starts wait meanwhile.
func validate(binary string, mem *os.File) error {
	ctx, cancel := context.WithTimeout(context.Background(), validateTime)
	defer cancel()
	check := exec.CommandContext(ctx, binary, "check-state", "--state", "3")
	check.ExtraFiles, check.WaitDelay = []*os.File{mem}, time.Second
	out, err := check.CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("it did not answer within %s", validateTime)
	}
	if err == nil && !bytes.HasPrefix(out, []byte(stateAccepted)) {
		err = errors.New("it does not say that it read the state: it is no hezi-keeper, or one that is broken")
	}
	if err != nil {
		return fmt.Errorf("the new keeper %s cannot take over: %w%s; the old one serves on", binary, err, quoted(out))
	}
	return nil
}

// quoted is what a program said, for a message.
func quoted(out []byte) string {
	if out = bytes.TrimSpace(out); len(out) == 0 {
		return ""
	}
	return fmt.Sprintf(": %.300s", out)
}

// settle stops all that reads or writes, with what was read written out.
func (h *handover) settle() {
	s := h.s
	close(s.leaving)
	past := time.Unix(1, 0)
	_ = s.listener.SetDeadline(past) // who comes now is served by the next image
	for range 100 {
		if s.beginning.Load() == 0 {
			break
		}
		time.Sleep(time.Millisecond) // they are told to ask again
	}
	for _, p := range s.everyProcess() {
		for _, f := range append(p.outputs(), p.pidfd) {
			_ = f.SetReadDeadline(past) // a closed one needs none
		}
		for _, f := range p.inputs() {
			_ = f.SetWriteDeadline(past)
		}
	}
	s.mu.Lock()
	clients := append([]*attached(nil), s.pendingClientsLocked()...)
	s.mu.Unlock()
	for _, p := range s.everyProcess() {
		p.outMu.Lock()
		for a := range p.clients {
			clients = append(clients, a)
		}
		p.outMu.Unlock()
	}
	for _, a := range clients {
		_ = a.conn.SetReadDeadline(past)
		wait := past
		if a.first.Load() {
			wait = time.Now().Add(settleTime)
		}
		_ = a.conn.SetWriteDeadline(wait)
	}
	done := make(chan struct{})
	go func() { s.active.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * settleTime):
		s.logger.Warn("replace the keeper while a disk or a client hangs")
	}
}

func (s *Server) pendingClientsLocked() []*attached {
	var l []*attached
	for _, n := range s.pending {
		l = append(l, n.clients...)
	}
	return l
}

func (s *Server) everyProcess() []*process {
	var l []*process
	for _, c := range s.all() {
		c.mu.Lock()
		l = append(l, c)
		for _, x := range c.execs {
			l = append(l, x)
		}
		c.mu.Unlock()
	}
	return l
}

func (p *process) outputs() []*os.File {
	var l []*os.File
	for _, s := range p.streams {
		if s != nil {
			l = append(l, s.f)
		}
	}
	return l
}

func (p *process) inputs() []*os.File {
	p.mu.Lock()
	defer p.mu.Unlock()
	var l []*os.File
	for _, f := range []*os.File{p.stdin, p.console} {
		if f != nil {
			l = append(l, f)
		}
	}
	return l
}

// connFD is a connection's descriptor, which stays the connection's.
func connFD(c syscall.Conn) int {
	fd := -1
	rc, err := c.SyscallConn()
	if err != nil {
		return fd
	}
	if err := rc.Control(func(v uintptr) { fd = int(v) }); err != nil {
		return -1
	}
	return fd
}

// collect describes this keeper as it is.
func (h *handover) collect() (*state, error) {
	s := h.s
	st := &state{Version: stateVersion, Generation: s.generation + 1, HolderPID: s.link.pid(), ListenerFD: connFD(s.listener), LinkFD: connFD(s.link.conn)}
	if st.ListenerFD < 0 || st.LinkFD < 0 {
		return nil, errors.New("the keeper's own sockets are closed")
	}
	for _, p := range s.everyProcess() {
		names, fds := p.files()
		r := p.snapshot()
		r.Files = names
		p.outMu.Lock()
		pos := p.pos
		p.outMu.Unlock()
		p.mu.Lock()
		awaits := !p.released
		p.mu.Unlock()
		st.Processes = append(st.Processes, processState{Record: r, FDs: fds, Pos: pos, Awaits: awaits})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range h.parked {
		if c, ok := a.state(false); ok {
			st.Clients = append(st.Clients, c)
		}
	}
	for _, a := range s.pendingClientsLocked() {
		if c, ok := a.state(true); ok {
			st.Clients = append(st.Clients, c)
		}
	}
	for conn, r := range s.waits {
		st.Waits = append(st.Waits, waitState{Request: r, FD: connFD(conn)})
	}
	followers := slices.Collect(maps.Keys(s.follows))
	s.mu.Unlock()
	for _, f := range followers {
		if x, ok := h.follower(f); ok {
			st.Follows = append(st.Follows, x)
		}
	}
	s.mu.Lock()
	return st, nil
}

func (a *attached) state(pending bool) (clientState, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := clientState{Request: a.req, FD: connFD(a.conn), Queue: a.queue, Stdin: a.stdin, Held: a.keys.held, Pending: pending}
	if l := a.lag; l != nil {
		c.Lag = &lagState{Behind: a.p.log.End().Gen - l.pos.Gen, Offset: l.pos.Off, Logged: l.logged, Sent: l.sent}
	}
	return c, c.FD >= 0 && !a.gone
}

// lagState is where a client that is behind goes on in the log.
type lagState struct {
	Behind       uint64 // rotations between its file and the current one
	Offset       int64  // bytes into its file
	Logged, Sent [2]int64
}

// seal puts the state into a memfd that cannot change any more.
func (st *state) seal() (*os.File, error) {
	raw, err := json.Marshal(st)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("hezi-keeper-state", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make the state's memfd: %w", err)
	}
	f := os.NewFile(uintptr(fd), "state")
	_, err = f.Write(raw)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("write the state: %w", err)
	}
	return f, nil
}

// fds lists what must stay open.
func (st *state) fds() []int {
	l := []int{st.ListenerFD, st.LinkFD}
	for _, p := range st.Processes {
		l = append(l, p.FDs...)
	}
	for _, c := range st.Clients {
		l = append(l, c.FD)
	}
	for _, w := range st.Waits {
		l = append(l, w.FD)
	}
	for _, f := range st.Follows {
		l = append(l, f.FD)
	}
	return l
}

// replaceBy executes binary, or this program again when that fails: the
// state says why, and all goes on.
func (h *handover) replaceBy(binary string) {
	s := h.s
	why := ""
	for _, path := range []string{binary, "/proc/self/exe"} {
		err := h.execve(path, binary, why)
		s.logger.Error("replace the keeper", "binary", path, "error", err)
		why = fmt.Sprintf("the new keeper %s could not be executed: %v; the old one serves on", binary, err)
	}
	os.Exit(1) // the holder starts a keeper and hands everything back
}

func (h *handover) execve(path, binary, why string) error {
	s := h.s
	st, err := h.collect()
	if err != nil {
		return err
	}
	st.UpgradeError = why
	if why != "" {
		st.Generation--
		binary = s.o.Binary
	}
	mem, err := st.seal()
	if err != nil {
		return err
	}
	defer mem.Close()
	fds := append(st.fds(), int(mem.Fd()))
	args := []string{"hezi-keeper", "serve", "--root", s.o.Root, "--identity", s.o.Identity, "--binary", binary, "--state", strconv.Itoa(int(mem.Fd()))}
	syscall.ForkLock.Lock() // no child is born with what is open for us
	defer syscall.ForkLock.Unlock()
	defer func() { // still here: it failed
		for _, fd := range fds {
			unix.CloseOnExec(fd)
		}
	}()
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("keep descriptor %d: %w", fd, err)
		}
	}
	return syscall.Exec(path, args, os.Environ())
}

func readState(fd int) (*state, error) {
	f := os.NewFile(uintptr(fd), "state")
	if f == nil {
		return nil, errors.New("no descriptor of a state was given")
	}
	defer f.Close()
	raw, err := io.ReadAll(io.NewSectionReader(f, 0, 64<<20))
	if err != nil {
		return nil, fmt.Errorf("read the state: %w", err)
	}
	return parseState(raw)
}

func parseState(raw []byte) (*state, error) {
	st := &state{}
	if err := json.Unmarshal(raw, st); err != nil {
		return nil, fmt.Errorf("read the state: %w", err)
	}
	if st.Version > stateVersion || st.Version < stateVersion-2 {
		return nil, fmt.Errorf("the running keeper's state has version %d, this build reads %d to %d", st.Version, stateVersion-2, stateVersion)
	}
	for _, p := range st.Processes {
		if len(p.FDs) != len(p.Record.Files) {
			return nil, fmt.Errorf("the state of container %s does not fit its descriptors", p.Record.ContainerID)
		}
	}
	return st, nil
}

// checkState is what a new binary is asked before it takes over.
func checkState(fd int) error {
	st, err := readState(fd)
	if err == nil {
		fmt.Printf("%s%d\n", stateAccepted, st.Version)
	}
	return err
}

// resume takes over from the image before.
func (h *handover) resume(st *state) error {
	s := h.s
	s.generation, s.upgradeError = st.Generation, st.UpgradeError
	s.link.setPID(st.HolderPID)
	go s.link.readLoop()
	var ps []*process
	awaits := map[*process]bool{}
	for _, x := range st.Processes {
		raw, err := json.Marshal(x.Record)
		if err != nil {
			return err
		}
		p, err := s.adopt(raw, x.FDs)
		if err != nil {
			s.logger.Error("a process could not be taken over", "container", x.Record.ContainerID, "error", err)
			continue
		}
		p.pos = x.Pos // a line's beginning was shown already
		ps, awaits[p] = append(ps, p), x.Awaits
	}
	s.insert(ps)
	for _, c := range st.Clients {
		if err := h.resumeClient(c); err != nil {
			s.logger.Error("an attached client could not be taken over", "container", c.Request.ContainerID, "error", err)
		}
	}
	for _, w := range st.Waits {
		conn, err := keeper.FileConn(w.FD)
		if err != nil {
			s.logger.Error("a waiting client could not be taken over", "container", w.Request.ContainerID, "error", err)
			continue
		}
		go s.serveWait(&w.Request, conn)
	}
	for _, f := range st.Follows {
		if err := h.resumeFollow(f); err != nil {
			s.logger.Error("a client that follows a log could not be taken over", "container", f.Request.ContainerID, "error", err)
		}
	}
	for _, p := range ps {
		if awaits[p] {
			time.AfterFunc(attachWait, p.release)
		} else {
			p.release()
		}
		p.run()
	}
	return nil
}

func (h *handover) resumeClient(c clientState) error {
	s := h.s
	conn, err := keeper.FileConn(c.FD)
	if err != nil {
		return err
	}
	c.Request.Logs = false // was sent
	a := newAttached(s, c.Request, conn, c.Stdin)
	a.queue, a.keys.held = c.Queue, c.Held
	if c.Pending {
		s.mu.Lock()
		n := s.pendingLocked(c.Request.ContainerID)
		a.watched = make(chan struct{})
		n.clients = append(n.clients, a)
		s.mu.Unlock()
		go s.pendingLeft(c.Request.ContainerID, a)
		return nil
	}
	p, err := s.lookup(c.Request.ContainerID, c.Request.ExecID)
	if err != nil {
		conn.Close()
		return err
	}
	if l := c.Lag; l != nil && p.log != nil {
		pos := logs.Pos{Gen: p.log.End().Gen - l.Behind, Off: l.Offset}
		a.lag = &lag{mark: mark{pos: pos, logged: l.Logged}, sent: l.Sent}
		a.file.Store(pos.Gen + 1)
	}
	return p.join(a)
}
