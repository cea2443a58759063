package nft

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// rulesVersion grows when the rules change, so that a new engine replaces them.
const rulesVersion = 10

const (
	rtnLocal  = 2      // RTN_LOCAL of linux/rtnetlink.h
	ipsDstNAT = 1 << 5 // IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h
	regWide   = 1      // NFT_REG_1, four words that begin at NFT_REG32_00
	regWide2  = 2      // NFT_REG_2, the four words behind it
	regWord   = 8      // NFT_REG32_00
)

// ipHeader says where the addresses are in the header of a family.
type ipHeader struct {
	family             uint32 // unix.NFPROTO_IPV4 or NFPROTO_IPV6
	source, dest, size uint32
	loopback           netip.Prefix
	icmp               byte
	suffix             string // of the family's sets
}

var (
	header4 = ipHeader{unix.NFPROTO_IPV4, 12, 16, 4, netip.MustParsePrefix("127.0.0.0/8"), unix.IPPROTO_ICMP, ""}
	header6 = ipHeader{unix.NFPROTO_IPV6, 8, 24, 16, netip.MustParsePrefix("::1/128"), unix.IPPROTO_ICMPV6, suffix6}
)

// keptFamilies are those that a table has rules for.
func keptFamilies(cfg Config) (list []ipHeader) {
	if !cfg.Without4 {
		list = append(list, header4)
	}
	if !cfg.Without6 {
		list = append(list, header6)
	}
	return list
}

// words is how many words of four bytes an address has.
func (h ipHeader) words() uint32 { return h.size / 4 }

// only matches the family.
func (h ipHeader) only() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: regWide}, &expr.Cmp{Op: expr.CmpOpEq, Register: regWide, Data: []byte{byte(h.family)}}}
}

