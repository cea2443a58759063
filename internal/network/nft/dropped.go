package nft

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// What the rules drop is counted by bridge, in a set that the kernel fills: a packet
// that is let through costs nothing more, and neither does a start.
const (
	setDropped   = "dropped"
	chainDropIn  = "drop-in"  // counts by the interface that a packet came from
	chainDropOut = "drop-out" // by the one that it would go to
	maxDropped   = 65536      // bridges
)

func droppedSet(t *Table) *nftables.Set {
	return &nftables.Set{Table: t.table, Name: setDropped, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian, Dynamic: true, Size: maxDropped}
}

// countDrops writes the chains that count and drop.
func countDrops(chain func(string, nftables.ChainType, *nftables.ChainHook, *nftables.ChainPriority) func(...[]expr.Any)) {
	for name, key := range map[string]expr.MetaKey{chainDropIn: expr.MetaKeyIIFNAME, chainDropOut: expr.MetaKeyOIFNAME} {
		add := chain(name, "", nil, nil)
		add([]expr.Any{&expr.Meta{Key: key, Register: regWide},
			&expr.Dynset{SrcRegKey: regWide, SetName: setDropped, Operation: unix.NFT_DYNSET_OP_UPDATE, Exprs: []expr.Any{&expr.Counter{}}}})
		add(verdict(expr.VerdictDrop)) // also when the set is full
	}
}

func goTo(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}

// Dropped are the packets of a bridge's network that the rules dropped: from it or to it,
// since the table was written.
func Dropped(t *Table, bridge string) (packets, bytes uint64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	elems, err := (&nftables.Conn{}).GetSetElements(droppedSet(t))
	if err != nil {
		return 0, 0, fmt.Errorf("read what the nft table %s dropped: %w", t.name, err)
	}
	for _, e := range elems {
		if string(e.Key) == string(ifname(bridge)) && e.Counter != nil {
			packets, bytes = packets+e.Counter.Packets, bytes+e.Counter.Bytes
		}
	}
	return packets, bytes, nil
}

// ForgetDropped takes away what was counted of a bridge that is gone.
func ForgetDropped(t *Table, bridge string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := &nftables.Conn{}
	elems, err := c.GetSetElements(droppedSet(t))
	if err != nil {
		return fmt.Errorf("read what the nft table %s dropped: %w", t.name, err)
	}
	key := ifname(bridge)
	if !slices.ContainsFunc(elems, func(e nftables.SetElement) bool { return string(e.Key) == string(key) }) {
		return nil
	}
	if err := c.SetDeleteElements(droppedSet(t), []nftables.SetElement{{Key: key}}); err != nil {
		return err
	}
	return c.Flush()
}
