package egress

import (
	"net/netip"
	"slices"
)

// special are networks that are no part of the outside and that netip does not tell: of
// RFC 6890 (Oracle's metadata are at 192.0.0.192), Azure's metadata, and what gateways make
// any address of IPv4 of (RFC 6052, 8215, 3056, 4380), so that it would pass by what is said of that.
var special = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("168.63.129.16/32"), netip.MustParsePrefix("::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("fec0::/10"),
	netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("2001::/32")}

// nat64 is the well-known prefix (RFC 6052), whose last four bytes are an address of IPv4.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// Special says whether an address is no part of the outside, wherever the host is; of
// NAT64 it answers the address of IPv4 that is meant.
func Special(a netip.Addr) (netip.Addr, bool) {
	if b := a.As16(); a.Is6() && nat64.Contains(a) {
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	return a, !a.IsGlobalUnicast() || a.IsPrivate() || slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(a) })
}
