package dns

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// idle is how long a connection waits for the next question; slow how long one
	// question may take to arrive, and an answer to be taken.
	idle = 10 * time.Second
	slow = 5 * time.Second
	// maxConns at once, and of one container: more, and the oldest of whoever has
	// most is closed.
	maxConns, maxConnsOfOne = 512, 32
	// askedAtOnce are answered of one connection at once, in any order (RFC 7766, 6.2.1.1).
	askedAtOnce = 16
)

// conn is a container's connection over TCP.
type conn struct{ net.Conn }

// accept takes the connections that wait.
func (s *Server) accept(b *box) {
	for range turn {
		b.mu.RLock()
		if b.closed {
			b.mu.RUnlock()
			return
		}
		fd, _, err := unix.Accept4(b.pair.TCP, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		b.mu.RUnlock()
		if err == unix.EINTR || err == unix.ECONNABORTED {
			continue
		}
		if err == unix.EMFILE || err == unix.ENFILE {
			if s.evict(nil) {
				continue
			}
			time.Sleep(time.Millisecond) // others close theirs
		}
		if err != nil {
			return
		}
		f := os.NewFile(uintptr(fd), "name service")
		c, err := net.FileConn(f) // of a copy
		_ = f.Close()
		if err != nil {
			continue
		}
		s.admit(b, &conn{c})
	}
}

// admit serves a connection, unless its box is gone.
func (s *Server) admit(b *box, c *conn) {
	s.mu.Lock()
	if s.boxes[b.id] != b {
		s.mu.Unlock()
		c.Close()
		return
	}
	b.conns = append(b.conns, c)
	s.conns++
	many, all := len(b.conns) > maxConnsOfOne, s.conns > maxConns
	s.wg.Add(1)
	s.mu.Unlock()
	if many {
		s.evict(b)
	} else if all {
		s.evict(nil)
	}
	go s.converse(b, c)
}

// evict closes the oldest connection of a box, or of the one that has most; false
// if there is none.
func (s *Server) evict(b *box) bool {
	s.mu.Lock()
	if b == nil {
		for _, o := range s.boxes {
			if b == nil || len(o.conns) > len(b.conns) {
				b = o
			}
		}
	}
	if b == nil || len(b.conns) == 0 {
		s.mu.Unlock()
		return false
	}
	c := b.conns[0]
	b.conns = b.conns[1:]
	s.conns--
	s.mu.Unlock()
	c.Close()
	return true
}

func (s *Server) hangUp(b *box, c *conn) {
	s.mu.Lock()
	if i := slices.Index(b.conns, c); i >= 0 {
		b.conns = slices.Delete(b.conns, i, i+1)
		s.conns--
	}
	s.mu.Unlock()
	c.Close()
}

// converse reads questions until the client has no more.
func (s *Server) converse(b *box, c *conn) {
	defer s.wg.Done()
	defer s.hangUp(b, c)
	open := make(chan struct{}, askedAtOnce)
	defer func() { // the answers on their way are sent first
		for range cap(open) {
			open <- struct{}{}
		}
	}()
	out := make(chan struct{}, 1) // one writes at a time
	buf := make([]byte, 2+maxQuery)
	for {
		if c.SetReadDeadline(time.Now().Add(idle)) != nil {
			return
		}
		if _, err := io.ReadFull(c, buf[:1]); err != nil {
			return
		}
		if c.SetReadDeadline(time.Now().Add(slow)) != nil {
			return
		}
		if _, err := io.ReadFull(c, buf[1:2]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(buf))
		if n > maxQuery {
			return
		}
		if _, err := io.ReadFull(c, buf[2:2+n]); err != nil {
			return
		}
		open <- struct{}{}
		s.serve(b, buf[2:2+n], true, func(msg []byte) {
			defer func() { <-open }()
			if msg == nil {
				return
			}
			out <- struct{}{}
			defer func() { <-out }()
			err := c.SetWriteDeadline(time.Now().Add(slow))
			if err == nil {
				_, err = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...))
			}
			if err != nil { // part of it may have left: what followed could not be read
				c.Close()
			}
		})
	}
}
