package relay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hold is a socket as the engine's are, and its port.
func hold(t *testing.T, kind int, addr netip.Addr) (fd int, port uint16) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET6, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet6{Addr: addr.As16()}); err != nil {
		t.Skipf("this machine has no IPv6: %v", err)
	}
	if err := Listen(fd); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fd, uint16(sa.(*unix.SockaddrInet6).Port)
}

func serverOf(t *testing.T) *server {
	t.Helper()
	s, err := newServer(func() bool { return true }, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		t.Fatal(err)
	}
	go s.poll()
	return s
}

// add gives the server a copy of a socket.
func (s *server) add(t *testing.T, fd int, to string) {
	t.Helper()
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.addLocked("a", Port{Key: fmt.Sprint(fd), Socket: dup, To: netip.MustParseAddrPort(to)}); err != nil {
		t.Fatal(err)
	}
}

// echoes is a server of TCP that answers what it reads and then ends.
func echoes(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	return l.Addr().String()
}

func dial(t *testing.T, port uint16) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", fmt.Sprintf("[::1]:%d", port), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// TestStream: what is sent comes back whole, and each end hears that the other has ended.
func TestStream(t *testing.T) {
	s, to := serverOf(t), echoes(t)
	fd, port := hold(t, unix.SOCK_STREAM, netip.IPv6Unspecified())
	early := dial(t, port) // before anybody relays: it waits
	s.add(t, fd, to)
	for _, c := range []*net.TCPConn{early, dial(t, port)} {
		sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		go func() {
			_, _ = c.Write(sent)
			_ = c.CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%d of %d bytes: %v", len(got), len(sent), err)
		}
	}
	// Nobody listens behind a port: the client hears of it.
	fd, port = hold(t, unix.SOCK_STREAM, netip.IPv6Loopback())
	s.add(t, fd, "127.0.0.1:1")
	c, err := net.DialTimeout("tcp", fmt.Sprintf("[::1]:%d", port), 5*time.Second)
	if err == nil {
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("nobody listens: %v", err)
	}
}

// TestBounds: further connections wait until one has ended; further flows take the place
// of the one that has been still for longest.
func TestBounds(t *testing.T) {
	s, to := serverOf(t), echoes(t)
	s.most, s.flows.most = 2, 3
	fd, port := hold(t, unix.SOCK_STREAM, netip.IPv6Loopback())
	s.add(t, fd, to)
	var b [2]byte
	speak := func(c *net.TCPConn) error {
		if _, err := c.Write([]byte("hi")); err != nil {
			return err
		}
		_, err := io.ReadFull(c, b[:])
		return err
	}
	one, two, three := dial(t, port), dial(t, port), dial(t, port)
	for _, c := range []*net.TCPConn{one, two} {
		if err := speak(c); err != nil {
			t.Fatal(err)
		}
	}
	if err := three.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if err := speak(three); err == nil {
		t.Error("a third connection was taken")
	}
	one.Close()
	if err := three.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(three, b[:]); err != nil {
		t.Errorf("the third, after one has ended: %v", err)
	}

	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	go func() {
		b := make([]byte, 100)
		for {
			n, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(b[:n], from)
		}
	}()
	fd, port = hold(t, unix.SOCK_DGRAM, netip.IPv6Unspecified())
	s.add(t, fd, u.LocalAddr().String())
	for range 10 {
		c, err := net.Dial("udp", fmt.Sprintf("[::1]:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for tries := 0; ; tries++ {
			_, _ = c.Write([]byte("hi"))
			if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err = c.Read(b[:]); err == nil || tries == 5 {
				break
			}
		}
		if err != nil {
			t.Errorf("a flow: %v", err)
		}
	}
	s.flows.mu.Lock()
	n := len(s.flows.by)
	s.flows.mu.Unlock()
	if n > 3 {
		t.Errorf("%d flows of at most 3", n)
	}
}

// TestLoopbackAlone: a socket of all addresses takes what is sent to ::1 and nothing else.
func TestLoopbackAlone(t *testing.T) {
	s, to := serverOf(t), echoes(t)
	fd, port := hold(t, unix.SOCK_STREAM, netip.IPv6Unspecified())
	s.add(t, fd, to)
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok || n.IP.To4() != nil || n.IP.IsLoopback() || n.IP.IsLinkLocalUnicast() {
			continue
		}
		if c, err := net.DialTimeout("tcp", net.JoinHostPort(n.IP.String(), fmt.Sprint(port)), 300*time.Millisecond); err == nil {
			c.Close()
			t.Errorf("it is reached at %s", n.IP)
		}
		return
	}
	t.Skip("this machine has no address of IPv6 but ::1")
}
