package nft

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	stdmaps "maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"hezi/internal/network/egress"
)

// What holds containers to a policy of egress is there only while one has such.
//
//	table bridge hezi {
//	  map ports     { ifname : ether }    guarded ports of bridges, with their bridge's address
//	  map macs      { ether . address : ether } the same of what is sent to their containers
//	  set senders   { ifname . ether }    that a port may send from
//	  set addresses { ifname . address }  that a port may send from, also of IPv6
//	  set refused   { ifname }            how often it sent something else
//	  chain pre     prerouting: what comes from a guarded port, or goes to its container, goes
//	                to the host, which routes it: no neighbour is reached by the bridge alone
//	  chain from    ARP, and what IPv6 has in its place, pass; other kinds than IP do not
//	}
//	table inet hezi {
//	  map egress_of { ifname . address : jump egress-PORT-HASH }   bridge, container
//	  set denied    { container . address . proto . port : counter }
//	  chain egress  prerouting, after connection tracking and before address translation
//	  chain egress-PORT-HASH    replies pass, but of connections of before; then -all
//	  chain egress-PORT-HASH-all  the rest is judged by each policy
//	  set egress-PORT-HASH-before  { proto . port . address . port } connections that the
//	                   container had made when the policy was set
//	  chain egress-PORT-HASH-N  a policy: what it allows returns, what is left is counted and rejected
//	  set egress-PORT-HASH-N-M  the addresses of names, while their answers are good
//	}
//
// Each set of addresses is there once more for IPv6, with a 6 behind its name. A start
// with a policy is one transaction, whose size does not depend on other containers.

// Guard is one interface of a container that is held to policies: what it sends must
// be allowed by all of them.
type Guard struct {
	Bridge, Port   string // interfaces of the host
	MAC, BridgeMAC net.HardwareAddr
	Addresses      []netip.Addr
	Subnets        []netip.Prefix
	Policies       []*egress.Policy
}

// Guards are a table's hold on containers with policies. Its methods are safe for
// concurrent use.
type Guards struct{ *Table }

const (
	egressVersion = 3 // grows when the rules below change
	egressPrefix  = "egress-"
	egressChain   = "egress"
	// maxLearned addresses of one set of names.
	maxLearned = 4096
	// deniedFor is how long a destination that was denied is remembered for events, and
	// maxDenied how many are.
	deniedFor, maxDenied = 30 * time.Second, 8192
	// deniedRate is how many denied packets of one policy are remembered in a second.
	deniedRate = 50
)

// guarded is a guard in work.
type guarded struct {
	Guard
	learned map[Names]map[netip.Addr]time.Time // until when
	denied  map[int]expr.Counter               // by each policy, when that was read last
	flows   map[Flow]time.Time                 // made before it was set
	// Frames that were refused in the bridge: since it was written, and before.
	refused, before expr.Counter
}

// Names are those of a policy that have the same ports, by their place in Guard.Policies
// and in Policy.Named.
type Names struct{ Policy, Ports int }

// egressState is of a Table, and guarded by its lock.
type egressState struct {
	guards map[string]*guarded // by port
	rules  map[string]int      // of the chains that are always there, "bridge" before those of the bridge
}

// chain is the name of the guard's chain: another one for other rules.
func (g *Guard) chain() string {
	h := sha256.New()
	fmt.Fprint(h, egressVersion, g.Bridge, g.MAC, g.BridgeMAC, g.Addresses, g.Subnets)
	for _, p := range g.Policies {
		fmt.Fprint(h, p.String(), ";")
	}
	return egressPrefix + g.Port + "-" + hex.EncodeToString(h.Sum(nil))[:8]
}

func (g *Guard) judgeChain() string { return g.chain() + "-all" }

func (g *Guard) policyChain(n int) string { return fmt.Sprintf("%s-%d", g.chain(), n) }

func (g *Guard) names() (list []Names) {
	for i, p := range g.Policies {
		for j := range p.Named() {
			list = append(list, Names{i, j})
		}
	}
	return list
}

// egressSets are the sets that are always there.
type egressSets struct {
	bridge                *nftables.Table
	ports                 *nftables.Set
	senders, refused      *nftables.Set
	addresses, of, denied map[string]*nftables.Set // by the family's suffix
	macs                  map[string]*nftables.Set
	inBridge, inInet      []*nftables.Set
	addrType              map[string]nftables.SetDatatype
	families              []ipHeader
}

