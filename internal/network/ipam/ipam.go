// Package ipam says which subnets networks get and which addresses containers
// get of them. It keeps nothing on disk and asks nobody: what is taken already is
// told to it.
package ipam

import (
	"fmt"
	"math"
	"math/big"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

// Pool is a range of which networks get subnets of one size.
type Pool struct {
	Base netip.Prefix
	Size int // bits of a subnet's prefix
}

// DefaultPools give a network 254 addresses, and there are 4,096 + 256 of them.
// Docker's of /16 and /20 are used up after 31 networks.
func DefaultPools() []Pool {
	return []Pool{
		{netip.MustParsePrefix("172.18.0.0/15"), 24},
		{netip.MustParsePrefix("172.20.0.0/14"), 24},
		{netip.MustParsePrefix("172.24.0.0/13"), 24},
		{netip.MustParsePrefix("192.168.0.0/16"), 24},
		{netip.MustParsePrefix("10.128.0.0/9"), 24},
	}
}

// Check says what is wrong with a pool.
func (p Pool) Check() error {
	bits := 0
	if p.Base.IsValid() {
		bits = p.Base.Addr().BitLen()
	}
	switch {
	case !p.Base.IsValid() || p.Base != p.Base.Masked():
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid address pool %s: give a network such as 10.10.0.0/16", p.Base))
	case p.Size < p.Base.Bits() || p.Size > bits-2:
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid address pool %s: its size %d is not from %d to %d", p.Base, p.Size, p.Base.Bits(), bits-2))
	}
	return nil
}

// Subnet is the first of the pools' subnets, of IPv6 or of IPv4, that overlaps
// none that is taken. after is where the search begins, so that a subnet rests
// after its use; the zero value begins at the first. Error: InvalidArgument, as in Docker.
func Subnet(pools []Pool, v6 bool, taken []netip.Prefix, after netip.Prefix) (netip.Prefix, error) {
	var first netip.Prefix
	passed := !after.IsValid()
	for _, p := range pools {
		if p.Base.Addr().Is6() != v6 {
			continue
		}
		busy := occupied(taken, p.Size)
		for s := netip.PrefixFrom(p.Base.Addr(), p.Size); s.IsValid() && p.Base.Contains(s.Addr()); s = netip.PrefixFrom(lastOf(s).Next(), p.Size) {
			// What is wide holds many subnets: they are passed in one step.
			if over := overlap(s, busy.wide); over.IsValid() {
				passed = passed || over.Overlaps(after)
				s = netip.PrefixFrom(lastOf(over), p.Size).Masked()
				continue
			}
			if !busy.exact[s] {
				if passed {
					return s, nil
				}
				if !first.IsValid() {
					first = s
				}
			}
			passed = passed || s == after
		}
	}
	if first.IsValid() {
		return first, nil
	}
	family := "IPv4"
	if v6 {
		family = "IPv6"
	}
	return netip.Prefix{}, errdefs.ErrInvalidArgument.WithMessage("all predefined address pools have been fully subnetted: every " + family +
		" subnet of default-address-pools is a network's or is routed by this host: remove networks (network prune), give one with --subnet, or add a pool to daemon.json")
}

// busy is what is taken, for subnets of one size.
type busy struct {
	exact map[netip.Prefix]bool // subnets of which a part is taken
	wide  []netip.Prefix        // larger than one
}

func occupied(taken []netip.Prefix, size int) busy {
	b := busy{exact: make(map[netip.Prefix]bool, len(taken))}
	for _, t := range taken {
		if t.Bits() < size {
			b.wide = append(b.wide, t)
		} else {
			b.exact[netip.PrefixFrom(t.Addr(), size).Masked()] = true
		}
	}
	return b
}

func overlap(p netip.Prefix, list []netip.Prefix) netip.Prefix {
	for _, b := range list {
		if p.Overlaps(b) {
			return b
		}
	}
	return netip.Prefix{}
}

// lastOf is the last address of a network.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Last is the last address of a network: of IPv4 its broadcast.
func Last(p netip.Prefix) netip.Addr { return lastOf(p) }

// Range is one subnet with the addresses that are taken of it. It is not safe for
// concurrent use.
type Range struct {
	Subnet netip.Prefix
	// From is where addresses are chosen from; it lies in Subnet.
	From netip.Prefix

	used map[netip.Addr]bool
	last netip.Addr // given last
	size *big.Int   // of From
}

// NewRange makes one. The network's own address, of IPv4 its broadcast too, and
// reserved ones are never given.
func NewRange(subnet, from netip.Prefix, reserved ...netip.Addr) *Range {
	if !from.IsValid() {
		from = subnet
	}
	r := &Range{Subnet: subnet.Masked(), From: from.Masked(), used: map[netip.Addr]bool{}}
	r.size = new(big.Int).Lsh(big.NewInt(1), uint(r.From.Addr().BitLen()-r.From.Bits()))
	for _, a := range append(reserved, r.Subnet.Addr(), lastOf(r.Subnet)) {
		if a.Is6() && a == lastOf(r.Subnet) || !a.IsValid() {
			continue // IPv6 has no broadcast
		}
		r.used[a] = true
	}
	return r
}

// Use marks an address as taken, whoever has it.
func (r *Range) Use(a netip.Addr) {
	if r.Subnet.Contains(a) {
		r.used[a] = true
	}
}

// Used says whether an address is taken.
func (r *Range) Used(a netip.Addr) bool { return r.used[a] }

// Len is how many addresses are taken, the reserved ones included.
func (r *Range) Len() int { return len(r.used) }

// Status counts for inspect: addresses that are taken, and those of From that are
// not; as many as a uint64 holds.
func (r *Range) Status() network.SubnetStatus {
	n := uint64(len(r.used))
	inside := 0
	for a := range r.used {
		if r.From.Contains(a) {
			inside++
		}
	}
	free := new(big.Int).Sub(r.size, big.NewInt(int64(inside)))
	s := network.SubnetStatus{IPsInUse: n, DynamicIPsAvailable: math.MaxUint64}
	if free.IsUint64() {
		s.DynamicIPsAvailable = free.Uint64()
	}
	return s
}

// Small says whether addresses are so few that none may lie idle.
func (r *Range) Small() bool { return r.size.Cmp(big.NewInt(64)) < 0 }

// Take gives want, or without one the next after the one given last, so that an
// address rests as long as it can. Errors: InvalidArgument, PermissionDenied for one
// that is taken, ResourceExhausted.
func (r *Range) Take(want netip.Addr) (netip.Addr, error) {
	if want.IsValid() {
		if !r.Subnet.Contains(want) {
			return want, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("no configured subnet contains IP address %s", want))
		}
		if r.used[want] {
			return want, errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("Address already in use: %s", want))
		}
		r.used[want] = true
		return want, nil
	}
	a := r.last
	// One more than are used is enough to find a free one, if there is any.
	for range len(r.used) + 1 {
		if a = a.Next(); !a.IsValid() || !r.From.Contains(a) {
			a = r.From.Addr()
		}
		if !r.used[a] {
			r.used[a], r.last = true, a
			return a, nil
		}
	}
	return a, errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("no available addresses in %s: all are in use", r.From))
}

// Free gives an address back.
func (r *Range) Free(a netip.Addr) { delete(r.used, a) }
