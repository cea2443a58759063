package network

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// TestConnectWhileItGoes: a connection that is made while its network is removed, or its
// container ends, is refused or whole, and nothing of it is left.
func TestConnectWhileItGoes(t *testing.T) {
	c := open(t, testOptions(t, "goes"))
	ctx := context.Background()
	for i := range 20 {
		name, id := fmt.Sprint("n", i), fmt.Sprint("c", i)
		smallLan(t, c, name, fmt.Sprintf("10.211.%d.0/24", i))
		join(t, c, id, nil)
		var wg sync.WaitGroup
		var connected, removed error
		wg.Go(func() { _, connected = c.Connect(ctx, id, EndpointRequest{Network: name}) })
		if i%2 == 0 {
			wg.Go(func() { removed = c.Remove(ctx, name) })
		} else {
			wg.Go(func() { c.Release(id) })
		}
		wg.Wait()
		if i%2 == 0 {
			if (connected == nil) == (removed == nil) {
				t.Errorf("connected: %v, and the network removed: %v", connected, removed)
			}
			c.Release(id)
		}
		if i%2 == 1 || removed != nil {
			if err := c.Remove(ctx, name); err != nil {
				t.Errorf("after its container ended: %v", err)
			}
		}
	}
	released(t, c)
}

// TestNamesByID: a container that asked for its network by an id keeps its names over
// restarts, and has new ones when it is renamed.
func TestNamesByID(t *testing.T) {
	o := testOptions(t, "byid")
	c := open(t, o)
	ctx := context.Background()
	smallLan(t, c, "named", "10.212.1.0/24")
	q := EndpointRequest{Network: c.NetworkID("named")[:12], Names: []string{"a", "alias"}}
	s := joinAt(t, c, "a", q)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, o)
	s, err := c.Adopt(ctx, SandboxRequest{ContainerID: "a", ContainerName: "a", Endpoints: []EndpointRequest{q}}, s)
	if err != nil || !slices.Equal(s.Endpoints[0].Settings.DNSNames, q.Names) {
		t.Fatalf("%+v %v", s, err)
	}
	q.Names = []string{"b", "alias"}
	c.Renamed("a", []EndpointRequest{q})
	n, err := c.Inspect(ctx, "named")
	if err != nil || n.Containers["a"].Name != "b" {
		t.Errorf("renamed: %+v %v", n.Containers, err)
	}
}

// TestUnstoredConnections: an engine that died between a connection, or its end, and
// storing it leaves a container with the routes and names of what is stored.
func TestUnstoredConnections(t *testing.T) {
	o := testOptions(t, "unstored2")
	c := open(t, o)
	ctx := context.Background()
	first, second := at(smallLan(t, c, "first", "10.214.1.0/24"), ""), at(smallLan(t, c, "second", "10.214.2.0/24"), "")
	second.GwPriority = 5
	a := joinAt(t, c, "a", first)
	if _, err := c.Connect(ctx, "a", second); err != nil {
		t.Fatal(err)
	}
	b := joinAt(t, c, "b", first, second)
	if _, err := c.Disconnect(ctx, "b", "second"); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, o)
	for _, x := range []struct {
		id   string
		list []EndpointRequest
		box  *Sandbox
	}{{"a", []EndpointRequest{first}, a}, {"b", []EndpointRequest{first, second}, b}} {
		if _, err := c.Adopt(ctx, SandboxRequest{ContainerID: x.id, ContainerName: x.id, Endpoints: x.list}, x.box); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Sweep(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{a.Path, b.Path} {
		if out := sh(t, "nsenter --net="+path+" ip route"); !strings.Contains(out, "default via 10.214.1.1 ") {
			t.Errorf("the routes are %s", out)
		}
	}
	if list := c.lans[c.NetworkID("second")].links; len(list) != 0 {
		t.Errorf("in the second network are %v", list)
	}
	if _, err := c.Disconnect(ctx, "b", "second"); err != nil { // by the client that got no answer
		t.Error(err)
	}
}
