package network

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// TestConnectedAtOnce: when a connection is made, the first packet arrives, also on a bridge
// that nobody was on; and the default route, where it stays, is there all the time.
func TestConnectedAtOnce(t *testing.T) {
	c := open(t, testOptions(t, "connected"))
	ctx := context.Background()
	s := join(t, c, "a", nil)
	lost := watchDefaults(t, s.Path)
	for range 40 {
		l := c.lans[c.NetworkID(lanOf(t, c, "z", network.CreateRequest{}))]
		if _, err := c.Connect(ctx, "a", EndpointRequest{Network: "z"}); err != nil {
			t.Fatal(err)
		}
		// Of both families: the bridge's gateway refuses at once.
		err := in(s.Path, func() (err error) {
			for i := len(l.subnets()) - 1; i >= 0; i-- {
				at := net.JoinHostPort(l.gateway[l.subnets()[i]].String(), "9")
				d, e := net.DialTimeout("tcp", at, 500*time.Millisecond)
				if e == nil {
					d.Close()
				} else if !errors.Is(e, unix.ECONNREFUSED) {
					err = errors.Join(err, e)
				}
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		if _, err := c.Disconnect(ctx, "a", "z"); err != nil {
			t.Fatal(err)
		}
		if err := c.Remove(ctx, "z"); err != nil {
			t.Fatal(err)
		}
	}
	if n := lost(); n > 0 {
		t.Errorf("the default route went %d times", n)
	}
}

// watchDefaults counts the default routes of IPv4 that go in a namespace.
func watchDefaults(t *testing.T, path string) func() int {
	t.Helper()
	ns, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	updates, done := make(chan netlink.RouteUpdate, 1000), make(chan struct{})
	if err := netlink.RouteSubscribeAt(ns, updates, done); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(done) })
	return func() (n int) {
		for {
			select {
			case u := <-updates:
				if u.Type == unix.RTM_DELROUTE && u.Gw.To4() != nil && (u.Dst == nil || u.Dst.IP.IsUnspecified()) {
					n++
				}
			case <-time.After(100 * time.Millisecond):
				return n
			}
		}
	}
}