func (t Guards) egressSets() *egressSets {
	s := &egressSets{bridge: &nftables.Table{Name: t.name, Family: nftables.TableFamilyBridge}, families: []ipHeader{header4, header6},
		addresses: map[string]*nftables.Set{}, macs: map[string]*nftables.Set{}, of: map[string]*nftables.Set{}, denied: map[string]*nftables.Set{},
		addrType: map[string]nftables.SetDatatype{"": nftables.TypeIPAddr, suffix6: nftables.TypeIP6Addr}}
	name := nftables.TypeIFName
	s.ports = &nftables.Set{Table: s.bridge, Name: "ports", IsMap: true, KeyType: name, DataType: nftables.TypeEtherAddr}
	s.senders = &nftables.Set{Table: s.bridge, Name: "senders", Concatenation: true, KeyType: nftables.MustConcatSetType(name, nftables.TypeEtherAddr)}
	s.refused = &nftables.Set{Table: s.bridge, Name: "refused", KeyType: name, Dynamic: true, Size: maxDenied}
	s.ports.KeyByteOrder, s.refused.KeyByteOrder = binaryutil.NativeEndian, binaryutil.NativeEndian // or nft shows no names
	s.inBridge = []*nftables.Set{s.ports, s.senders, s.refused}
	for suffix, addr := range s.addrType {
		s.addresses[suffix] = &nftables.Set{Table: s.bridge, Name: "addresses" + suffix, Concatenation: true, KeyType: nftables.MustConcatSetType(name, addr)}
		s.of[suffix] = &nftables.Set{Table: t.table, Name: "egress_of" + suffix, Concatenation: true, IsMap: true, KeyType: nftables.MustConcatSetType(name, addr), DataType: nftables.TypeVerdict}
		s.denied[suffix] = &nftables.Set{Table: t.table, Name: "denied" + suffix, Concatenation: true, Dynamic: true, HasTimeout: true, Timeout: deniedFor, Size: maxDenied,
			KeyType: nftables.MustConcatSetType(addr, addr, nftables.TypeInetProto, nftables.TypeInetService)}
		s.macs[suffix] = &nftables.Set{Table: s.bridge, Name: "macs" + suffix, IsMap: true, Concatenation: true, KeyType: nftables.MustConcatSetType(nftables.TypeEtherAddr, addr), DataType: nftables.TypeEtherAddr}
		s.inBridge = append(s.inBridge, s.addresses[suffix], s.macs[suffix])
		s.inInet = append(s.inInet, s.of[suffix], s.denied[suffix])
	}
	return s
}

// learnedSet is the set of a guard's names.
func (t Guards) learnedSet(s *egressSets, g *Guard, n Names, suffix string) *nftables.Set {
	return &nftables.Set{Table: t.table, Name: fmt.Sprintf("%s-%d%s", g.policyChain(n.Policy), n.Ports, map[string]string{"": "", suffix6: "v6"}[suffix]), KeyType: s.addrType[suffix], HasTimeout: true, Size: maxLearned}
}

// ruler adds rules to a chain and counts them.
func ruler(c *nftables.Conn, table *nftables.Table, count map[string]int, prefix string) func(*nftables.Chain) func(...[]expr.Any) {
	return func(ch *nftables.Chain) func(...[]expr.Any) {
		ch.Table = table
		c.AddChain(ch)
		count[prefix+ch.Name] = 0
		return func(parts ...[]expr.Any) {
			count[prefix+ch.Name]++
			c.AddRule(&nftables.Rule{Table: table, Chain: ch, Exprs: slices.Concat(parts...)})
		}
	}
}

const inBridge = "bridge " // before the names of the bridge's chains

// writeEgress writes what is always there while a guard is.
func (t Guards) writeEgress(c *nftables.Conn, s *egressSets) error {
	c.AddTable(s.bridge)
	c.AddTable(t.table)
	for _, set := range slices.Concat(s.inBridge, s.inInet) {
		set.ID = 0
		if err := c.AddSet(set, nil); err != nil {
			return fmt.Errorf("encode the nft set %s: %w", set.Name, err)
		}
	}
	t.egress.rules = map[string]int{}
	s.bridgeRules(ruler(c, s.bridge, t.egress.rules, inBridge))
	prio := nftables.ChainPriorityRef(-140)
	add := ruler(c, t.table, t.egress.rules, "")(&nftables.Chain{Name: egressChain, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: prio})
	for _, h := range s.families {
		of := s.of[h.suffix]
		add(h.only(), []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: regWide}, load(expr.PayloadBaseNetworkHeader, h.source, h.size, regWord+4),
			&expr.Lookup{SourceRegister: regWide, IsDestRegSet: true, SetName: of.Name, SetID: of.ID}})
	}
	return nil
}

