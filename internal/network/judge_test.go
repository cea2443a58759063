package network

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"
)

// TestJudged: with the host's input rules as judges, a published port is open to whom
// they let in, also from where an administrator changes them while it runs, and its
// container sees the client's address.
func TestJudged(t *testing.T) {
	for _, tool := range []string{"iptables", "ip6tables", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("the test needs Debian's %s: %v", tool, err)
		}
	}
	o := testOptions(t, "judged")
	o.IPv6, o.Judged = true, true
	c := open(t, o)
	world := outsideWorld(t)
	sh(t, `ip addr add 2001:db8:1::1/64 dev world nodad; sysctl -qw net.ipv4.conf.all.rp_filter=1
		ip route add 203.0.113.0/24 via 198.51.100.2
		nsenter --net=`+world+` sh -ec 'for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 0 > $f; done; ip link set lo up
		ip addr add 198.51.100.3/24 dev w0; ip addr add 203.0.113.2/32 dev lo; ip addr add 2001:db8:1::2/64 dev w0 nodad; ip addr add 2001:db8:1::3/64 dev w0 nodad; ip -6 route add default via 2001:db8:1::1'`)
	t.Cleanup(func() {
		sh(t, "sysctl -qw net.ipv4.conf.all.rp_filter=0; iptables -P INPUT ACCEPT; iptables -F INPUT; ip6tables -P INPUT ACCEPT; ip6tables -F INPUT; nft delete table inet firewalld 2>/dev/null || true")
	})
	ports := bind("80/tcp", "", "8380")
	ports[network.MustParsePort("80/udp")] = []network.PortBinding{{HostPort: "8380"}}
	ports[network.MustParsePort("81/tcp")] = []network.PortBinding{{HostPort: "8381"}} // nobody listens
	s := join(t, c, "a", ports)
	serveBoth(t, s.Path)
	serveBoth(t, join(t, c, "l", bind("80/tcp", "::%lan", "8382")).Path)
	serveBoth(t, join(t, c, "o", bind("80/tcp", "198.51.100.1", "8383")).Path)
	reach80 := network.PortMap{}
	for i := range uint16(100) { // a range, the same inside
		p, _ := network.PortFrom(80+i, network.TCP)
		reach80[p] = []network.PortBinding{{HostPort: p.Port()}}
	}
	serveBoth(t, join(t, c, "r", reach80).Path)
	b := join(t, c, "b", nil)
	reached := func(source, addr string) {
		t.Helper()
		who, err := askFrom(world, source, addr)
		if err != nil || who != source {
			t.Errorf("%s at %s: seen as %q, %v", source, addr, who, err)
		}
	}
	closed := func(source, addr string) {
		t.Helper()
		if _, err := askFrom(world, source, addr); err == nil {
			t.Errorf("%s reaches %s", source, addr)
		}
	}
	host4, host6 := "198.51.100.1:8380", "[2001:db8:1::1]:8380"
	inside := func() { // never judged
		t.Helper()
		answers(t, "", "tcp", "127.0.0.1:8380", "*")
		answers(t, "", "tcp", host4, "*")
		answers(t, b.Path, "tcp", host4, "*")
	}
	// No firewall: everybody's.
	for range 3 {
		reached("198.51.100.2", host4)
		reached("2001:db8:1::2", host6)
	}
	sh(t, "ip link del "+judgeDevice(c.short)) // is made anew
	eventually(t, "after the devices were deleted", func() error {
		_, err := askFrom(world, "198.51.100.2", host4)
		return err
	})
	reached("2001:db8:1::2", host6)
	reached("203.0.113.2", host4)
	answers(t, world, "udp", host4, "198.51.100.2")
	reached("198.51.100.2", "198.51.100.1:8383")
	reached("198.51.100.2", "198.51.100.1:80")
	reached("198.51.100.2", "198.51.100.1:8382")
	closed("203.0.113.2", "198.51.100.1:8382") // beyond the networks of the host
	closed("198.51.100.2", "198.51.100.1:8381")
	inside()

	// As ufw has it: default deny, related, and what is allowed.
	sh(t, `for x in iptables ip6tables; do
		$x -P INPUT DROP
		$x -A INPUT -i lo -j ACCEPT
		$x -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
		$x -A INPUT -m conntrack --ctstate INVALID -j DROP
	done
	ip6tables -A INPUT -p ipv6-icmp -j ACCEPT`)
	closed("198.51.100.2", host4)
	closed("2001:db8:1::2", host6)
	closed("198.51.100.2", "198.51.100.1:8382")
	closed("198.51.100.2", "198.51.100.1:8383")
	if who, err := ask(world, "udp", host4); err == nil {
		t.Errorf("udp: reached, as %q", who)
	}
	inside()
	sh(t, `iptables -A INPUT -p tcp --dport 8380 -s 198.51.100.2 -j ACCEPT; ip6tables -A INPUT -p tcp --dport 8380 -s 2001:db8:1::2 -j ACCEPT`)
	reached("198.51.100.2", host4)
	reached("2001:db8:1::2", host6)
	closed("198.51.100.3", host4)
	closed("2001:db8:1::3", host6)
	if who, err := ask(world, "udp", host4); err == nil {
		t.Errorf("udp: reached, as %q", who)
	}
	sh(t, `iptables -A INPUT -p udp --dport 8380 -j ACCEPT`)
	answers(t, world, "udp", host4, "198.51.100.2")
	// ufw deny, before what is allowed.
	sh(t, `iptables -I INPUT -p tcp --dport 8380 -j DROP`)
	closed("198.51.100.2", host4)
	inside()
	sh(t, `iptables -P INPUT ACCEPT; iptables -F INPUT; ip6tables -P INPUT ACCEPT; ip6tables -F INPUT`)
	reached("198.51.100.3", host4)

	// As firewalld has it: one chain for all, which rejects, after zones by source.
	sh(t, `nft -f - <<'N'
add table inet firewalld
add chain inet firewalld filter_INPUT { type filter hook input priority 10; policy accept; }
add chain inet firewalld filter_IN_public
add rule inet firewalld filter_IN_public tcp dport 8380 ip saddr 198.51.100.3 ct state new,untracked accept
add rule inet firewalld filter_INPUT ct state established,related accept
add rule inet firewalld filter_INPUT iifname lo accept
add rule inet firewalld filter_INPUT meta l4proto ipv6-icmp accept
add rule inet firewalld filter_INPUT jump filter_IN_public
add rule inet firewalld filter_INPUT ct state invalid drop
add rule inet firewalld filter_INPUT reject with icmpx admin-prohibited
N`)
	reached("198.51.100.3", host4)
	closed("198.51.100.2", host4)
	closed("2001:db8:1::2", host6)
	sh(t, "nft delete table inet firewalld")

	// Nobody learns of the mark, and what others remove comes back.
	if have := sh(t, "nft list chain ip hezi-judged-judged judged"); !strings.Contains(have, "dup to 192.0.0.9") {
		t.Errorf("%s", have)
	}
	sh(t, "nft flush ruleset")
	restored := false
	for range 40 {
		if _, err := askFrom(world, "198.51.100.2", host4); err == nil {
			restored = true
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if !restored {
		t.Error("after a foreign flush the port stays closed")
	}
	sh(t, `iptables -A INPUT -p tcp --dport 8380 -j DROP`)
	closed("198.51.100.2", host4)
	sh(t, `iptables -F INPUT`)

	// The policy can be changed while containers run.
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	o.Judged = false
	c = open(t, o)
	sh(t, `iptables -A INPUT -p tcp --dport 8380 -j DROP`)
	reached("198.51.100.2", host4)
	if err := c.Sweep(); err != nil { // nobody is adopted
		t.Fatal(err)
	}
	if have := sh(t, "nft list tables; ip -br link"); strings.Contains(have, "judged-judged") || strings.Contains(have, "hezi-fw") {
		t.Errorf("left of the other policy: %s", have)
	}
}
