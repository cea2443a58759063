package network

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"hezi/internal/network/netns"
	"hezi/internal/network/options"
)

// named asks for a network of one family on a device of that name.
func named(driver, option, device string) network.CreateRequest {
	return network.CreateRequest{Driver: driver, EnableIPv6: new(false), Options: map[string]string{option: device}}
}

// TestHostsDevices: what was on the host before a network is not changed by it, and
// stays when it goes or could not be made.
func TestHostsDevices(t *testing.T) {
	o := testOptions(t, "devices")
	c := open(t, o)
	sh(t, `ip link add own0 type veth peer name own0p; ip link add ownbr mtu 1280 type bridge; ip addr add 192.0.2.1/24 dev ownbr; ip addr add 2001:db8::1/64 dev ownbr nodad; ip link set ownbr up`)
	t.Cleanup(func() { exec.Command("sh", "-c", "ip link del own0; ip link del ownbr").Run() })
	there := func(device string) bool { return exec.Command("ip", "link", "show", device).Run() == nil }
	q := named("bridge", options.BridgeName, "own0")
	q.Name = "bad"
	if _, err := c.Create(context.Background(), q); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "own0 is a veth") {
		t.Errorf("a bridge that is none: %v", err)
	}
	if !there("own0") {
		t.Fatal("a network that could not be made took a device of the host's with it")
	}
	lanOf(t, c, "used", named("bridge", options.BridgeName, "ownbr"))
	lanOf(t, c, "made", named("bridge", options.BridgeName, "madebr"))
	look := func(when string) {
		t.Helper()
		out := sh(t, "ip addr show ownbr")
		for _, want := range []string{"192.0.2.1/24", "2001:db8::1/64", "mtu 1280"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s the host's bridge lacks %s: %s", when, want, out)
			}
		}
	}
	look("in use")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, o)
	look("after a restart")
	for _, name := range []string{"used", "made"} {
		if err := c.Remove(context.Background(), name); err != nil {
			t.Error(err)
		}
	}
	look("after the network")
	if there("madebr") {
		t.Error("the bridge that was made for a network outlives it")
	}
}