func protocol(ether uint16) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: regWide}, &expr.Cmp{Op: expr.CmpOpEq, Register: regWide, Data: []byte{byte(ether >> 8), byte(ether)}}}
}

func is(base expr.PayloadBase, offset uint32, op expr.CmpOp, data ...byte) []expr.Any {
	return []expr.Any{load(base, offset, uint32(len(data)), regWide), &expr.Cmp{Op: op, Register: regWide, Data: data}}
}

// atMost bytes of a packet: what ARP and its kind need, and no room for more.
func atMost(n uint32) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyLEN, Register: regWide},
		&expr.Byteorder{SourceRegister: regWide, DestRegister: regWide, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Cmp{Op: expr.CmpOpLte, Register: regWide, Data: []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}}}
}

func oneOf(base expr.PayloadBase, offset uint32, from, to byte) []expr.Any {
	return []expr.Any{load(base, offset, 1, regWide), &expr.Range{Op: expr.CmpOpEq, Register: regWide, FromData: []byte{from}, ToData: []byte{to}}}
}

// discovery matches ICMPv6 that asks for neighbours and routers, or says to be a neighbour,
// from the link itself (RFC 4861). No such container is a router.
func discovery() []expr.Any {
	return slices.Concat(oneOf(expr.PayloadBaseTransportHeader, 0, 133, 136), is(expr.PayloadBaseTransportHeader, 0, expr.CmpOpNeq, 134),
		is(expr.PayloadBaseNetworkHeader, 7, expr.CmpOpEq, 255))
}

func (s *egressSets) bridgeRules(chain func(*nftables.Chain) func(...[]expr.Any)) {
	const network, transport = expr.PayloadBaseNetworkHeader, expr.PayloadBaseTransportHeader
	port := &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: regWide}
	own := func(suffix string, offset, size uint32) []expr.Any {
		set := s.addresses[suffix]
		return []expr.Any{port, load(network, offset, size, regWord+4), &expr.Lookup{SourceRegister: regWide, SetName: set.Name, SetID: set.ID}}
	}
	// divert has the bridge hand the frame to the host.
	divert := func(set *nftables.Set) []expr.Any {
		return []expr.Any{&expr.Lookup{SourceRegister: regWide, DestRegister: regWide, IsDestRegSet: true, SetName: set.Name, SetID: set.ID},
			&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: regWide, Base: expr.PayloadBaseLLHeader, Offset: 0, Len: 6},
			&expr.Immediate{Register: regWide, Data: []byte{unix.PACKET_HOST}}, &expr.Meta{Key: expr.MetaKeyPKTTYPE, SourceRegister: true, Register: regWide},
			&expr.Verdict{Kind: expr.VerdictAccept}}
	}
	refuse := []expr.Any{port, &expr.Dynset{SrcRegKey: regWide, SetName: s.refused.Name, SetID: s.refused.ID, Operation: unix.NFT_DYNSET_OP_UPDATE, Exprs: []expr.Any{&expr.Counter{}}}}
	from := chain(&nftables.Chain{Name: "from"})
	// Or the bridge would learn that a neighbour is at this port.
	foreign := []expr.Any{port, load(expr.PayloadBaseLLHeader, 6, 6, regWord+4), &expr.Lookup{SourceRegister: regWide, SetName: s.senders.Name, SetID: s.senders.ID, Invert: true}}
	from(foreign, refuse, verdict(expr.VerdictDrop))
	from(foreign, verdict(expr.VerdictDrop)) // also when that set is full
	from(protocol(unix.ETH_P_ARP), own("", 14, 4), atMost(46), verdict(expr.VerdictAccept))
	icmp6 := slices.Concat(protocol(unix.ETH_P_IPV6), proto(unix.IPPROTO_ICMPV6), atMost(128))
	linkLocal := header6.within(header6.source, netip.MustParsePrefix("fe80::/10"))
	from(icmp6, discovery(), own(suffix6, 8, 16), verdict(expr.VerdictAccept))
	for _, kind := range [][]expr.Any{discovery(), oneOf(transport, 0, 130, 132), is(transport, 0, expr.CmpOpEq, 143)} { // and which groups are listened to
		from(icmp6, kind, linkLocal, verdict(expr.VerdictAccept))
		from(icmp6, kind, header6.within(header6.source, netip.MustParsePrefix("::/128")), verdict(expr.VerdictAccept))
	}
	from(protocol(unix.ETH_P_IP), own("", 12, 4), []expr.Any{port}, divert(s.ports))
	from(protocol(unix.ETH_P_IPV6), own(suffix6, 8, 16), []expr.Any{port}, divert(s.ports))
	from(refuse, verdict(expr.VerdictDrop))
	from(verdict(expr.VerdictDrop))

	pre := chain(&nftables.Chain{Name: "pre", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRef(-350)})
	pre([]expr.Any{port, &expr.Lookup{SourceRegister: regWide, DestRegister: regWide2, IsDestRegSet: true, SetName: s.ports.Name, SetID: s.ports.ID}, &expr.Verdict{Kind: expr.VerdictGoto, Chain: "from"}})
	pre(protocol(unix.ETH_P_IPV6), proto(unix.IPPROTO_ICMPV6), oneOf(transport, 0, 133, 136), verdict(expr.VerdictAccept))
	to := load(expr.PayloadBaseLLHeader, 0, 6, regWide)
	pre(protocol(unix.ETH_P_IP), []expr.Any{to, load(network, 16, 4, regWord+2)}, divert(s.macs[""]))
	pre(protocol(unix.ETH_P_IPV6), []expr.Any{to, load(network, 24, 16, regWord+2)}, divert(s.macs[suffix6]))
}

