package network

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"hezi/internal/network/bindings"
)

// TestUnstoredPorts: what was published just before an engine died that could not store
// it any more is not published by the next, and what was taken away is.
func TestUnstoredPorts(t *testing.T) {
	o := testOptions(t, "unstored")
	c := open(t, o)
	ctx := context.Background()
	s := join(t, c, "a", bind("80/tcp", "", "8310"))
	serve(t, s.Path)
	if _, err := c.Republish(ctx, "a", bind("80/tcp", "", "8311"), network.PortMap{network.MustParsePort("80/tcp"): nil}); err != nil {
		t.Fatal(err)
	}
	answers(t, "", "tcp", "127.0.0.1:8311", "*")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, o)
	if _, err := c.Adopt(ctx, SandboxRequest{ContainerID: "a", ContainerName: "a", Endpoints: onBridge()}, s); err != nil {
		t.Fatal(err)
	}
	if err := c.Sweep(); err != nil {
		t.Fatal(err)
	}
	answers(t, "", "tcp", "127.0.0.1:8310", "*")
	if who, err := ask("", "tcp", "127.0.0.1:8311"); err == nil {
		t.Errorf("a port that nobody knows of is published, and seen as %s", who)
	}
}

// TestRepublishBack: what a change of ports did can be undone by what it answered.
func TestRepublishBack(t *testing.T) {
	c := open(t, testOptions(t, "back"))
	ctx := context.Background()
	before := join(t, c, "a", bind("80/tcp", "", "8320"))
	after, err := c.Republish(ctx, "a", network.PortMap{network.MustParsePort("80/tcp"): {{}}, network.MustParsePort("81/tcp"): {{HostPort: "8321"}}}, before.Ports)
	if err != nil {
		t.Fatal(err)
	}
	back, err := c.Republish(ctx, "a", bindings.Beside(before.Ports, after.Ports), bindings.Beside(after.Ports, before.Ports))
	if err != nil || !maps.EqualFunc(back.Ports, before.Ports, slices.Equal) {
		t.Errorf("%v, was %v (%v)", back.Ports, before.Ports, err)
	}
}

// TestRepublishElsewhere: a port of the host can be led to another port of the container.
func TestRepublishElsewhere(t *testing.T) {
	c := open(t, testOptions(t, "elsewhere"))
	ctx := context.Background()
	s := join(t, c, "a", bind("79/tcp", "", "8330"))
	serve(t, s.Path)
	change := func(to string, further network.PortMap) error {
		t.Helper()
		add := bind(to, "", "8330")
		maps.Copy(add, further)
		box, err := c.Republish(ctx, "a", add, s.Ports)
		if err == nil {
			s = box
		}
		return err
	}
	join(t, c, "b", bind("80/tcp", "", "8331"))
	if err := change("80/tcp", bind("81/tcp", "", "8331")); !errdefs.IsConflict(err) {
		t.Errorf("with another's port: %v", err)
	}
	if _, err := net.Listen("tcp", "0.0.0.0:8330"); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("after a change that failed the port is free: %v", err)
	}
	if err := change("80/tcp", nil); err != nil {
		t.Fatal(err)
	}
	answers(t, "", "tcp", "127.0.0.1:8330", "*")
	if len(s.Sockets) != 0 {
		t.Errorf("the keeper would have it twice: %v", s.Sockets)
	}
	c.Release("a")
	c.Release("b")
	released(t, c)
}

// TestPublishLate: a container of an internal network publishes its ports when another
// network lets it.
func TestPublishLate(t *testing.T) {
	c := open(t, testOptions(t, "late"))
	ctx := context.Background()
	lanOf(t, c, "inside", network.CreateRequest{Internal: true, EnableIPv6: new(false)})
	ports := bind("80/tcp", "", "8340")
	s, err := c.Join(ctx, SandboxRequest{ContainerID: "a", Endpoints: []EndpointRequest{{Network: "inside"}}, Ports: ports})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, s.Path)
	if _, err := c.Connect(ctx, "a", onBridge()[0]); err != nil {
		t.Fatal(err)
	}
	if s, err = c.Republish(ctx, "a", ports, nil); err != nil || len(s.Ports[network.MustParsePort("80/tcp")]) != 1 {
		t.Fatalf("%+v %v", s, err)
	}
	answers(t, "", "tcp", "127.0.0.1:8340", "*")
}

// TestWiden: a container of IPv4 publishes its ports on IPv6 too when a network with IPv6
// joins, and its connections stay; what was asked for on IPv4 alone stays so.
func TestWiden(t *testing.T) {
	c := open(t, testOptions(t, "widen"))
	ctx := context.Background()
	lanOf(t, c, "six", network.CreateRequest{EnableIPv4: new(false)})
	world := outsideWorld(t)
	sh(t, `ip addr add 2001:db8:1::1/64 dev world nodad; nsenter --net=`+world+` sh -ec 'for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 0 > $f; done; ip addr add 2001:db8:1::2/64 dev w0 nodad'`)
	asked := bind("80/tcp", "", "8390")
	asked[network.MustParsePort("81/tcp")] = []network.PortBinding{{HostIP: netip.IPv4Unspecified(), HostPort: "8391"}}
	asked[network.MustParsePort("82/tcp")] = []network.PortBinding{{HostIP: bindings.Near(), HostPort: "8392"}}
	for i := range uint16(100) {
		p, _ := network.PortFrom(1000+i, network.TCP)
		asked[p] = []network.PortBinding{{HostIP: bindings.Near(), HostPort: strconv.Itoa(8500 + int(i))}}
		q, _ := network.PortFrom(1000+i, network.UDP)
		asked[q] = []network.PortBinding{{HostPort: strconv.Itoa(8500 + int(i))}}
	}
	s := join(t, c, "a", asked)
	serveBoth(t, s.Path)
	if add, _ := bindings.Widened(asked, s.Ports); len(add[network.MustParsePort("81/tcp")]) != 0 || len(add) != 202 {
		t.Errorf("%d ports are to be widened: %v", len(add), add)
	}
	box, err := c.Connect(ctx, "a", EndpointRequest{Network: "six"})
	if err != nil {
		t.Fatal(err)
	}
	add, again := bindings.Widened(asked, box.Ports)
	if box, err = c.Republish(ctx, "a", add, again); err != nil {
		t.Fatal(err)
	}
	if who, err := ask(world, "tcp", "[2001:db8:1::1]:8390"); err != nil || who != "2001_db8_1__2" {
		t.Errorf("seen as %q, %v", who, err)
	}
	answers(t, world, "tcp", "198.51.100.1:8390", "198.51.100.2")
	if n := len(box.Ports[network.MustParsePort("80/tcp")]); n != 2 {
		t.Errorf("%+v", box.Ports[network.MustParsePort("80/tcp")])
	}
	if list := box.Ports[network.MustParsePort("82/tcp")]; len(list) != 1 || list[0].HostIP != bindings.Near() {
		t.Errorf("%+v", list)
	}
	if add, _ := bindings.Widened(asked, box.Ports); len(add[network.MustParsePort("80/tcp")]) != 0 {
		t.Errorf("again: %v", add)
	}
}