// TestSharedParent: a VLAN that was made for two networks goes with the second.
func TestSharedParent(t *testing.T) {
	o := testOptions(t, "shared")
	c := open(t, o)
	sh(t, "ip link add own1 type veth peer name own1p; ip link set own1 up")
	t.Cleanup(func() { exec.Command("ip", "link", "del", "own1").Run() })
	there := func() bool { return exec.Command("ip", "link", "show", "own1.7").Run() == nil }
	for _, name := range []string{"one", "two"} {
		q := named("macvlan", "parent", "own1.7")
		q.Name = name
		var lacking netns.NoKindError
		switch _, err := c.Create(context.Background(), q); {
		case errors.As(err, &lacking):
			t.Skip("this kernel has no VLANs (CONFIG_VLAN_8021Q):", err)
		case err != nil:
			t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Dismantle(); err != nil || there() {
		t.Errorf("after the engine was dismantled the device is there: %v, %v", there(), err)
	}
	c = open(t, o)
	for _, x := range []struct {
		name  string
		stays bool
	}{{"one", true}, {"two", false}} {
		if err := c.Remove(context.Background(), x.name); err != nil {
			t.Fatal(err)
		}
		if there() != x.stays {
			t.Errorf("without %s the device is there: %v", x.name, there())
		}
	}
}

// TestKindIsMissing: a network of devices that the kernel lacks is refused when it is made,
// and leaves nothing.
func TestKindIsMissing(t *testing.T) {
	c := open(t, testOptions(t, "lacks"))
	sh(t, "ip link add own3 type veth peer name own3p; ip link set own3 up")
	t.Cleanup(func() { exec.Command("ip", "link", "del", "own3").Run() })
	if err := netns.HasKind("hezivlan"); err == nil || !strings.Contains(err.Error(), "modprobe hezivlan") {
		t.Errorf("a kind that no kernel has: %v", err)
	}
	for _, kind := range []string{"macvlan", "ipvlan"} {
		lacks := exec.Command("ip", "link", "add", "probe3", "link", "own3", "type", kind).Run() != nil
		if !lacks {
			sh(t, "ip link del probe3")
		}
		q := named(kind, "parent", "own3")
		q.Name = kind
		_, err := c.Create(context.Background(), q)
		var lacking netns.NoKindError
		if errors.As(err, &lacking) != lacks || err != nil && !lacks {
			t.Errorf("%s, which the kernel lacks: %v: %v", kind, lacks, err)
		}
		if err == nil {
			err = c.Remove(context.Background(), kind)
		}
		if _, gone := c.Inspect(context.Background(), kind); err != nil && !lacks || gone == nil {
			t.Errorf("%s: %v, %v", kind, err, gone)
		}
	}
}

// TestDeviceComesLater: an engine starts while a network cannot be made, touches nothing
// of the device that is in its way, and makes it when a container comes after that went.
func TestDeviceComesLater(t *testing.T) {
	o := testOptions(t, "comes")
	c := open(t, o)
	ctx := context.Background()
	sh(t, "ip link add own2 type veth peer name own2p; ip link set own2 up")
	t.Cleanup(func() { exec.Command("sh", "-c", "ip link del own2; ip link del comesbr").Run() })
	lanOf(t, c, "bridged", named("bridge", options.BridgeName, "comesbr"))
	q := named("macvlan", "parent", "own2")
	q.Name = "parental"
	_, err := c.Create(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	sh(t, "ip link del own2; ip link del comesbr; ip link add comesbr type veth peer name comesp; ip link set comesbr up")
	c = open(t, o)
	for _, name := range []string{"bridged", "parental"} {
		if _, err := c.Join(ctx, SandboxRequest{ContainerID: "a", Endpoints: []EndpointRequest{{Network: name}}}); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "the network "+name+" cannot be used: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if out := sh(t, "cat /proc/sys/net/ipv4/conf/comesbr/route_localnet; ip addr show comesbr"); !strings.HasPrefix(out, "0") || strings.Contains(out, "inet ") {
		t.Errorf("a device of the host's was set up: %s", out)
	}
	sh(t, "ip link del comesbr; ip link add own2 type veth peer name own2p; ip link set own2 up")
	joinAt(t, c, "a", at("bridged", ""))
	if _, err := c.Join(ctx, SandboxRequest{ContainerID: "b", Endpoints: []EndpointRequest{{Network: "parental"}}}); err != nil && !strings.Contains(err.Error(), "this kernel has no macvlan") {
		t.Error(err)
	}
	if out := sh(t, "nft list set inet hezi-comes bridges"); !strings.Contains(out, "comesbr") {
		t.Errorf("the firewall does not know the bridge: %s", out)
	}
}

// TestRemovalThatFails: a network whose file stays is there as before.
func TestRemovalThatFails(t *testing.T) {
	c := open(t, testOptions(t, "stays"))
	ctx := context.Background()
	smallLan(t, c, "whole", "10.215.1.0/24")
	file := c.file(c.NetworkID("whole"))
	sh(t, "mv "+file+" "+file+".old; mkdir -p "+file+"/in")
	if err := c.Remove(ctx, "whole"); err == nil {
		t.Fatal("removed")
	}
	sh(t, "rm -r "+file+"; mv "+file+".old "+file)
	joinAt(t, c, "a", at("whole", ""))
	if out := sh(t, "ip addr show hezi-"+c.NetworkID("whole")[:10]+"; nft list set inet hezi-stays subnets"); !strings.Contains(out, " 10.215.1.1/24 ") || !strings.Contains(out, "10.215.1.0/24") {
		t.Error(out)
	}
	c.Release("a")
	if err := c.Remove(ctx, "whole"); err != nil {
		t.Error(err)
	}
}

// TestSetAside: a network whose file cannot be read keeps no other from work, is warned
// of, and is there again when its file is mended.
func TestSetAside(t *testing.T) {
	o := testOptions(t, "aside")
	c := open(t, o)
	ctx := context.Background()
	smallLan(t, c, "whole", "10.216.1.0/24")
	smallLan(t, c, "broken", "10.216.2.0/24")
	id := c.NetworkID("broken")
	file := c.file(id)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	was, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := os.WriteFile(file, was[:len(was)/2], 0o600); err != nil {
			t.Fatal(err)
		}
		c = open(t, o)
		joinAt(t, c, "a", at("whole", ""))
		if _, err := c.Join(ctx, SandboxRequest{ContainerID: "b", Endpoints: []EndpointRequest{{Network: "broken"}}}); !errdefs.IsNotFound(err) {
			t.Errorf("of a network that cannot be read: %v", err)
		}
		if w := strings.Join(c.Warnings(), "\n"); !strings.Contains(w, file+".broken") {
			t.Errorf("no warning: %s", w)
		}
		c.Release("a")
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{file + ".broken", file + ".2.broken"} {
		if have, err := os.ReadFile(name); err != nil || string(have) != string(was[:len(was)/2]) {
			t.Errorf("%s: %q %v", name, have, err)
		}
	}
	if err := errors.Join(os.WriteFile(file, was, 0o600), os.Remove(file+".broken"), os.Remove(file+".2.broken")); err != nil {
		t.Fatal(err)
	}
	c = open(t, o)
	if c.NetworkID("broken") != id || strings.Contains(strings.Join(c.Warnings(), "\n"), "set aside") {
		t.Error("the network is not there when its file is mended", c.Warnings())
	}
}