// ported matches the ports; one match for each protocol that is meant.
func ported(p egress.Ports) (list [][]expr.Any) {
	protos := []uint8{p.Proto}
	if p.Proto == 0 && p.First != 0 {
		protos = []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP}
	}
	for _, n := range protos {
		var m []expr.Any
		if n != 0 {
			m = proto(n)
		}
		if p.First != 0 {
			last := max(p.First, p.Last)
			m = append(m, load(expr.PayloadBaseTransportHeader, 2, 2, regWide),
				&expr.Range{Op: expr.CmpOpEq, Register: regWide, FromData: []byte{byte(p.First >> 8), byte(p.First)}, ToData: []byte{byte(last >> 8), byte(last)}})
		}
		list = append(list, m)
	}
	return list
}

// writeGuard writes the chains, sets and elements of a guard and says how many rules
// each chain has.
func (t Guards) writeGuard(c *nftables.Conn, s *egressSets, g *guarded) (map[string]int, error) {
	count := map[string]int{}
	chain := ruler(c, t.table, count, "")
	var jumps [][]expr.Any
	for i, p := range g.Policies {
		name := g.policyChain(i)
		add := chain(&nftables.Chain{Name: name})
		jumps = append(jumps, []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: name}})
		for _, r := range p.Rules {
			if r.Name != "" {
				continue
			}
			h := header4
			if r.Prefix.Addr().Is6() {
				h = header6
			}
			for _, m := range ported(r.Ports) {
				add(h.only(), h.within(h.dest, r.Prefix), m, verdict(expr.VerdictReturn))
			}
		}
		for j, ports := range p.Named() {
			for _, h := range s.families {
				set := t.learnedSet(s, &g.Guard, Names{i, j}, h.suffix)
				if err := c.AddSet(set, g.elements(Names{i, j}, h.suffix)); err != nil {
					return nil, fmt.Errorf("encode the nft set %s: %w", set.Name, err)
				}
				for _, m := range ported(ports) {
					add(h.only(), []expr.Any{load(expr.PayloadBaseNetworkHeader, h.dest, h.size, regWide), &expr.Lookup{SourceRegister: regWide, SetName: set.Name, SetID: set.ID}}, m, verdict(expr.VerdictReturn))
				}
			}
		}
		s.deny(add, g.denied[i])
	}
	all := chain(&nftables.Chain{Name: g.judgeChain()})
	for _, j := range jumps {
		all(j)
	}
	add := chain(&nftables.Chain{Name: g.chain()})
	if err := t.writeBefore(c, s, g, add); err != nil {
		return nil, fmt.Errorf("encode the connections of before: %w", err)
	}
	add(ct(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept))
	// Who the neighbours are is asked by ICMPv6, also of the host.
	for _, p := range append(slices.Clone(g.Subnets), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8")) {
		if p.Addr().Is6() {
			add(header6.only(), proto(unix.IPPROTO_ICMPV6), header6.within(header6.dest, p), discovery(), verdict(expr.VerdictAccept))
		}
	}
	add([]expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: g.judgeChain()}})
	return count, t.eachElement(s, g, c.SetAddElements)
}

