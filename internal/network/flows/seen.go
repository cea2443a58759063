package flows

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"hezi/internal/network/netns"
	"hezi/internal/network/nft"
)

// Seen are the connections of a container at one moment: those that the kernel tracks,
// and the sockets of TCP, as what stays within a bridge may not be tracked.
type Seen struct {
	own     []netip.Addr
	tracked []*netlink.ConntrackFlow
	sockets []*netlink.Socket
	serves  map[netip.AddrPort]bool // what neighbours that the container may have called listen at
}

// Look sees the connections of a container with the namespace at path and some addresses
// of its own; with an error as far as it can. neighbour is the namespace of the container
// that has an address beside it, "" if none has.
func Look(path string, own []netip.Addr, neighbour func(netip.Addr) string) (s Seen, err error) {
	s.own = own
	var errs []error
	for _, family := range []netlink.InetFamily{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		if !slices.ContainsFunc(own, func(a netip.Addr) bool { return a.Is6() == (family == netlink.FAMILY_V6) }) {
			continue
		}
		list, err := netns.Dump(func() ([]*netlink.ConntrackFlow, error) {
			return netlink.ConntrackTableList(netlink.ConntrackTable, family)
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("list the tracked connections: %w", err))
		}
		s.tracked = append(s.tracked, list...)
	}
	s.sockets, err = sockets(path)
	errs = append(errs, err, s.ask(neighbour))
	return s, errors.Join(errs...)
}

// sockets are those of TCP in a namespace.
func sockets(path string) (all []*netlink.Socket, err error) {
	err = netns.Do(path, func() error {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			list, err := netns.Dump(func() ([]*netlink.Socket, error) { return netlink.SocketDiagTCP(family) })
			if err != nil {
				return fmt.Errorf("list the TCP sockets of a container: %w", err)
			}
			all = append(all, list...)
		}
		return nil
	})
	return all, err
}

// ask looks what the neighbours listen at from which connections seem to come: a
// container can connect from a port at which it listens, to pass for the one called.
func (s *Seen) ask(neighbour func(netip.Addr) string) error {
	_, taken := s.sorted()
	var errs []error
	s.serves = map[netip.AddrPort]bool{}
	asked := map[netip.Addr]bool{}
	for _, k := range taken {
		a := addrPort(k.ID.Destination, 0).Addr()
		path := ""
		if !asked[a] {
			path = neighbour(a)
		}
		asked[a] = true
		if path == "" {
			continue
		}
		list, err := sockets(path)
		if errors.Is(err, os.ErrNotExist) { // it has just ended
			continue
		}
		errs = append(errs, err)
		for _, other := range list {
			if other.State == netlink.TCP_LISTEN {
				s.serves[netip.AddrPortFrom(a, other.ID.SourcePort)] = true
			}
		}
	}
	return errors.Join(errs...)
}

// Made are those that the container made.
func (s Seen) Made() (list []nft.Flow) {
	for _, f := range s.tracked {
		if sole(s.own, f) {
			list = append(list, nft.Flow{Proto: f.Forward.Protocol, From: f.Forward.SrcPort, To: addrPort(f.Forward.DstIP, f.Forward.DstPort)})
		}
	}
	made, _ := s.sorted()
	for _, k := range made {
		list = append(list, nft.Flow{Proto: unix.IPPROTO_TCP, From: k.ID.SourcePort, To: addrPort(k.ID.Destination, k.ID.DestinationPort)})
	}
	return list
}

// Forget drops what the kernel tracks of connections that the container made over
// protocols whose packets are not judged one by one. What is judged is left to it: an
// entry also says how addresses were translated, without which it cannot go on.
func (s Seen) Forget() error {
	var errs []error
	for _, family := range []netlink.InetFamily{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		if !slices.ContainsFunc(s.tracked, func(f *netlink.ConntrackFlow) bool {
			return f.FamilyType == uint8(family) && unjudged(s.own).MatchConntrackFlow(f)
		}) {
			continue
		}
		_, err := netns.Dump(func() ([]uint, error) {
			n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, unjudged(s.own))
			return []uint{n}, err
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("forget a container's connections: %w", err))
		}
	}
	return errors.Join(errs...)
}

