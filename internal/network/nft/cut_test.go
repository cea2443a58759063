package nft

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hezi/internal/network/egress"
)

// TestFlowsAreGivenUp: connections of before that are over are not judged for ever, so
// that a policy that changes often does not fill the kernel with them.
func TestFlowsAreGivenUp(t *testing.T) {
	alone(t)
	table, err := Open(Config{Table: "hezi"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := egress.Parse("none")
	if err != nil {
		t.Fatal(err)
	}
	guards := Guards{table}
	mac := net.HardwareAddr{2, 66, 0, 0, 0, 1}
	g := Guard{Bridge: "hezi0", Port: "hz0", MAC: mac, BridgeMAC: mac, Addresses: []netip.Addr{netip.MustParseAddr("172.17.0.2")}, Policies: []*egress.Policy{p}}
	if err := guards.SetGuards(nil, []Guard{g}); err != nil {
		t.Fatal(err)
	}
	flow := func(port uint16, to string) Flow {
		return Flow{unix.IPPROTO_TCP, port, netip.AddrPortFrom(netip.MustParseAddr(to), 443)}
	}
	start := time.Now()
	judge := func(later time.Duration, list ...Flow) {
		t.Helper()
		if err := guards.judge("hz0", list, start.Add(later)); err != nil {
			t.Fatal(err)
		}
	}
	has := func(ports string) {
		t.Helper()
		out := nftTool(t, "list table inet hezi")
		for _, port := range []string{"40001", "40002", "40003", "40004"} {
			if got, want := strings.Contains(out, "tcp . "+port+" . "), strings.Contains(ports, port); got != want {
				t.Errorf("%s is there: %v, not %v:\n%s", port, got, want, out)
			}
		}
	}
	stays, over, over6 := flow(40001, "192.0.2.1"), flow(40002, "192.0.2.1"), flow(40003, "2001:db8::1")
	judge(0, stays, over, over6)
	judge(flowsKept, stays) // may be there again in a moment
	has("40001 40002 40003")
	judge(flowsKept+time.Second, stays, flow(40004, "192.0.2.1"))
	has("40001 40004")
	nftTool(t, "flush ruleset")
	judge(3*flowsKept, stays) // what is taken out is not there: all is written again
	has("40001")
}
