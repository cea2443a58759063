package network

import (
	"context"
	"errors"
	"testing"

	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"
)

// TestDirectRouting: where it is allowed, whoever routes to a container reaches the ports
// that it publishes to others, and no further ones.
func TestDirectRouting(t *testing.T) {
	o := testOptions(t, "direct")
	o.DirectRouting = true
	c := open(t, o)
	world := outsideWorld(t)
	lanOf(t, c, "users", network.CreateRequest{EnableIPv6: new(false)})
	for _, lan := range []string{"bridge", "users"} {
		for _, x := range []struct {
			id, host string
			reached  bool
		}{{"all-" + lan, "", true}, {"local-" + lan, "127.0.0.1", false}, {"lan-" + lan, "::%lan", false}, {"none-" + lan, "none", false}} {
			var ports network.PortMap
			if x.host != "none" {
				ports = bind("80/tcp", x.host, "")
			}
			s, err := c.Join(context.Background(), SandboxRequest{ContainerID: x.id, Endpoints: []EndpointRequest{{Network: lan}}, Ports: ports})
			if err != nil {
				t.Fatal(err)
			}
			serve(t, s.Path)
			addr := s.Endpoints[0].Settings.IPAddress.String() + ":80"
			if who, err := ask(world, "tcp", addr); (err == nil) != x.reached || x.reached && who != "198.51.100.2" {
				t.Errorf("%s: %q, %v", x.id, who, err)
			}
		}
	}
}

// TestSCTP: a published port of SCTP leads its associations to the container.
func TestSCTP(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		t.Skip("this kernel speaks no SCTP (CONFIG_IP_SCTP; module sctp), so that nobody here can send it:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	c := open(t, testOptions(t, "sctp"))
	world := outsideWorld(t)
	s := join(t, c, "a", bind("80/sctp", "", "8395"))
	socket := func() int {
		t.Helper()
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
		if err != nil {
			t.Fatal(err)
		}
		wait := unix.NsecToTimeval(2e9)
		if err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait)); err != nil {
			t.Fatal(err)
		}
		return fd
	}
	err = in(s.Path, func() error {
		l := socket()
		t.Cleanup(func() { unix.Close(l) })
		if err := errors.Join(unix.Bind(l, &unix.SockaddrInet4{Port: 80}), unix.Listen(l, 4)); err != nil {
			return err
		}
		go func() {
			for {
				fd, _, err := unix.Accept(l)
				if errors.Is(err, unix.EAGAIN) {
					continue
				}
				if err != nil {
					return
				}
				unix.Write(fd, []byte("by sctp"))
				unix.Close(fd)
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{world, ""} {
		err := in(from, func() error {
			fd := socket()
			defer unix.Close(fd)
			if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 8395, Addr: [4]byte{198, 51, 100, 1}}); err != nil {
				return err
			}
			b := make([]byte, 16)
			n, err := unix.Read(fd, b)
			if err == nil && string(b[:n]) != "by sctp" {
				t.Errorf("%q", b[:n])
			}
			return err
		})
		if err != nil {
			t.Errorf("from %q: %v", from, err)
		}
	}
}
