package bindings

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"
)

// Check reads what is asked of the host for a container's port, and
// refuses what cannot be. A range of 0 is any port.
func Check(p network.Port, b network.PortBinding) (addr netip.Addr, proto uint8, r network.PortRange, err error) {
	switch p.Proto() {
	case network.TCP:
		proto = unix.IPPROTO_TCP
	case network.UDP:
		proto = unix.IPPROTO_UDP
	case network.SCTP:
		proto = unix.IPPROTO_SCTP
	default:
		return addr, 0, r, invalid("port %s: only tcp, udp and sctp can be published", p)
	}
	if addr = b.HostIP.Unmap(); !addr.IsValid() {
		addr = netip.IPv4Unspecified()
	}
	if addr.Zone() != "" && addr != Near() {
		return addr, 0, r, invalid("port %s cannot be published on %s: give an address without a zone", p, addr)
	}
	if b.HostPort != "" && b.HostPort != "0" {
		if r, err = network.ParsePortRange(b.HostPort); err != nil {
			return addr, 0, r, invalid("invalid host port %q for %s: %v", b.HostPort, p, err)
		}
	}
	return addr, proto, r, nil
}

// Again are the ports that a container had, and those that it lost with the rules of a
// family and that are asked for still.
func Again(had, lost, asked network.PortMap) network.PortMap {
	all := maps.Clone(had)
	for p, list := range lost {
		for _, b := range list {
			if _, still := asked[p]; still && !slices.Contains(all[p], b) {
				all[p] = append(slices.Clip(all[p]), b)
			}
		}
	}
	return all
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}
