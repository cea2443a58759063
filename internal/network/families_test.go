package network

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
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
