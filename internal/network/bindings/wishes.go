package bindings

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"

	"github.com/moby/moby/api/types/network"

	"hezi/internal/network/ports"
)

// RangeFrom is how many ports that follow each other, here and on the host, are
// taken as one range: without a socket for each.
const RangeFrom = 65

// Wish is one binding that is asked for.
type Wish struct {
	Port    network.Port
	Binding network.PortBinding
	Span    *Span
}

// Span is what wishes that follow each other have in common.
type Span struct {
	First network.Port
	Last  uint16
	Holds []*ports.Hold // once they are taken, one an address
}

// Further is how many ports follow the first of its range.
func (w Wish) Further() uint16 {
	if !w.Many() {
		return 0
	}
	return w.Span.Last - w.Span.First.Num()
}

// Many says whether the wish is part of a range.
func (w Wish) Many() bool { return int(w.Span.Last)-int(w.Span.First.Num())+1 >= RangeFrom }

// Wishes lists what is asked for by port and protocol, and finds the ranges.
func Wishes(m network.PortMap) []Wish {
	type line struct {
		proto network.IPProtocol
		host  netip.Addr
		shift int // from the container's ports to the host's
	}
	order := make([]network.Port, 0, len(m))
	for p := range m {
		order = append(order, p)
	}
	slices.SortFunc(order, func(a, b network.Port) int {
		if n := cmp.Compare(a.Num(), b.Num()); n != 0 {
			return n
		}
		return cmp.Compare(a.Proto(), b.Proto())
	})
	all, open := make([]Wish, 0, len(m)), map[line]*Span{}
	var last line
	var s *Span // of last
	for _, p := range order {
		for _, b := range m[p] {
			n, err := strconv.ParseUint(b.HostPort, 10, 16)
			if err != nil || n == 0 { // any port, or one of several
				all = append(all, Wish{p, b, &Span{First: p, Last: p.Num()}})
				continue
			}
			if l := (line{p.Proto(), b.HostIP, int(n) - int(p.Num())}); l != last {
				last, s = l, open[l]
			}
			if s != nil && s.Last+1 == p.Num() {
				s.Last = p.Num()
			} else {
				s = &Span{First: p, Last: p.Num()}
				open[last] = s
			}
			all = append(all, Wish{p, b, s})
		}
	}
	return all
}
