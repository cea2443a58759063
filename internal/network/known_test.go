package network

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"

	"hezi/internal/network/netns"
)

// TestInternalKnown: a known connection lets packets through of those who have it, not of a
// container in an internal network that takes their address, wherever it comes from.
func TestInternalKnown(t *testing.T) {
	c := open(t, testOptions(t, "known"))
	world := outsideWorld(t)
	lanOf(t, c, "red", network.CreateRequest{EnableIPv6: new(false)})
	lanOf(t, c, "inside", network.CreateRequest{EnableIPv6: new(false), Internal: true})
	a, thief := c.box(t, "a", "", nil, "red"), c.box(t, "thief", "", nil, "inside")

	var server net.PacketConn
	if err := in(world, func() (err error) {
		server, err = net.ListenPacket("udp4", "198.51.100.2:7")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	heard := func(word string, wait time.Duration) (who net.Addr, ok bool) {
		server.SetReadDeadline(time.Now().Add(wait))
		b := make([]byte, 64)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil || string(b[:n]) == word {
				return from, err == nil
			}
		}
	}
	own := a.Endpoints[0].Settings.IPAddress
	send := func(path, word string) net.Conn {
		var conn net.Conn
		if err := in(path, func() (err error) {
			conn, err = (&net.Dialer{LocalAddr: &net.UDPAddr{IP: own.AsSlice(), Port: 4000}}).Dial("udp4", "198.51.100.2:7")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprint(conn, word)
		return conn
	}
	conn := send(a.Path, "first")
	from, ok := heard("first", 20*time.Second)
	if !ok {
		t.Fatal("another machine is not reached")
	}
	if _, err := server.WriteTo([]byte("answer"), from); err != nil { // now it is known
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Read(make([]byte, 64)); err != nil {
		t.Fatal(err)
	}

	// The kernel's own check of sources is not what is tested.
	l, e := c.lans[c.lanID("inside")], thief.Endpoints[0].Settings
	gateway := l.gateway[netip.PrefixFrom(e.IPAddress, e.IPPrefixLen).Masked()]
	if err := netns.Sysctl("net/ipv4/conf/"+l.bridge+"/rp_filter", "0"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile("/proc/sys/net/ipv4/conf/all/rp_filter"); err != nil || strings.TrimSpace(string(b)) == "1" {
		t.Logf("rp_filter of all is %s: the kernel drops it before (%v)", b, err)
	}
	sh(t, fmt.Sprintf("nsenter --net=%s sh -ec 'ip addr add %s/32 dev eth0; ip route add default via %s src %s'", thief.Path, own, gateway, own))
	send(thief.Path, "stolen")
	if _, ok := heard("stolen", 700*time.Millisecond); ok {
		t.Error("a container of an internal network reaches another machine by a neighbour's connection")
	}
	fmt.Fprint(conn, "second")
	if _, ok := heard("second", 20*time.Second); !ok {
		t.Error("the connection is lost")
	}
}