// deny counts what is left, on from what was counted before, remembers it for events and
// rejects it at once.
func (s *egressSets) deny(add func(...[]expr.Any), from expr.Counter) {
	const network = expr.PayloadBaseNetworkHeader
	add([]expr.Any{&from})
	for _, h := range s.families {
		set, w := s.denied[h.suffix], h.words()
		limit := []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Rate: deniedRate, Unit: expr.LimitTimeSecond, Burst: 2 * deniedRate}}
		addresses := []expr.Any{load(network, h.source, h.size, regWord), load(network, h.dest, h.size, regWord+w), &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regWord + 2*w}}
		note := []expr.Any{&expr.Dynset{SrcRegKey: regWord, SetName: set.Name, SetID: set.ID, Operation: unix.NFT_DYNSET_OP_UPDATE, Exprs: []expr.Any{&expr.Counter{}}}}
		for _, p := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			add(h.only(), proto(p), limit, addresses, []expr.Any{load(expr.PayloadBaseTransportHeader, 2, 2, regWord+2*w+1)}, note)
		}
		other := []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regWide}, &expr.Cmp{Op: expr.CmpOpNeq, Register: regWide, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: regWide, Data: []byte{unix.IPPROTO_UDP}}}
		add(h.only(), other, limit, addresses, []expr.Any{&expr.Immediate{Register: regWord + 2*w + 1, Data: []byte{0, 0}}}, note)
	}
	add(proto(unix.IPPROTO_TCP), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	add([]expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}})
}

// elements are the addresses that names have, for as long as they are good.
func (g *guarded) elements(n Names, suffix string) (list []nftables.SetElement) {
	for a, until := range g.learned[n] {
		if left := time.Until(until).Truncate(time.Millisecond); left > 0 && a.Is6() == (suffix == suffix6) {
			list = append(list, nftables.SetElement{Key: a.AsSlice(), Timeout: left})
		}
	}
	return list
}

// eachElement hands the elements of the sets that are always there to do.
func (t Guards) eachElement(s *egressSets, g *guarded, do func(*nftables.Set, []nftables.SetElement) error) error {
	port, bridge := ifname(g.Port), ifname(g.Bridge)
	mac := append(slices.Clone(g.MAC), 0, 0) // a part of a key fills words
	errs := []error{do(s.ports, []nftables.SetElement{{Key: port, Val: g.BridgeMAC}}),
		do(s.senders, []nftables.SetElement{{Key: append(slices.Clone(port), mac...)}})}
	for _, a := range g.Addresses {
		suffix := ""
		if a.Is6() {
			suffix = suffix6
		}
		errs = append(errs, do(s.addresses[suffix], []nftables.SetElement{{Key: append(slices.Clone(port), a.AsSlice()...)}}),
			do(s.macs[suffix], []nftables.SetElement{{Key: append(slices.Clone(mac), a.AsSlice()...), Val: g.BridgeMAC}}),
			do(s.of[suffix], []nftables.SetElement{{Key: append(slices.Clone(bridge), a.AsSlice()...), VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: g.chain()}}}))
	}
	return errors.Join(errs...)
}

// deleteGuard takes away what writeGuard wrote.
func (t Guards) deleteGuard(c *nftables.Conn, s *egressSets, g *guarded) error {
	err := t.eachElement(s, g, c.SetDeleteElements)
	chains := []string{g.chain(), g.judgeChain()}
	for i := range g.Policies {
		chains = append(chains, g.policyChain(i))
	}
	for _, name := range chains {
		c.FlushChain(&nftables.Chain{Table: t.table, Name: name})
	}
	for _, name := range chains {
		c.DelChain(&nftables.Chain{Table: t.table, Name: name})
	}
	for _, n := range g.names() {
		for suffix := range s.addrType {
			c.DelSet(t.learnedSet(s, &g.Guard, n, suffix))
		}
	}
	for suffix := range s.addrType {
		c.DelSet(t.beforeSet(s, &g.Guard, suffix))
	}
	return err
}

