package nft

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// rulesVersion grows when the rules change, so that a new engine replaces them.
const rulesVersion = 3

const (
	rtnLocal  = 2      // RTN_LOCAL of linux/rtnetlink.h
	ipsDstNAT = 1 << 5 // IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h
	regWide   = 1      // NFT_REG_1, four words that begin at NFT_REG32_00
	regWord   = 8      // NFT_REG32_00
	saddrOff  = 12     // of the IPv4 header
	daddrOff  = 16
)

// addRules writes every chain and returns how many rules each has.
func addRules(c *nftables.Conn, t *Table) map[string]int {
	count := map[string]int{}
	chain := func(name string, typ nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) func(...[]expr.Any) {
		ch := c.AddChain(&nftables.Chain{Name: name, Table: t.table, Type: typ, Hooknum: hook, Priority: prio})
		return func(parts ...[]expr.Any) {
			var all []expr.Any
			for _, p := range parts {
				all = append(all, p...)
			}
			count[name]++
			c.AddRule(&nftables.Rule{Table: t.table, Chain: ch, Exprs: all})
		}
	}
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	bridge := t.cfg.Bridge
	masq := []expr.Any{&expr.Masq{}}

	raw := chain("raw", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	raw(iface(expr.MetaKeyIIFNAME, expr.CmpOpNeq, "lo"), within(daddrOff, loopback), verdict(expr.VerdictDrop))
	raw(iface(expr.MetaKeyIIFNAME, expr.CmpOpEq, bridge), within(saddrOff, loopback), verdict(expr.VerdictDrop))

	for _, n := range []struct {
		name string
		hook *nftables.ChainHook
	}{{"prerouting", nftables.ChainHookPrerouting}, {"output", nftables.ChainHookOutput}} {
		nat := chain(n.name, nftables.ChainTypeNAT, n.hook, nftables.ChainPriorityNATDest)
		nat(toHost(), []expr.Any{load(expr.PayloadBaseNetworkHeader, daddrOff, 4, regWord)}, protoPort(regWord+1), dnat(t.at))
		nat(toHost(), protoPort(regWord), dnat(t.any))
		if t.ranges != nil {
			nat(toHost(), []expr.Any{load(expr.PayloadBaseNetworkHeader, daddrOff, 4, regWord)}, protoPort(regWord+1), dnat(t.rangesAt))
			nat(toHost(), protoPort(regWord), dnat(t.ranges))
		}
	}

	post := chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	out := iface(expr.MetaKeyOIFNAME, expr.CmpOpEq, bridge)
	if t.cfg.Masquerade {
		post(iface(expr.MetaKeyOIFNAME, expr.CmpOpNeq, bridge), within(saddrOff, t.cfg.Subnet), masq)
	}
	post(out, within(saddrOff, loopback), masq)
	post(out, within(saddrOff, t.cfg.Subnet), ct(expr.CtKeySTATUS, ipsDstNAT), masq)

	fwd := chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	fwd(out, ct(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept))
	fwd(iface(expr.MetaKeyIIFNAME, expr.CmpOpEq, bridge), verdict(expr.VerdictAccept))
	fwd(out, ct(expr.CtKeySTATUS, ipsDstNAT), verdict(expr.VerdictAccept))
	fwd(out, verdict(expr.VerdictDrop))
	return count
}

func iface(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: regWide}, &expr.Cmp{Op: op, Register: regWide, Data: padded}}
}

func load(base expr.PayloadBase, offset, length, reg uint32) expr.Any {
	return &expr.Payload{OperationType: expr.PayloadLoad, Base: base, Offset: offset, Len: length, DestRegister: reg}
}

// within matches an address of the IPv4 header with a network.
func within(offset uint32, p netip.Prefix) []expr.Any {
	mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-p.Bits()))
	return []expr.Any{load(expr.PayloadBaseNetworkHeader, offset, 4, regWide),
		&expr.Bitwise{SourceRegister: regWide, DestRegister: regWide, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regWide, Data: p.Masked().Addr().AsSlice()}}
}

// toHost matches packets for an address of the host.
func toHost() []expr.Any {
	return []expr.Any{&expr.Fib{Register: regWide, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regWide, Data: native(rtnLocal)}}
}

func protoPort(reg uint32) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, load(expr.PayloadBaseTransportHeader, 2, 2, reg+1)}
}

// dnat sends to what the map has for the registers' key; a map of intervals
// leaves the port.
func dnat(s *nftables.Set) []expr.Any {
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: regWide}
	if !s.Interval {
		nat.RegProtoMin, nat.Specified = regWord+1, true
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
