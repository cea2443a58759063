// Package flows has the kernel forget connections that it tracks and that are not
// what they were: of a published port or an address that somebody else has now.
package flows

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"hezi/internal/network/nft"
)

// staleFlows are UDP flows that the kernel must forget: a flow that goes on is
// sent where its first packet was, for as long as it goes on.
type staleFlows struct {
	gone  []nft.Forward // to containers that left
	fresh []nft.Forward // to the host, from before the port was published
}

// ForgetPorts drops the connection tracking of published UDP ports, and of
// nothing else.
func ForgetPorts(gone, fresh []nft.Forward) {
	tcp := func(f nft.Forward) bool { return f.Proto != unix.IPPROTO_UDP }
	s := &staleFlows{slices.DeleteFunc(slices.Clone(gone), tcp), slices.DeleteFunc(slices.Clone(fresh), tcp)}
	if len(s.gone)+len(s.fresh) == 0 {
		return
	}
	six := func(f nft.Forward) bool { return f.To.Addr().Is6() }
	four := func(f nft.Forward) bool { return !six(f) }
	for family, has := range map[netlink.InetFamily]func(nft.Forward) bool{netlink.FAMILY_V4: four, netlink.FAMILY_V6: six} {
		if slices.ContainsFunc(s.gone, has) || slices.ContainsFunc(s.fresh, has) {
			_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, s)
			if err != nil {
				slog.Error("forget the flows of a published port", "error", err)
			}
		}
	}
}

var _ netlink.CustomConntrackFilter = (*staleFlows)(nil)

// MatchConntrackFlow says whether a flow is stale. The kernel keeps two tuples:
// what was sent, and what an answer looks like; address translation is the
// difference.
func (s *staleFlows) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	if f.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	to, answers := addrPort(f.Forward.DstIP, f.Forward.DstPort), addrPort(f.Reverse.SrcIP, f.Reverse.SrcPort)
	return slices.ContainsFunc(s.gone, func(g nft.Forward) bool {
		target, ok := g.Target(to.Port())
		return ok && target == answers
	}) || to == answers && slices.ContainsFunc(s.fresh, func(g nft.Forward) bool {
		_, ok := g.Target(to.Port())
		return ok && g.To.Addr().Is6() == to.Addr().Is6() && (!g.Host.IsValid() && Local(to.Addr()) || g.Host == to.Addr())
	})
}

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip) // none is no one's
	return netip.AddrPortFrom(a.Unmap(), port)
}

// Local says whether an address is one of the host's, broadcasts and multicasts
// included.
func Local(a netip.Addr) bool {
	routes, err := netlink.RouteGet(a.AsSlice())
	return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL
}

// Of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctaFilter      = 25
	ctaFilterOrig  = 1
	ctaFilterReply = 2
	ctaFilterIPSrc = 1 << 0
)

// ForgetAddress drops what the kernel tracks of connections from and to a container's
// address, before another container gets it: its packets would be taken for answers. The
// kernel picks the entries (since Linux 5.8; an older one refuses, and nothing is done).
func ForgetAddress(a netip.Addr) {
	family, source := uint8(unix.AF_INET), nl.CTA_IP_V4_SRC
	if a.Is6() {
		family, source = unix.AF_INET6, nl.CTA_IP_V6_SRC
	}
	// Who answers is the source of the reply, whatever was translated.
	forgetFrom(a, family, source, side{nl.CTA_TUPLE_ORIG, ctaFilterOrig}, side{nl.CTA_TUPLE_REPLY, ctaFilterReply})
}

// ForgetOwn drops what the kernel tracks of connections that a container's address made,
// and not of those that were made to it.
func ForgetOwn(a netip.Addr) {
	if a.IsLinkLocalUnicast() { // another container may have it on another link
		return
	}
	family, source := uint8(unix.AF_INET), nl.CTA_IP_V4_SRC
	if a.Is6() {
		family, source = unix.AF_INET6, nl.CTA_IP_V6_SRC
	}
	forgetFrom(a, family, source, side{nl.CTA_TUPLE_ORIG, ctaFilterOrig})
}

// side of a connection.
type side struct{ tuple, flags int }

func forgetFrom(a netip.Addr, family uint8, source int, sides ...side) {
	for _, side := range sides {
		req := nl.NewNetlinkRequest(int(netlink.ConntrackTable)<<8|nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
		req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
		tuple := nl.NewRtAttr(side.tuple|unix.NLA_F_NESTED, nil)
		tuple.AddRtAttr(nl.CTA_TUPLE_IP|unix.NLA_F_NESTED, nil).AddRtAttr(source, a.AsSlice())
		req.AddData(tuple)
		filter := nl.NewRtAttr(ctaFilter|unix.NLA_F_NESTED, nil)
		filter.AddRtAttr(side.flags, nl.Uint32Attr(ctaFilterIPSrc))
		req.AddData(filter)
		if _, err := req.Execute(unix.NETLINK_NETFILTER, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			slog.Debug("forget the connections of an address", "address", a, "error", err)
			return
		}
	}
}
