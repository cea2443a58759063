package ipam

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

var linkLocal6 = netip.MustParsePrefix("fe80::/64")

// Check says everything that is wrong with the subnets that are asked for, at once. A
// bridge has one of their addresses itself. Error: InvalidArgument.
func Check(list []network.IPAMConfig, bridge bool) error {
	var wrong []string
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	for n, i := range list {
		s := i.Subnet
		if !s.IsValid() {
			if i.Gateway.IsValid() || i.IPRange.IsValid() || len(i.AuxAddress) > 0 {
				say("invalid subnet: a gateway, an ip-range or an aux-address needs --subnet")
			}
			continue
		}
		family := 4
		if s.Addr().Is6() {
			family = 6
		}
		inside := func(what string, a netip.Addr) {
			switch {
			case !a.IsValid():
			case a.Is6() != s.Addr().Is6():
				say("invalid %s: parent subnet is an IPv%d block", what, family)
			case !s.Contains(a):
				say("invalid %s: parent subnet %s doesn't contain this address", what, s)
			}
		}
		if s != s.Masked() {
			say("invalid subnet %s: it should be %s", s, s.Masked())
		}
		if s.Bits() > s.Addr().BitLen()-2 && bridge {
			say("invalid subnet %s: it has no address for a container", s)
		}
		if s.Addr().IsMulticast() || s.Addr().IsLoopback() || s.Addr().Is4In6() || s.Addr().Is6() && s.Masked() != linkLocal6 && linkLocal6.Overlaps(s) {
			say("invalid subnet %s: it is of a kind that containers cannot have (multicast, loopback, of the link, or IPv4 written as IPv6)", s)
		}
		if r := i.IPRange; r.IsValid() {
			switch {
			case r.Addr().Is6() != s.Addr().Is6():
				say("invalid ip-range %s: parent subnet is an IPv%d block", r, family)
			case r.Bits() < s.Bits():
				say("invalid ip-range %s: CIDR block is bigger than its parent subnet %s", r, s)
			case r != r.Masked():
				say("invalid ip-range %s: it should be %s", r, r.Masked())
			case !s.Overlaps(r):
				say("invalid ip-range %s: parent subnet %s doesn't contain ip-range", r, s)
			}
		}
		inside(fmt.Sprint("gateway ", i.Gateway), i.Gateway)
		for _, name := range slices.Sorted(maps.Keys(i.AuxAddress)) {
			inside("auxiliary address "+name, i.AuxAddress[name])
		}
		for _, o := range list[:n] {
			if o.Subnet.IsValid() && o.Subnet.Overlaps(s) {
				say("invalid subnet %s: it overlaps %s of the same network", s, o.Subnet)
			}
		}
	}
	if len(wrong) > 0 {
		return errdefs.ErrInvalidArgument.WithMessage("invalid network config:\n" + strings.Join(wrong, "\n"))
	}
	return nil
}

// Distinct says which address of a subnet cannot be what it was asked for: it is the
// network's own, or its broadcast, or has another use. Error: PermissionDenied, as in Docker.
func Distinct(i network.IPAMConfig) error {
	if i.Subnet.Bits() >= i.Subnet.Addr().BitLen()-1 {
		return nil // without either
	}
	used := map[netip.Addr]bool{i.Subnet.Addr(): true}
	if i.Subnet.Addr().Is4() {
		used[lastOf(i.Subnet)] = true
	}
	if g := i.Gateway; g.IsValid() && (used[g] || !i.Subnet.Contains(g)) {
		return forbidden("failed to allocate gateway (%s): Address already in use: choose another --gateway of %s", g, i.Subnet)
	}
	used[i.Gateway] = true
	for _, name := range slices.Sorted(maps.Keys(i.AuxAddress)) {
		a := i.AuxAddress[name]
		if used[a] {
			return forbidden("failed to allocate secondary ip address (%s:%s): Address already in use", name, a)
		}
		used[a] = true
	}
	return nil
}

// Gateway is the first address of the range that no auxiliary has.
func Gateway(i network.IPAMConfig) netip.Addr {
	from := i.Subnet
	if i.IPRange.IsValid() {
		from = i.IPRange
	}
	a := from.Addr()
	if a == i.Subnet.Addr() {
		a = a.Next()
	}
	taken := slices.Collect(maps.Values(i.AuxAddress))
	for from.Contains(a) && slices.Contains(taken, a) {
		a = a.Next()
	}
	return a
}

func forbidden(format string, args ...any) error {
	return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf(format, args...))
}
