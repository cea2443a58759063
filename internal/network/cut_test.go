package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"
)

// talk is a connection with its two ends.
type talk struct{ made, other net.Conn }

// between makes a TCP connection from one namespace to an address in another.
func between(t *testing.T, from, to, address string, port int) talk {
	t.Helper()
	var l net.Listener
	if err := in(to, func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var k talk
	accepted := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		k.other = conn
		accepted <- err
	}()
	if err := in(from, func() (err error) {
		k.made, err = net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.made.Close(); k.other.Close() })
	return k
}

// disguised is the same to somebody who goes on listening, from a port at which own
// listens too: who was called is not told by one end alone.
func disguised(t *testing.T, from, to, address, own string) talk {
	t.Helper()
	reuse := func(_, _ string, c syscall.RawConn) (err error) {
		cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		return errors.Join(cerr, err)
	}
	listen := func(ns, place string) (l net.Listener) {
		if err := in(ns, func() (err error) {
			l, err = (&net.ListenConfig{Control: reuse}).Listen(t.Context(), "tcp", place)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	called, mask := listen(to, address+":9010"), listen(from, own+":9011")
	var k talk
	if err := in(from, func() (err error) {
		k.made, err = (&net.Dialer{LocalAddr: mask.Addr(), Control: reuse}).Dial("tcp", called.Addr().String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	conn, err := called.Accept()
	if err != nil {
		t.Fatal(err)
	}
	k.other = conn
	t.Cleanup(func() { k.made.Close(); k.other.Close() })
	return k
}

// udp is the same of UDP, after a packet each way.
func udp(t *testing.T, from, to, address string) talk {
	t.Helper()
	var s net.PacketConn
	if err := in(to, func() (err error) {
		s, err = net.ListenPacket("udp", net.JoinHostPort(address, "0"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var k talk
	if err := in(from, func() (err error) {
		k.made, err = net.Dial("udp", s.LocalAddr().String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if err := in(to, func() (err error) {
		local, _ := net.ResolveUDPAddr("udp", k.made.RemoteAddr().String())
		remote, _ := net.ResolveUDPAddr("udp", k.made.LocalAddr().String())
		k.other, err = net.DialUDP("udp", local, remote)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.made.Close(); k.other.Close() })
	return k
}

// says has one end send a word that is new, and tells whether the other hears it; what is
// expected is waited for, as the machine may be busy.
func says(from, to net.Conn, word string, expected bool) bool {
	wait := 700 * time.Millisecond
	if expected {
		wait = 20 * time.Second
	}
	if _, err := from.Write([]byte(word)); err != nil {
		return false
	}
	b := make([]byte, 64)
	to.SetReadDeadline(time.Now().Add(wait))
	n, err := to.Read(b)
	return err == nil && string(b[:n]) == word
}

// TestEgressEndsConnections: what a container had connected to goes on only as its new
// policy allows, also where the other end sends first, and where the kernel does not
// track what neighbours send each other. Who has connected to it is served on.
func TestEgressEndsConnections(t *testing.T) {
	const setting = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	before, err := os.ReadFile(setting)
	world := outsideWorld(t)
	for i, tracked := range []string{"1", "0"} {
		if err == nil {
			if err := os.WriteFile(setting, []byte(tracked), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.WriteFile(setting, before, 0o600) })
		}
		t.Run("bridge-nf="+tracked, func(t *testing.T) {
			o := testOptions(t, "cut"+tracked)
			c := open(t, o)
			if err := c.Sweep(); err != nil {
				t.Fatal(err)
			}
			subnet := fmt.Sprintf("10.21%d.7.0/24", 4+i)
			smallLan(t, c, "red", subnet)
			box, peer := c.box(t, "box", "", nil, "red"), c.box(t, "peer", "", network.PortMap{}, "red")
			own, _ := addressesIn(box, 0)
			near, _ := addressesIn(peer, 0)
			host := box.Endpoints[0].Settings.Gateway
			toPeer, toHost := between(t, box.Path, peer.Path, near.String(), 9001), between(t, box.Path, "", host.String(), 9002)
			late := between(t, box.Path, peer.Path, near.String(), 9004)
			allowed := between(t, box.Path, peer.Path, near.String(), 9003)
			outside, outsideDenied := between(t, box.Path, world, "198.51.100.2", 9005), between(t, box.Path, world, "198.51.100.2", 9006)
			udpHost := udp(t, box.Path, "", host.String())
			back := disguised(t, box.Path, peer.Path, near.String(), own.String())
			var server net.Listener
			if err := in(box.Path, func() (err error) {
				server, err = net.Listen("tcp", netip.AddrPortFrom(own, 81).String())
				return err
			}); err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			var client net.Conn
			if err := in(peer.Path, func() (err error) {
				client, err = net.Dial("tcp", server.Addr().String())
				return err
			}); err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			served, err := server.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer served.Close()
			for what, k := range map[string]talk{"neighbour": toPeer, "host": toHost, "late": late, "allowed": allowed, "outside, allowed": outside, "outside": outsideDenied, "host, UDP": udpHost, "client": {client, served}, "neighbour, from a port that is listened at": back} {
				if !says(k.made, k.other, "a", true) || !says(k.other, k.made, "b", true) {
					t.Fatalf("%s: nothing is said before the policy", what)
				}
			}
			policy := "allow=" + allowed.made.RemoteAddr().String() + "/tcp,198.51.100.2:9005/tcp"
			if err := c.SetEgress("box", policy); err != nil {
				t.Fatal(err)
			}
			for what, k := range map[string]talk{"neighbour": toPeer, "host": toHost, "host, UDP": udpHost, "outside": outsideDenied, "neighbour, from a port that is listened at": back} {
				says(k.other, k.made, "c", false) // it may be heard, but not answered
				if says(k.made, k.other, "d", false) {
					t.Errorf("the connection to the %s goes on under the policy %s", what, policy)
				}
			}
			for what, k := range map[string]talk{"allowed connection": allowed, "allowed connection to the outside": outside, "connection of a client": {client, served}} {
				if !says(k.other, k.made, "c", true) || !says(k.made, k.other, "d", true) {
					t.Errorf("the %s is cut", what)
				}
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			next := open(t, o)
			for _, b := range []*Sandbox{box, peer} {
				q := SandboxRequest{ContainerID: b.ContainerID, ContainerName: "/" + b.ContainerID, Endpoints: []EndpointRequest{{Network: "red"}}}
				if b == box {
					q.Egress = policy
				}
				if _, err := next.Adopt(context.Background(), q, b); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(next.Sweep(), next.table.Restore()); err != nil {
				t.Fatal(err)
			}
			says(late.other, late.made, "c", false)
			if says(late.made, late.other, "d", false) {
				t.Error("a connection that was quiet goes on with the next engine")
			}
		})
	}
}
