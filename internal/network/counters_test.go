package network

import (
	"context"
	"net/netip"
	"testing"

	"github.com/moby/moby/api/types/network"

	"hezi/internal/network/nft"
)

// TestCounters: what passes a network's bridge is counted, and what its rules drop.
func TestCounters(t *testing.T) {
	c := open(t, testOptions(t, "counters"))
	lanOf(t, c, "red", network.CreateRequest{EnableIPv6: new(false)})
	lanOf(t, c, "inside", network.CreateRequest{EnableIPv6: new(false), Internal: true})
	red, inside := c.box(t, "red1", "", nil, "red"), c.box(t, "inside1", "", nil, "inside")
	of := func(name string) Counters {
		t.Helper()
		d, err := c.Detail(context.Background(), name)
		if err != nil || d.Counters == nil || d.Egress != nil {
			t.Fatalf("%s: %+v, %v", name, d, err)
		}
		return *d.Counters
	}
	before := of("red")
	answers(t, "", "tcp", netip.AddrPortFrom(red.Endpoints[0].Settings.IPAddress, 80).String(), "*")
	after := of("red")
	if after.InPackets <= before.InPackets || after.InBytes <= before.InBytes || after.OutPackets <= before.OutPackets || after.OutBytes <= before.OutBytes {
		t.Errorf("from %+v to %+v by a connection", before, after)
	}
	if after.DroppedPackets != 0 {
		t.Errorf("dropped without a reason: %+v", after)
	}
	if _, err := ask(inside.Path, "tcp", "198.51.100.9:80"); err == nil {
		t.Error("an internal network leads out")
	}
	if _, err := ask(red.Path, "tcp", netip.AddrPortFrom(inside.Endpoints[0].Settings.IPAddress, 80).String()); err == nil {
		t.Error("networks are not apart")
	}
	if n := of("inside"); n.DroppedPackets == 0 || n.DroppedBytes == 0 {
		t.Errorf("dropped: %+v", n)
	}
	if d, err := c.Detail(context.Background(), "none"); err != nil || d.Counters != nil {
		t.Errorf("the network none: %+v, %v", d, err)
	}
	var bridge string
	for _, l := range c.lans {
		if l.Name == "inside" {
			bridge = l.bridge
		}
	}
	c.Release("inside1")
	if err := c.Remove(context.Background(), "inside"); err != nil {
		t.Fatal(err)
	}
	if packets, _, err := nft.Dropped(c.table, bridge); err != nil || packets != 0 {
		t.Errorf("of a network that is gone %d packets are counted: %v", packets, err)
	}
}
