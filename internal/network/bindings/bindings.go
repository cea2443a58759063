// Package bindings reckons with what is published: which of a container's ports, on which
// addresses and ports of the host.
package bindings

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

// Near is the address of bindings with the scope lan: every address of the host, for
// clients in the networks that the host is in, and for the host itself. It travels as
// an address, which the zone tells from ::, so that clients that do not know it show it.
func Near() netip.Addr { return netip.IPv6Unspecified().WithZone("lan") }

// Places are the addresses on which the sockets of a binding's address are bound, in
// their order.
func Places(a netip.Addr) []netip.Addr {
	if a == Near() {
		return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	return []netip.Addr{a}
}

// Unpublish is what is left of published ports. A port of remove without bindings
// means all of its; a binding's address and host port count where they are given.
// Error: NotFound for what is not published.
func Unpublish(have, remove network.PortMap) (network.PortMap, error) {
	left := maps.Clone(have)
	if left == nil {
		left = network.PortMap{}
	}
	for p, list := range remove {
		if len(left[p]) == 0 {
			return nil, notFound("port %s is not published", p)
		}
		if len(list) == 0 {
			delete(left, p)
			continue
		}
		for _, gone := range list {
			rest := slices.DeleteFunc(slices.Clone(left[p]), func(b network.PortBinding) bool {
				return (gone.HostPort == "" || gone.HostPort == b.HostPort) && (!gone.HostIP.IsValid() || gone.HostIP == b.HostIP)
			})
			if len(rest) == len(left[p]) {
				return nil, notFound("port %s is not published as %s:%s", p, text(gone.HostIP), gone.HostPort)
			}
			left[p] = rest
		}
		if len(left[p]) == 0 {
			delete(left, p)
		}
	}
	return left, nil
}

// Beside are the bindings of ports that the others do not have.
func Beside(ports, others network.PortMap) network.PortMap {
	out := network.PortMap{}
	for p, list := range ports {
		if rest := slices.DeleteFunc(slices.Clone(list), func(b network.PortBinding) bool { return slices.Contains(others[p], b) }); len(rest) > 0 {
			out[p] = rest
		}
	}
	return out
}

func text(a netip.Addr) string {
	if !a.IsValid() {
		return "*"
	}
	return a.String()
}

// Widened is what Republish is to add and to remove for bindings that were asked for
// without an address, when IPv6 can be published and could not before.
func Widened(asked, have network.PortMap) (add, remove network.PortMap) {
	add, remove = network.PortMap{}, network.PortMap{}
	for p, list := range asked {
		for _, b := range have[p] {
			six := network.PortBinding{HostIP: netip.IPv6Unspecified(), HostPort: b.HostPort}
			switch {
			case b.HostIP == Near(): // one for both families: taken anew, with the hold that there is
				add[p], remove[p] = append(add[p], b), append(remove[p], b)
			case b.HostIP != netip.IPv4Unspecified() || slices.Contains(have[p], six):
			case slices.ContainsFunc(list, func(a network.PortBinding) bool { return a.HostIP == b.HostIP && a.HostPort == b.HostPort }):
				// Asked for with the address.
			case slices.ContainsFunc(list, func(a network.PortBinding) bool { return !a.HostIP.IsValid() }):
				add[p] = append(add[p], six)
			}
		}
	}
	return add, remove
}

// Anywhere says whether a binding, of those of a running container, was asked for without
// an address, or with the scope lan; asked are those of its port as they were asked for.
func Anywhere(asked []network.PortBinding, have network.PortBinding) bool {
	a := have.HostIP
	if !a.IsValid() || a == Near() || a != netip.IPv4Unspecified() {
		return !a.IsValid() || a == Near()
	}
	found := false
	for _, b := range asked {
		if b.HostIP == a && b.HostPort == have.HostPort {
			return false
		}
		r, err := network.ParsePortRange(b.HostPort)
		n, _ := strconv.ParseUint(have.HostPort, 10, 16) // chosen by the engine
		found = found || !b.HostIP.IsValid() && (b.HostPort == "" || b.HostPort == "0" || err == nil && r.Start() <= uint16(n) && uint16(n) <= r.End())
	}
	return found
}

func notFound(format string, args ...any) error {
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf(format, args...))
}
