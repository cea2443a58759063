package ports

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// bound makes a socket on a free port of the loopback.
func bound(t *testing.T, proto uint8) uint16 {
	t.Helper()
	fd, err := bind(loopback, proto, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(at.(*unix.SockaddrInet4).Port)
}

// TestTheKernelsLists: sock_diag and /proc/net tell the same of sockets that others can reach.
func TestTheKernelsLists(t *testing.T) {
	for _, x := range []struct {
		network, addr string
		family        uint8
	}{{"4", "127.0.0.1:0", unix.AF_INET}, {"6", "[::1]:0", unix.AF_INET6}} {
		l, err := net.Listen("tcp"+x.network, x.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		u, err := net.ListenPacket("udp"+x.network, x.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		for proto, at := range map[uint8]netip.AddrPort{
			unix.IPPROTO_TCP: l.Addr().(*net.TCPAddr).AddrPort(), unix.IPPROTO_UDP: u.LocalAddr().(*net.UDPAddr).AddrPort(),
		} {
			diag, proc := sockets{}, sockets{}
			if !diag.diagnose(x.family, proto, at.Port()) {
				t.Errorf("no sock_diag for %s", ProtoName(proto))
			}
			proc.read(x.family, proto, at.Port())
			a, b := diag[at.Port()], proc[at.Port()]
			if len(a) != 1 || len(b) != 1 || a[0] != b[0] || a[0].addr != at.Addr().Unmap() || a[0].inode == 0 {
				t.Errorf("%s on %s: sock_diag tells %+v, /proc/net %+v", ProtoName(proto), at, a, b)
			}
			want := fmt.Sprintf("(process %d)", os.Getpid())
			for _, known := range []sockets{diag, proc} {
				if who, live := known.occupant(at.Addr().Unmap(), proto, at.Port()); !live || !strings.Contains(who, want) {
					t.Errorf("%s on %s is had%q, live %v", ProtoName(proto), at, who, live)
				}
			}
		}
	}
}

// TestWithoutAList is a kernel that does not list what is only bound: every port is tried.
func TestWithoutAList(t *testing.T) {
	port := bound(t, unix.IPPROTO_TCP)
	err := free(loopback, unix.IPPROTO_TCP, port-1, port, sockets{}, false)
	if !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "has bound it without listening") {
		t.Errorf("a port that is bound: %v", err)
	}
	if err := free(loopback, unix.IPPROTO_TCP, port-1, port, sockets{}, true); err != nil {
		t.Errorf("a complete list was not believed: %v", err)
	}
}

// TestOverlaps: a program on another address, or of another family, is in nobody's way.
func TestOverlaps(t *testing.T) {
	any4, any6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	for _, x := range []struct {
		has, wants netip.Addr
		meets      bool
	}{
		{loopback, loopback, true}, {any4, loopback, true}, {loopback, any4, true}, {any6, any4, true}, {any6, loopback, true},
		{loopback, netip.MustParseAddr("127.0.0.2"), false}, {netip.IPv6Loopback(), any4, false}, {netip.IPv6Loopback(), loopback, false},
	} {
		if got := (socket{addr: x.has}).meets(x.wants); got != x.meets {
			t.Errorf("%s and %s: %v", x.has, x.wants, got)
		}
	}
}

func TestTable(t *testing.T) {
	table, port := New(), bound(t, unix.IPPROTO_UDP)
	if _, err := table.Take(loopback, unix.IPPROTO_UDP, port, Owner{ID: "x"}); !errdefs.IsConflict(err) || table.Len() != 0 {
		t.Errorf("a program's port: %v, %d held", err, table.Len())
	}
	if _, err := table.TakeRange(loopback, unix.IPPROTO_UDP, port-10, port+10, Owner{ID: "x"}); err == nil || table.Len() != 0 {
		t.Errorf("a range with a program's port: %v, %d held", err, table.Len())
	}
	many := table.Claim(loopback, unix.IPPROTO_UDP, 100, 200, Owner{ID: "many"})
	one := table.Claim(loopback, unix.IPPROTO_UDP, 300, 300, Owner{ID: "one"})
	for _, x := range []struct {
		first, last uint16
		by          string
	}{{100, 100, "many"}, {200, 200, "many"}, {150, 160, "many"}, {1, 100, "many"}, {300, 300, "one"}, {250, 400, "one"}, {201, 299, ""}, {99, 99, ""}} {
		h := &Hold{Addr: netip.IPv4Unspecified(), Proto: unix.IPPROTO_UDP, Port: x.first, Last: x.last, table: table, fd: -1}
		err := table.reserve(h)
		taken, ok := err.(*TakenError)
		if ok != (x.by != "") || ok && taken.Owner.ID != x.by {
			t.Errorf("%d-%d: %v", x.first, x.last, err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
	for range 2 { // the second does nothing
		if many.Close() != nil || one.Close() != nil || table.Len() != 0 {
			t.Errorf("%d are still held", table.Len())
		}
	}
}
