package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hezi/internal/network/flows"
	"hezi/internal/network/netns"
)

// eventually asks until f has no error.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for range 400 { // the kernel may take long to end a namespace
		if err = f(); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("%s: %v", what, err)
}

// answers asks until the server at addr says that we are who ("*": anybody).
func answers(t *testing.T, from, proto, addr, who string) {
	t.Helper()
	eventually(t, proto+" to "+addr, func() error {
		got, err := ask(from, proto, addr)
		if err == nil && who != "*" && got != who {
			return fmt.Errorf("seen as %s, not %s", got, who)
		}
		return err
	})
}

// dockersFirewall is what Docker writes, by iptables-nft, where no container of
// its own runs.
func dockersFirewall(t *testing.T) {
	t.Helper()
	sh(t, `nft -f - <<!
	table ip filter {
		chain DOCKER-USER { counter return
		}
		chain FORWARD {
			type filter hook forward priority filter; policy drop
			counter jump DOCKER-USER
		}
	}
!`)
	t.Cleanup(func() { exec.Command("nft", "delete", "table", "ip", "filter").Run() })
}

// TestBesideDocker: Docker drops what is forwarded. Containers have their network
// all the same, whoever starts first, and nothing more comes in than without Docker.
func TestBesideDocker(t *testing.T) {
	for _, first := range []bool{true, false} {
		t.Run(fmt.Sprint("docker first ", first), func(t *testing.T) {
			if first {
				dockersFirewall(t)
			}
			c := open(t, testOptions(t, fmt.Sprint("docker", first)))
			world := outsideWorld(t)
			a := join(t, c, "a", bind("80/tcp", "", "8080"))
			serve(t, a.Path)
			serve(t, world)
			if !first {
				dockersFirewall(t)
			}
			answers(t, world, "tcp", "198.51.100.1:8080", "198.51.100.2")
			answers(t, a.Path, "tcp", "198.51.100.2:80", "198.51.100.1")
			if _, err := ask(world, "tcp", a.Endpoints[0].Settings.IPAddress.String()+":80"); err == nil {
				t.Error("an address that is not published is reachable")
			}
			if w := c.Warnings(); len(w) > 0 {
				t.Errorf("warnings: %q", w)
			}
			if got := sh(t, "nft list chain ip filter DOCKER-USER"); strings.Count(got, `"hezi*"`) != 2 {
				t.Errorf("DOCKER-USER: %s", got)
			}
			sh(t, "nft flush chain ip filter DOCKER-USER")
			answers(t, world, "tcp", "198.51.100.1:8080", "198.51.100.2") // the chain is filled again
			c.Release("a")
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			if err := c.Dismantle(); err != nil {
				t.Fatal(err)
			}
			if got := sh(t, "nft list chain ip filter DOCKER-USER"); strings.Contains(got, "hezi") {
				t.Errorf("rules are left in DOCKER-USER: %s", got)
			}
		})
	}
}

// TestOtherFirewalls: an administrator's drop is left alone, and said with what to do.
func TestOtherFirewalls(t *testing.T) {
	c := open(t, testOptions(t, "admin"))
	for _, x := range []struct{ table, chains, remedy string }{
		{"ip filter", `chain ufw-user-forward { }
			chain FORWARD { type filter hook forward priority filter; policy drop; jump ufw-user-forward; }`, "ufw route allow in on hezi+"},
		{"inet firewalld", "chain filter_FORWARD { type filter hook forward priority filter + 10; policy accept; reject; }", "--add-interface=hezi+"},
		{"inet mine", "chain f { type filter hook forward priority 0; policy drop; }", "nft insert rule inet mine f iifname hezi* accept"},
	} {
		sh(t, fmt.Sprintf("nft -f - <<!\ntable %s {\n%s\n}\n!", x.table, x.chains))
		before := sh(t, "nft list table "+x.table)
		if w := c.Warnings(); len(w) != 1 || !strings.Contains(w[0], x.remedy) {
			t.Errorf("%s: warnings %q", x.table, w)
		}
		time.Sleep(settled)
		if after := sh(t, "nft list table "+x.table); after != before {
			t.Errorf("the table was changed from\n%s\nto\n%s", before, after)
		}
		sh(t, "nft delete table "+x.table)
		if w := c.Warnings(); len(w) != 0 {
			t.Errorf("without %s: warnings %q", x.table, w)
		}
	}
	sh(t, fmt.Sprintf("nft -f - <<!\ntable inet mine { chain f { type filter hook forward priority 0; policy drop; iifname %s accept; }\n}\n!", c.bridge().bridge))
	if w := c.Warnings(); len(w) != 0 {
		t.Errorf("a firewall that knows the bridge: warnings %q", w)
	}
	sh(t, "nft delete table inet mine")
}

