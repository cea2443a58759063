package relay

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// names is a server of UDP that answers with its name.
func names(t *testing.T, name string) netip.AddrPort {
	t.Helper()
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	go func() {
		b := make([]byte, 100)
		for {
			_, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = u.WriteTo([]byte(name), from)
		}
	}()
	return netip.MustParseAddrPort(u.LocalAddr().String())
}

// TestMovedFlow: a client of UDP is led to where its port leads now.
func TestMovedFlow(t *testing.T) {
	s, one, two := serverOf(t), names(t, "one"), names(t, "two")
	fd, port := hold(t, unix.SOCK_DGRAM, netip.IPv6Loopback())
	s.add(t, fd, one.String())
	c, err := net.Dial("udp", fmt.Sprintf("[::1]:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, want := range []string{"one", "two"} {
		if want == "two" {
			s.mu.Lock()
			err := s.addLocked("a", Port{Key: fmt.Sprint(fd), Socket: -1, To: two})
			s.mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
		}
		b := make([]byte, 100)
		n := 0
		for range 5 { // a datagram may be lost
			_, _ = c.Write([]byte("?"))
			if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
			if n, err = c.Read(b); err == nil {
				break
			}
		}
		if string(b[:n]) != want {
			t.Errorf("%q answers, not %q: %v", b[:n], want, err)
		}
	}
}

// TestShutDown: a port that the engine has shut down, and not told of yet, is let go.
func TestShutDown(t *testing.T) {
	s, to := serverOf(t), echoes(t)
	fd, _ := hold(t, unix.SOCK_STREAM, netip.IPv6Loopback())
	s.most = 0 // also one that is full
	s.add(t, fd, to)
	if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		time.Sleep(10 * time.Millisecond)
		s.mu.Lock()
		n := len(s.ports)
		s.mu.Unlock()
		if n == 0 {
			return
		}
	}
	t.Error("it is watched on")
}
