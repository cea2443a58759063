package nft

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"

	"hezi/internal/network/ipam"
)

// SetNear says in which networks the host is: their clients reach the ports of the
// scope lan (Forward).
func SetNear(t *Table, list []netip.Prefix) error {
	list = outermost(list)
	t.mu.Lock()
	defer t.mu.Unlock()
	if slices.Equal(list, t.near) {
		return nil
	}
	old := t.near
	t.near = list
	c := &nftables.Conn{}
	for _, name := range []string{setNear, setNear + suffix6} {
		c.FlushSet(t.sets[name]) // in the same transaction: no packet sees it empty
	}
	err := t.eachSet(nearElements(list), c.SetAddElements)
	if err == nil {
		err = c.Flush()
	}
	if err != nil {
		if err2 := t.restoreLocked(); err2 != nil {
			t.near = old
			return errors.Join(fmt.Errorf("change the host's networks in the nft table %s: %w", t.name, err), err2)
		}
	}
	return nil
}

// outermost sorts networks and leaves out those that lie in others: intervals of a set do
// not overlap.
func outermost(list []netip.Prefix) (out []netip.Prefix) {
	list = slices.Clone(list)
	for i := range list {
		list[i] = list[i].Masked()
	}
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	for _, p := range list {
		if n := len(out); n == 0 || !out[n-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}

func nearElements(near []netip.Prefix) (list []element) {
	for _, p := range near {
		set := setNear
		if p.Addr().Is6() {
			set += suffix6
		}
		list = append(list, interval(set, p, nil)...)
	}
	return list
}

// loadNear remembers what a former engine said: until the next looks, its ports stay
// reachable.
func loadNear(t *Table, c *nftables.Conn) error {
	t.near = nil
	for _, name := range []string{setNear, setNear + suffix6} {
		elems, err := c.GetSetElements(t.sets[name])
		if err != nil {
			return fmt.Errorf("read the host's networks of the nft table %s: %w", t.name, err)
		}
		// Ends are before starts at the same place.
		slices.SortFunc(elems, func(a, b nftables.SetElement) int {
			return cmp.Or(bytes.Compare(a.Key, b.Key), -cmp.Compare(one(a.IntervalEnd), one(b.IntervalEnd)))
		})
		for i, e := range elems {
			first, ok := netip.AddrFromSlice(e.Key)
			if e.IntervalEnd || !ok || i+1 == len(elems) {
				continue
			}
			end, _ := netip.AddrFromSlice(elems[i+1].Key)
			for bits := first.BitLen(); bits > 0; bits-- {
				if p := netip.PrefixFrom(first, bits).Masked(); p.Addr() == first && ipam.Last(p).Next() == end {
					t.near = append(t.near, p)
				}
			}
		}
	}
	t.near = outermost(t.near)
	return nil
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}
