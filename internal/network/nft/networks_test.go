package nft

import (
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// alone takes the test into a network namespace of its own.
func alone(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("the tests of the network must run as root")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
}

// nftTool runs Debian's nft in the test's namespace.
func nftTool(t *testing.T, words string) string {
	t.Helper()
	out, err := exec.Command("nft", words).CombinedOutput()
	if err != nil {
		t.Fatalf("nft %s: %v: %s", words, err, out)
	}
	return string(out)
}

// TestNetworks: networks come and go as elements, and a second engine finds them.
func TestNetworks(t *testing.T) {
	alone(t)
	p := netip.MustParsePrefix
	first := Network{Bridge: "hezi0", ICC: true, Subnets: []netip.Prefix{p("172.17.0.0/16")}, V4: Family{Masquerade: true}}
	other := Network{Bridge: "hezi-0123456789", Subnets: []netip.Prefix{p("172.18.0.0/24"), p("fd00:1::/64")}, Trusted: []string{"eth1"},
		V4: Family{Source: netip.MustParseAddr("192.0.2.9")}, V6: Family{Routed: true}}
	table, err := Open(Config{Table: "hezi", Networks: []Network{first}})
	if err != nil {
		t.Fatal(err)
	}
	rules := strings.Count(nftTool(t, "list table inet hezi"), "\n")
	if err := table.SetNetwork(other); err != nil {
		t.Fatal(err)
	}
	direct := Direct{Proto: 6, To: netip.MustParseAddrPort("[fd00:1::2]:80")}
	if err := table.SetDirect([]Direct{direct}, nil); err != nil {
		t.Fatal(err)
	}
	has := func(want ...string) {
		t.Helper()
		have := strings.Join(strings.Fields(nftTool(t, "list table inet hezi")), " ")
		for _, w := range want {
			if !strings.Contains(have, w) {
				t.Errorf("the table lacks %q:\n%s", w, nftTool(t, "list table inet hezi"))
			}
		}
	}
	full := []string{
		`elements = { "hezi0", "hezi-0123456789" }`, `"hezi0" . "hezi0"`, `"eth1" . "hezi-0123456789"`,
		`set subnets { type ipv4_addr flags interval elements = { 172.17.0.0/16, 172.18.0.0/24 }`, `set subnets6 { type ipv6_addr flags interval elements = { fd00:1::/64 }`,
		`set masked { type ipv4_addr flags interval elements = { 172.17.0.0/16 }`, `172.18.0.0/24 : 192.0.2.9`,
		`set routed6 { type ifname elements = { "hezi-0123456789" }`, `fd00:1::2 . tcp . 80`,
	}
	has(full...)
	if strings.Contains(nftTool(t, "list set inet hezi between"), `"hezi-0123456789" . "hezi-0123456789"`) {
		t.Error("containers of a network without ICC are let through")
	}

	// The same engine again changes nothing; one whose networks are others does.
	again, err := Open(Config{Table: "hezi", Networks: []Network{first, other}})
	if err != nil || !again.Intact() || !again.sameNetworks(connectOr(t)) {
		t.Fatal(err)
	}
	has(full...)

	// The administrator's rules are asked first, and stay whatever is written anew.
	nftTool(t, `add rule inet hezi hezi-user ip saddr { 192.0.2.1, 192.0.2.2 } drop`)
	nftTool(t, "flush chain inet hezi forward")
	if again.Intact() {
		t.Error("a chain without its rules is said to be intact")
	}
	if err := again.Restore(); err != nil || !again.Intact() {
		t.Fatal(err)
	}
	has(append(full, "ip saddr { 192.0.2.1, 192.0.2.2 } drop", "jump hezi-user")...)
	if n := strings.Count(nftTool(t, "list table inet hezi"), "\n"); n > rules+30 {
		t.Errorf("%d lines, %d with one network", n, rules)
	}

	if err := again.RemoveNetwork("hezi-0123456789"); err != nil {
		t.Fatal(err)
	}
	if err := again.SetDirect(nil, []Direct{direct}); err != nil {
		t.Fatal(err)
	}
	if have := nftTool(t, "list table inet hezi"); strings.Contains(have, "0123456789") || strings.Contains(have, "172.18") || strings.Contains(have, "fd00") {
		t.Errorf("a removed network left\n%s", have)
	}
	if err := again.Destroy(); err != nil {
		t.Fatal(err)
	}
	if have := nftTool(t, "list table inet hezi"); !strings.Contains(have, "192.0.2.1") || strings.Contains(have, "postrouting") {
		t.Errorf("of the table is left\n%s", have)
	}
	nftTool(t, "flush ruleset")
	if err := again.Destroy(); err != nil {
		t.Error(err)
	}
}

// TestInternalAsked: known connections are asked for internal networks where there is one,
// from the first to the last, and another engine finds the rules as it would write them.
func TestInternalAsked(t *testing.T) {
	alone(t)
	one := Network{Bridge: "hezi0", ICC: true}
	inside, second := Network{Bridge: "hezi1", ICC: true, Internal: true}, Network{Bridge: "hezi2", Internal: true}
	table, err := Open(Config{Table: "hezi", Networks: []Network{one}})
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, asked bool, networks ...Network) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		chain := nftTool(t, "list chain inet hezi forward")
		want := "ct state established,related accept"
		if asked {
			want = `ct state established,related iifname != @internal oifname != @internal accept`
		}
		if !strings.Contains(chain, want) {
			t.Errorf("%s: no %q in %s", what, want, chain)
		}
		again, err := Open(Config{Table: "hezi", Networks: networks})
		if err != nil || !table.Intact() || !again.Intact() {
			t.Errorf("%s: not intact: %v", what, err)
		}
	}
	check("none", false, one)
	err = table.SetNetwork(inside)
	check("the first", true, one, inside)
	err = table.SetNetwork(second)
	check("two", true, one, inside, second)
	err = table.RemoveNetwork("hezi1")
	check("one of two removed", true, one, second)
	err = table.RemoveNetwork("hezi2")
	check("the last removed", false, one)
	other, err := Open(Config{Table: "hezi", Networks: []Network{one, inside}}) // the network came while no engine ran
	if err != nil || !other.Intact() {
		t.Fatal(err)
	}
	table = other
	check("found", true, one, inside)
}

