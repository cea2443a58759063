package term

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	mobysignal "github.com/moby/sys/signal"
)

// Forward passes the signals that this process gets on, by name without SIG,
// until stop is called. Left out are those that are this process's own affair:
// the death of children, broken pipes, the Go runtime's SIGURG, a background
// read or write of the terminal, and SIGWINCH, which the container's terminal
// makes itself and which some servers take as a wish to stop.
func (s *Streams) Forward(send func(name string)) (stop func()) {
	own := []os.Signal{syscall.SIGCHLD, syscall.SIGPIPE, syscall.SIGURG, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGWINCH, syscall.SIGKILL, syscall.SIGSTOP}
	names := make(map[os.Signal]string, len(mobysignal.SignalMap))
	signals := make([]os.Signal, 0, len(mobysignal.SignalMap))
	for name, n := range mobysignal.SignalMap {
		if !slices.Contains(own, os.Signal(n)) && (names[n] == "" || len(name) < len(names[n])) {
			names[n] = name
			signals = append(signals, n)
		}
	}
	c := make(chan os.Signal, 128)
	s.forwarding.Store(true)
	signal.Notify(c, signals...)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case sig := <-c:
				send(names[sig])
			}
		}
	}()
	return sync.OnceFunc(func() {
		signal.Stop(c)
		s.forwarding.Store(false)
		close(done)
	})
}

// MonitorSize sends the size of the terminal now and whenever it changes. The
// first attempts are repeated for half a second, for a container that is just
// starting. It returns at once; ctx ends it.
func MonitorSize(ctx context.Context, f *os.File, resize func(ctx context.Context, rows, cols uint) error, failed func()) {
	send := func() error {
		rows, cols := Size(f)
		if rows == 0 && cols == 0 {
			return nil
		}
		return resize(ctx, rows, cols)
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGWINCH)
	go func() {
		defer signal.Stop(c)
		if !retry(ctx, send) && ctx.Err() == nil {
			failed()
		}
		for {
			select {
			case <-ctx.Done():
				return
			case <-c:
				_ = send() // the process may just have ended
			}
		}
	}()
}

func retry(ctx context.Context, send func() error) bool {
	for i := range 10 {
		if send() == nil {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(time.Duration(i+1) * 10 * time.Millisecond):
		}
	}
	return false
}
