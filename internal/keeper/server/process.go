package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"hezi/internal/box"
	"hezi/internal/box/plan"
	"hezi/internal/keeper"
	"hezi/internal/logs"
)

// record is what the holder keeps of a process, as JSON, beside Files'
// descriptors in that order.
type record struct {
	ContainerID, ExecID string
	PID                 int
	StartedAt           time.Time
	CgroupPaths         map[string]string
	HostPID             bool
	Terminal            bool
	StdinOnce           bool
	KillOnDisconnect    bool
	Paused              bool
	Runtime             string `json:",omitempty"` // another than ours
	Limited             bool   // its memory is: kills for lack of it are told as they come
	OOMs                uint64 // such kills that were told
	Log                 keeper.LogConfig
	Exit                *box.Exit
	Files               []string
}

// Names of a record's descriptors.
const (
	filePidfd   = "pidfd"
	fileStdin   = "stdin"
	fileStdout  = "stdout" // the terminal's master, too
	fileStderr  = "stderr"
	fileSpool   = "spool"
	fileSpoolEr = "spool-stderr"
	filePort    = "port" // and a number: a socket that holds a published port
	fileNames   = "name" // and a number: one by which the container asks for names
)

func processKey(id, execID string) string { return id + "/" + execID }

// process is a container's first process or an exec.
type process struct {
	srv *Server
	key string

	pidfd   *os.File
	console *os.File // is streams[0].f too
	streams [2]*stream

	// outMu keeps the order of log and clients' bytes. It guards log
	// appends, spools, pos and clients; it is above mu.
	outMu   sync.Mutex
	log     *logs.Writer // nil: driver none, or an exec
	pos     [2]int64     // bytes of each stream given to clients
	clients map[*attached]struct{}
	watched atomic.Int32 // how many clients, for who does not hold outMu
	logDead bool         // the log's failure was reported

	mu       sync.Mutex
	rec      record
	stdin    *os.File // write end; nil without or once closed
	ports    []*os.File
	names    []*os.File // the sockets by which the container asks for names
	execs    map[string]*process
	released bool // ready is closed
	dropped  bool // the container is taken out, and the execs it had then
	// leftGroups are the directories of groups that had processes yet when their execs ended.
	leftGroups []string
	starting   int           // execs whose start is under way
	still      chan struct{} // while a freeze waits for those: closed by the last of them

	ready    chan struct{} // closed when output may be read
	exited   chan struct{} // closed once rec.Exit is set
	dropping sync.Mutex    // held while it is taken out
	closed   chan struct{} // closed when nothing reads its log any more
	told     chan struct{} // closed once engine and holder know the exit
	drained  chan struct{} // closed once output is flushed to log and queues
}

func newProcess(s *Server, rec record) *process {
	return &process{
		srv: s, rec: rec, key: processKey(rec.ContainerID, rec.ExecID),
		clients: map[*attached]struct{}{}, execs: map[string]*process{},
		ready: make(chan struct{}), exited: make(chan struct{}), told: make(chan struct{}), drained: make(chan struct{}), closed: make(chan struct{}),
	}
}

func (p *process) snapshot() record {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rec
}

func (p *process) exit() *box.Exit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rec.Exit
}

// release lets the pumps read.
func (p *process) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.released {
		p.released = true
		close(p.ready)
	}
}

func logConfig(c keeper.LogConfig) logs.Config {
	return logs.Config{Driver: c.Driver, Path: c.Path, MaxSize: c.MaxSize, MaxFiles: c.MaxFiles, Compress: c.Compress, Attrs: c.Attrs}
}

// pipes makes the standard streams: theirs for the new process, ours stay here.
type pipes struct {
	theirs box.Stdio
	stdin  *os.File
	out    [2]*os.File
}

func makePipes(stdin, stdout, stderr bool) (*pipes, error) {
	p := &pipes{}
	one := func(ours, theirs **os.File, weRead bool) error {
		var fd [2]int
		if err := unix.Pipe2(fd[:], unix.O_CLOEXEC); err != nil {
			return fmt.Errorf("cannot make a pipe for the program: %s", plan.Reason(err))
		}
		o, t := fd[0], fd[1]
		if !weRead {
			o, t = t, o
		}
		if err := unix.SetNonblock(o, true); err != nil {
			unix.Close(o)
			unix.Close(t)
			return err
		}
		*ours, *theirs = os.NewFile(uintptr(o), "pipe"), os.NewFile(uintptr(t), "pipe")
		return nil
	}
	var err error
	if stdin {
		err = one(&p.stdin, &p.theirs.Stdin, false)
	}
	if err == nil && stdout {
		err = one(&p.out[0], &p.theirs.Stdout, true)
	}
	if err == nil && stderr {
		err = one(&p.out[1], &p.theirs.Stderr, true)
	}
	if err != nil {
		p.closeTheirs()
		p.closeOurs()
		return nil, err
	}
	return p, nil
}

