package network

import (
	"errors"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/network"
)

// TestAnnounced: neighbours that know an address by the MAC of a container of before hear
// that another has it, without asking.
func TestAnnounced(t *testing.T) {
	c := open(t, testOptions(t, "announced"))
	a, p := netip.MustParseAddr, netip.MustParsePrefix
	lanOf(t, c, "n", network.CreateRequest{IPAM: &network.IPAM{Config: []network.IPAMConfig{{Subnet: p("10.222.1.0/24")}, {Subnet: p("fd22::/64")}}}})
	near := joinAt(t, c, "near", EndpointRequest{Network: "n"})
	sh(t, "nsenter --net="+near.Path+" sh -ec 'ip neigh add 10.222.1.9 lladdr 02:00:00:00:00:01 dev eth0 nud reachable; ip neigh add fd22::9 lladdr 02:00:00:00:00:01 dev eth0 nud reachable'")
	joinAt(t, c, "next", EndpointRequest{Network: "n", IPv4: a("10.222.1.9"), IPv6: a("fd22::9"), MAC: "02:00:00:00:00:02"})
	eventually(t, "both addresses are known by the new MAC", func() error {
		out, err := exec.Command("nsenter", "--net="+near.Path, "ip", "neigh").CombinedOutput()
		if err == nil && strings.Count(string(out), "02:00:00:00:00:02") != 2 {
			err = errors.New(string(out))
		}
		return err
	})
}
