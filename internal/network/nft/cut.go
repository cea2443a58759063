package nft

import (
	"errors"
	stdmaps "maps"
	"net/netip"
	"slices"
	"time"

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
	return t.eachSet(s, g, list, c.SetAddElements)
}

// eachSet calls f with the elements of a list by the sets that have them, some at a time.
func (t Guards) eachSet(s *egressSets, g *guarded, list []Flow, change func(*nftables.Set, []nftables.SetElement) error) error {
	by := map[string][]nftables.SetElement{}
	for _, f := range list {
		by[f.suffix()] = append(by[f.suffix()], f.element())
	}
	for suffix, all := range by {
		for part := range slices.Chunk(all, most) {
			if err := change(t.beforeSet(s, &g.Guard, suffix), part); err != nil {
				return err
			}
		}
	}
	return nil
}

// flowsKept is for how long a connection of before that is seen no more is judged at
// least: none of either end may be open again unnoticed.
const flowsKept = 5 * time.Minute

// Judge has connections of before judged by the policies that hold for a port now. Those
// that were judged and are not among them any more are given up after a while, so that
// they are not more than there have been lately.
func (t Guards) Judge(port string, list []Flow) error { return t.judge(port, list, time.Now()) }

func (t Guards) judge(port string, list []Flow, now time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.egress.guards[port]
	if g == nil {
		return nil
	}
	if g.flows == nil {
		g.flows = map[Flow]time.Time{}
	}
	var added, gone []Flow
	for _, f := range list {
		if !Judges(f.Proto) {
			continue
		}
		if _, known := g.flows[f]; !known {
			added = append(added, f)
		}
		g.flows[f] = now
	}
	for f, seen := range g.flows {
		if now.Sub(seen) > flowsKept {
			gone = append(gone, f)
			delete(g.flows, f)
		}
	}
	if len(added)+len(gone) == 0 {
		return nil
	}
	c, err := connect()
	if err == nil {
		err = errors.Join(t.addFlows(c, t.egressSets(), g, added), t.eachSet(t.egressSets(), g, gone, c.SetDeleteElements))
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
					g.flows = map[Flow]time.Time{}
				}
				g.flows[f] = time.Now()
			}
		}
	}
	return true
}
