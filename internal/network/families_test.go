package network

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

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
			if have, err := os.ReadFile("/proc/sys/" + localnet(name)); err != nil || strings.TrimSpace(string(have)) != x.want {
				t.Errorf("iptables %v, ip6tables %v: %s is %q (%v), not %s", x.v4, x.v6, localnet(name), have, err, x.want)
			}
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if x.gone {
			if err := c.Dismantle(); err != nil {
				t.Fatal(err)
			}
			if have, err := os.ReadFile("/proc/sys/" + localnet("localbr")); err != nil || strings.TrimSpace(string(have)) != "0" {
				t.Errorf("after the rules have gone: %s is %q (%v)", localnet("localbr"), have, err)
			}
		}
	}
}
