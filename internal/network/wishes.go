package network

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"

	"github.com/moby/moby/api/types/network"

	"hezi/internal/network/ports"
)

// rangeFrom is how many ports that follow each other, here and on the host, are
// taken as one range: without a socket for each.
const rangeFrom = 65

// wish is one binding that is asked for.
type wish struct {
	port    network.Port
	binding network.PortBinding
	span    *span
}

// span is what wishes that follow each other have in common.
type span struct {
	first network.Port
	last  uint16
	holds []*ports.Hold // once they are taken, one an address
}

// further is how many ports follow the first of its range.
func (w wish) further() uint16 {
	if !w.many() {
		return 0
	}
	return w.span.last - w.span.first.Num()
}

// many says whether the wish is part of a range.
func (w wish) many() bool { return int(w.span.last)-int(w.span.first.Num())+1 >= rangeFrom }

// wishes lists what is asked for by port and protocol, and finds the ranges.
func wishes(m network.PortMap) []wish {
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
	all, open := make([]wish, 0, len(m)), map[line]*span{}
	var last line
	var s *span // of last
	for _, p := range order {
		for _, b := range m[p] {
			n, err := strconv.ParseUint(b.HostPort, 10, 16)
			if err != nil || n == 0 { // any port, or one of several
				all = append(all, wish{p, b, &span{first: p, last: p.Num()}})
				continue
			}
			if l := (line{p.Proto(), b.HostIP, int(n) - int(p.Num())}); l != last {
				last, s = l, open[l]
			}
			if s != nil && s.last+1 == p.Num() {
				s.last = p.Num()
			} else {
				s = &span{first: p, last: p.Num()}
				open[last] = s
			}
			all = append(all, wish{p, b, s})
		}
	}
	return all
}
