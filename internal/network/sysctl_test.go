package network

import (
	"context"
	"os"
	"strings"
	"testing"

	"hezi/internal/network/options"
)

// TestEndpointSysctls: the settings that an endpoint's driver options ask for are the
// interface's, and nothing else's.
func TestEndpointSysctls(t *testing.T) {
	c := open(t, testOptions(t, "sysctl"))
	ctx := context.Background()
	smallLan(t, c, "own", "10.213.1.0/24")
	smallLan(t, c, "later", "10.213.2.0/24")
	q := at("own", "")
	q.DriverOpts = map[string]string{options.IfName: "up.link", options.Sysctls: "net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.conf.IFNAME.forwarding=0"}
	joinAt(t, c, "a", q)
	q.Network, q.DriverOpts = "later", map[string]string{options.Sysctls: "net.ipv4.conf.IFNAME.log_martians=1"}
	s, err := c.Connect(ctx, "a", q)
	if err != nil {
		t.Fatal(err)
	}
	read := func(path, key string) (value string) {
		if err := in(path, func() error {
			b, err := os.ReadFile("/proc/sys/" + key)
			value = strings.TrimSpace(string(b))
			return err
		}); err != nil {
			t.Error(err)
		}
		return value
	}
	for _, key := range []string{"net/ipv4/conf/up.link/log_martians", "net/ipv4/conf/" + s.Endpoints[1].Interface + "/log_martians"} {
		if got := read(s.Path, key); got != "1" {
			t.Errorf("%s is %s", key, got)
		}
	}
	if got := read(s.Path, "net/ipv4/conf/up.link/forwarding"); got != "0" {
		t.Errorf("forwarding is %s", got)
	}
	for _, bad := range []string{"net.ipv4.conf.IFNAME.nothing=1", "net.ipv6.conf.IFNAME.nothing=1", "net.ipv4.conf.all.forwarding=1", "net.ipv4.conf.IFNAME./../x=1",
		"net/ipv4/conf/IFNAME/forwarding=1", "kernel.ipv4.conf.IFNAME.x=1", "net.ipv4.....IFNAME.x=1", "net.ipv4.conf.IFNAME.forwarding"} {
		q.Network, q.DriverOpts = "own", map[string]string{options.Sysctls: bad}
		if _, err := c.Join(ctx, SandboxRequest{ContainerID: "b", Endpoints: []EndpointRequest{q}}); err == nil {
			t.Error(bad, "is accepted")
			c.Release("b")
		}
	}
}
