package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/keeper"
)

// holderMsg is a message to the holder; holderReply its answer.
type holderMsg struct {
	Op     string // put, update, drop, del, wait, binary, stop
	Key    string
	File   string
	Record json.RawMessage
	PID    int
}

type holderReply struct {
	Found  bool
	Status uint32
	Error  string
	PID    int
}

// handback is a message of the holder to a new keeper: one record, or the end.
type handback struct {
	Key    string
	Record json.RawMessage
	End    bool
	PID    int // the holder's, with End
}

// link is the keeper's side of the connection to its holder.
type link struct {
	s *Server

	mu   sync.Mutex // one question at a time
	conn *net.UnixConn

	state   sync.Mutex
	replies chan holderReply // of the present connection
	holder  int
}

func newLink(s *Server, c *net.UnixConn) *link {
	return &link{s: s, conn: c, replies: make(chan holderReply, 1)}
}

func (l *link) pid() int {
	l.state.Lock()
	defer l.state.Unlock()
	return l.holder
}

func (l *link) setPID(pid int) {
	l.state.Lock()
	l.holder = pid
	l.state.Unlock()
}

var errHolderGone = keeper.Classed(errdefs.ErrUnavailable, "the keeper's holder has gone; a new one is being started")

func (l *link) ask(m holderMsg, fds ...int) (holderReply, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.askLocked(m, fds...)
}

func (l *link) askLocked(m holderMsg, fds ...int) (holderReply, error) {
	l.state.Lock()
	replies := l.replies
	l.state.Unlock()
	if err := keeper.WriteFrame(l.conn, m, fds...); err != nil {
		return holderReply{}, errHolderGone
	}
	r, ok := <-replies
	if !ok {
		return r, errHolderGone
	}
	if r.Error != "" {
		return r, fmt.Errorf("the keeper's holder: %s", r.Error)
	}
	return r, nil
}

func (l *link) put(key string, rec json.RawMessage, fds []int) error {
	_, err := l.ask(holderMsg{Op: "put", Key: key, Record: rec}, fds...)
	return err
}

func (l *link) update(key string, rec json.RawMessage) error {
	_, err := l.ask(holderMsg{Op: "update", Key: key, Record: rec})
	return err
}

func (l *link) drop(key, file string) error {
	_, err := l.ask(holderMsg{Op: "drop", Key: key, File: file})
	return err
}

func (l *link) del(key string) error {
	_, err := l.ask(holderMsg{Op: "del", Key: key})
	return err
}

// serving tells the holder which program serves: it starts that one again.
func (l *link) serving(binary string) error {
	_, err := l.ask(holderMsg{Op: "binary", File: binary})
	return err
}

func (l *link) stop() error {
	_, err := l.ask(holderMsg{Op: "stop"})
	return err
}

// wait asks for the status of a process that is the holder's child.
func (l *link) wait(pid int) (unix.WaitStatus, bool) {
	r, err := l.ask(holderMsg{Op: "wait", PID: pid})
	return unix.WaitStatus(r.Status), err == nil && r.Found
}

// readLoop receives answers, and starts a new holder when the old one dies.
func (l *link) readLoop() {
	for {
		l.state.Lock()
		replies := l.replies
		l.state.Unlock()
		var r holderReply
		fds, err := keeper.ReadFrame(l.conn, &r)
		keeper.CloseFDs(fds)
		if err == nil {
			replies <- r
			continue
		}
		close(replies)
		select {
		case <-l.s.leaving:
			return
		case <-l.s.stopped:
			return
		default:
		}
		for {
			err := l.replace()
			if err == nil {
				break
			}
			l.s.logger.Error("start a new holder", "error", err)
			time.Sleep(time.Second)
		}
		go func() {
			if err := l.serving(l.s.o.Binary); err != nil {
				l.s.logger.Warn("tell the new holder that the keeper serves", "error", err)
			}
			l.redeposit()
		}()
	}
}

// replace starts a new holder beside this keeper.
func (l *link) replace() error {
	near, far, err := keeper.SocketPair()
	if err != nil {
		return err
	}
	defer far.Close()
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		near.Close()
		return err
	}
	pidfd := os.NewFile(uintptr(self), "pidfd")
	defer pidfd.Close()
	lf, err := l.s.listener.File()
	if err != nil {
		near.Close()
		return err
	}
	defer lf.Close()
	ff, err := far.File()
	if err != nil {
		near.Close()
		return err
	}
	defer ff.Close()
	cmd := exec.Command(l.s.o.Binary, "hold", "--rejoin", "--root", l.s.o.Root, "--identity", l.s.o.Identity)
	cmd.ExtraFiles = []*os.File{lf, ff, pidfd}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		near.Close()
		return err
	}
	go func() { _ = cmd.Wait() }() // its end is seen on the link
	l.mu.Lock()
	l.conn.Close()
	l.conn = near
	l.state.Lock()
	l.replies, l.holder = make(chan holderReply, 1), cmd.Process.Pid
	l.state.Unlock()
	l.mu.Unlock()
	l.s.logger.Warn("the holder had died; a new one was started", "pid", cmd.Process.Pid)
	return nil
}

// redeposit gives a new holder everything.
func (l *link) redeposit() {
	for _, c := range l.s.all() {
		c.mu.Lock()
		ps := []*process{c}
		for _, x := range c.execs {
			ps = append(ps, x)
		}
		c.mu.Unlock()
		for _, p := range ps {
			if err := p.deposit(); err != nil && !errors.Is(err, errdefs.ErrUnavailable) {
				l.s.logger.Error("deposit a process with the new holder", "error", err)
			}
		}
	}
}
