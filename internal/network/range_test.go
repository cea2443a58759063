package network

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"hezi/internal/network/ports"
)

// bindRange publishes the ports from first to last of the host at those that begin with inside.
func bindRange(proto network.IPProtocol, host string, first, last, inside int) network.PortMap {
	m := network.PortMap{}
	for n := first; n <= last; n++ {
		p, _ := network.PortFrom(uint16(inside+n-first), proto)
		b := network.PortBinding{HostPort: fmt.Sprint(n)}
		if host != "" {
			b.HostIP = netip.MustParseAddr(host)
		}
		m[p] = []network.PortBinding{b}
	}
	return m
}

// serveUDP answers on ports of a namespace with the port and the client's address.
func serveUDP(t *testing.T, path string, numbers ...int) {
	t.Helper()
	for _, n := range numbers {
		err := in(path, func() error {
			u, err := net.ListenPacket("udp4", fmt.Sprint("0.0.0.0:", n))
			if err != nil {
				return err
			}
			t.Cleanup(func() { u.Close() })
			go func() {
				b := make([]byte, 64)
				for {
					_, from, err := u.ReadFrom(b)
					if err != nil {
						return
					}
					host, _, _ := net.SplitHostPort(from.String())
					u.WriteTo([]byte(fmt.Sprintf("%d %s", n, host)), from)
				}
			}()
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func descriptors() int {
	fds, _ := os.ReadDir("/proc/self/fd")
	return len(fds)
}

func TestRange(t *testing.T) {
	o := testOptions(t, "range")
	first := open(t, o)
	ctx, world := context.Background(), outsideWorld(t)
	b := join(t, first, "b", nil)
	asked := bindRange(network.UDP, "", 10000, 60000, 10000)
	fds, before, start := descriptors(), heap(), time.Now()
	a, err := first.Join(ctx, SandboxRequest{ContainerID: "a", ContainerName: "/many", Endpoints: onBridge(), Ports: asked})
	if err != nil {
		t.Fatal(err)
	}
	took, after := time.Since(start), heap()
	if n := len(a.Ports); n != 50001 || a.Ports[network.MustParsePort("60000/udp")][0] != (network.PortBinding{HostIP: netip.IPv4Unspecified(), HostPort: "60000"}) {
		t.Errorf("%d ports are said to be published", n)
	}
	a.Ports = nil // the map for inspect, which has every port
	kept := heap()
	t.Logf("50,001 ports in %v; %d KiB, without the map for inspect %d KiB", took, (after-before)>>10, (kept-before)>>10)
	if kept-before > 1<<20 {
		t.Errorf("%d KiB for 50,001 ports", (kept-before)>>10)
	}
	if n := descriptors(); n > fds+8 || first.table.Len() != 1 || first.ports.Len() != 1 {
		t.Errorf("%d descriptors, %d before; %d elements, %d holds", n, fds, first.table.Len(), first.ports.Len())
	}
	serveUDP(t, a.Path, 9999, 10000, 35000, 60000, 60001)
	reached := func(t *testing.T, gw string) {
		t.Helper()
		for _, n := range []int{10000, 35000, 60000} {
			answers(t, "", "udp", fmt.Sprint("127.0.0.1:", n), fmt.Sprint(n, " ", gw))
			answers(t, "", "udp", fmt.Sprint(gw, ":", n), fmt.Sprint(n, " ", gw))
			answers(t, a.Path, "udp", fmt.Sprint(gw, ":", n), fmt.Sprint(n, " ", gw)) // itself
			answers(t, b.Path, "udp", fmt.Sprint("198.51.100.1:", n), fmt.Sprint(n, " ", gw))
			answers(t, world, "udp", fmt.Sprint("198.51.100.1:", n), fmt.Sprint(n, " 198.51.100.2"))
		}
		for _, n := range []int{9999, 60001} {
			if who, err := ask(world, "udp", fmt.Sprint("198.51.100.1:", n)); err == nil {
				t.Errorf("port %d beside the range is published: %s", n, who)
			}
		}
	}
	gw := first.Gateways()[0].String()
	reached(t, gw)
	for what, m := range map[string]network.PortMap{
		"0.0.0.0:35000": bind("80/udp", "", "35000"), "127.0.0.1:10000": bind("80/udp", "127.0.0.1", "10000"),
		"0.0.0.0:59990": bindRange(network.UDP, "", 59990, 61000, 59990), "0.0.0.0:10000": bindRange(network.UDP, "", 9000, 10000, 100),
	} {
		_, err := first.Join(ctx, SandboxRequest{ContainerID: "x", Endpoints: onBridge(), Ports: m})
		if want := "Bind for " + what + " failed: port is already allocated (by the container many)"; !errdefs.IsConflict(err) || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	join(t, first, "tcp", bind("80/tcp", "", "35000"))
	any := join(t, first, "any", bind("80/udp", "", ""))
	if got := any.Ports[network.MustParsePort("80/udp")][0].HostPort; len(got) != 5 || got <= "60000" {
		t.Errorf("a random port is %s, of the range", got)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	answers(t, "", "udp", "127.0.0.1:35000", "35000 "+gw) // while no engine runs
	c := open(t, o)
	a.Ports = asked
	if _, err := c.Adopt(ctx, SandboxRequest{ContainerID: "a", Endpoints: onBridge(), ContainerName: "/many"}, a); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Adopt(ctx, SandboxRequest{ContainerID: "b", Endpoints: onBridge()}, b); err != nil {
		t.Fatal(err)
	}
	if err := c.Sweep(); err != nil {
		t.Fatal(err)
	}
	if c.table.Len() != 1 {
		t.Errorf("%d elements after a restart", c.table.Len())
	}
	reached(t, gw)
	sh(t, "nft flush ruleset")
	reached(t, gw)
	c.Release("a")
	d := join(t, c, "d", bindRange(network.UDP, "", 10000, 60000, 10000)) // at once
	serveUDP(t, d.Path, 10000)
	answers(t, "", "udp", "127.0.0.1:10000", "10000 "+gw)
	c.Release("d")
	eventually(t, "release", func() error {
		if n := c.table.Len() + c.ports.Len(); n > 0 {
			return fmt.Errorf("%d elements and holds are left", n)
		}
		return nil
	})
	if out := sh(t, "nft list ruleset"); strings.Contains(out, "60000") {
		t.Errorf("left in nft: %s", out)
	}
}

// TestShiftedRange: ports that are others inside, in one transaction.
func TestShiftedRange(t *testing.T) {
	o := testOptions(t, "shift")
	c := open(t, o)
	start := time.Now()
	a := join(t, c, "a", bindRange(network.UDP, "", 10000, 60000, 2000))
	local := join(t, c, "local", bindRange(network.UDP, "127.0.0.1", 1000, 1099, 1000))
	t.Logf("50,001 shifted ports in %v", time.Since(start))
	serveUDP(t, a.Path, 2000, 27000, 52000)
	serveUDP(t, local.Path, 1099)
	gw := c.Gateways()[0].String()
	for range 2 {
		for n, inside := range map[int]int{10000: 2000, 35000: 27000, 60000: 52000} {
			answers(t, "", "udp", fmt.Sprint("127.0.0.1:", n), fmt.Sprint(inside, " ", gw))
		}
		answers(t, "", "udp", "127.0.0.1:1099", "1099 "+gw)
		if _, err := ask("", "udp", gw+":1099"); err == nil {
			t.Error("a range of 127.0.0.1 is published on another address")
		}
		sh(t, "nft flush ruleset") // all come back
	}
	c.Release("a")
	c.Release("local")
	eventually(t, "release", func() error {
		if n := c.table.Len() + c.ports.Len(); n > 0 {
			return fmt.Errorf("%d elements and holds are left", n)
		}
		return nil
	})
}

// TestWhoHasThePort: a port that was asked for names whoever has it, even one that does not listen.
func TestWhoHasThePort(t *testing.T) {
	c := open(t, testOptions(t, "who"))
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	self := strings.TrimSpace(string(comm))
	for _, x := range []struct {
		proto network.IPProtocol
		typ   int
	}{{network.TCP, unix.SOCK_STREAM}, {network.UDP, unix.SOCK_DGRAM}} {
		fd, err := unix.Socket(unix.AF_INET6, x.typ|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, &unix.SockaddrInet6{Port: 20000}); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("failed to bind host port 0.0.0.0:20000/%s: address already in use by %s (process %d)", x.proto, self, os.Getpid())
		for name, m := range map[string]network.PortMap{
			"one":   bindRange(x.proto, "", 20000, 20000, 80),
			"first": bindRange(x.proto, "", 20000, 20100, 20000),
			"range": bindRange(x.proto, "", 19000, 21000, 19000),
		} {
			_, err := c.Join(context.Background(), SandboxRequest{ContainerID: "x", Endpoints: onBridge(), Ports: m})
			if !errdefs.IsConflict(err) || err.Error() != want {
				t.Errorf("%s: got %v, want %s", name, err, want)
			}
		}
	}
	if n := c.ports.Len(); n > 0 {
		t.Errorf("%d holds are left", n)
	}
}

// TestClosedConnections in TIME_WAIT keep nobody from a port.
func TestClosedConnections(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:20200")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp4", "127.0.0.1:20200")
	if err != nil {
		t.Fatal(err)
	}
	served, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	served.Close()
	conn.Read(make([]byte, 1))
	conn.Close()
	l.Close()
	c := open(t, testOptions(t, "wait"))
	if fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); err != nil || unix.Bind(fd, &unix.SockaddrInet4{Port: 20200}) == nil {
		t.Fatalf("nothing waits on the port: %v", err)
	}
	join(t, c, "range", bindRange(network.TCP, "", 20100, 20300, 20100))
	c.Release("range")
	join(t, c, "one", bind("80/tcp", "", "20200"))
}

// TestRandomPortAsksNobody: with thousands of sockets in the way, a free port is
// found by trying.
func TestRandomPortAsksNobody(t *testing.T) {
	for _, x := range []struct {
		proto uint8
		typ   int
	}{{unix.IPPROTO_UDP, unix.SOCK_DGRAM}, {unix.IPPROTO_TCP, unix.SOCK_STREAM}} {
		for n := range 5000 {
			fd, err := unix.Socket(unix.AF_INET, x.typ|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			if err := unix.Bind(fd, &unix.SockaddrInet4{Port: 32768 + n}); err != nil {
				t.Fatal(err)
			}
		}
		table, start := ports.New(), time.Now()
		h, err := table.TakeOneOf(netip.IPv4Unspecified(), x.proto, 0, 0, ports.Owner{ID: "x"})
		if err != nil || h.Port != 32768+5000 {
			t.Fatalf("%+v %v", h, err)
		}
		defer h.Close()
		t.Logf("%s: %v", ports.ProtoName(x.proto), time.Since(start))
	}
}

// TestKeptPorts: what a former engine's socket still holds is taken back without
// asking who has it; what nobody holds any more is held again.
func TestKeptPorts(t *testing.T) {
	o := testOptions(t, "kept")
	first := open(t, o)
	m := bindRange(network.TCP, "", 20300, 20301, 80)
	a := join(t, first, "a", m)
	if len(a.Sockets) != 2 {
		t.Fatalf("sockets %v", a.Sockets)
	}
	kept, err := unix.FcntlInt(uintptr(a.Sockets[0]), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	c := open(t, o)
	var said strings.Builder
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&said, nil)))
	got, err := c.Adopt(context.Background(), SandboxRequest{ContainerID: "a", Endpoints: onBridge(), PortSockets: []int{kept}}, a)
	slog.SetDefault(before)
	if err != nil || len(got.Sockets) != 2 || c.ports.Len() != 2 {
		t.Fatalf("%+v, %d holds: %v", got, c.ports.Len(), err)
	}
	if said.Len() > 0 {
		t.Errorf("warned: %s", said.String())
	}
	if at, err := unix.Getsockname(got.Sockets[1]); err != nil || at.(*unix.SockaddrInet4).Port != 20301 {
		t.Errorf("held again: %+v %v", at, err)
	}
	if _, err := c.Join(context.Background(), SandboxRequest{ContainerID: "b", Endpoints: onBridge(), Ports: bind("80/tcp", "", "20300")}); !errdefs.IsConflict(err) {
		t.Errorf("a kept port: %v", err)
	}
}
