package relay

import (
	"container/list"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxDatagram in bytes: what UDP over IPv6 can carry.
const maxDatagram = 64 << 10

// flowKey is a client of a port.
type flowKey struct {
	port int32
	from netip.AddrPort
}

// flow is what a client of UDP has: a socket of its own, so that answers find it.
type flow struct {
	key  flowKey
	conn *net.UDPConn
	raw  syscall.RawConn // of conn
	at   *list.Element
}

// flows of all ports, the one used last in front.
type flows struct {
	mu    sync.Mutex
	by    map[flowKey]*flow
	order *list.List
	most  int
	bufs  sync.Pool
}

func (t *flows) init() {
	t.by, t.order, t.most = map[flowKey]*flow{}, list.New(), maxFlows
	t.bufs.New = func() any { b := make([]byte, maxDatagram); return &b }
}

// datagramLocked hands one datagram on.
func (s *server) datagramLocked(p *port, buf []byte) {
	n, _, _, sa, err := unix.Recvmsg(p.fd, buf, nil, unix.MSG_DONTWAIT)
	if err != nil {
		return // taken back by its checksum, or an error of an earlier answer
	}
	from, ok := addressOf(sa)
	if !ok {
		return
	}
	f, err := s.flow(p, from)
	if err != nil {
		return // as on the wire: it is lost
	}
	_ = f.raw.Write(func(fd uintptr) bool {
		_, _ = unix.Write(int(fd), buf[:n]) // refused: nobody listens there yet
		return true                         // full: lost, for all ports would wait for this one
	})
}

// flow finds a client's, or makes it.
func (s *server) flow(p *port, from netip.AddrPort) (*flow, error) {
	t := &s.flows
	t.mu.Lock()
	defer t.mu.Unlock()
	k := flowKey{p.id, from}
	if f := t.by[k]; f != nil {
		t.order.MoveToFront(f.at)
		return f, f.conn.SetReadDeadline(time.Now().Add(flowIdle))
	}
	if len(t.by) >= t.most {
		t.endLocked(t.order.Back().Value.(*flow))
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(p.to))
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	f := &flow{key: k, conn: conn, raw: raw}
	if err := conn.SetReadDeadline(time.Now().Add(flowIdle)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	f.at, t.by[k] = t.order.PushFront(f), f
	go s.answers(p, f)
	return f, nil
}

// answers of a flow go back to its client until it is still for long.
func (s *server) answers(p *port, f *flow) {
	var err error
	a := f.key.from
	to := &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	for err == nil {
		err = f.raw.Read(func(fd uintptr) bool {
			b := s.flows.bufs.Get().(*[]byte) // a flow that waits has none
			defer s.flows.bufs.Put(b)
			n, err := unix.Read(int(fd), *b)
			if err == unix.EAGAIN {
				return false
			}
			if err == nil {
				s.mu.Lock()
				if p.fd >= 0 {
					_ = unix.Sendto(p.fd, (*b)[:n], unix.MSG_DONTWAIT, to) // or it is lost
				}
				s.mu.Unlock()
			}
			return true // refused: nobody listens there yet
		})
		if err == nil {
			err = f.conn.SetReadDeadline(time.Now().Add(flowIdle))
		}
	}
	s.flows.mu.Lock()
	s.flows.endLocked(f)
	s.flows.mu.Unlock()
}

// drop ends the flows of a port.
func (t *flows) drop(port int32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, f := range t.by {
		if k.port == port {
			t.endLocked(f)
		}
	}
}

func (t *flows) endLocked(f *flow) {
	if t.by[f.key] == f {
		delete(t.by, f.key)
		t.order.Remove(f.at)
		_ = f.conn.Close() // its reader ends with it
	}
}
