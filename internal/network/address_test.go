package network

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

// smallLan makes a network of IPv4 with a subnet and returns its name.
func smallLan(t *testing.T, c *Controller, name, subnet string) string {
	t.Helper()
	return lanOf(t, c, name, network.CreateRequest{EnableIPv6: new(false),
		IPAM: &network.IPAM{Config: []network.IPAMConfig{{Subnet: netip.MustParsePrefix(subnet)}}}})
}

func at(name, address string) EndpointRequest {
	q := EndpointRequest{Network: name}
	if address != "" {
		q.IPv4 = netip.MustParseAddr(address)
	}
	return q
}

func joinAt(t *testing.T, c *Controller, id string, list ...EndpointRequest) *Sandbox {
	t.Helper()
	s, err := c.Join(context.Background(), SandboxRequest{ContainerID: id, ContainerName: id, Endpoints: list})
	if err != nil {
		t.Fatalf("%s: %v", id, err)
	}
	return s
}

// TestAddressAtOnce: an address that was asked for, and the last one of a network, are to
// be had as soon as the container that had them has ended.
func TestAddressAtOnce(t *testing.T) {
	c := open(t, testOptions(t, "atonce"))
	for name, x := range map[string]struct{ subnet, address string }{"asked": {"10.210.1.0/24", "10.210.1.9"}, "last": {"10.210.2.0/30", ""}} {
		q := at(smallLan(t, c, name, x.subnet), x.address)
		for range 5 {
			joinAt(t, c, name, q)
			if _, err := c.Join(context.Background(), SandboxRequest{ContainerID: "other", Endpoints: []EndpointRequest{q}}); err == nil {
				t.Error(name, "was given twice")
			} else if x.address != "" && !errdefs.IsPermissionDenied(err) || x.address == "" && !errdefs.IsUnavailable(err) {
				t.Error(name, err)
			}
			c.Release(name)
		}
	}
}

// TestIdleAddress: what waits for containers keeps no address from one that asks for it.
func TestIdleAddress(t *testing.T) {
	c := open(t, testOptions(t, "idle"))
	joinAt(t, c, "first", at(smallLan(t, c, "idle", "10.210.3.0/24"), ""))
	l, err := c.resolveAll([]EndpointRequest{{Network: "idle"}})
	if err != nil {
		t.Fatal(err)
	}
	var address netip.Addr
	for end := time.Now().Add(10 * time.Second); !address.IsValid() && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		c.mu.Lock()
		if len(l[0].pool) > 0 {
			address = l[0].pool[0].link.v4.Addr()
		}
		c.mu.Unlock()
	}
	if !address.IsValid() {
		t.Fatal("nothing is kept ready")
	}
	if s := joinAt(t, c, "second", at("idle", address.String())); s.Endpoints[0].Settings.IPAddress != address {
		t.Errorf("got %s, want %s", s.Endpoints[0].Settings.IPAddress, address)
	}
}

// TestAddressOfOneThatLeft: the address of a container that left the network, and runs on
// in another, is another's.
func TestAddressOfOneThatLeft(t *testing.T) {
	c := open(t, testOptions(t, "moved"))
	first, second := at(smallLan(t, c, "old", "10.210.4.0/24"), "10.210.4.9"), at(smallLan(t, c, "new", "10.210.5.0/24"), "")
	joinAt(t, c, "a", first)
	if _, err := c.Connect(context.Background(), "a", second); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Disconnect(context.Background(), "a", "old"); err != nil {
		t.Fatal(err)
	}
	joinAt(t, c, "b", first)
}

// TestAddressesStayTaken: the next engine gives nobody an address of a container that runs,
// of either family, also before that is adopted.
func TestAddressesStayTaken(t *testing.T) {
	o := testOptions(t, "stay")
	o.IPv6 = true
	c := open(t, o)
	had := map[netip.Addr]bool{}
	for _, id := range []string{"a", "b", "c"} {
		v4, v6 := addressesIn(join(t, c, id, nil), 0)
		had[v4], had[v6] = true, true
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	next := open(t, o)
	for _, id := range []string{"d", "e", "f"} {
		v4, v6 := addressesIn(join(t, next, id, nil), 0)
		if had[v4] || had[v6] {
			t.Errorf("%s gets %s and %s, of which another has one", id, v4, v6)
		}
	}
	if err := next.Sweep(); err != nil { // nobody adopts them
		t.Fatal(err)
	}
}