// settled is longer than the watch waits for others' changes to end.
const settled = 500 * time.Millisecond

func TestRulesComeBack(t *testing.T) {
	o := testOptions(t, "flush")
	c := open(t, o)
	a := join(t, c, "a", bind("80/tcp", "", "8080"))
	serve(t, a.Path)
	sh(t, "nft add table ip theirs; nft add set ip theirs s { type ipv4_addr \\; }")
	theirs := sh(t, "nft list table ip theirs")
	for _, harm := range []string{"nft flush table inet hezi-flush", "nft delete table inet hezi-flush", "nft flush chain inet hezi-flush output"} {
		sh(t, harm)
		answers(t, "", "tcp", "127.0.0.1:8080", "*")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	sh(t, "nft delete table inet hezi-flush")
	again := open(t, o)
	if _, err := again.Adopt(context.Background(), SandboxRequest{ContainerID: "a", Endpoints: onBridge()}, a); err != nil {
		t.Fatal(err)
	}
	answers(t, "", "tcp", "127.0.0.1:8080", "*") // the table was deleted while no engine ran
	if got := sh(t, "nft list table ip theirs; nft delete table ip theirs"); got != theirs {
		t.Errorf("another table became %s", got)
	}
}

// TestStaleFlows: a client that never stops sending reaches the new container,
// though the kernel saw its packets arrive at nobody in between.
func TestStaleFlows(t *testing.T) {
	c := open(t, testOptions(t, "flows"))
	world := outsideWorld(t)
	var conn net.Conn
	err := in(world, func() (err error) {
		conn, err = net.Dial("udp", "198.51.100.1:8080")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answered := func() error {
		fmt.Fprint(conn, "?")
		conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, err := conn.Read(make([]byte, 64))
		return err
	}
	for round := range 3 {
		for range 3 {
			if answered() == nil {
				t.Error("somebody answers though no port is published")
			}
		}
		id := fmt.Sprint("c", round)
		serve(t, join(t, c, id, bind("80/udp", "", "8080")).Path)
		eventually(t, id, answered)
		c.Release(id)
		released(t, c)
		conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		for b := make([]byte, 64); ; { // late answers
			if _, err := conn.Read(b); errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
		}
	}
}

// TestGoneConnections: when a container is gone and its address can be had again, the
// kernel tracks no connection of it.
func TestGoneConnections(t *testing.T) {
	o := testOptions(t, "gone")
	o.IPv6 = true
	c := open(t, o)
	world := outsideWorld(t)
	sh(t, `ip addr add 2001:db8:1::1/64 dev world nodad; nsenter --net=`+world+` sh -ec 'for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 0 > $f; done; ip addr add 2001:db8:1::2/64 dev w0 nodad; ip -6 route add default via 2001:db8:1::1'`)
	serveBoth(t, world)
	s := join(t, c, "a", bind("80/tcp", "", "8080"))
	t.Run("talk", func(t *testing.T) { // its end closes the servers, which keep the namespace
		serveBoth(t, s.Path)
		answers(t, s.Path, "tcp", "198.51.100.2:80", "*")
		answers(t, s.Path, "tcp", "[2001:db8:1::2]:80", "*")
		answers(t, s.Path, "udp", "198.51.100.2:80", "*")
		answers(t, world, "tcp", "198.51.100.1:8080", "*")
	})
	addresses := s.Addresses()
	tracked := func() (n int) {
		for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			list, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range list {
				for _, a := range addresses {
					if f.Forward.SrcIP.String() == a.String() || f.Reverse.SrcIP.String() == a.String() {
						n++
					}
				}
			}
		}
		return n
	}
	if n := tracked(); n < 4 {
		t.Fatalf("%d connections are tracked, of four", n)
	}
	c.Release("a")
	eventually(t, "no connection is left", func() error {
		c.mu.Lock()
		dying := len(c.dying) + len(c.releasing)
		c.mu.Unlock()
		if n := tracked(); n > 0 || dying > 0 {
			return fmt.Errorf("%d connections, %d devices", n, dying)
		}
		return nil
	})
}

func BenchmarkForgetAddress(b *testing.B) {
	for b.Loop() {
		flows.ForgetAddress(netip.MustParseAddr("172.17.9.9"))
	}
}

// TestAdoptATakenPort: a container that runs keeps its network whatever happened
// to its host port meanwhile.
func TestAdoptATakenPort(t *testing.T) {
	sh(t, "ip addr add 203.0.113.9/32 dev lo")
	o := testOptions(t, "taken")
	first := open(t, o)
	ports := bind("80/tcp", "", "8060")
	for p, b := range bind("81/tcp", "203.0.113.9", "8061") {
		ports[p] = b
	}
	a := join(t, first, "a", ports)
	serve(t, a.Path)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:8060")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sh(t, "ip addr del 203.0.113.9/32 dev lo")
	c := open(t, o)
	if _, err := c.Adopt(context.Background(), SandboxRequest{ContainerID: "a", Endpoints: onBridge(), ContainerName: "/a", Ports: ports}, a); err != nil {
		t.Fatal(err)
	}
	if err := c.Sweep(); err != nil {
		t.Fatal(err)
	}
	answers(t, "", "tcp", "127.0.0.1:8060", "*")
	if _, err := c.Join(context.Background(), SandboxRequest{ContainerID: "b", Endpoints: onBridge(), Ports: bind("80/tcp", "", "8060")}); err == nil || !strings.Contains(err.Error(), "by the container a") {
		t.Errorf("another container got the port: %v", err)
	}
	c.Release("a")
	released(t, c)
}

// released waits until no container has a port or is on its way out.
func released(t *testing.T, c *Controller) {
	t.Helper()
	eventually(t, "ports are free", func() error {
		c.mu.Lock()
		leaving := len(c.releasing)
		c.mu.Unlock()
		if n := c.ports.Len(); n+leaving != 0 {
			return fmt.Errorf("%d are held, %d containers leave", n, leaving)
		}
		return nil
	})
}

// TestNoIPv6 : the bridge takes no router advertisements from containers, and
// containers do not reach each other past the rules.
func TestNoIPv6(t *testing.T) {
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		t.Skip("the kernel has no IPv6")
	}
	c := open(t, testOptions(t, "six"))
	a := join(t, c, "a", nil)
	for _, key := range []string{"disable_ipv6", "accept_ra"} {
		want := map[string]string{"disable_ipv6": "1", "accept_ra": "0"}[key]
		if got := strings.TrimSpace(sh(t, "cat /proc/sys/net/ipv6/conf/"+c.bridge().bridge+"/"+key)); got != want {
			t.Errorf("the bridge's %s is %s", key, got)
		}
	}
	if got := sh(t, "nsenter --net="+a.Path+" ip -6 -o addr show"); strings.Contains(got, "eth0") || !strings.Contains(got, "::1") {
		t.Errorf("a container's IPv6 addresses: %s", got)
	}
}

func TestMTU(t *testing.T) {
	world := outsideWorld(t)
	sh(t, "ip link set world mtu 1420; ip route add default via 198.51.100.2")
	_ = world
	o := testOptions(t, "mtu")
	c := open(t, o)
	a := join(t, c, "a", nil)
	if got := sh(t, "nsenter --net="+a.Path+" ip -o link show eth0; ip -o link show "+c.bridge().bridge); strings.Count(got, "mtu 1420 ") != 2 {
		t.Errorf("not the default route's MTU: %s", got)
	}
	c.Release("a")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	o.MTU = 1400
	c = open(t, o)
	if got := sh(t, "ip -o link show "+c.bridge().bridge); !strings.Contains(got, "mtu 1400 ") {
		t.Errorf("the bridge keeps its MTU: %s", got)
	}
	sh(t, "ip route del default")
	if got := netns.DefaultMTU(); got != 1500 {
		t.Errorf("without a default route the MTU is %d", got)
	}
}
