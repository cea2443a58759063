package nft

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"hezi/internal/network/egress"
)

// TestLearnedEnds: the addresses of a name are there until their time is over, also after
// the rules were written again; one that is heard of again stays.
func TestLearnedEnds(t *testing.T) {
	alone(t)
	table, err := Open(Config{Table: "hezi"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := egress.Parse("allow=example.org:443")
	if err != nil {
		t.Fatal(err)
	}
	guards := Guards{table}
	mac := net.HardwareAddr{2, 66, 0, 0, 0, 1}
	g := Guard{Bridge: "hezi0", Port: "hz0", MAC: mac, BridgeMAC: mac, Addresses: []netip.Addr{netip.MustParseAddr("172.17.0.2")}, Policies: []*egress.Policy{p}}
	if err := guards.SetGuards(nil, []Guard{g}); err != nil {
		t.Fatal(err)
	}
	learn := func(a string, good time.Duration) {
		t.Helper()
		if err := guards.Learn([]Learned{{"hz0", Names{0, 0}, p, []netip.Addr{netip.MustParseAddr(a)}}}, good); err != nil {
			t.Fatal(err)
		}
	}
	learn("192.0.2.1", 2*time.Second-learnSlack)
	learn("192.0.2.2", 2*time.Second-learnSlack)
	learn("192.0.2.2", time.Minute)
	learn("2001:db8::1", time.Minute)
	other, err := egress.Parse("allow=example.com:22")
	if err != nil {
		t.Fatal(err)
	}
	late := []netip.Addr{netip.MustParseAddr("192.0.2.3")}
	if err := guards.Learn([]Learned{{"hz0", Names{0, 0}, other, late}, {"hz0", Names{1, 0}, p, late}}, time.Minute); err != nil {
		t.Fatal(err)
	}
	if out := nftTool(t, "list table inet hezi"); strings.Contains(out, "192.0.2.3") {
		t.Error("an address of a policy that is not the guard's any more was learned:\n" + out)
	}
	has := func(a string) bool { return strings.Contains(nftTool(t, "list table inet hezi"), a+" timeout") }
	for range 2 {
		for _, a := range []string{"192.0.2.1", "192.0.2.2", "2001:db8::1"} {
			if !has(a) {
				t.Errorf("%s is not there:\n%s", a, nftTool(t, "list table inet hezi"))
			}
		}
		nftTool(t, "flush ruleset")
		if table.Intact() {
			t.Error("nothing is there, and the table is intact")
		}
		if err := table.Restore(); err != nil || !table.Intact() {
			t.Fatal("restored:", err)
		}
	}
	for n := 0; has("192.0.2.1"); n++ {
		if n == 100 {
			t.Fatal("an address of a name never ends")
		}
		time.Sleep(100 * time.Millisecond)
	}
	if !has("192.0.2.2") || !has("2001:db8::1") {
		t.Error("an address that is good has ended")
	}
	if err := guards.SetGuards([]string{"hz0"}, nil); err != nil {
		t.Fatal(err)
	}
	if out := nftTool(t, "list ruleset"); strings.Contains(out, "egress") || strings.Contains(out, "table bridge") {
		t.Error("something is left:\n" + out)
	}
}
