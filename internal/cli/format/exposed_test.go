package format

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// TestExposures: whatever other machines reach has a row, of both families, and nothing
// else has.
func TestExposures(t *testing.T) {
	const mode4, mode6, trusted = "com.docker.network.bridge.gateway_mode_ipv4", "com.docker.network.bridge.gateway_mode_ipv6", "com.docker.network.bridge.trusted_host_interfaces"
	both := network.EndpointSettings{NetworkID: "n", IPAddress: netip.MustParseAddr("10.0.0.2"), GlobalIPv6Address: netip.MustParseAddr("fd00::2")}
	six := network.EndpointSettings{NetworkID: "n", GlobalIPv6Address: netip.MustParseAddr("fd00::2")}
	for _, x := range []struct {
		name     string
		driver   string
		internal bool
		options  map[string]string
		place    network.EndpointSettings
		want     string
	}{
		{"a bridge", "bridge", false, nil, both, ""},
		{"unprotected", "bridge", false, map[string]string{mode4: "nat-unprotected"}, both, "10.0.0.2"},
		{"unprotected and internal", "bridge", true, map[string]string{mode6: "nat-unprotected"}, both, ""},
		{"macvlan", "macvlan", false, nil, both, "10.0.0.2 fd00::2"},
		{"macvlan of IPv6", "macvlan", false, nil, six, "fd00::2"},
		{"internal ipvlan", "ipvlan", true, nil, both, ""},
		{"routed", "bridge", false, map[string]string{mode4: "routed"}, both, "10.0.0.2:80 [::]:8080"},
		{"routed and internal", "bridge", true, map[string]string{mode4: "routed"}, both, "[::]:8080"},
		{"trusted", "bridge", true, map[string]string{trusted: "eth1"}, six, "fd00::2"},
	} {
		c := container.Summary{Names: []string{"/c"}, NetworkSettings: &container.NetworkSettingsSummary{Networks: map[string]*network.EndpointSettings{"lan": &x.place}}}
		if x.options[mode4] == "routed" {
			for _, ip := range []string{"0.0.0.0", "::", "127.0.0.1"} {
				c.Ports = append(c.Ports, container.PortSummary{IP: netip.MustParseAddr(ip), PrivatePort: 80, PublicPort: 8080, Type: "tcp"})
			}
		}
		n := network.Summary{Network: network.Network{ID: "n", Driver: x.driver, Internal: x.internal, Options: x.options}}
		var got []string
		for _, row := range Exposures([]container.Summary{c}, []network.Summary{n}) {
			got = append(got, row.Address)
		}
		if s := strings.Join(got, " "); s != x.want {
			t.Errorf("%s: %q, want %q", x.name, s, x.want)
		}
	}
}
