package network

import (
	"context"
	"net/netip"
	"strings"
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

// TestInUse: who asks for what another has is told who that is, of both families.
func TestInUse(t *testing.T) {
	c := open(t, testOptions(t, "inuse"))
	a, p := netip.MustParseAddr, netip.MustParsePrefix
	lanOf(t, c, "n", network.CreateRequest{IPAM: &network.IPAM{Config: []network.IPAMConfig{{Subnet: p("10.221.1.0/24")}, {Subnet: p("fd21::/64")}}}})
	joinAt(t, c, "first", EndpointRequest{Network: "n", IPv4: a("10.221.1.9"), IPv6: a("fd21::9"), MAC: "02:00:00:00:00:09"})
	joinAt(t, c, "second", EndpointRequest{Network: "bridge"})
	for _, x := range []struct {
		q    EndpointRequest
		is   func(error) bool
		want string
	}{
		{EndpointRequest{IPv4: a("10.221.1.9")}, errdefs.IsPermissionDenied, "Address already in use: 10.221.1.9 (by the container first): choose another --ip"},
		{EndpointRequest{IPv6: a("fd21::9")}, errdefs.IsPermissionDenied, "Address already in use: fd21::9 (by the container first): choose another --ip6"},
		{EndpointRequest{IPv6: a("fd21::1")}, errdefs.IsPermissionDenied, "Address already in use: fd21::1 (by the network's gateway)"},
		{EndpointRequest{IPv4: a("10.221.1.255")}, errdefs.IsPermissionDenied, "Address already in use: 10.221.1.255: choose another"},
		{EndpointRequest{IPv6: a("fd22::9")}, errdefs.IsInvalidArgument, "no configured subnet contains IP address fd22::9: choose one of fd21::/64"},
		{EndpointRequest{MAC: "02:00:00:00:00:09"}, errdefs.IsConflict, "by the container first"},
		{EndpointRequest{MAC: "03:00:00:00:00:09"}, errdefs.IsInvalidArgument, "the first is even"},
		{EndpointRequest{DriverOpts: map[string]string{"com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.nonsense=1"}}, errdefs.IsInvalidArgument, "is not a sysctl file"},
	} {
		x.q.Network = "n"
		if _, err := c.Connect(context.Background(), "second", x.q); !x.is(err) || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%+v: %v, want %q", x.q, err, x.want)
		}
	}
}
