package cli

import (
	"bufio"
	"context"
	"io"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"hezi/internal/cli/term"
)

// steadyConn is the connection of a terminal whose other end may be killed: it
// attaches again while the container runs, and gives what is typed meanwhile
// to the new connection. Keys that the other end had been given and had not read
// when it was killed are lost. What the program wrote in between is in its log;
// it is made to draw its screen again.
type steadyConn struct {
	net.Conn // the first, for its addresses and deadlines
	join     func() *client.HijackedResponse

	mu   sync.Mutex // guards what follows; held while joining, for which both directions wait
	now  *client.HijackedResponse
	n    int // counts connections
	over bool
}

func newSteadyConn(first client.HijackedResponse, join func() *client.HijackedResponse) client.HijackedResponse {
	s := &steadyConn{Conn: first.Conn, now: &first, join: join}
	return client.HijackedResponse{Conn: s, Reader: bufio.NewReader(s)}
}

func (s *steadyConn) current() (*client.HijackedResponse, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now, s.n
}

// again says whether there is a connection newer than the nth.
func (s *steadyConn) again(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n > n || s.over {
		return !s.over
	}
	s.now.Close()
	next := s.join()
	if next == nil {
		s.over = true
		return false
	}
	s.now, s.n = next, n+1
	return true
}

func (s *steadyConn) Read(p []byte) (int, error) {
	for {
		c, n := s.current()
		k, err := c.Reader.Read(p)
		if k > 0 || err == nil {
			return k, nil
		}
		if !s.again(n) {
			return 0, io.EOF
		}
	}
}

func (s *steadyConn) Write(p []byte) (int, error) {
	for written := 0; ; {
		c, n := s.current()
		k, err := c.Conn.Write(p[written:])
		written += k
		if err == nil || !s.again(n) {
			return written, err
		}
	}
}

func (s *steadyConn) CloseWrite() error {
	c, _ := s.current()
	return c.CloseWrite()
}

// Close ends it for good. It does not wait for a join.
func (s *steadyConn) Close() error {
	if s.mu.TryLock() {
		s.over = true
		s.now.Close()
		s.mu.Unlock()
	}
	return nil
}

const (
	rejoinTime  = 10 * time.Second // in which an engine or a keeper that was killed is back
	rejoinPause = 100 * time.Millisecond
)

// rejoin attaches again to a container that runs; nil: it has ended, or the
// engine does not come back.
func (s session) rejoin(ctx context.Context, a *App) *client.HijackedResponse {
	select {
	case <-s.ended:
		return nil
	case <-time.After(rejoinPause): // an end is known as soon as the stream ends
	}
	ctx, cancel := context.WithTimeout(ctx, rejoinTime)
	defer cancel()
	for ctx.Err() == nil {
		c, err := a.engine.ContainerInspect(ctx, s.id, client.ContainerInspectOptions{})
		if errdefs.IsNotFound(err) || err == nil && !c.Container.State.Running {
			return nil
		}
		if err == nil {
			conn, err := a.engine.ContainerAttach(ctx, s.id, s.attachOptions())
			if err == nil {
				s.redraw(ctx, a)
				return &conn.HijackedResponse
			}
		}
		time.Sleep(rejoinPause)
	}
	return nil
}

// redraw makes the program draw its screen again, by a size that changes.
func (s session) redraw(ctx context.Context, a *App) {
	rows, cols := term.Size(a.Out)
	if rows == 0 {
		return
	}
	for _, more := range []uint{1, 0} {
		_, _ = a.engine.ContainerResize(ctx, s.id, client.ContainerResizeOptions{Height: rows + more, Width: cols + more}) // a wish
	}
}