// unjudged are flows from some addresses that no guard judges packet by packet.
type unjudged []netip.Addr

var _ netlink.CustomConntrackFilter = unjudged(nil)

// MatchConntrackFlow is of netlink.CustomConntrackFilter.
func (own unjudged) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	return !nft.Judges(f.Forward.Protocol) && sole(own, f)
}

// sole says whether the one with some addresses, and nobody else, made a flow: others
// may have the same address where it is of a link alone.
func sole(own []netip.Addr, f *netlink.ConntrackFlow) bool {
	a := addrPort(f.Forward.SrcIP, 0).Addr()
	return !a.IsLinkLocalUnicast() && slices.Contains(own, a)
}

// sorted are the sockets that the container connected, and those that came to one which
// listens: their port says so, unless the other end's does.
func (s Seen) sorted() (made, taken []*netlink.Socket) {
	listening := map[uint16]bool{}
	for _, k := range s.sockets {
		if k.State == netlink.TCP_LISTEN {
			listening[k.ID.SourcePort] = true
		}
	}
	for _, k := range s.sockets {
		switch {
		case k.State == netlink.TCP_LISTEN || !slices.Contains(s.own, addrPort(k.ID.Source, 0).Addr()):
		case listening[k.ID.SourcePort] && !s.serves[addrPort(k.ID.Destination, k.ID.DestinationPort)]:
			taken = append(taken, k)
		default:
			made = append(made, k)
		}
	}
	return made, taken
}

// trackedFor is how long the kernel keeps a TCP connection in which nothing is sent, in
// seconds (nf_conntrack_tcp_timeout_established).
const trackedFor = 432000

// Track tells the kernel of the connections that others made to the container and that it
// does not track: or the container would be taken for who made them if it sends first.
func (s Seen) Track() error {
	type tuple struct{ own, other netip.AddrPort }
	known := map[tuple]bool{}
	for _, f := range s.tracked {
		if f.Forward.Protocol == unix.IPPROTO_TCP {
			known[tuple{addrPort(f.Reverse.SrcIP, f.Reverse.SrcPort), addrPort(f.Reverse.DstIP, f.Reverse.DstPort)}] = true
		}
	}
	_, taken := s.sorted()
	var errs []error
	for _, k := range taken {
		own, other := addrPort(k.ID.Source, k.ID.SourcePort), addrPort(k.ID.Destination, k.ID.DestinationPort)
		if k.State != netlink.TCP_ESTABLISHED || known[tuple{own, other}] {
			continue
		}
		family := netlink.InetFamily(netlink.FAMILY_V4)
		if own.Addr().Is6() {
			family = netlink.FAMILY_V6
		}
		there, back := netlink.IPTuple{Protocol: unix.IPPROTO_TCP}, netlink.IPTuple{Protocol: unix.IPPROTO_TCP}
		there.SrcIP, there.SrcPort, there.DstIP, there.DstPort = other.Addr().AsSlice(), other.Port(), own.Addr().AsSlice(), own.Port()
		back.SrcIP, back.SrcPort, back.DstIP, back.DstPort = there.DstIP, there.DstPort, there.SrcIP, there.SrcPort
		err := netlink.ConntrackCreate(netlink.ConntrackTable, family, &netlink.ConntrackFlow{FamilyType: uint8(family), Forward: there, Reverse: back,
			TimeOut: trackedFor, ProtoInfo: &netlink.ProtoInfoTCP{State: nl.TCP_CONNTRACK_ESTABLISHED}})
		if err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("have a container's connection with %s tracked: %w", other, err))
		}
	}
	return errors.Join(errs...)
}
