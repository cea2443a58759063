package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hezi/internal/keeper"
)

// HolderOptions of RunHolder.
type HolderOptions struct {
	Root, Identity, Binary string
	Logger                 *slog.Logger
	// Rejoin: a keeper runs and has started this holder; descriptors 3, 4 and 5 are
	// the listening socket, the link and the keeper's pidfd.
	Rejoin bool
	// Ready is called once the socket listens and the first keeper was started.
	Ready func()
}

// entry is what the holder has of one process.
type entry struct {
	record json.RawMessage
	names  []string
	fds    []int
}

// maxStray is how many statuses of unknown children are remembered: a put
// that names one may still be on its way.
const maxStray = 1024

// holder keeps descriptors and statuses, and nothing that could fail.
type holder struct {
	lock     *os.File // held for the holder's life
	o        HolderOptions
	listener *os.File

	mu       sync.Mutex
	entries  map[string]*entry
	statuses map[int]uint32 // of reaped children
	order    []int          // of statuses, oldest first
	keeper   int            // its pid when it is our child
	binary   string
	served   bool // the present keeper has said that it serves
	stopping bool
}

// RunHolder runs until the keeper says stop.
func RunHolder(o HolderOptions) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the reaper of orphans: %w", err)
	}
	h := &holder{o: o, entries: map[string]*entry{}, statuses: map[int]uint32{}, binary: o.Binary}
	chld := make(chan os.Signal, 1)
	signal.Notify(chld, unix.SIGCHLD)
	// Only stop ends the holder: a keeper without one is worse off.
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGPIPE)
	go func() {
		for range chld {
			h.reap()
		}
	}()
	if o.Rejoin {
		return h.rejoin()
	}
	if err := h.listen(); err != nil {
		return err
	}
	return h.supervise()
}

// listen makes the socket.
func (h *holder) listen() error {
	path := keeper.SocketPath(h.o.Root)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(filepath.Dir(path), "holder.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	h.lock = lock // the lock ends with the descriptor
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another keeper runs for %s", h.o.Root)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if h.listener, err = l.File(); err != nil {
		return err
	}
	return errors.Join(l.Close(), os.Chmod(path, 0o600))
}

// supervise starts the keeper, again whenever it dies. When one of a replaced
// file does not come to serving, this program's own image is started in turn.
func (h *holder) supervise() error {
	pause, own, failures := time.Duration(0), false, 0
	for {
		began := time.Now()
		link, pid, err := h.spawn(own)
		if err == nil {
			if h.o.Ready != nil {
				h.o.Ready()
				h.o.Ready = nil
			}
			h.serve(link)
			h.awaitDeath(pid)
		} else {
			h.o.Logger.Error("start the keeper", "error", err)
		}
		h.mu.Lock()
		stopping, served := h.stopping, h.served
		h.mu.Unlock()
		if stopping {
			return h.removeSocket()
		}
		limit := 250 * time.Millisecond
		if failures++; served {
			failures = 0
		} else if failures > 30 { // it is no accident: it cannot start
			limit = 5 * time.Second
		}
		if own = !served && !own; own {
			h.o.Logger.Error("the keeper ended before it served: the program of its holder is started instead", "binary", h.binary)
		}
		if time.Since(began) > 5*time.Second {
			pause = 0
		}
		h.o.Logger.Warn("the keeper died and is started again", "pause", pause)
		time.Sleep(pause)
		pause = min(pause*2+5*time.Millisecond, limit)
	}
}

