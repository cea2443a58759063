package ipam

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestSubnet(t *testing.T) {
	pools := DefaultPools()
	for _, p := range pools {
		if err := p.Check(); err != nil {
			t.Error(err)
		}
	}
	for _, c := range []struct {
		taken []netip.Prefix
		after string
		want  string
	}{
		{nil, "", "172.18.0.0/24"},
		{prefixes("172.18.0.0/24"), "", "172.18.1.0/24"},
		{prefixes("172.18.0.0/16"), "", "172.19.0.0/24"},
		{prefixes("172.16.0.0/12"), "", "192.168.0.0/24"},
		{prefixes("172.18.0.128/25"), "", "172.18.1.0/24"},
		{prefixes("172.18.0.0/24"), "172.18.5.0/24", "172.18.6.0/24"},
		{prefixes("172.16.0.0/12", "192.168.0.0/16", "10.0.0.0/8"), "", ""},
		// After the last one it begins again.
		{nil, "10.255.255.0/24", "172.18.0.0/24"},
		{prefixes("172.16.0.0/12"), "172.18.0.0/24", "192.168.0.0/24"},
	} {
		var after netip.Prefix
		if c.after != "" {
			after = netip.MustParsePrefix(c.after)
		}
		got, err := Subnet(pools, false, c.taken, after)
		if c.want == "" {
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "fully subnetted") {
				t.Errorf("%v: %v %v", c.taken, got, err)
			}
			continue
		}
		if err != nil || got.String() != c.want {
			t.Errorf("%v after %s: %v, not %s: %v", c.taken, c.after, got, c.want, err)
		}
	}
	// A thousand networks and more, one after the other.
	var taken []netip.Prefix
	seen := map[netip.Prefix]bool{}
	for range 1500 {
		p, err := Subnet(pools, false, taken, netip.Prefix{})
		if err != nil || seen[p] {
			t.Fatalf("%d: %v %v", len(taken), p, err)
		}
		seen[p], taken = true, append(taken, p)
	}
	if p, err := Subnet([]Pool{{netip.MustParsePrefix("fd00::/48"), 64}}, true, prefixes("fd00::/64"), netip.Prefix{}); err != nil || p.String() != "fd00:0:0:1::/64" {
		t.Error(p, err)
	}
}

func TestPoolCheck(t *testing.T) {
	for s, bad := range map[string]bool{"10.0.0.0/8 24": false, "10.0.0.1/8 24": true, "10.0.0.0/24 16": true, "10.0.0.0/24 31": true, "fd00::/48 64": false} {
		base, size, _ := strings.Cut(s, " ")
		p := Pool{netip.MustParsePrefix(base), map[string]int{"24": 24, "16": 16, "31": 31, "64": 64}[size]}
		if err := p.Check(); (err != nil) != bad {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func TestRange(t *testing.T) {
	addr := netip.MustParseAddr
	r := NewRange(netip.MustParsePrefix("10.1.0.0/29"), netip.Prefix{}, addr("10.1.0.1"))
	var got []string
	for range 5 {
		a, err := r.Take(netip.Addr{})
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, a.String())
	}
	if s := strings.Join(got, " "); s != "10.1.0.2 10.1.0.3 10.1.0.4 10.1.0.5 10.1.0.6" {
		t.Error(s)
	}
	if _, err := r.Take(netip.Addr{}); !errdefs.IsResourceExhausted(err) {
		t.Error(err)
	}
	r.Free(addr("10.1.0.3"))
	if a, err := r.Take(netip.Addr{}); err != nil || a != addr("10.1.0.3") {
		t.Error(a, err)
	}
	r.Free(addr("10.1.0.2"))
	r.Free(addr("10.1.0.5"))
	if a, err := r.Take(netip.Addr{}); err != nil || a != addr("10.1.0.5") { // the other was given before it
		t.Error(a, err)
	}
	if _, err := r.Take(addr("10.1.0.4")); !errdefs.IsPermissionDenied(err) {
		t.Error(err)
	}
	if _, err := r.Take(addr("10.1.0.1")); !errdefs.IsPermissionDenied(err) {
		t.Error(err)
	}
	if _, err := r.Take(addr("10.2.0.1")); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if !r.Small() || NewRange(netip.MustParsePrefix("fd00::/64"), netip.Prefix{}).Small() {
		t.Error("small")
	}
	// A range within the subnet: an address that is asked for may lie outside it.
	r = NewRange(netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.1.5.0/30"), addr("10.1.0.1"))
	for _, want := range []string{"10.1.5.0", "10.1.5.1", "10.1.5.2", "10.1.5.3"} {
		if a, err := r.Take(netip.Addr{}); err != nil || a.String() != want {
			t.Error(a, err)
		}
	}
	if _, err := r.Take(netip.Addr{}); !errdefs.IsResourceExhausted(err) {
		t.Error(err)
	}
	if _, err := r.Take(addr("10.1.9.9")); err != nil {
		t.Error(err)
	}
	// IPv6 has no broadcast.
	r = NewRange(netip.MustParsePrefix("fd00::/126"), netip.Prefix{}, addr("fd00::1"))
	for _, want := range []string{"fd00::2", "fd00::3"} {
		if a, err := r.Take(netip.Addr{}); err != nil || a.String() != want {
			t.Error(a, err)
		}
	}
}
