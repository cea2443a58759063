package network

import (
	"os/exec"
	"testing"

	"github.com/moby/moby/api/types/network"
)

// TestRoutesThatLeadOut: routes of a VPN that takes everything are no networks that ours
// could overlap.
func TestRoutesThatLeadOut(t *testing.T) {
	sh(t, `ip link add tun9 type veth peer name tun9p; ip link set tun9p up; ip addr add 198.18.7.2/24 dev tun9; ip link set tun9 up
		ip route add 0.0.0.0/1 dev tun9; ip route add 128.0.0.0/1 dev tun9; ip -6 route add 8000::/1 dev tun9`)
	t.Cleanup(func() { exec.Command("ip", "link", "del", "tun9").Run() })
	o := testOptions(t, "vpn")
	c := open(t, o)
	lanOf(t, c, "beside", network.CreateRequest{})
	if w := c.overlaps(); len(w) > 0 {
		t.Error(w)
	}
}
