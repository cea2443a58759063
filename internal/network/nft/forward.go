package nft

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
)

// Forward is one published port, or a range of them. Host is zero for every
// address of the host.
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
}

func (f Forward) key() key { return key{f.Host, f.Proto, f.Port, f.Last} }

func (k key) forward(to netip.AddrPort) Forward { return Forward{k.host, k.proto, k.port, k.last, to} }

// elements are the forwards as the maps can have them. An interval has one
// value, an address: a range whose ports are others inside, or for a kernel
// without such maps, is one element for each port.
func (t *Table) elements(fs []Forward) []Forward {
	var out []Forward
	for _, f := range fs {
		f.Last = max(f.Port, f.Last)
		if f.Last == f.Port || f.Port == f.To.Port() && t.ranges != nil {
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

// sets are the table's maps.
func (t *Table) sets() []*nftables.Set {
	if t.ranges == nil {
		return []*nftables.Set{t.any, t.at}
	}
	return []*nftables.Set{t.any, t.at, t.ranges, t.rangesAt}
}

// setOf is the map that an element belongs to.
func (t *Table) setOf(f Forward) *nftables.Set {
	switch {
	case f.Last > f.Port && f.Host.IsValid():
		return t.rangesAt
	case f.Last > f.Port:
		return t.ranges
	case f.Host.IsValid():
		return t.at
	}
	return t.any
}

// makeSets makes the maps; without intervals for a kernel before 5.6.
func (t *Table) makeSets(intervals bool) {
	one := nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
	addressed := nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
	target := nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	set := func(name string, key, data nftables.SetDatatype, interval bool) *nftables.Set {
		return &nftables.Set{Table: t.table, Name: name, IsMap: true, Concatenation: true, Interval: interval, KeyType: key, DataType: data}
	}
	t.any, t.at = set("published", one, target, false), set("published_at", addressed, target, false)
	t.ranges, t.rangesAt = nil, nil
	if intervals {
		t.ranges, t.rangesAt = set("ranges", one, nftables.TypeIPAddr, true), set("ranges_at", addressed, nftables.TypeIPAddr, true)
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

func decode(e nftables.SetElement) (f Forward, ok bool) {
	key, end := e.Key, e.KeyEnd
	if len(key) == 12 {
		f.Host, key = netip.AddrFrom4([4]byte(key)), key[4:]
	}
	if len(key) != 8 || len(e.Val) < 4 {
		return Forward{}, false
	}
	f.Proto, f.Port = key[0], binary.BigEndian.Uint16(key[4:])
	f.Last = f.Port
	port := f.Port
	switch {
	case len(end) >= 8:
		f.Last = binary.BigEndian.Uint16(end[len(end)-4:])
	case len(e.Val) >= 6:
		port = binary.BigEndian.Uint16(e.Val[4:])
	default:
		return Forward{}, false
	}
	f.To = netip.AddrPortFrom(netip.AddrFrom4([4]byte(e.Val)), port)
	return f, true
}