// addRules writes every chain but the administrator's and returns how many rules
// each has.
func addRules(c *nftables.Conn, t *Table) map[string]int {
	count := map[string]int{}
	chain := func(name string, typ nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) func(...[]expr.Any) {
		ch := c.AddChain(&nftables.Chain{Name: name, Table: t.table, Type: typ, Hooknum: hook, Priority: prio})
		count[name] = 0
		return func(parts ...[]expr.Any) {
			var all []expr.Any
			for _, p := range parts {
				all = append(all, p...)
			}
			count[name]++
			c.AddRule(&nftables.Rule{Table: t.table, Chain: ch, Exprs: all})
		}
	}
	families := t.kept
	masq := []expr.Any{&expr.Masq{}}
	in, out := t.iface(expr.MetaKeyIIFNAME, setBridges), t.iface(expr.MetaKeyOIFNAME, setBridges)

	raw := chain("raw", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	if slices.Contains(families, header4) {
		// Addresses first: of every packet they are asked, and cost less than names.
		raw(header4.only(), header4.within(header4.dest, header4.loopback), iface(expr.MetaKeyIIFNAME, expr.CmpOpNeq, "lo"), verdict(expr.VerdictDrop))
		raw(header4.only(), header4.within(header4.source, header4.loopback), in, verdict(expr.VerdictDrop))
	}

	for _, n := range []struct {
		name string
		hook *nftables.ChainHook
	}{{"prerouting", nftables.ChainHookPrerouting}, {"output", nftables.ChainHookOutput}} {
		nat := chain(n.name, nftables.ChainTypeNAT, n.hook, nftables.ChainPriorityNATDest)
		if n.name == "output" {
			// The kernel leads nothing of ::1 elsewhere: a connection would wait for ever,
			// and not be tried with 127.0.0.1.
			nat(header6.only(), header6.within(header6.dest, header6.loopback), []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}})
		} else if t.judge != nil {
			addJudge(t, raw, nat, func() addRule {
				return chain(judgedChain, nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityRef(math.MaxInt32-2))
			})
		}
		for _, h := range families {
			m := &t.v4
			if h.family == header6.family {
				m = &t.v6
			}
			at := []expr.Any{load(expr.PayloadBaseNetworkHeader, h.dest, h.size, regWord)}
			nat(h.only(), toHost(), at, protoPort(regWord+h.words()), h.dnat(m.at))
			nat(h.only(), toHost(), protoPort(regWord), h.dnat(m.any))
			if m.ranges != nil {
				nat(h.only(), toHost(), at, protoPort(regWord+h.words()), h.dnat(m.rangesAt))
				nat(h.only(), toHost(), protoPort(regWord), h.dnat(m.ranges))
			}
			// The scope lan: from networks that the host is in, and by the device that leads
			// back there, or any router's client could say to be one of them.
			near := [][]expr.Any{h.only()}
			switch {
			case n.name == "output":
			case t.judge != nil: // seen to before it came from there, or of this machine
			default:
				near = append(near, t.addressed(h, h.source, setNear), comesFromThere())
			}
			nat(append(near, toHost(), scope(h), protoPort(regWord+h.words()), h.dnat(m.at))...)
			if m.ranges != nil {
				nat(append(near, toHost(), scope(h), protoPort(regWord+h.words()), h.dnat(m.rangesAt))...)
			}
		}
	}

	post := chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	for _, h := range families {
		// A program of the host that asked its own loopback for a published port, and a
		// container that asked the host for one: answers must come back this way.
		post(out, h.only(), h.within(h.source, h.loopback), masq)
		post(out, h.only(), t.addressed(h, h.source, setSubnets), ct(expr.CtKeySTATUS, ipsDstNAT), masq)
	}
	post(out, []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}})
	for _, h := range families {
		post(h.only(), t.addressed(h, h.source, setMasq), masq)
		post(h.only(), []expr.Any{load(expr.PayloadBaseNetworkHeader, h.source, h.size, regWide), t.lookup(setSources+h.suffix, true),
			&expr.NAT{Type: expr.NATTypeSourceNAT, Family: h.family, RegAddrMin: regWide}})
	}

	c.AddChain(&nftables.Chain{Name: userChain, Table: t.table})
	countDrops(chain)
	fwd := chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	fwd([]expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: userChain}})
	for _, h := range []ipHeader{header4, header6} {
		if !slices.Contains(families, h) {
			fwd(h.only(), verdict(expr.VerdictAccept))
		}
	}
	// Most packets are of a known connection: of these the rules below drop none but those
	// of internal networks, and need not be asked. Names of devices cost as much as
	// all the rest, and are asked only where there is such a network.
	known := ct(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
	if hasInternal(t) {
		known = slices.Concat(known, ifaceNot(t, expr.MetaKeyIIFNAME, setInternal), ifaceNot(t, expr.MetaKeyOIFNAME, setInternal))
	}
	fwd(known, verdict(expr.VerdictAccept))
	fwd(pair(), []expr.Any{t.lookup(setBetween, false)}, verdict(expr.VerdictAccept))
	fwd(t.iface(expr.MetaKeyIIFNAME, setInternal), goTo(chainDropIn))
	fwd(t.iface(expr.MetaKeyOIFNAME, setInternal), goTo(chainDropOut))
	fwd(out, ct(expr.CtKeySTATUS, ipsDstNAT), verdict(expr.VerdictAccept))
	for _, h := range families {
		fwd(h.only(), t.iface(expr.MetaKeyOIFNAME, setOpen+h.suffix), verdict(expr.VerdictAccept))
		fwd(h.only(), t.iface(expr.MetaKeyOIFNAME, setRouted+h.suffix), proto(h.icmp), verdict(expr.VerdictAccept))
		fwd(h.only(), out, []expr.Any{load(expr.PayloadBaseNetworkHeader, h.dest, h.size, regWord)}, protoPort(regWord+h.words()),
			[]expr.Any{&expr.Lookup{SourceRegister: regWord, SetName: setDirect + h.suffix, SetID: t.sets[setDirect+h.suffix].ID}}, verdict(expr.VerdictAccept))
	}
	fwd(out, goTo(chainDropOut))
	fwd(in, verdict(expr.VerdictAccept))
	return count
}

