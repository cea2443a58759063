package network

import (
	"net/netip"
	"slices"

	"github.com/moby/moby/api/types/network"
)

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
