// Package term is the client's side of a container's streams: the terminal in
// raw mode and given back whatever happens, its size sent along, signals passed
// on, and the bytes pumped between the process and a hijacked connection.
package term

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"

	mobyterm "github.com/moby/term"
)

// Streams are the standard streams of this process.
type Streams struct {
	In, Out, Err *os.File

	BeforeRaw func() // called before the terminal is put into raw mode; may be nil

	forwarding atomic.Bool // signals go to a container

	mu  sync.Mutex
	raw []rawState // guarded by mu; what Restore gives back
}

type rawState struct {
	fd    uintptr
	state *mobyterm.State
}

// Standard returns the streams of this process.
func Standard() *Streams { return &Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr} }

// IsTerminal says whether f is a terminal.
func IsTerminal(f *os.File) bool { return f != nil && mobyterm.IsTerminal(f.Fd()) }

// Size returns the rows and columns of a terminal, or zeros.
func Size(f *os.File) (rows, cols uint) {
	ws, err := mobyterm.GetWinsize(f.Fd())
	if err != nil || ws == nil {
		return 0, 0
	}
	return uint(ws.Height), uint(ws.Width)
}

// ErrNotATTY refuses -t with an input that is not a terminal.
var ErrNotATTY = errors.New("the input device is not a TTY: cannot attach stdin to a TTY-enabled container because stdin is not a terminal. Leave out -t when input comes from a pipe or a file")

// CheckTTY refuses to feed a container's terminal from something else.
func (s *Streams) CheckTTY(attachStdin, tty bool) error {
	if tty && attachStdin && !IsTerminal(s.In) {
		return ErrNotATTY
	}
	return nil
}

// Raw puts the terminal into raw mode until restore is called, which may be
// done more than once. It is also given back when the process gets a signal
// that would end it at once.
func (s *Streams) Raw() (restore func(), err error) {
	if os.Getenv("NORAW") != "" {
		return func() {}, nil
	}
	if s.BeforeRaw != nil {
		s.BeforeRaw()
	}
	if IsTerminal(s.In) {
		state, err := mobyterm.SetRawTerminal(s.In.Fd())
		if err != nil {
			return nil, fmt.Errorf("cannot set the terminal to raw mode: %w", err)
		}
		s.remember(s.In, state)
	}
	if IsTerminal(s.Out) {
		state, err := mobyterm.SetRawTerminalOutput(s.Out.Fd())
		if err != nil {
			s.Restore()
			return nil, fmt.Errorf("cannot set the terminal to raw mode: %w", err)
		}
		if state != nil {
			s.remember(s.Out, state)
		}
	}
	stop := s.restoreOnDeath()
	return sync.OnceFunc(func() {
		stop()
		s.Restore()
	}), nil
}

func (s *Streams) remember(f *os.File, state *mobyterm.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.raw = append(s.raw, rawState{f.Fd(), state})
}

// Restore gives the terminal back, if it is in raw mode.
func (s *Streams) Restore() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.raw) - 1; i >= 0; i-- {
		_ = mobyterm.RestoreTerminal(s.raw[i].fd, s.raw[i].state) // a terminal that is gone needs nothing
	}
	s.raw = nil
}

// restoreOnDeath covers the signals that nobody else handles and whose default
// is to end the process.
func (s *Streams) restoreOnDeath() (stop func()) {
	fatal := []os.Signal{syscall.SIGQUIT, syscall.SIGABRT, syscall.SIGALRM}
	c := make(chan os.Signal, 1)
	done := make(chan struct{})
	signal.Notify(c, fatal...)
	go func() {
		for {
			select {
			case <-done:
				return
			case sig := <-c:
				if s.forwarding.Load() {
					continue // it was for the container
				}
				s.Restore()
				signal.Reset(fatal...)
				_ = syscall.Kill(os.Getpid(), sig.(syscall.Signal)) // ourselves
			}
		}
	}()
	return func() {
		signal.Stop(c)
		close(done)
	}
}