// SetGuards takes guards away, if they are there, and adds others, of which one may be for
// the same port, in one transaction. Error: also a kernel that cannot hold a container to a policy.
func (t Guards) SetGuards(del []string, add []Guard) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	del = slices.DeleteFunc(slices.Clone(del), func(port string) bool { return t.egress.guards[port] == nil })
	if len(del)+len(add) == 0 {
		return nil
	}
	before := stdmaps.Clone(t.egress.guards)
	c, err := connect()
	if err != nil {
		return err
	}
	s := t.egressSets()
	if len(before) == 0 && len(add) > 0 {
		if err := errors.Join(t.clearEgress(c), t.writeEgress(c, s)); err != nil {
			return err
		}
	}
	if t.egress.guards == nil {
		t.egress.guards = map[string]*guarded{}
	}
	for _, port := range del {
		if g := t.egress.guards[port]; g != nil {
			err = errors.Join(err, t.deleteGuard(c, s, g))
			delete(t.egress.guards, port)
		}
	}
	for _, new := range add {
		g := &guarded{Guard: new, learned: map[Names]map[netip.Addr]time.Time{}}
		if old := t.egress.guards[new.Port]; old != nil {
			if old.chain() == g.chain() {
				continue
			}
			err = errors.Join(err, t.deleteGuard(c, s, old))
			g.flows = old.flows
		}
		t.egress.guards[new.Port] = g
		_, werr := t.writeGuard(c, s, g)
		err = errors.Join(err, werr)
	}
	if len(t.egress.guards) == 0 {
		err = errors.Join(err, t.clearEgress(c))
	}
	if err == nil {
		err = c.Flush()
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf("write a policy of egress into nft (does the kernel have nf_tables for bridges, and reject?): %w", err)
	if again := t.restoreEgress(); again != nil { // what others changed may be why it failed
		t.egress.guards = before
		return errors.Join(err, again, t.restoreEgress())
	}
	return nil
}

// restoreEgress writes all of it in one transaction.
func (t Guards) restoreEgress() error {
	c, err := connect()
	if err == nil {
		err = t.rewriteEgress(c)
	}
	if err == nil {
		err = c.Flush()
	}
	if err != nil {
		return fmt.Errorf("write the policies of egress into nft: %w", err)
	}
	return nil
}

// rewriteEgress has the transaction of c write all of it anew.
func (t Guards) rewriteEgress(c *nftables.Conn) error {
	err := t.clearEgress(c)
	if len(t.egress.guards) == 0 || err != nil {
		return err
	}
	s := t.egressSets()
	for _, g := range t.egress.guards { // as far as it is there
		t.remember(s, g)
		g.before = sum(g.before, g.refused)
		g.refused = expr.Counter{}
	}
	if err := t.writeEgress(c, s); err != nil {
		return err
	}
	for _, g := range t.egress.guards {
		if _, err := t.writeGuard(c, s, g); err != nil {
			return err
		}
	}
	return nil
}

// clearEgress takes all of it out, also what an engine before this one left.
func (t Guards) clearEgress(c *nftables.Conn) error {
	ask, s := &nftables.Conn{}, t.egressSets()
	t.dropBridge(c)
	chains, err := ask.ListChainsOfTableFamily(t.table.Family)
	if err != nil {
		return fmt.Errorf("read the chains of the nft table %s: %w", t.name, err)
	}
	var own []*nftables.Chain
	base := false
	for _, ch := range chains {
		switch {
		case ch.Table.Name != t.name:
		case ch.Name == egressChain:
			base = true
		case strings.HasPrefix(ch.Name, egressPrefix):
			own = append(own, &nftables.Chain{Name: ch.Name, Table: t.table})
		}
	}
	if base {
		own = append(own, &nftables.Chain{Name: egressChain, Table: t.table})
	}
	for _, ch := range own {
		c.FlushChain(ch)
	}
	if _, err := ask.ListTableOfFamily(t.name, t.table.Family); err != nil {
		return nil
	}
	sets, err := ask.GetSets(t.table)
	if err != nil {
		return fmt.Errorf("read the sets of the nft table %s: %w", t.name, err)
	}
	for _, set := range sets { // a map that leads to a chain goes before the chain
		if strings.HasPrefix(set.Name, egressPrefix) || slices.ContainsFunc(s.inInet, func(o *nftables.Set) bool { return o.Name == set.Name }) {
			c.DelSet(&nftables.Set{Table: t.table, Name: set.Name})
		}
	}
	for _, ch := range own {
		c.DelChain(ch)
	}
	return nil
}

// dropBridge takes the bridge's table away, if there is one.
func (t Guards) dropBridge(c *nftables.Conn) {
	bridge := t.egressSets().bridge
	if _, err := (&nftables.Conn{}).ListTableOfFamily(t.name, bridge.Family); err == nil {
		c.DelTable(bridge)
	}
}
