package network

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"hezi/internal/network/bindings"
	"hezi/internal/network/netns"
)

// TestOneFamily: where rules are kept of one family, packets of the other are left alone,
// and nothing is published over it.
func TestOneFamily(t *testing.T) {
	world := outsideWorld(t)
	sh(t, `ip addr add 2001:db8:1::1/64 dev world nodad; nsenter --net=`+world+` sh -ec 'for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 0 > $f; done; ip addr add 2001:db8:1::2/64 dev w0 nodad; ip -6 route add default via 2001:db8:1::1'`)
	host := map[bool]netip.Addr{false: netip.MustParseAddr("198.51.100.1"), true: netip.MustParseAddr("2001:db8:1::1")}
	from := &Sandbox{Path: world}
	for _, kept6 := range []bool{false, true} {
		t.Run(map[bool]string{false: "IPv4", true: "IPv6"}[kept6], func(t *testing.T) {
			o := testOptions(t, "family")
			o.IPTables, o.IP6Tables = !kept6, kept6
			c := open(t, o)
			lanOf(t, c, "red", network.CreateRequest{})
			at := map[bool]string{false: "", true: "::"}
			s := c.box(t, "red1", "", bind("80/tcp", at[kept6], "9100"), "red")
			v4, v6 := addressesIn(s, 0)
			own := map[bool]netip.Addr{false: v4, true: v6}
			reaches(t, from, host[kept6], 9100, true, "a published port")
			reaches(t, from, host[!kept6], 9100, false, "over the family without rules")
			reaches(t, from, own[!kept6], 80, true, "the container itself, over the family without rules")
			if _, err := ask(world, "tcp", netip.AddrPortFrom(own[kept6], 80).String()); err == nil {
				t.Error("the container itself is reached over the family with rules")
			}
			q := SandboxRequest{ContainerID: "no", ContainerName: "/no", Ports: bind("80/tcp", host[!kept6].String(), "9101"), Endpoints: []EndpointRequest{{Network: "red"}}}
			if _, err := c.Join(context.Background(), q); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "tables=false") {
				t.Errorf("published over the family without rules: %v", err)
			}
			q.ContainerID, q.Ports, q.Egress = "held", nil, "none"
			if _, err := c.Join(context.Background(), q); !errdefs.IsInvalidArgument(err) {
				t.Errorf("held to a policy of both families: %v", err)
			}
		})
	}
}

func localnetOf(bridge string) string { return "net/ipv4/conf/" + bridge + "/route_localnet" }

// TestLocalnetFollowsRules: the kernel leads 127/8 over a bridge only while there are rules
// that keep containers from it.
func TestLocalnetFollowsRules(t *testing.T) {
	sh(t, "ip link add localbr type bridge; ip link set localbr up")
	t.Cleanup(func() { _ = netns.RemoveLink("localbr") })
	o := testOptions(t, "localnet")
	bridges := []string{"localbr"}
	for _, x := range []struct {
		v4, v6, gone bool
		want         string
	}{{true, true, false, "1"}, {false, true, false, "0"}, {true, true, false, "1"}, {false, false, false, "0"}, {true, false, true, "1"}} {
		o.IPTables, o.IP6Tables = x.v4, x.v6
		c := open(t, o)
		if len(bridges) == 1 {
			smallLan(t, c, "red", "10.219.7.0/24")
			lanOf(t, c, "blue", network.CreateRequest{EnableIPv6: new(false), Options: map[string]string{"com.docker.network.bridge.name": "localbr"}})
			bridges = append(bridges, c.bridge().bridge)
			for _, l := range c.lans {
				if l.Name == "red" {
					bridges = append(bridges, l.bridge)
				}
			}
		}
		for _, name := range bridges {
			if have, err := os.ReadFile("/proc/sys/" + localnetOf(name)); err != nil || strings.TrimSpace(string(have)) != x.want {
				t.Errorf("iptables %v, ip6tables %v: %s is %q (%v), not %s", x.v4, x.v6, localnetOf(name), have, err, x.want)
			}
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if x.gone {
			if err := c.Dismantle(); err != nil {
				t.Fatal(err)
			}
			if have, err := os.ReadFile("/proc/sys/" + localnetOf("localbr")); err != nil || strings.TrimSpace(string(have)) != "0" {
				t.Errorf("after the rules have gone: %s is %q (%v)", localnetOf("localbr"), have, err)
			}
		}
	}
}

// TestFamilyGoes: what a running container publishes over a family goes with the rules of
// that family, also with a socket that was kept, is shown no more, and comes back with them.
func TestFamilyGoes(t *testing.T) {
	world := outsideWorld(t)
	from, host := &Sandbox{Path: world}, netip.MustParseAddr("198.51.100.1")
	o := testOptions(t, "goes")
	c := open(t, o)
	lanOf(t, c, "red", network.CreateRequest{})
	ports := network.PortMap{network.MustParsePort("80/tcp"): {{HostPort: "9200"}}, network.MustParsePort("80/udp"): {{HostIP: host, HostPort: "9201"}}}
	for i := range uint16(bindings.RangeFrom) { // one range
		ports[network.MustParsePort(strconv.Itoa(9300+int(i))+"/tcp")] = []network.PortBinding{{HostIP: netip.IPv4Unspecified(), HostPort: strconv.Itoa(9300 + int(i))}}
	}
	box := c.box(t, "web", "", ports, "red")
	all := maps.Clone(box.Ports)
	reaches(t, from, host, 9200, true, "a published port")
	for _, x := range []struct{ v4, v6 bool }{{false, true}, {true, false}, {false, false}, {true, true}} {
		var kept []int
		for _, fd := range box.Sockets {
			if twin, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3); err == nil {
				kept = append(kept, twin)
			}
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		o.IPTables, o.IP6Tables = x.v4, x.v6
		c = open(t, o)
		q := SandboxRequest{ContainerID: "web", ContainerName: "/web", Ports: ports, PortSockets: kept, Endpoints: []EndpointRequest{{Network: "red"}}}
		now, err := c.Adopt(context.Background(), q, box)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Sweep(); err != nil {
			t.Fatal(err)
		}
		has := func(a netip.Addr) bool { return a.Is4() && x.v4 || a.Is6() && x.v6 }
		for p, list := range all {
			for _, b := range list {
				if slices.Contains(now.Ports[p], b) != has(b.HostIP) || slices.Contains(now.Unpublished[p], b) == has(b.HostIP) {
					t.Errorf("rules %+v: %s is shown as %v and not as %v", x, p, now.Ports[p], now.Unpublished[p])
				}
			}
		}
		reaches(t, from, host, 9200, x.v4, fmt.Sprintf("rules %+v", x))
		if l, err := net.Listen("tcp4", "0.0.0.0:9200"); (err == nil) == x.v4 {
			t.Errorf("rules %+v: the host's port is free: %v", x, err)
		} else if err == nil {
			l.Close()
		}
		if out, err := exec.Command("nft", "list", "table", "inet", "hezi-goes").CombinedOutput(); (err == nil) != (x.v4 || x.v6) {
			t.Errorf("rules %+v: the table: %v: %s", x, err, out)
		}
		box = now
	}
}
