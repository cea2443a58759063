package network

import (
	"context"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"hezi/internal/network/bindings"
)

// askFrom is ask with an address of the client's.
func askFrom(path, source, addr string) (who string, err error) {
	err = in(path, func() error {
		d := net.Dialer{Timeout: 500 * time.Millisecond, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
		conn, err := d.Dial("tcp", addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		b, err := io.ReadAll(conn)
		who = strings.ReplaceAll(string(b), "_", ":")
		return err
	})
	if h, _, err := net.SplitHostPort(who); err == nil {
		who = h
	}
	return who, err
}

// TestLan: a port of the scope lan is reached from the networks that the host is in, by
// the device that leads there, and from the host; not from beyond, and this follows the
// host's addresses.
func TestLan(t *testing.T) {
	o := testOptions(t, "lan")
	o.IPv6 = true
	c := open(t, o)
	ctx := context.Background()
	world := outsideWorld(t)
	// 203.0.113.2 is behind the router 198.51.100.2; 192.0.2.0/24 is another network of
	// the host's, whose address a client of the first one claims to have.
	sh(t, `ip addr add 2001:db8:1::1/64 dev world nodad; ip route add 203.0.113.0/24 via 198.51.100.2; ip -6 route add 2001:db8:2::/64 via 2001:db8:1::2
		ip link add other type bridge; ip addr add 192.0.2.1/24 dev other; ip link set other up
		sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.world.rp_filter=0
		nsenter --net=`+world+` sh -ec 'for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 0 > $f; done; ip link set lo up
		ip addr add 2001:db8:1::2/64 dev w0 nodad; ip -6 route add default via 2001:db8:1::1
		ip addr add 203.0.113.2/32 dev lo; ip addr add 192.0.2.7/32 dev lo; ip addr add 2001:db8:2::2/128 dev lo nodad'`)
	t.Cleanup(func() { sh(t, "ip link del other") })
	ports := network.PortMap{network.MustParsePort("80/tcp"): {{HostIP: bindings.Near(), HostPort: "8360"}}, network.MustParsePort("80/udp"): {{HostIP: bindings.Near(), HostPort: "8360"}}}
	s := join(t, c, "a", ports)
	if got := s.Ports[network.MustParsePort("80/tcp")]; len(got) != 1 || got[0] != (network.PortBinding{HostIP: bindings.Near(), HostPort: "8360"}) || len(s.Sockets) != 4 {
		t.Fatalf("%+v, %d sockets", got, len(s.Sockets))
	}
	serveBoth(t, s.Path)
	b := join(t, c, "b", nil)

	reached := func(source, addr string) {
		t.Helper()
		var who string
		var err error
		for range 40 { // a change of the host's addresses is heard of
			if who, err = askFrom(world, source, addr); err == nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if err != nil || who != source {
			t.Errorf("%s at %s: seen as %q, %v", source, addr, who, err)
		}
	}
	unreached := func(source, addr string) {
		t.Helper()
		var err error
		for range 40 {
			if _, err = askFrom(world, source, addr); err != nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Errorf("%s reaches %s", source, addr)
	}
	all := func() {
		t.Helper()
		reached("198.51.100.2", "198.51.100.1:8360")
		reached("2001:db8:1::2", "[2001:db8:1::1]:8360")
		unreached("203.0.113.2", "198.51.100.1:8360")
		unreached("2001:db8:2::2", "[2001:db8:1::1]:8360")
		unreached("192.0.2.7", "198.51.100.1:8360")
		answers(t, world, "udp", "198.51.100.1:8360", "198.51.100.2")
		answers(t, "", "tcp", "127.0.0.1:8360", "*")
		answers(t, "", "tcp", "198.51.100.1:8360", "*")
		answers(t, "", "tcp", "[2001:db8:1::1]:8360", "*")
		answers(t, b.Path, "tcp", "198.51.100.1:8360", "*")
	}
	all()
	sh(t, "ip addr add 203.0.113.1/24 dev world; ip -6 addr add 2001:db8:2::1/64 dev world nodad noprefixroute; ip route del 203.0.113.0/24 via 198.51.100.2")
	reached("203.0.113.2", "198.51.100.1:8360")
	reached("2001:db8:2::2", "[2001:db8:1::1]:8360")
	sh(t, "ip addr del 203.0.113.1/24 dev world; ip -6 addr del 2001:db8:2::1/64 dev world; ip route add 203.0.113.0/24 via 198.51.100.2")
	all()

	// The port is the container's, whoever may reach it; and it goes and comes.
	if _, err := c.Join(ctx, SandboxRequest{ContainerID: "c", Endpoints: onBridge(), Ports: bind("80/tcp", "", "8360")}); !errdefs.IsConflict(err) {
		t.Errorf("a second container gets the port: %v", err)
	}
	if _, err := c.Republish(ctx, "a", nil, network.PortMap{network.MustParsePort("80/tcp"): nil}); err != nil {
		t.Fatal(err)
	}
	unreached("198.51.100.2", "198.51.100.1:8360")
	many := network.PortMap{}
	for i := range uint16(100) { // a range
		port, _ := network.PortFrom(80+i, network.TCP)
		many[port] = []network.PortBinding{{HostIP: bindings.Near(), HostPort: strconv.Itoa(8400 + int(i))}}
	}
	if _, err := c.Republish(ctx, "a", many, nil); err != nil {
		t.Fatal(err)
	}
	reached("198.51.100.2", "198.51.100.1:8400")
	unreached("203.0.113.2", "198.51.100.1:8400")
	if _, err := c.Republish(ctx, "a", nil, many); err != nil {
		t.Fatal(err)
	}
	got, err := c.Republish(ctx, "a", bind("80/tcp", "::%lan", "8360"), nil)
	if err != nil {
		t.Fatal(err)
	}
	all()

	// The next engine: reachable throughout.
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, o)
	reached("198.51.100.2", "198.51.100.1:8360")
	if _, err := c.Adopt(ctx, SandboxRequest{ContainerID: "a", ContainerName: "a", Endpoints: onBridge()}, got); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Adopt(ctx, SandboxRequest{ContainerID: "b", ContainerName: "b", Endpoints: onBridge()}, b); err != nil {
		t.Fatal(err)
	}
	if err := c.Sweep(); err != nil {
		t.Fatal(err)
	}
	all()

	lanOf(t, c, "routed", network.CreateRequest{Options: map[string]string{"com.docker.network.bridge.gateway_mode_ipv6": "routed"}})
	_, err = c.Join(ctx, SandboxRequest{ContainerID: "r", Endpoints: []EndpointRequest{{Network: "routed"}}, Ports: bind("80/tcp", "::%lan", "8361")})
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "routed") {
		t.Errorf("in a routed network: %v", err)
	}
	_, err = c.Join(ctx, SandboxRequest{ContainerID: "z", Endpoints: onBridge(), Ports: bind("80/tcp", "::%eth0", "8362")})
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("with a zone: %v", err)
	}
}