// userChain is the administrator's: it is asked first of what is forwarded, and is
// never flushed.
const userChain = "hezi-user"

func (t *Table) lookup(set string, isMap bool) expr.Any {
	l := &expr.Lookup{SourceRegister: regWide, SetName: set, SetID: t.sets[set].ID}
	if isMap {
		l.DestRegister, l.IsDestRegSet = regWide, true
	}
	return l
}

// iface matches an interface that a set has.
func (t *Table) iface(key expr.MetaKey, set string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: regWide}, t.lookup(set, false)}
}

// ifaceNot matches an interface that a set has not.
func ifaceNot(t *Table, key expr.MetaKey, set string) []expr.Any {
	l := t.lookup(set, false).(*expr.Lookup)
	l.Invert = true
	return []expr.Any{&expr.Meta{Key: key, Register: regWide}, l}
}

// addressed matches an address of the header that a set of the family has.
func (t *Table) addressed(h ipHeader, offset uint32, set string) []expr.Any {
	return []expr.Any{load(expr.PayloadBaseNetworkHeader, offset, h.size, regWide), t.lookup(set+h.suffix, false)}
}

// pair loads the interfaces that a packet comes from and goes to.
func pair() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: regWide}, &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: regWide2}}
}

func proto(p byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regWide}, &expr.Cmp{Op: expr.CmpOpEq, Register: regWide, Data: []byte{p}}}
}

func iface(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: regWide}, &expr.Cmp{Op: op, Register: regWide, Data: ifname(name)}}
}

func load(base expr.PayloadBase, offset, length, reg uint32) expr.Any {
	return &expr.Payload{OperationType: expr.PayloadLoad, Base: base, Offset: offset, Len: length, DestRegister: reg}
}

// within matches an address of the header with a network.
func (h ipHeader) within(offset uint32, p netip.Prefix) []expr.Any {
	mask := make([]byte, h.size)
	for i := range p.Bits() {
		mask[i/8] |= 1 << (7 - i%8)
	}
	return []expr.Any{load(expr.PayloadBaseNetworkHeader, offset, h.size, regWide),
		&expr.Bitwise{SourceRegister: regWide, DestRegister: regWide, Len: h.size, Mask: mask, Xor: make([]byte, h.size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regWide, Data: p.Masked().Addr().AsSlice()}}
}

// toHost matches packets for an address of the host.
func toHost() []expr.Any {
	return []expr.Any{&expr.Fib{Register: regWide, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regWide, Data: native(rtnLocal)}}
}

// comesFromThere matches packets whose source is reached by the device that they come from.
func comesFromThere() []expr.Any {
	return []expr.Any{&expr.Fib{Register: regWide, FlagSADDR: true, FlagIIF: true, ResultOIF: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: regWide, Data: make([]byte, 4)}}
}

// scope loads what ports of the scope lan have in place of the host's address.
func scope(h ipHeader) []expr.Any {
	return []expr.Any{&expr.Immediate{Register: regWord, Data: make([]byte, h.size)}}
}

func protoPort(reg uint32) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, load(expr.PayloadBaseTransportHeader, 2, 2, reg+1)}
}

// dnat sends to what the map has for the registers' key; a map of intervals
// leaves the port.
func (h ipHeader) dnat(s *nftables.Set) []expr.Any {
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: h.family, RegAddrMin: regWide}
	if !s.Interval {
		nat.RegProtoMin, nat.Specified = regWord+h.words(), true
	}
	return []expr.Any{&expr.Lookup{SourceRegister: regWord, DestRegister: regWide, IsDestRegSet: true, SetName: s.Name, SetID: s.ID}, nat}
}

// ct matches if one of the bits is set.
func ct(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{&expr.Ct{Key: key, Register: regWide},
		&expr.Bitwise{SourceRegister: regWide, DestRegister: regWide, Len: 4, Mask: native(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: regWide, Data: make([]byte, 4)}}
}

func verdict(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k}} }

func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
