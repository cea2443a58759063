package flows

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestLinkLocalIsNotSole: what is tracked from an address that several links may have is
// nobody's in particular.
func TestLinkLocalIsNotSole(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("169.254.7.7"), netip.MustParseAddr("fe80::2"), netip.MustParseAddr("fd00::2")}
	s := Seen{own: own}
	for _, from := range []string{"10.0.0.2", "169.254.7.7", "fe80::2", "fd00::2", "10.0.0.3"} {
		s.tracked = append(s.tracked, &netlink.ConntrackFlow{Forward: netlink.IPTuple{Protocol: unix.IPPROTO_UDP, SrcIP: net.ParseIP(from), SrcPort: 1, DstIP: net.ParseIP(from), DstPort: 2}})
	}
	made := s.Made()
	if len(made) != 2 || made[0].To.Addr() != own[0] || made[1].To.Addr() != own[3] {
		t.Errorf("%v", made)
	}
	icmp := &netlink.ConntrackFlow{Forward: netlink.IPTuple{Protocol: unix.IPPROTO_ICMP, SrcIP: net.ParseIP("169.254.7.7")}}
	if unjudged(own).MatchConntrackFlow(icmp) {
		t.Error("a flow from an address of a link would be forgotten")
	}
	icmp.Forward.SrcIP = net.ParseIP("10.0.0.2")
	if !unjudged(own).MatchConntrackFlow(icmp) {
		t.Error("a flow of the container's would not be forgotten")
	}
}
