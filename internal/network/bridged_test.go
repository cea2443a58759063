package network

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/network"

	"hezi/internal/network/netns"
)

// TestBridgeNetfilter: rules for forwarded packets see what neighbours send each other as
// the host has it, or not; networks stay apart, and published ports are reached, either way.
func TestBridgeNetfilter(t *testing.T) {
	const setting = "/proc/sys/net/bridge/bridge-nf-call-"
	if _, err := os.Stat(setting + "iptables"); err != nil {
		t.Log("br_netfilter is not loaded: what is off stays off")
	}
	set := func(value string) {
		for _, f := range []string{"iptables", "ip6tables"} {
			if err := os.WriteFile(setting+f, []byte(value), 0o600); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
	}
	t.Cleanup(func() { set("1") })
	for _, off := range []bool{false, true} {
		t.Run(fmt.Sprint("off=", off), func(t *testing.T) {
			set("1")
			filtered := netns.BridgesFiltered() && !off
			id := fmt.Sprint("bridged", off)
			o := testOptions(t, id)
			o.BridgesOnly = off
			c := open(t, o)
			if netns.BridgesFiltered() != filtered {
				t.Errorf("off %v: filtered %v", off, !filtered)
			}
			lanOf(t, c, "red", network.CreateRequest{})
			lanOf(t, c, "blue", network.CreateRequest{})
			a, b, other := c.box(t, "a", "", bind("80/tcp", "", "9200"), "red"), c.box(t, "b", "", nil, "red"), c.box(t, "other", "", nil, "blue")
			sh(t, "nft add rule inet hezi-"+id+" hezi-user tcp dport 81 drop")
			defer func() { sh(t, "nft flush chain inet hezi-"+id+" hezi-user") }() // or it drops what is other tests'
			for i := range 2 {
				v4, v6 := addressesIn(b, 0)
				to := []netip.Addr{v4, v6}[i]
				reaches(t, a, to, 80, true, "a neighbour")
				// Nobody listens at 81: the refusal comes back where the rule is not asked.
				_, err := ask(a.Path, "tcp", netip.AddrPortFrom(to, 81).String())
				if refused := err != nil && strings.Contains(err.Error(), "refused"); refused == filtered {
					t.Errorf("off %v: a rule of the administrator's for forwarded packets, between neighbours: %v", off, err)
				}
				v4, v6 = addressesIn(other, 0)
				if _, err := ask(a.Path, "tcp", netip.AddrPortFrom([]netip.Addr{v4, v6}[i], 80).String()); err == nil {
					t.Errorf("off %v: another network is reached", off)
				}
			}
			host := a.Endpoints[0].Settings.Gateway
			for _, from := range []*Sandbox{a, b, other, nil} {
				reaches(t, from, host, 9200, true, "a published port")
			}
			if off {
				warned := func() bool { return strings.Contains(strings.Join(c.Warnings(), "\n"), "bridge-netfilter") }
				before := warned()
				set("1")
				if after := warned(); before || after != netns.BridgesFiltered() {
					t.Errorf("it is said that it was switched on again: %v before, %v after", before, after)
				}
			}
		})
	}
}
