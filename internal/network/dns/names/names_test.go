package names

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func town() *Table {
	t := New()
	t.Set("c1", Place{Network: "n1", Label: "Front", Names: []string{"web", "aaaaaaaaaaaa"}, Addresses: addrs("10.1.0.2", "fd00:1::2")},
		Place{Network: "n2", Label: "back.end", Names: []string{"web"}, Addresses: addrs("10.2.0.2"), Links: map[string]string{"Store": "db"}})
	t.Set("c2", Place{Network: "n2", Label: "back.end", Names: []string{"db", "sql.main"}, Addresses: addrs("10.2.0.3")})
	t.Set("c3", Place{Network: "n2", Label: "back.end", Names: []string{"db2", "sql.main"}, Addresses: addrs("10.2.0.4")})
	t.Set("c4", Place{Network: "n3", Label: "apart", Names: []string{"lone"}, Addresses: addrs("10.3.0.2")})
	return t
}

func TestLookup(t *testing.T) {
	names := town()
	for _, c := range []struct {
		who, name string
		v6        bool
		found     bool
		want      []netip.Addr
	}{
		{"c1", "db", false, true, addrs("10.2.0.3")},
		{"c1", "DB", false, true, addrs("10.2.0.3")},
		{"c1", "db", true, true, nil}, // there is the name, without such an address
		{"c1", "web", false, true, addrs("10.1.0.2")},
		{"c1", "web", true, true, addrs("fd00:1::2")},
		{"c1", "web.back.end", false, true, addrs("10.2.0.2")},
		{"c1", "web.front", false, true, addrs("10.1.0.2")},
		{"c1", "sql.main", false, true, addrs("10.2.0.3", "10.2.0.4")}, // two containers
		{"c1", "sql.main.back.end", false, true, addrs("10.2.0.3", "10.2.0.4")},
		{"c1", "store", false, true, addrs("10.2.0.3")}, // its link
		{"c2", "store", false, false, nil},              // and nobody else's
		{"c1", "aaaaaaaaaaaa", false, true, addrs("10.1.0.2")},
		{"c2", "aaaaaaaaaaaa", false, false, nil}, // of another network
		{"c2", "web.front", false, false, nil},
		{"c1", "lone", false, false, nil},
		{"c1", "lone.apart", false, false, nil},
		{"c1", "db.example", false, false, nil},
		{"c1", "", false, false, nil},
		{"c9", "db", false, false, nil},
	} {
		got, found := names.Lookup(c.who, c.name, c.v6)
		slices.SortFunc(got, netip.Addr.Compare)
		if found != c.found || !slices.Equal(got, c.want) {
			t.Errorf("%s asks for %q (v6 %v): %v %v, want %v %v", c.who, c.name, c.v6, got, found, c.want, c.found)
		}
	}
}

func TestReverse(t *testing.T) {
	names := town()
	for _, c := range []struct{ who, addr, want string }{
		{"c1", "10.2.0.3", "db.back.end"}, {"c1", "fd00:1::2", "web.Front"}, {"c2", "10.2.0.2", "web.back.end"},
		{"c2", "10.1.0.2", ""}, {"c2", "10.9.9.9", ""}, {"c9", "10.2.0.3", ""},
	} {
		if got, _ := names.Reverse(c.who, netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("%s asks who has %s: %q, want %q", c.who, c.addr, got, c.want)
		}
	}
}

// TestMoved: a container that leaves, moves or goes is found where it is, and
// nothing of it stays.
func TestMoved(t *testing.T) {
	names := town()
	names.Set("c2", Place{Network: "n2", Label: "back.end", Names: []string{"db"}, Addresses: addrs("10.2.0.9")})
	if got, _ := names.Lookup("c1", "db", false); !slices.Equal(got, addrs("10.2.0.9")) {
		t.Errorf("after it moved: %v", got)
	}
	if got, _ := names.Reverse("c1", netip.MustParseAddr("10.2.0.3")); got != "" {
		t.Errorf("its old address is still %q", got)
	}
	// The address goes on to another before the first is forgotten.
	names.Set("c5", Place{Network: "n2", Label: "back.end", Names: []string{"heir"}, Addresses: addrs("10.2.0.9")})
	names.Set("c2")
	if got, _ := names.Reverse("c1", netip.MustParseAddr("10.2.0.9")); got != "heir.back.end" {
		t.Errorf("the heir's address is %q", got)
	}
	if _, found := names.Lookup("c1", "db", false); found {
		t.Error("a container that is gone is found")
	}
	for _, c := range []string{"c1", "c2", "c3", "c4", "c5"} {
		names.Set(c)
	}
	if len(names.zones)+len(names.clients) != 0 {
		t.Errorf("something stays: %v %v", names.zones, names.clients)
	}
}

func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{10, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			names := New()
			for i := range n {
				a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
				names.Set(fmt.Sprint("c", i), Place{Network: "n", Label: "net", Names: []string{fmt.Sprint("host", i)}, Addresses: []netip.Addr{a}})
			}
			for b.Loop() {
				if _, found := names.Lookup("c1", "host7", false); !found {
					b.Fatal("not found")
				}
			}
		})
		b.Run(fmt.Sprint(n, "-alike"), func(b *testing.B) {
			names := New()
			for i := range n {
				a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
				names.Set(fmt.Sprint("c", i), Place{Network: "n", Label: "net", Names: []string{"alike"}, Addresses: []netip.Addr{a}})
			}
			for b.Loop() {
				if list, _ := names.Lookup("c1", "alike", false); len(list) != n {
					b.Fatal("found", len(list))
				}
			}
		})
	}
}
