package nft

import (
	"math"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Judge has the host's own input rules judge what comes from outside for a published
// port: ufw's and firewalld's, and an administrator's.
//
// Such a packet is not translated when it arrives, so that it is one for the host, and
// passes every chain of the hook input. What none has dropped comes to our last two: the
// first marks it if the port is published, the second, which must be in a table of the
// family as only there the kernel duplicates, sends a copy into Out and drops it. The
// copy comes out of In as a packet that nobody has seen yet, from the same client, and is
// translated. All that follows belongs to that connection and goes the straight way: only
// the first packet of each takes this one.
type Judge struct {
	In, Out string // the ends of a pair of devices in the host's namespace
	Index   int    // of Out
	V6      bool   // the host has IPv6
}

// judgeMark is the bit of a packet's mark that says so between the two chains. The
// rules of others never see it.
const judgeMark = 0x1000

const judgedChain = "judged"

// The copies are sent to addresses that are nobody's: the device needs none.
var judgeVia = map[nftables.TableFamily]netip.Addr{
	nftables.TableFamilyIPv4: netip.MustParseAddr("192.0.0.9"), nftables.TableFamilyIPv6: netip.MustParseAddr("fe80::9")}

type addRule func(...[]expr.Any)

// addJudge writes the chains of our table.
func addJudge(t *Table, raw, pre addRule, last func() addRule) {
	j := t.judge
	in, lo := iface(expr.MetaKeyIIFNAME, expr.CmpOpEq, j.In), iface(expr.MetaKeyIIFNAME, expr.CmpOpEq, "lo")
	bridges := t.iface(expr.MetaKeyIIFNAME, setBridges)
	others := []expr.Any{bridges[0], &expr.Lookup{SourceRegister: regWide, SetName: setBridges, SetID: t.sets[setBridges].ID, Invert: true}}
	raw(in, mark(func(m uint32) (uint32, uint32) { return m &^ judgeMark, 0 }))
	pre(iface(expr.MetaKeyIIFNAME, expr.CmpOpNeq, "lo"), iface(expr.MetaKeyIIFNAME, expr.CmpOpNeq, j.In), others, verdict(expr.VerdictReturn))

	judged := last()
	judged(lo, verdict(expr.VerdictReturn))
	judged(bridges, verdict(expr.VerdictReturn))
	judged(in, verdict(expr.VerdictReturn))
	judged(ct(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED|expr.CtStateBitINVALID|expr.CtStateBitUNTRACKED), verdict(expr.VerdictReturn))
	set := mark(func(m uint32) (uint32, uint32) { return m, judgeMark })
	for _, h := range t.kept {
		m := &t.v4
		if h.family == header6.family {
			m = &t.v6
		}
		at := []expr.Any{load(expr.PayloadBaseNetworkHeader, h.dest, h.size, regWord)}
		near := append(t.addressed(h, h.source, setNear), comesFromThere()...)
		for _, x := range []struct {
			when, key []expr.Any
			words     uint32
			set       *nftables.Set
		}{{nil, at, h.words(), m.at}, {nil, nil, 0, m.any}, {near, scope(h), h.words(), m.at},
			{nil, at, h.words(), m.rangesAt}, {nil, nil, 0, m.ranges}, {near, scope(h), h.words(), m.rangesAt}} {
			if x.set != nil {
				found := &expr.Lookup{SourceRegister: regWord, DestRegister: regWide, IsDestRegSet: true, SetName: x.set.Name, SetID: x.set.ID}
				judged(h.only(), x.when, toHost(), x.key, protoPort(regWord+x.words), []expr.Any{found}, set, verdict(expr.VerdictAccept))
			}
		}
	}
}

// mark changes the packet's mark to (mark & and) | or, as change does with all bits set.
func mark(change func(uint32) (uint32, uint32)) []expr.Any {
	and, or := change(math.MaxUint32)
	// The kernel has (mark & mask) ^ xor.
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: regWide},
		&expr.Bitwise{SourceRegister: regWide, DestRegister: regWide, Len: 4, Mask: native(and &^ or), Xor: native(or)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: regWide, SourceRegister: true}}
}

// judgeTables are those that duplicate.
func judgeTables(name string) []*nftables.Table {
	return []*nftables.Table{{Name: name + "-judged", Family: nftables.TableFamilyIPv4}, {Name: name + "-judged", Family: nftables.TableFamilyIPv6}}
}

// SetJudge changes the devices of the judge that a table has.
func SetJudge(t *Table, j Judge) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.judge = &j
	return t.restoreLocked()
}

// resetJudge removes the tables that duplicate, and adds them if there is a judge.
func resetJudge(c *nftables.Conn, t *Table) {
	removeJudge(c, t)
	if t.judge == nil {
		return
	}
	for _, table := range judgeTables(t.name) {
		if table.Family == nftables.TableFamilyIPv6 && !t.judge.V6 {
			continue
		}
		c.AddTable(table)
		ch := c.AddChain(&nftables.Chain{Name: judgedChain, Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput,
			Priority: nftables.ChainPriorityRef(math.MaxInt32 - 1)}) // the kernel's own last is MaxInt32
		c.AddRule(&nftables.Rule{Table: table, Chain: ch, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyMARK, Register: regWide},
			&expr.Bitwise{SourceRegister: regWide, DestRegister: regWide, Len: 4, Mask: native(judgeMark), Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: regWide, Data: make([]byte, 4)},
			&expr.Immediate{Register: regWide, Data: judgeVia[table.Family].AsSlice()},
			&expr.Immediate{Register: regWide2, Data: native(uint32(t.judge.Index))},
			&expr.Dup{RegAddr: regWide, RegDev: regWide2, IsRegDevSet: true},
			&expr.Verdict{Kind: expr.VerdictDrop}}})
	}
}

// removeJudge takes them away in the transaction of c.
func removeJudge(c *nftables.Conn, t *Table) {
	ask := &nftables.Conn{}
	for _, table := range judgeTables(t.name) {
		if _, err := ask.ListTableOfFamily(table.Name, table.Family); err == nil {
			c.DelTable(table)
		}
	}
}

// judgeIntact says whether they are as they shall be.
func judgeIntact(c *nftables.Conn, t *Table) bool {
	for _, table := range judgeTables(t.name) {
		if t.judge == nil || table.Family == nftables.TableFamilyIPv6 && !t.judge.V6 {
			continue
		}
		rules, err := c.GetRules(table, &nftables.Chain{Name: judgedChain, Table: table})
		if err != nil || len(rules) != 1 {
			return false
		}
	}
	return true
}
