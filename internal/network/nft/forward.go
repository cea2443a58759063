package nft

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
)

// Forward is one published port, or a range of them. Host is zero for every
// address of the host; 0.0.0.0 or :: for every one too, but for clients in the networks
// of SetNear alone.
type Forward struct {
	Host  netip.Addr
	Proto uint8 // unix.IPPROTO_TCP or IPPROTO_UDP
	Port  uint16
	Last  uint16 // of a range that begins with Port; 0 or Port: of one port
	To    netip.AddrPort
}

// Target is where a port of the host goes; false if it is not of this forward.
func (f Forward) Target(port uint16) (to netip.AddrPort, ok bool) {
	return netip.AddrPortFrom(f.To.Addr(), f.To.Port()+port-f.Port), port >= f.Port && port <= max(f.Port, f.Last)
}

// key is what only one forward has.
type key struct {
	host       netip.Addr
	proto      uint8
	port, last uint16
	v6         bool
}

func (f Forward) key() key { return key{f.Host, f.Proto, f.Port, f.Last, f.To.Addr().Is6()} }

func (k key) forward(to netip.AddrPort) Forward { return Forward{k.host, k.proto, k.port, k.last, to} }

// maps are those of one family's published ports.
type maps struct {
	any, at          *nftables.Set
	ranges, rangesAt *nftables.Set // nil: the kernel has no concatenations with intervals
}

func (m *maps) all() []*nftables.Set {
	if m.ranges == nil {
		return []*nftables.Set{m.any, m.at}
	}
	return []*nftables.Set{m.any, m.at, m.ranges, m.rangesAt}
}

// elements are the forwards as the maps can have them. An interval has one
// value, an address: a range whose ports are others inside, or for a kernel
// without such maps, is one element for each port.
func (t *Table) elements(fs []Forward) []Forward {
	var out []Forward
	for _, f := range fs {
		f.Last = max(f.Port, f.Last)
		if f.Last == f.Port || f.Port == f.To.Port() && t.v4.ranges != nil {
			out = append(out, f)
			continue
		}
		out = slices.Grow(out, int(f.Last-f.Port)+1)
		for p := int(f.Port); p <= int(f.Last); p++ {
			to, _ := f.Target(uint16(p))
			out = append(out, Forward{f.Host, f.Proto, uint16(p), uint16(p), to})
		}
	}
	return out
}

// published are the maps of both families.
func (t *Table) published() []*nftables.Set { return append(t.v4.all(), t.v6.all()...) }

// allMaps are those that a table may have, with intervals or without.
func (t *Table) allMaps() []*nftables.Set {
	full := &Table{table: t.table}
	full.makeMaps(true)
	return full.published()
}

// setOf is the map that an element belongs to.
func (t *Table) setOf(f Forward) *nftables.Set {
	m := &t.v4
	if f.To.Addr().Is6() {
		m = &t.v6
	}
	switch {
	case f.Last > f.Port && f.Host.IsValid():
		return m.rangesAt
	case f.Last > f.Port:
		return m.ranges
	case f.Host.IsValid():
		return m.at
	}
	return m.any
}

// makeMaps makes the maps; without intervals for a kernel before 5.6.
func (t *Table) makeMaps(intervals bool) {
	one := nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
	for _, x := range []struct {
		m      *maps
		suffix string
		addr   nftables.SetDatatype
	}{{&t.v4, "", nftables.TypeIPAddr}, {&t.v6, "6", nftables.TypeIP6Addr}} {
		addressed := nftables.MustConcatSetType(x.addr, nftables.TypeInetProto, nftables.TypeInetService)
		target := nftables.MustConcatSetType(x.addr, nftables.TypeInetService)
		set := func(name string, key, data nftables.SetDatatype, interval bool) *nftables.Set {
			return &nftables.Set{Table: t.table, Name: name + x.suffix, IsMap: true, Concatenation: true, Interval: interval, KeyType: key, DataType: data}
		}
		*x.m = maps{any: set("published", one, target, false), at: set("published_at", addressed, target, false)}
		if intervals {
			x.m.ranges, x.m.rangesAt = set("ranges", one, x.addr, true), set("ranges_at", addressed, x.addr, true)
		}
	}
}

// encode writes an element: each part of a concatenation fills words of four bytes.
func encode(f Forward) nftables.SetElement {
	key := func(port uint16) []byte {
		var b []byte
		if f.Host.IsValid() {
			b = append(b, f.Host.AsSlice()...)
		}
		b = append(b, f.Proto, 0, 0, 0)
		return append(binary.BigEndian.AppendUint16(b, port), 0, 0)
	}
	e := nftables.SetElement{Key: key(f.Port), Val: f.To.Addr().AsSlice()}
	if f.Last > f.Port {
		e.KeyEnd = key(f.Last)
	} else {
		e.Val = append(binary.BigEndian.AppendUint16(e.Val, f.To.Port()), 0, 0)
	}
	return e
}

// decode reads an element of a map of IPv6 or of IPv4.
func decode(e nftables.SetElement, v6 bool) (f Forward, ok bool) {
	key, end, size := e.Key, e.KeyEnd, 4
	if v6 {
		size = 16
	}
	if len(key) == size+8 {
		f.Host, _ = netip.AddrFromSlice(key[:size])
		key = key[size:]
	}
	if len(key) != 8 || len(e.Val) < size {
		return Forward{}, false
	}
	f.Proto, f.Port = key[0], binary.BigEndian.Uint16(key[4:])
	f.Last = f.Port
	port := f.Port
	switch {
	case len(end) >= 8:
		f.Last = binary.BigEndian.Uint16(end[len(end)-4:])
	case len(e.Val) >= size+2:
		port = binary.BigEndian.Uint16(e.Val[size:])
	default:
		return Forward{}, false
	}
	to, _ := netip.AddrFromSlice(e.Val[:size])
	f.To = netip.AddrPortFrom(to, port)
	return f, true
}
