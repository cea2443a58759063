package nft

import (
	"encoding/binary"
	"fmt"
	stdmaps "maps"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"hezi/internal/network/egress"
)

// findEgress says whether an engine before this one left what is always there.
func (t Guards) findEgress(c *nftables.Conn, s *egressSets) bool {
	t.egress.rules = map[string]int{}
	never := &nftables.Conn{} // is never sent
	count := Guards{&Table{name: t.name, table: t.table}}
	if err := count.writeEgress(never, t.egressSets()); err != nil {
		return false
	}
	if !t.hasRules(c, s, count.egress.rules) {
		return false
	}
	t.egress.rules = count.egress.rules
	return true
}

// hasRules says whether the chains have as many rules as they shall.
func (t Guards) hasRules(c *nftables.Conn, s *egressSets, want map[string]int) bool {
	for name, n := range want {
		table := t.table
		if rest, ok := cutBridge(name); ok {
			table, name = s.bridge, rest
		}
		rules, err := c.GetRules(table, &nftables.Chain{Name: name, Table: table})
		if err != nil || len(rules) != n {
			return false
		}
	}
	return true
}

func cutBridge(name string) (string, bool) {
	if len(name) > len(inBridge) && name[:len(inBridge)] == inBridge {
		return name[len(inBridge):], true
	}
	return name, false
}

// guardRules is how many rules the chains of a guard have.
func (t Guards) guardRules(g *guarded) map[string]int {
	count, err := t.writeGuard(&nftables.Conn{}, t.egressSets(), &guarded{Guard: g.Guard}) // is never sent
	if err != nil {
		return nil
	}
	return count
}

// intactEgress says whether the kernel has all that holds containers to policies.
func (t Guards) intactEgress(c *nftables.Conn) bool {
	if len(t.egress.guards) == 0 {
		return true
	}
	s := t.egressSets()
	if !t.hasRules(c, s, t.egress.rules) {
		return false
	}
	have := map[string]map[string]bool{}
	for _, g := range t.egress.guards {
		if !t.hasRules(c, s, t.guardRules(g)) || !t.hasElements(c, s, g, have) {
			return false
		}
	}
	return true
}

// hasElements says whether the guard is in the sets that are always there; have are
// those that were read already.
func (t Guards) hasElements(c *nftables.Conn, s *egressSets, g *guarded, have map[string]map[string]bool) bool {
	all := true
	_ = t.eachElement(s, g, func(set *nftables.Set, list []nftables.SetElement) error { // has no error of its own
		if have[set.Name] == nil {
			have[set.Name] = map[string]bool{}
			elems, err := c.GetSetElements(set)
			if err != nil {
				all = false
			}
			for _, e := range elems {
				have[set.Name][string(e.Key)] = true
			}
		}
		for _, e := range list {
			all = all && have[set.Name][string(e.Key)]
		}
		return nil
	})
	return all
}

// adoptGuard takes over a guard that an engine before this one wrote, with the
// addresses that it learned.
func (t Guards) adoptGuard(s *egressSets, g *guarded) bool {
	c := &nftables.Conn{}
	if !t.hasRules(c, s, t.guardRules(g)) || !t.hasElements(c, s, g, map[string]map[string]bool{}) {
		return false
	}
	if !t.adoptFlows(c, s, g) {
		return false
	}
	for _, n := range g.names() {
		for suffix := range s.addrType {
			elems, err := c.GetSetElements(t.learnedSet(s, &g.Guard, n, suffix))
			if err != nil {
				return false
			}
			for _, e := range elems {
				if a, ok := netip.AddrFromSlice(e.Key); ok {
					g.note(n, a, time.Now().Add(e.Expires))
				}
			}
		}
	}
	return true
}

func (g *guarded) note(n Names, a netip.Addr, until time.Time) {
	if g.learned[n] == nil {
		g.learned[n] = map[netip.Addr]time.Time{}
	}
	g.learned[n][a] = until
}

// AdoptGuards are those of the containers that ran on while the engine was away, all of
// them: what is there and belongs to none goes.
func (t Guards) AdoptGuards(list []Guard) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, s := &nftables.Conn{}, t.egressSets()
	there := t.findEgress(c, s)
	t.egress.guards = map[string]*guarded{}
	same := there
	chains := map[string]bool{}
	for _, one := range list {
		g := &guarded{Guard: one, learned: map[Names]map[netip.Addr]time.Time{}}
		t.egress.guards[one.Port] = g
		same = t.adoptGuard(s, g) && same
		chains[g.chain()], chains[g.judgeChain()] = true, true
		for i := range g.Policies {
			chains[g.policyChain(i)] = true
		}
	}
	all, err := c.ListChainsOfTableFamily(t.table.Family)
	if err != nil {
		return fmt.Errorf("read the chains of the nft table %s: %w", t.name, err)
	}
	left := slices.ContainsFunc(all, func(ch *nftables.Chain) bool {
		return ch.Table.Name == t.name && len(ch.Name) > len(egressPrefix) && ch.Name[:len(egressPrefix)] == egressPrefix && !chains[ch.Name]
	})
	if len(list) > 0 && same && !left || len(list) == 0 && !there && !left {
		return nil
	}
	return t.restoreEgress()
}

// Learned is that a name has addresses.
type Learned struct {
	Port string
	Names
	Of        *egress.Policy // that Names are of: the guard may have another meanwhile
	Addresses []netip.Addr
}