// TestFromIPv4: what a table of an earlier version published is taken over.
func TestFromIPv4(t *testing.T) {
	alone(t)
	nftTool(t, `add table ip hezi
add map ip hezi published { type inet_proto . inet_service : ipv4_addr . inet_service ; }
add map ip hezi published_at { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service ; }
add element ip hezi published { tcp . 8080 : 172.17.0.2 . 80 }`)
	table, err := Open(Config{Table: "hezi"})
	if err != nil || table.Len() != 1 {
		t.Fatal(table.Len(), err)
	}
	if have := nftTool(t, "list ruleset"); strings.Contains(have, "table ip hezi") || !strings.Contains(have, "tcp . 8080 : 172.17.0.2 . 80") {
		t.Errorf("%s", have)
	}
}

func connectOr(t *testing.T) *nftables.Conn {
	t.Helper()
	c, err := connect()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestManyDirect: more open ports than one message can carry are added without writing
// the whole table anew, which shows in what others put into it.
func TestManyDirect(t *testing.T) {
	alone(t)
	table, err := Open(Config{Table: "hezi"})
	if err != nil {
		t.Fatal(err)
	}
	chain := func() string { // with the numbers of its rules
		out, err := exec.Command("nft", "-a", "list", "chain", "inet", "hezi", "forward").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	before := chain()
	var list []Direct
	for p := range 20000 {
		list = append(list, Direct{6, netip.AddrPortFrom(netip.MustParseAddr("fd00:1::2"), uint16(p+1))})
	}
	if err := table.SetDirect(list, nil); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(nftTool(t, "list set inet hezi direct6"), "fd00:1::2"); n != len(list) {
		t.Errorf("%d elements, want %d", n, len(list))
	}
	if err := table.SetDirect(nil, list); err != nil {
		t.Fatal(err)
	}
	if out := chain(); out != before {
		t.Errorf("the chain was written anew: %s, was %s", out, before)
	}
}