func closeFiles(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

func (p *pipes) closeTheirs() { closeFiles(p.theirs.Stdin, p.theirs.Stdout, p.theirs.Stderr) }
func (p *pipes) closeOurs()   { closeFiles(p.stdin, p.out[0], p.out[1]) }

// adoptProc takes over what Runtime returned.
func (p *process) adoptProc(proc *box.Proc, ps *pipes, spools bool) error {
	var err error
	if p.pidfd, err = pollable(proc.PidFD, "pidfd"); err != nil {
		return err
	}
	out := ps.out
	p.stdin = ps.stdin
	if proc.Console != nil {
		if p.console, err = pollable(proc.Console, "console"); err != nil {
			return err
		}
		out[0] = p.console
	}
	for i, f := range out {
		if f == nil {
			continue
		}
		s := &stream{p: p, index: i, f: f, terminal: proc.Console != nil}
		if spools {
			if s.spool, err = newSpool(); err != nil {
				return err
			}
		}
		p.streams[i] = s
	}
	return nil
}

// pollable makes f one that waits in the netpoller instead of a thread.
func pollable(f *os.File, name string) (*os.File, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("duplicate the %s: %w", name, err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// files names what the holder keeps a copy of, and a later image of this process
// its own. A number is valid until the file is closed.
func (p *process) files() (names []string, fds []int) {
	p.eachFile(func(name string, f *os.File) {
		if fd := rawFD(f); fd >= 0 { // closed: the process has been drained
			names, fds = append(names, name), append(fds, fd)
		}
	})
	return names, fds
}

// copies is files with descriptors of the caller's own: the process may end, and
// the number of its pidfd become another's, before the holder has it.
func (p *process) copies() (names []string, fds []int, err error) {
	p.eachFile(func(name string, f *os.File) {
		fd := -1
		failed := using(f, func(v int) (err error) {
			fd, err = unix.FcntlInt(uintptr(v), unix.F_DUPFD_CLOEXEC, 3)
			return err
		})
		switch {
		case failed == nil:
			names, fds = append(names, name), append(fds, fd)
		case !errors.Is(failed, os.ErrClosed):
			err = fmt.Errorf("copy the %s of a process: %w", name, failed)
		}
	})
	return names, fds, err
}

func (p *process) eachFile(f func(name string, file *os.File)) {
	add := func(name string, file *os.File) {
		if file != nil {
			f(name, file)
		}
	}
	p.mu.Lock()
	stdin, ports := p.stdin, slices.Concat(p.ports, p.names)
	p.mu.Unlock()
	for _, s := range ports {
		add(s.Name(), s)
	}
	add(filePidfd, p.pidfd)
	add(fileStdin, stdin)
	for i, s := range p.streams {
		if s == nil {
			continue
		}
		add([]string{fileStdout, fileStderr}[i], s.f)
		if s.spool != nil {
			add([]string{fileSpool, fileSpoolEr}[i], s.spool.f)
		}
	}
}

// using calls do with f's descriptor, which stays open and f's until do returns.
// Error: os.ErrClosed when f is closed.
func using(f *os.File, do func(fd int) error) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var done error
	if rc.Control(func(v uintptr) { done = do(int(v)) }) != nil { // internal/poll has an error of its own for it
		return os.ErrClosed
	}
	return done
}

// rawFD is f's descriptor without os.File.Fd's switch to blocking mode.
func rawFD(f *os.File) int {
	fd := -1
	rc, err := f.SyscallConn()
	if err != nil {
		return fd
	}
	if err := rc.Control(func(v uintptr) { fd = int(v) }); err != nil {
		return -1
	}
	return fd
}

// deposit gives the holder the record and the descriptors.
func (p *process) deposit() error {
	names, fds, err := p.copies()
	defer keeper.CloseFDs(fds)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.rec.Files = names
	raw, err := json.Marshal(p.rec)
	p.mu.Unlock()
	if err != nil {
		return err
	}
	return p.srv.link.put(p.key, raw, fds)
}

// update gives the holder a changed record; its descriptors stay.
func (p *process) update() error {
	p.mu.Lock()
	raw, err := json.Marshal(p.rec)
	p.mu.Unlock()
	if err != nil {
		return err
	}
	return p.srv.link.update(p.key, raw)
}

// closeStdin ends standard input: the holder's copy first, or the program
// would never see the end.
func (p *process) closeStdin() error {
	p.mu.Lock()
	f := p.stdin
	p.stdin = nil
	p.mu.Unlock()
	if f == nil {
		return nil
	}
	defer f.Close()
	return p.srv.link.drop(p.key, fileStdin)
}

// run starts the goroutines of a process whose streams are set.
func (p *process) run() {
	p.watchMemory()
	var pumps sync.WaitGroup
	for _, s := range p.streams {
		if s != nil {
			pumps.Go(s.pump)
		}
	}
	p.srv.active.Go(func() { p.watch(&pumps); pumps.Wait() })
}

// closeAll closes what is left after the drain.
func (p *process) closeAll() {
	p.pidfd.Close()
	for _, s := range p.streams {
		if s == nil {
			continue
		}
		s.f.Close()
		if s.spool != nil {
			s.spool.f.Close()
		}
	}
	if p.log != nil {
		if err := p.log.Close(); err != nil {
			p.srv.logger.Error("close a container's log", "container", p.rec.ContainerID, "error", err)
		}
	}
}
