package nft

import (
	"bytes"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"golang.org/x/sys/unix"

	"hezi/internal/network/ipam"
)

// Network is what the rules know of one bridge network. Its parts become elements
// of the sets: the number of rules does not grow with the networks.
type Network struct {
	Bridge string
	// Subnets of both families.
	Subnets []netip.Prefix
	// Internal: nothing is forwarded in or out.
	Internal bool
	// ICC: its containers reach each other.
	ICC    bool
	V4, V6 Family
	// Trusted are interfaces of the host from which containers are reached directly.
	Trusted []string
}

// Family is how a network treats packets of one family.
type Family struct {
	// Masquerade what leaves, or give it Source.
	Masquerade bool
	Source     netip.Addr
	// Open: whoever routes to a container reaches all its ports (nat-unprotected).
	Open bool
	// Routed: containers are reached at their own addresses, at published ports and by
	// ICMP.
	Routed bool
}

// The sets of networks, by name.
const (
	setBridges  = "bridges"  // ifname
	setInternal = "internal" // ifname
	setBetween  = "between"  // ifname . ifname: in, out
	setSubnets  = "subnets"  // address, intervals
	setMasq     = "masked"   // address, intervals: masqueraded
	setSources  = "sources"  // address, intervals: the address it gets
	setOpen     = "open"     // ifname
	setRouted   = "routed"   // ifname
	setDirect   = "direct"   // address . proto . port: published on a routed network
	setNear     = "near"     // address, intervals: the networks that the host is in
	suffix6     = "6"        // of the sets of IPv6
)

// makeSets makes the sets of the networks.
func (t *Table) makeSets() {
	name := nftables.TypeIFName
	t.sets = map[string]*nftables.Set{}
	add := func(s nftables.Set) {
		s.Table = t.table
		if s.KeyType == name {
			s.KeyByteOrder = binaryutil.NativeEndian // or nft shows no names
		}
		t.sets[s.Name] = &s
		t.order = append(t.order, s.Name)
	}
	t.order = nil
	add(nftables.Set{Name: setBridges, KeyType: name})
	add(nftables.Set{Name: setInternal, KeyType: name})
	add(nftables.Set{Name: setBetween, KeyType: nftables.MustConcatSetType(name, name), Concatenation: true})
	for _, f := range []struct {
		suffix string
		addr   nftables.SetDatatype
	}{{"", nftables.TypeIPAddr}, {suffix6, nftables.TypeIP6Addr}} {
		suffix, addr := f.suffix, f.addr
		add(nftables.Set{Name: setSubnets + suffix, KeyType: addr, Interval: true})
		add(nftables.Set{Name: setMasq + suffix, KeyType: addr, Interval: true})
		add(nftables.Set{Name: setSources + suffix, KeyType: addr, Interval: true, IsMap: true, DataType: addr})
		add(nftables.Set{Name: setNear + suffix, KeyType: addr, Interval: true})
		add(nftables.Set{Name: setOpen + suffix, KeyType: name})
		add(nftables.Set{Name: setRouted + suffix, KeyType: name})
		add(nftables.Set{Name: setDirect + suffix, KeyType: nftables.MustConcatSetType(addr, nftables.TypeInetProto, nftables.TypeInetService), Concatenation: true})
	}
}

// element of one of the sets.
type element struct {
	set string
	nftables.SetElement
}

// elements of a network in the sets, in an order that does not change.
func (n Network) elements() (list []element) {
	put := func(set string, key ...string) {
		var b []byte
		for _, k := range key {
			b = append(b, ifname(k)...)
		}
		list = append(list, element{set, nftables.SetElement{Key: b}})
	}
	put(setBridges, n.Bridge)
	if n.Internal {
		put(setInternal, n.Bridge)
	}
	if n.ICC {
		put(setBetween, n.Bridge, n.Bridge)
	}
	for _, in := range n.Trusted {
		put(setBetween, in, n.Bridge)
	}
	for suffix, f := range map[string]Family{"": n.V4, suffix6: n.V6} {
		if f.Open {
			put(setOpen+suffix, n.Bridge)
		}
		if f.Routed {
			put(setRouted+suffix, n.Bridge)
		}
	}
	for _, p := range n.Subnets {
		suffix, f := "", n.V4
		if p.Addr().Is6() {
			suffix, f = suffix6, n.V6
		}
		list = append(list, interval(setSubnets+suffix, p, nil)...)
		switch {
		case n.Internal:
		case f.Source.IsValid():
			list = append(list, interval(setSources+suffix, p, f.Source.AsSlice())...)
		case f.Masquerade:
			list = append(list, interval(setMasq+suffix, p, nil)...)
		}
	}
	return list
}

// interval is a network as a set of intervals has it: its first address, and the
// one behind its last.
func interval(set string, p netip.Prefix, value []byte) []element {
	end := ipam.Last(p).Next()
	list := []element{{set, nftables.SetElement{Key: p.Masked().Addr().AsSlice(), Val: value}}}
	if end.IsValid() { // else it ends with the family's last address
		list = append(list, element{set, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true}})
	}
	return list
}

// Direct is a port that is reached at the container's own address.
type Direct struct {
	Proto uint8
	To    netip.AddrPort
}

func (d Direct) element() element {
	set := setDirect
	if d.To.Addr().Is6() {
		set += suffix6
	}
	key := append(d.To.Addr().AsSlice(), d.Proto, 0, 0, 0)
	return element{set, nftables.SetElement{Key: append(append(key, binaryutil.BigEndian.PutUint16(d.To.Port())...), 0, 0)}}
}

func decodeDirect(e nftables.SetElement) (d Direct, ok bool) {
	size := len(e.Key) - 8
	a, ok := netip.AddrFromSlice(e.Key[:max(size, 0)])
	if !ok {
		return d, false
	}
	return Direct{e.Key[size], netip.AddrPortFrom(a, uint16(e.Key[size+4])<<8|uint16(e.Key[size+5]))}, true
}

func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// same says whether a set of the kernel holds what it shall.
func same(have, want []nftables.SetElement) bool {
	if len(have) != len(want) {
		return false
	}
	id := func(e nftables.SetElement) string {
		end := byte('-')
		if e.IntervalEnd {
			end = 'e'
		}
		return string(bytes.Join([][]byte{e.Key, e.Val, {end}}, []byte{0}))
	}
	all := make(map[string]bool, len(want))
	for _, e := range want {
		all[id(e)] = true
	}
	for _, e := range have {
		if !all[id(e)] {
			return false
		}
	}
	return true
}
