package term

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	mobysignal "github.com/moby/sys/signal"
)

// Forwarder takes this process's signals for a container.
type Forwarder struct {
	signals    chan os.Signal
	names      map[os.Signal]string
	taken      chan struct{} // closed when all signals are
	forwarding *atomic.Bool
}

// Forward begins to take the signals that this process gets: all but those
// that are its own affair: the death of children, broken pipes, the Go
// runtime's SIGURG, a background read or write of the terminal, and SIGWINCH,
// which the container's terminal makes itself and which some servers take as a
// wish to stop. It returns at once: taking each of the sixty costs a switch
// between threads, which is done while the engine is asked for the container.
func (s *Streams) Forward() *Forwarder {
	own := []os.Signal{syscall.SIGCHLD, syscall.SIGPIPE, syscall.SIGURG, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGWINCH, syscall.SIGKILL, syscall.SIGSTOP}
	f := &Forwarder{signals: make(chan os.Signal, 128), names: make(map[os.Signal]string, len(mobysignal.SignalMap)), taken: make(chan struct{})}
	list := make([]os.Signal, 0, len(mobysignal.SignalMap))
	for name, n := range mobysignal.SignalMap {
		if !slices.Contains(own, os.Signal(n)) && (f.names[n] == "" || len(name) < len(f.names[n])) {
			if f.names[n] == "" {
				list = append(list, n)
			}
			f.names[n] = name
		}
	}
	f.forwarding = &s.forwarding
	go func() {
		signal.Notify(f.signals, list...)
		close(f.taken)
	}()
	return f
}

// To passes the signals on, by name without SIG, those that came before too,
// until stop is called. The signals stay taken: this process ends next.
func (f *Forwarder) To(send func(name string)) (stop func()) {
	<-f.taken
	f.forwarding.Store(true)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case sig := <-f.signals:
				send(f.names[sig])
			}
		}
	}()
	return sync.OnceFunc(func() {
		f.forwarding.Store(false)
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
