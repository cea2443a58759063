package network

import (
	"context"
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

// TestBadNetworks: what cannot be is refused with a class that says whose fault it is,
// and leaves nothing.
func TestBadNetworks(t *testing.T) {
	c := open(t, testOptions(t, "bad"))
	a, p := netip.MustParseAddr, netip.MustParsePrefix
	ipam := func(i network.IPAMConfig) network.CreateRequest {
		return network.CreateRequest{EnableIPv6: new(true), IPAM: &network.IPAM{Config: []network.IPAMConfig{i}}}
	}
	option := func(key, value string) network.CreateRequest {
		return network.CreateRequest{Options: map[string]string{key: value}}
	}
	for name, x := range map[string]struct {
		q    network.CreateRequest
		want func(error) bool
	}{
		"network address as gateway": {ipam(network.IPAMConfig{Subnet: p("10.220.1.0/24"), Gateway: a("10.220.1.0")}), errdefs.IsPermissionDenied},
		"broadcast as gateway":       {ipam(network.IPAMConfig{Subnet: p("10.220.1.0/24"), Gateway: a("10.220.1.255")}), errdefs.IsPermissionDenied},
		"gateway with two uses":      {ipam(network.IPAMConfig{Subnet: p("10.220.1.0/24"), Gateway: a("10.220.1.7"), AuxAddress: map[string]netip.Addr{"x": a("10.220.1.7")}}), errdefs.IsPermissionDenied},
		"no gateway left":            {ipam(network.IPAMConfig{Subnet: p("10.220.1.0/24"), IPRange: p("10.220.1.255/32")}), errdefs.IsPermissionDenied},
		"gateway elsewhere":          {ipam(network.IPAMConfig{Subnet: p("10.220.1.0/24"), Gateway: a("10.220.2.1")}), errdefs.IsInvalidArgument},
		"gateway of the other kind":  {ipam(network.IPAMConfig{Subnet: p("10.220.1.0/24"), Gateway: a("::ffff:10.220.1.1")}), errdefs.IsInvalidArgument},
		"everything":                 {ipam(network.IPAMConfig{Subnet: p("0.0.0.0/0")}), errdefs.IsPermissionDenied},
		"loopback":                   {ipam(network.IPAMConfig{Subnet: p("127.1.0.0/16")}), errdefs.IsInvalidArgument},
		"IPv4 as IPv6":               {ipam(network.IPAMConfig{Subnet: p("::ffff:10.220.1.0/120")}), errdefs.IsInvalidArgument},
		"no host in it":              {ipam(network.IPAMConfig{Subnet: p("10.220.1.0/31")}), errdefs.IsInvalidArgument},
		"no subnet":                  {ipam(network.IPAMConfig{Gateway: a("10.220.1.1")}), errdefs.IsInvalidArgument},
		"slash in a device":          {option("com.docker.network.bridge.name", "../../x"), errdefs.IsInvalidArgument},
		"long device":                {option("com.docker.network.bridge.name", "sixteen-letters-"), errdefs.IsInvalidArgument},
		"null in a device":           {option("com.docker.network.bridge.name", "lo\x00x"), errdefs.IsInvalidArgument},
		"no bridge":                  {option("com.docker.network.bridge.name", "lo"), errdefs.IsInvalidArgument},
		"slash in a prefix":          {option("com.docker.network.container_iface_prefix", "a/b"), errdefs.IsInvalidArgument},
		"a name of ours":             {network.CreateRequest{Name: "host"}, errdefs.IsPermissionDenied},
	} {
		if x.q.Name == "" {
			x.q.Name = "bad"
		}
		if _, err := c.Create(context.Background(), x.q); !x.want(err) {
			t.Errorf("%s: %v", name, err)
			_ = c.Remove(context.Background(), "bad")
		}
	}
	list, err := c.List(context.Background(), nil)
	if err != nil || len(list) != 3 {
		t.Errorf("%d networks (%v)", len(list), err)
	}
}