// Learn lets packets go to the addresses of names for at least good, in one
// transaction. A guard that is not there or has other policies has nothing to learn. Error: also a set that is full.
func (t Guards) Learn(list []Learned, good time.Duration) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, s := &nftables.Conn{}, t.egressSets()
	now := time.Now()
	until := now.Add(good + learnSlack)
	todo := false
	for _, l := range list {
		g := t.egress.guards[l.Port]
		if g == nil || l.Policy >= len(g.Policies) || g.Policies[l.Policy].String() != l.Of.String() {
			continue
		}
		had := g.learned[l.Names]
		for a, at := range had { // or it grows with every address that was ever heard
			if now.After(at) && len(had) > maxLearned/2 {
				delete(had, a)
			}
		}
		for _, a := range l.Addresses {
			was, known := had[a]
			if known && was.After(now.Add(good)) {
				continue
			}
			if !known && len(had) >= maxLearned {
				return fmt.Errorf("the container has %d addresses of names already", maxLearned)
			}
			suffix := ""
			if a.Is6() {
				suffix = suffix6
			}
			set, key := t.learnedSet(s, &g.Guard, l.Names, suffix), a.AsSlice()
			if known && was.After(now) { // kernels before 6.12 leave the time of one that is there
				if err := c.SetAddElements(set, []nftables.SetElement{{Key: key, Timeout: time.Minute}}); err != nil { // it may go meanwhile
					return err
				}
				if err := c.SetDeleteElements(set, []nftables.SetElement{{Key: key}}); err != nil {
					return err
				}
			}
			if err := c.SetAddElements(set, []nftables.SetElement{{Key: key, Timeout: good + learnSlack}}); err != nil {
				return err
			}
			todo = true
			g.note(l.Names, a, until)
			had = g.learned[l.Names]
		}
	}
	if !todo {
		return nil
	}
	if err := c.Flush(); err != nil {
		// Somebody may have removed the sets: all is written again, with these.
		if again := t.restoreEgress(); again != nil {
			return fmt.Errorf("let packets go to the addresses of a name: %w", err)
		}
	}
	return nil
}

// learnSlack is added to how long an address is good, so that a name which is asked for
// again and again is not written each time.
const learnSlack = 30 * time.Second

// Denial is what a container sent where it may not.
type Denial struct {
	Source, Dest netip.Addr
	Proto        uint8
	Port         uint16 // 0: it has none
	Packets      uint64 // since it was denied first, or more than deniedFor ago again
}

// Denials are those of the last while, a part of them if there are very many.
func (t Guards) Denials() (list []Denial, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.egress.guards) == 0 {
		return nil, nil
	}
	s := t.egressSets()
	for suffix, set := range s.denied {
		size := 4
		if suffix == suffix6 {
			size = 16
		}
		elems, err := (&nftables.Conn{}).GetSetElements(set)
		if err != nil {
			return nil, fmt.Errorf("read what was denied: %w", err)
		}
		for _, e := range elems {
			if len(e.Key) < 2*size+8 || e.Counter == nil {
				continue
			}
			d := Denial{Proto: e.Key[2*size], Port: binary.BigEndian.Uint16(e.Key[2*size+4:]), Packets: e.Counter.Packets}
			d.Source, _ = netip.AddrFromSlice(e.Key[:size])
			d.Dest, _ = netip.AddrFromSlice(e.Key[size : 2*size])
			list = append(list, d)
		}
	}
	return list, nil
}

// Denied is what was sent by a port of a bridge and denied: by a policy, or since no
// packet of its kind or from its address is sent by that container. It counts since
// the policy was set.
func (t Guards) Denied(port string) (packets, bytes uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.egress.guards[port]
	if g == nil {
		return 0, 0
	}
	t.remember(t.egressSets(), g)
	all := sum(g.before, g.refused)
	for _, n := range g.denied {
		all = sum(all, n)
	}
	return all.Packets, all.Bytes
}

// Remember notes what was denied so far: from there the counters go on, should somebody
// else remove the rules.
func (t Guards) Remember() {
	t.mu.Lock()
	ports := slices.Collect(stdmaps.Keys(t.egress.guards))
	t.mu.Unlock()
	for _, p := range ports { // others may change the table in between
		t.Denied(p)
	}
}

// remember reads a guard's counters; what is not there counts on from what was read last.
func (t Guards) remember(s *egressSets, g *guarded) {
	c := &nftables.Conn{}
	for i := range g.Policies {
		rules, err := c.GetRules(t.table, &nftables.Chain{Table: t.table, Name: g.policyChain(i)})
		if err != nil {
			continue
		}
		for _, r := range rules {
			if n, ok := r.Exprs[0].(*expr.Counter); ok {
				if g.denied == nil {
					g.denied = map[int]expr.Counter{}
				}
				g.denied[i] = *n
			}
		}
	}
	elems, err := c.GetSetElements(s.refused)
	if err != nil {
		return
	}
	for _, e := range elems {
		if string(e.Key) == string(ifname(g.Port)) && e.Counter != nil {
			g.refused = *e.Counter
		}
	}
}

func sum(a, b expr.Counter) expr.Counter {
	return expr.Counter{Packets: a.Packets + b.Packets, Bytes: a.Bytes + b.Bytes}
}