func (h *holder) removeSocket() error {
	err := os.Remove(keeper.SocketPath(h.o.Root))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// rejoin serves a keeper that runs already.
func (h *holder) rejoin() error {
	for fd := 3; fd <= 5; fd++ {
		unix.CloseOnExec(fd)
	}
	h.listener = os.NewFile(3, "listener")
	link, err := keeper.FileConn(4)
	if err != nil {
		return err
	}
	pidfd := os.NewFile(5, "pidfd")
	h.serve(link)
	p := []unix.PollFd{{Fd: 5, Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(p, -1); err != unix.EINTR {
			break
		}
	}
	pidfd.Close()
	if h.stopping {
		return h.removeSocket()
	}
	return h.supervise()
}

// spawn starts a keeper and hands everything back to it; own: from this
// program's image, whatever its file is now.
func (h *holder) spawn(own bool) (*net.UnixConn, int, error) {
	near, far, err := keeper.SocketPair()
	if err != nil {
		return nil, 0, err
	}
	defer far.Close()
	ff, err := far.File()
	if err != nil {
		near.Close()
		return nil, 0, err
	}
	defer ff.Close()
	h.mu.Lock()
	h.served = false
	binary := h.binary
	h.mu.Unlock()
	path := binary
	if own {
		path = "/proc/self/exe"
	}
	cmd := exec.Command(path, "serve", "--root", h.o.Root, "--identity", h.o.Identity, "--binary", binary)
	cmd.Args[0], cmd.ExtraFiles = binary, []*os.File{h.listener, ff}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	h.mu.Lock()
	err = cmd.Start()
	if err != nil { // the file was replaced or removed: this program still is one
		retry := exec.Command("/proc/self/exe", cmd.Args[1:]...)
		retry.Args[0], retry.ExtraFiles, retry.Stdout, retry.Stderr = binary, cmd.ExtraFiles, cmd.Stdout, cmd.Stderr
		err, cmd = retry.Start(), retry
	}
	if err != nil {
		h.mu.Unlock()
		near.Close()
		return nil, 0, err
	}
	pid := cmd.Process.Pid
	h.keeper = pid // 0 again as soon as it is reaped
	h.mu.Unlock()
	// With these open, writing to a keeper that was killed would wait for good.
	ff.Close()
	far.Close()
	if err := cmd.Process.Release(); err != nil { // its pidfd; reap waits for every child
		h.o.Logger.Error("let go of the keeper's pidfd", "error", err)
	}
	for key, e := range h.entries {
		if err := keeper.WriteFrame(near, handback{Key: key, Record: withFiles(e)}, e.fds...); err != nil {
			h.o.Logger.Error("hand a process back to the keeper", "error", err)
			break
		}
	}
	if err := keeper.WriteFrame(near, handback{End: true, PID: os.Getpid()}); err != nil {
		h.o.Logger.Error("hand the processes back to the keeper", "error", err)
	}
	return near, pid, nil
}

// withFiles is the record with the names of the descriptors as they are now.
func withFiles(e *entry) json.RawMessage {
	var m map[string]json.RawMessage
	if json.Unmarshal(e.record, &m) != nil {
		return e.record
	}
	names, err := json.Marshal(e.names)
	if err != nil {
		return e.record
	}
	m["Files"] = names
	raw, err := json.Marshal(m)
	if err != nil {
		return e.record
	}
	return raw
}

// serve answers the keeper until its end of the link is closed.
func (h *holder) serve(link *net.UnixConn) {
	defer link.Close()
	for {
		var m holderMsg
		fds, err := keeper.ReadFrame(link, &m)
		r := holderReply{}
		switch {
		case err == nil:
			r = h.answer(&m, fds)
		case errors.Is(err, keeper.ErrFilesLost): // what was there before is kept
			r.Error = err.Error()
		default:
			return
		}
		if keeper.WriteFrame(link, r) != nil {
			return
		}
	}
}

func (h *holder) answer(m *holderMsg, fds []int) holderReply {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.entries[m.Key]
	switch m.Op {
	case "put":
		var names struct{ Files []string }
		if err := json.Unmarshal(m.Record, &names); err != nil || len(names.Files) != len(fds) {
			keeper.CloseFDs(fds)
			return holderReply{Error: "a record does not fit its descriptors"}
		}
		if e != nil {
			keeper.CloseFDs(e.fds)
		}
		h.entries[m.Key] = &entry{record: m.Record, names: names.Files, fds: fds}
		return holderReply{}
	case "update":
		if e == nil {
			return holderReply{Error: "an unknown record cannot be changed"}
		}
		e.record = m.Record
	case "drop":
		for i := 0; e != nil && i < len(e.names); i++ {
			if e.names[i] == m.File {
				unix.Close(e.fds[i])
				e.names, e.fds = append(e.names[:i:i], e.names[i+1:]...), append(e.fds[:i:i], e.fds[i+1:]...)
			}
		}
	case "del":
		if e != nil {
			keeper.CloseFDs(e.fds)
			delete(h.entries, m.Key)
		}
	case "wait":
		h.reapLocked()
		st, ok := h.statuses[m.PID]
		return holderReply{Found: ok, Status: st}
	case "binary": // it serves, and is to be started again from there
		h.binary, h.served = m.File, true
	case "stop":
		h.stopping = true
	default:
		return holderReply{Error: "unknown message " + m.Op}
	}
	keeper.CloseFDs(fds)
	return holderReply{}
}

func (h *holder) reap() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reapLocked()
}

func (h *holder) reapLocked() {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if pid == h.keeper {
			h.keeper = 0
			continue
		}
		h.statuses[pid] = uint32(ws)
		h.order = append(h.order, pid)
		if len(h.order) > maxStray+len(h.entries) {
			delete(h.statuses, h.order[0])
			h.order = h.order[1:]
		}
	}
}

// awaitDeath returns once the keeper was reaped: a closed link alone may be
// a keeper that is about to die.
func (h *holder) awaitDeath(pid int) {
	for {
		h.reap()
		h.mu.Lock()
		dead := h.keeper != pid
		h.mu.Unlock()
		if dead {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// Detach starts this program once more without --detach, in a session of its
// own, and returns when it serves.
func Detach(args []string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	exe = strings.TrimSuffix(exe, " (deleted)")
	// Whoever started hezid may have left descriptors open: a pipe of theirs
	// would never end while the keeper has it.
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, f := range open {
		if fd, err := strconv.Atoi(f.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	cmd := exec.Command(exe, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		w.Close()
		return err
	}
	w.Close()
	b := make([]byte, 512)
	n, _ := r.Read(b)
	if string(b[:n]) != "ready" {
		return fmt.Errorf("the holder did not start: %s", b[:n])
	}
	return nil
}
