package netns

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Route replaces the default routes of the namespace at path: those of the family
// lead by the gateway on the interface, or nowhere if name is "". There is one at every
// moment, and one that is right already is not touched.
func Route(path, name string, g Gateway) error {
	return within(path, func(in *netlink.Handle, _ *nl.NetlinkSocket) error {
		old, err := defaults(in, g.V6)
		if err != nil {
			return err
		}
		if name != "" {
			link, err := in.LinkByName(name)
			if err != nil {
				return fmt.Errorf("find %s in a container: %w", name, err)
			}
			want := route(link, g)
			there := false
			for i := 0; i < len(old) && !there; i++ {
				if there = old[i].LinkIndex == want.LinkIndex && old[i].Gw.Equal(want.Gw); there {
					old = append(old[:i], old[i+1:]...)
				}
			}
			if !there {
				// Of IPv4 the new one takes the place of an old one, of IPv6 it is one beside.
				add := in.RouteReplace
				if g.V6 {
					add = in.RouteAppend
				}
				if err := add(want); err != nil {
					return fmt.Errorf("route by %s: %w", g.Address, err)
				}
			}
		}
		for _, r := range old {
			if err := in.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove a container's default route: %w", err)
			}
		}
		return nil
	}, nil)
}

// defaults are the default routes of a family that no router has advertised.
func defaults(in *netlink.Handle, v6 bool) (list []netlink.Route, err error) {
	family := netlink.FAMILY_V4
	if v6 {
		family = netlink.FAMILY_V6
	}
	routes, err := Dump(func() ([]netlink.Route, error) { return in.RouteList(nil, family) })
	if err != nil {
		return nil, fmt.Errorf("read a container's routes: %w", err)
	}
	for _, r := range routes {
		ones := 0
		if r.Dst != nil {
			ones, _ = r.Dst.Mask.Size()
		}
		if ones == 0 && r.Protocol != unix.RTPROT_RA {
			list = append(list, r)
		}
	}
	return list, nil
}

// route is the default route by a gateway.
func route(link netlink.Link, g Gateway) *netlink.Route {
	r := &netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, Family: netlink.FAMILY_V4}
	if g.V6 {
		r.Family = netlink.FAMILY_V6
	}
	if g.Address.IsValid() {
		r.Gw, r.Scope = g.Address.AsSlice(), netlink.SCOPE_UNIVERSE
	} else { // a route without a gateway needs its network said
		zero, bits := net.IPv4zero.To4(), 32
		if g.V6 {
			zero, bits = net.IPv6zero, 128
		}
		r.Dst = &net.IPNet{IP: zero, Mask: net.CIDRMask(0, bits)}
	}
	return r
}
