package network

import (
	"context"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestEgressFailsClosed: a container that runs on and cannot be held to its policy any
// more is cut off, until it can be; and none is asked for where none can be.
func TestEgressFailsClosed(t *testing.T) {
	o := testOptions(t, "closed")
	ctx := context.Background()
	q := SandboxRequest{ContainerID: "a", ContainerName: "/a", Endpoints: onBridge(), Egress: "none"}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	box, err := c.Join(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	outside := box.Endpoints[0].Outside
	for _, tables := range []bool{false, true, false} {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		o.IPTables, o.IP6Tables = tables, tables
		if c, err = New(o); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Adopt(ctx, q, box); err != nil {
			t.Fatal(err)
		}
		if err := c.Sweep(); err != nil {
			t.Fatal(err)
		}
		link, err := netlink.LinkByName(outside)
		if err != nil {
			t.Fatal(err)
		}
		if up := link.Attrs().RawFlags&unix.IFF_UP != 0; up != tables {
			t.Errorf("with firewall rules %v: up %v", tables, up)
		}
		if err := c.MayRestrain("none"); (err == nil) != tables || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("with firewall rules %v: %v", tables, err)
		}
	}
	// Without a policy there is no reason to cut it off.
	if err := c.SetEgress("a", "all"); err != nil {
		t.Fatal(err)
	}
	if link, err := netlink.LinkByName(outside); err != nil || link.Attrs().RawFlags&unix.IFF_UP == 0 {
		t.Errorf("without a policy: %+v, %v", link, err)
	}
	c.Release("a")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestLeaveNone: a container leaves the network none while it runs, and joins another.
func TestLeaveNone(t *testing.T) {
	c := open(t, testOptions(t, "leave"))
	ctx := context.Background()
	a, err := c.Join(ctx, SandboxRequest{ContainerID: "a", ContainerName: "/a", Endpoints: []EndpointRequest{{Network: "none"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Connect(ctx, "a", EndpointRequest{Network: "bridge"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("beside none: %v", err)
	}
	box, err := c.Disconnect(ctx, "a", "none")
	if err != nil || len(box.Endpoints) != 0 {
		t.Fatalf("%+v: %v", box, err)
	}
	if box, err = c.Connect(ctx, "a", EndpointRequest{Network: "bridge"}); err != nil {
		t.Fatal(err)
	}
	serve(t, a.Path)
	answers(t, "", "tcp", box.Endpoints[0].Settings.IPAddress.String()+":80", "*")
}
