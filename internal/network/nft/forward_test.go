package nft

import (
	"net/netip"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func TestElements(t *testing.T) {
	host, to := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddrPort("172.17.0.2:100")
	host6, to6 := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddrPort("[fd00::2]:100")
	table := &Table{}
	table.makeMaps(true)
	for _, x := range []struct {
		f    Forward
		many int // without intervals
		all  int
	}{
		{Forward{Proto: 6, Port: 80, To: to}, 1, 1},
		{Forward{Host: host, Proto: 17, Port: 80, Last: 80, To: to}, 1, 1},
		{Forward{Proto: 17, Port: 100, Last: 199, To: to}, 100, 1},
		{Forward{Host: host, Proto: 17, Port: 100, Last: 199, To: to}, 100, 1},
		{Forward{Proto: 6, Port: 80, To: to6}, 1, 1},
		{Forward{Host: host6, Proto: 6, Port: 80, To: to6}, 1, 1},
		{Forward{Host: host6, Proto: 17, Port: 100, Last: 199, To: to6}, 100, 1},
		{Forward{Proto: 17, Port: 65436, Last: 65535, To: to}, 100, 100}, // others inside
	} {
		got := table.elements([]Forward{x.f})
		if len(got) != x.all {
			t.Errorf("%+v: %d elements", x.f, len(got))
		}
		for i, e := range got {
			if back, ok := decode(encode(e), e.To.Addr().Is6()); !ok || back != e {
				t.Errorf("%+v is read as %+v", e, back)
			}
			if want, ok := x.f.Target(e.Port); !ok || e.To != want || int(e.Port) != int(x.f.Port)+i {
				t.Errorf("%+v has the element %+v", x.f, e)
			}
		}
	}
	table.makeMaps(false)
	if n := len(table.elements([]Forward{{Proto: 17, Port: 100, Last: 199, To: to}})); n != 100 {
		t.Errorf("a kernel without intervals gets %d elements for 100 ports", n)
	}
}

// TestWithoutIntervals is the table of a kernel before 5.6.
func TestWithoutIntervals(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("the tests of the network must run as root")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Table: "hezi", Networks: []Network{{Bridge: "hezi0", ICC: true, Subnets: []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16")}, V4: Family{Masquerade: true}}}}
	table, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f := []Forward{{Proto: 17, Port: 100, Last: 1099, To: netip.MustParseAddrPort("172.17.0.2:100")}}
	if err := table.Add(f); err != nil || table.Len() != 1 {
		t.Fatalf("%d elements, %v", table.Len(), err)
	}
	table.shape(false)
	if err := table.Restore(); err != nil || table.Len() != 1000 {
		t.Fatalf("%d elements, %v", table.Len(), err)
	}
	again, err := Open(cfg)
	if err != nil || again.Len() != 1000 || again.v4.ranges != nil {
		t.Fatalf("%d elements, %v", again.Len(), err)
	}
	if err := again.Delete(f); err != nil || again.Len() != 0 {
		t.Errorf("%d elements are left, %v", again.Len(), err)
	}
	if third, err := Open(cfg); err != nil || third.Len() != 0 {
		t.Errorf("the kernel has %d elements left, %v", third.Len(), err)
	}
}
