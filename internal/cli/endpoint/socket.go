package endpoint

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"

	"golang.org/x/sys/unix"
)

// socketTransport speaks HTTP/1.1 over local sockets in the caller's own
// goroutine, one request after the other on a connection. http.Transport needs
// three goroutines and two switches between threads for each, which is a
// good part of a short command's time.
//
// Requests whose body may be large or endless go through http.Transport, which
// reads an early answer while it still writes.
type socketTransport struct {
	dial dialer

	mu   sync.Mutex // guards what follows
	idle *socketConn
	big  *http.Transport
}

var _ http.RoundTripper = (*socketTransport)(nil)

// smallBody fits a socket's buffer, so that writing it waits for nobody.
const smallBody = 64 << 10

// socketConn is a connection with what was read of it.
type socketConn struct {
	net.Conn
	r *bufio.Reader
}

// RoundTrip implements http.RoundTripper.
func (t *socketTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil && req.Body != http.NoBody && (req.ContentLength <= 0 || req.ContentLength > smallBody) {
		return t.transport().RoundTrip(req)
	}
	ctx := req.Context()
	c, err := t.take(ctx)
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // RoundTrip's duty; err says what went wrong
		}
		return nil, err
	}
	// A connection that is closed ends every wait for it.
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	resp, err := c.exchange(req)
	if err != nil {
		stop()
		_ = c.Close() // err says what went wrong
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	body := &socketBody{ReadCloser: resp.Body, ctx: ctx, end: func(whole bool) {
		if !stop() || !whole || resp.Close {
			_ = c.Close() // nothing more is wanted of it
			return
		}
		t.keep(c)
	}}
	if resp.ContentLength == 0 || req.Method == http.MethodHead {
		body.finish(true)
	}
	resp.Body = body
	return resp, nil
}

// exchange writes a request and reads the head of its answer.
func (c *socketConn) exchange(req *http.Request) (*http.Response, error) {
	if err := req.Write(c); err != nil {
		return nil, err
	}
	return c.answer(req)
}

// answer reads the head of the answer to a request; nil: to a POST.
func (c *socketConn) answer(req *http.Request) (*http.Response, error) {
	for {
		resp, err := http.ReadResponse(c.r, req)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil, fmt.Errorf("the daemon closed the connection without an answer: %w", io.ErrUnexpectedEOF)
		}
		if err != nil {
			return nil, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, nil
		}
	}
}

func (t *socketTransport) transport() *http.Transport {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.big == nil {
		t.big = &http.Transport{DialContext: t.dial, DisableCompression: true}
	}
	return t.big
}

// take gives the idle connection, if it still lives, or a new one.
func (t *socketTransport) take(ctx context.Context) (*socketConn, error) {
	t.mu.Lock()
	c := t.idle
	t.idle = nil
	t.mu.Unlock()
	if c != nil {
		if c.quiet() {
			return c, nil
		}
		_ = c.Close() // the daemon has left it
	}
	conn, err := t.dial(ctx, "", "")
	if err != nil {
		return nil, err
	}
	return &socketConn{Conn: conn, r: bufio.NewReader(conn)}, nil
}

// quiet: nothing has come that was not asked for, not even an end.
func (c *socketConn) quiet() bool {
	u, ok := c.Conn.(*net.UnixConn)
	if !ok || c.r.Buffered() > 0 {
		return false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return false
	}
	n := 1
	err = raw.Control(func(fd uintptr) {
		n, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}}, 0) // an error leaves n at -1
	})
	return err == nil && n == 0
}

func (t *socketTransport) keep(c *socketConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.idle != nil {
		_ = c.Close() // one is enough
		return
	}
	t.idle = c
}

// CloseIdleConnections ends what waits for a next request.
func (t *socketTransport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.idle != nil {
		_ = t.idle.Close() // nothing is in flight
		t.idle = nil
	}
	if t.big != nil {
		t.big.CloseIdleConnections()
	}
}

// socketBody gives the connection back once it was read to its end.
type socketBody struct {
	io.ReadCloser
	ctx  context.Context
	once sync.Once
	end  func(whole bool)
}

func (b *socketBody) finish(whole bool) { b.once.Do(func() { b.end(whole) }) }

func (b *socketBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == io.EOF:
		b.finish(true)
	case err != nil:
		b.finish(false)
		if b.ctx.Err() != nil {
			err = b.ctx.Err()
		}
	}
	return n, err
}

// Close leaves the rest unread.
func (b *socketBody) Close() error {
	b.finish(false)
	return nil
}
