package relay

import (
	"context"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// pair is a connection of a client and the one to the container.
type pair struct {
	owner         string
	mu            sync.Mutex // guards what follows
	client, inner *net.TCPConn
	over          bool
	cancel        context.CancelFunc // of the attempt to connect
}

// acceptLocked takes one client.
func (s *server) acceptLocked(p *port) {
	if len(s.open) >= s.most || p.open >= maxPerPort {
		s.watchLocked(p, false)
		return
	}
	fd, _, err := unix.Accept4(p.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err != nil {
		if err != unix.EAGAIN && err != unix.EINTR && err != unix.ECONNABORTED {
			s.log.Error("take a connection", "port", p.key, "error", err)
			s.watchLocked(p, false) // until one has ended, or a moment has passed
			time.AfterFunc(100*time.Millisecond, func() { s.again(p) })
		}
		return
	}
	// It has the port's filter, which has done its work.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
	f := os.NewFile(uintptr(fd), "client")
	c, err := net.FileConn(f)
	_ = f.Close()
	client, ok := c.(*net.TCPConn)
	if err != nil || !ok {
		s.log.Error("take a connection", "port", p.key, "error", err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialFor)
	c2, to := &pair{owner: p.owner, client: client, cancel: cancel}, p.to
	s.open[c2] = true
	p.open++
	go func() {
		c2.relay(ctx, to)
		s.mu.Lock()
		delete(s.open, c2)
		p.open--
		s.ended++
		for _, q := range s.ports {
			if q.full {
				s.watchLocked(q, true)
			}
		}
		s.mu.Unlock()
	}()
}

// watchLocked says whether further clients of a port are taken.
func (s *server) watchLocked(p *port, on bool) {
	if p.fd < 0 {
		return
	}
	e := unix.EpollEvent{Fd: p.id}
	if on {
		e.Events = unix.EPOLLIN
	}
	p.full = !on
	if err := unix.EpollCtl(s.epoll, unix.EPOLL_CTL_MOD, p.fd, &e); err != nil {
		s.log.Error("watch a port", "port", p.key, "error", err)
	}
}

func (s *server) again(p *port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.full {
		s.watchLocked(p, true)
	}
}

// relay connects and copies both ways, each to its end.
func (c *pair) relay(ctx context.Context, to netip.AddrPort) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", to.String())
	c.cancel()
	c.mu.Lock()
	if err == nil {
		c.inner = conn.(*net.TCPConn)
	}
	failed := err != nil || c.over
	c.mu.Unlock()
	if failed {
		c.reset()
		return
	}
	var both sync.WaitGroup
	oneWay := func(dst, src *net.TCPConn) {
		if _, err := dst.ReadFrom(src); err != nil { // splice(2)
			c.reset()
			return
		}
		_ = dst.CloseWrite() // it may have been reset
	}
	both.Go(func() { oneWay(c.client, c.inner) })
	both.Go(func() { oneWay(c.inner, c.client) })
	both.Wait()
	_ = c.client.Close()
	_ = c.inner.Close()
}

// reset ends both connections, and has both ends hear that they were not ended in order.
func (c *pair) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	c.cancel()
	for _, conn := range []*net.TCPConn{c.client, c.inner} {
		if conn != nil {
			_ = conn.SetLinger(0) // each fails where it is closed already
			_ = conn.Close()
		}
	}
}
