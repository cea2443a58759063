package nft

import (
	stdmaps "maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Flow is a connection that a container made before its policy was set, of TCP, UDP or
// SCTP. Its packets are judged one by one, whoever the kernel says has begun: after its
// entry was forgotten, or where it tracked none, that is who happens to send first.
type Flow struct {
	Proto uint8
	From  uint16 // the container's port
	To    netip.AddrPort
}

// Judges says whether packets of connections of a protocol can be judged one by one.
func Judges(proto uint8) bool {
	return proto == unix.IPPROTO_TCP || proto == unix.IPPROTO_UDP || proto == unix.IPPROTO_SCTP
}

func (f Flow) suffix() string {
	if f.To.Addr().Is6() {
		return suffix6
	}
	return ""
}

func (f Flow) element() nftables.SetElement {
	key := append([]byte{f.Proto, 0, 0, 0, byte(f.From >> 8), byte(f.From), 0, 0}, f.To.Addr().AsSlice()...)
	return nftables.SetElement{Key: append(key, byte(f.To.Port()>>8), byte(f.To.Port()), 0, 0)}
}

func decodeFlow(key []byte) (f Flow, ok bool) {
	size := len(key) - 12
	if size < 4 {
		return f, false
	}
	a, ok := netip.AddrFromSlice(key[8 : 8+size])
	return Flow{key[0], uint16(key[4])<<8 | uint16(key[5]), netip.AddrPortFrom(a, uint16(key[8+size])<<8|uint16(key[9+size]))}, ok
}

// flow loads what an element of a set of flows has.
func (h ipHeader) flow() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regWord}, load(expr.PayloadBaseTransportHeader, 0, 2, regWord+1),
		load(expr.PayloadBaseNetworkHeader, h.dest, h.size, regWord+2), load(expr.PayloadBaseTransportHeader, 2, 2, regWord+2+h.words())}
}

// beforeSet is the set of a guard's flows of before.
func (t Guards) beforeSet(s *egressSets, g *Guard, suffix string) *nftables.Set {
	return &nftables.Set{Table: t.table, Name: g.chain() + "-before" + map[string]string{"": "", suffix6: "v6"}[suffix], Concatenation: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService, s.addrType[suffix], nftables.TypeInetService)}
}

// writeBefore writes the sets of flows of before and the rules that have them judged.
func (t Guards) writeBefore(c *nftables.Conn, s *egressSets, g *guarded, add func(...[]expr.Any)) error {
	for _, h := range s.families {
		set := t.beforeSet(s, &g.Guard, h.suffix)
		if err := c.AddSet(set, nil); err != nil {
			return err
		}
		add(h.only(), h.flow(), []expr.Any{&expr.Lookup{SourceRegister: regWord, SetName: set.Name, SetID: set.ID}, &expr.Verdict{Kind: expr.VerdictGoto, Chain: g.judgeChain()}})
	}
	return t.addFlows(c, s, g, slices.Collect(stdmaps.Keys(g.flows)))
}

func (t Guards) addFlows(c *nftables.Conn, s *egressSets, g *guarded, list []Flow) error {
	by := map[string][]nftables.SetElement{}
	for _, f := range list {
		by[f.suffix()] = append(by[f.suffix()], f.element())
	}
	for suffix, all := range by {
		for part := range slices.Chunk(all, most) {
			if err := c.SetAddElements(t.beforeSet(s, &g.Guard, suffix), part); err != nil {
				return err
			}
		}
	}
	return nil
}

// Judge has connections of before judged by the policies that hold for a port now.
func (t Guards) Judge(port string, list []Flow) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.egress.guards[port]
	list = slices.DeleteFunc(slices.Clone(list), func(f Flow) bool {
		return !Judges(f.Proto) || g != nil && g.flows[f]
	})
	if g == nil || len(list) == 0 {
		return nil
	}
	if g.flows == nil {
		g.flows = map[Flow]bool{}
	}
	for _, f := range list {
		g.flows[f] = true
	}
	c, err := connect()
	if err == nil {
		err = t.addFlows(c, t.egressSets(), g, list)
	}
	if err == nil {
		err = c.Flush()
	}
	if err != nil {
		return t.restoreEgress() // somebody may have removed the sets
	}
	return nil
}

// adoptFlows takes over those that an engine before this one had judged.
func (t Guards) adoptFlows(c *nftables.Conn, s *egressSets, g *guarded) bool {
	for suffix := range s.addrType {
		elems, err := c.GetSetElements(t.beforeSet(s, &g.Guard, suffix))
		if err != nil {
			return false
		}
		for _, e := range elems {
			if f, ok := decodeFlow(e.Key); ok {
				if g.flows == nil {
					g.flows = map[Flow]bool{}
				}
				g.flows[f] = true
			}
		}
	}
	return true
}
