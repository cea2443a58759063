// Package nft keeps the one nftables table of the engine.
//
//	table inet hezi {
//	  map published    { proto . port : address . port }            bound to every host address
//	  map published_at { hostaddress . proto . port : address . port }  bound to one
//	  map ranges       { proto . ports : address }                  many ports, the same inside
//	  map ranges_at    { hostaddress . proto . ports : address }
//	  set bridges, internal, between, subnets, masked, sources, open, routed, direct
//	                   what each network is: see networks.go
//	  set dropped       { bridge : counter } what the rules dropped; see dropped.go
//	  set near         the networks that the host itself is in
//	  chain judged      input, with Config.Judge: see judge.go, which has two more tables
//	  set rules-HASH   { the version of the rules below }
//	  chain hezi-user   the administrator's own rules, asked first of what is forwarded
//	  chain raw         prerouting: drop what is for 127/8, or of it, and does not come from lo
//	  chain prerouting  nat: packets for the host's addresses by the maps
//	  chain output      the same for the host's own programs
//	  chain postrouting nat: masquerade out of the bridges; hairpin; the host's loopback
//	  chain forward     within a network, established, published, or out; nothing else goes in
//	}
//
// Each map and set of addresses is there once more for IPv6, with a 6 behind its
// name. The number of rules never grows: networks and containers are elements.
// Adds are cheap, a transaction that deletes costs a grace period, so deletes are
// batched by the caller. What the table must hold is remembered: after somebody's
// `nft flush ruleset` Restore writes it again in one transaction. Before version 4
// of the rules the table was one of IPv4 alone.
package nft

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Config of a table.
type Config struct {
	Table string
	// Networks that there are.
	Networks []Network
	Judge    *Judge // nil: what comes for published ports is not the host's input
	// Without are families whose packets the rules leave alone.
	Without4, Without6 bool
}

// Table is the engine's table. Its methods are safe for concurrent use.
type Table struct {
	name   string
	table  *nftables.Table
	v4, v6 maps
	kept   []ipHeader               // the families that there are rules for
	sets   map[string]*nftables.Set // of the networks
	order  []string                 // of their names

	mu       sync.Mutex // also held over a transaction: they are ordered
	want     map[key]netip.AddrPort
	networks map[string]Network // by bridge
	direct   map[Direct]bool
	near     []netip.Prefix
	judge    *Judge         // whether there is one never changes
	rules    map[string]int // how many each chain has
	egress   egressState
}

// Open finds or makes the table. What a former engine left in the maps of
// published ports stays until Retain.
func Open(cfg Config) (*Table, error) {
	t := &Table{name: cfg.Table, table: &nftables.Table{Name: cfg.Table, Family: nftables.TableFamilyINet},
		judge: cfg.Judge, kept: keptFamilies(cfg), want: map[key]netip.AddrPort{}, networks: map[string]Network{}, direct: map[Direct]bool{}}
	for _, n := range cfg.Networks {
		t.networks[n.Bridge] = n
	}
	c := &nftables.Conn{}
	for _, intervals := range []bool{true, false} {
		t.shape(intervals)
		if t.intactLocked(c) {
			if err := t.load(c); err != nil || t.sameNetworks(c) {
				return t, err
			}
			return t, t.Restore()
		}
	}
	t.shape(true)
	if _, err := c.ListTableOfFamily(cfg.Table, t.table.Family); err == nil {
		if err := t.load(c); err != nil {
			slog.Info("the nft table is of another version and is written anew", "table", cfg.Table, "reason", err)
		}
	} else if err := t.fromIPv4(c); err != nil {
		return nil, err
	}
	err := t.Restore()
	if err != nil {
		t.shape(false)
		err = t.Restore()
	}
	return t, err
}

// fromIPv4 takes over what a table of version 3 publishes, and removes it.
func (t *Table) fromIPv4(c *nftables.Conn) error {
	old := &nftables.Table{Name: t.name, Family: nftables.TableFamilyIPv4}
	if _, err := c.ListTableOfFamily(old.Name, old.Family); err != nil {
		return nil
	}
	now := t.table
	t.table = old
	t.shape(true)
	if err := t.load(c); err != nil {
		slog.Info("the published ports of the nft table ip "+t.name+" are not taken over", "reason", err)
	}
	t.table = now
	t.shape(true)
	c.DelTable(old)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("remove the nft table ip %s of an earlier version: %w", t.name, err)
	}
	return nil
}

// shape makes the maps and sets and counts the rules, with maps of intervals or
// without.
func (t *Table) shape(intervals bool) {
	t.makeMaps(intervals)
	t.makeSets()
	t.rules = addRules(&nftables.Conn{}, t) // never sent
	have := t.wantedLocked()
	t.want = map[key]netip.AddrPort{}
	for _, f := range t.elements(have) {
		t.want[f.key()] = f.To
	}
}

func (t *Table) wantedLocked() []Forward {
	all := make([]Forward, 0, len(t.want))
	for k, to := range t.want {
		all = append(all, k.forward(to))
	}
	return all
}

// load remembers what the maps hold.
func (t *Table) load(c *nftables.Conn) error {
	var errs []error
	for _, s := range t.published() {
		elems, err := c.GetSetElements(s)
		if err != nil {
			errs = append(errs, fmt.Errorf("read the published ports of the nft table %s: %w", t.name, err))
			continue
		}
		for _, e := range elems {
			if f, ok := decode(e, slices.Contains(t.v6.all(), s)); ok {
				t.want[f.key()] = f.To
			}
		}
	}
	if err := loadNear(t, c); err != nil {
		errs = append(errs, err)
	}
	elems, err := c.GetSetElements(t.sets[setDirect])
	elems6, err6 := c.GetSetElements(t.sets[setDirect+suffix6])
	for _, e := range append(elems, elems6...) {
		if d, ok := decodeDirect(e); ok {
			t.direct[d] = true
		}
	}
	return errors.Join(append(errs, err, err6)...)
}

// wantedElements are those of all networks, by set.
func (t *Table) wantedElements() map[string][]nftables.SetElement {
	all := map[string][]nftables.SetElement{}
	for _, n := range t.networks {
		for _, e := range n.elements() {
			all[e.set] = append(all[e.set], e.SetElement)
		}
	}
	for _, e := range nearElements(t.near) {
		all[e.set] = append(all[e.set], e.SetElement)
	}
	for d := range t.direct {
		e := d.element()
		all[e.set] = append(all[e.set], e.SetElement)
	}
	return all
}

// sameNetworks says whether the kernel's sets have the networks that there are.
func (t *Table) sameNetworks(c *nftables.Conn) bool {
	want := t.wantedElements()
	for _, name := range t.order {
		have, err := c.GetSetElements(t.sets[name])
		if err != nil || !same(have, want[name]) {
			return false
		}
	}
	return true
}

// SetNetwork adds a network, or changes one with the same bridge.
func (t *Table) SetNetwork(n Network) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	old, known := t.networks[n.Bridge]
	t.networks[n.Bridge] = n
	err := t.change(old, n, known)
	if err != nil {
		if known {
			t.networks[n.Bridge] = old
		} else {
			delete(t.networks, n.Bridge)
		}
	}
	return err
}

// RemoveNetwork removes one; an unknown bridge is none of its business.
func (t *Table) RemoveNetwork(bridge string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	old, known := t.networks[bridge]
	if !known {
		return nil
	}
	delete(t.networks, bridge)
	return t.change(old, Network{}, true)
}

// hasInternal says whether there is an internal network, for which the rules are others.
func hasInternal(t *Table, except ...string) bool {
	for bridge, n := range t.networks {
		if n.Internal && !slices.Contains(except, bridge) {
			return true
		}
	}
	return false
}

// change writes what is new of a network and takes away what it has no more.
func (t *Table) change(old, now Network, known bool) error {
	if old.Internal != now.Internal && !hasInternal(t, old.Bridge, now.Bridge) { // the first, or the last
		return t.restoreLocked()
	}
	had, has := map[string]element{}, map[string]element{}
	fill := func(m map[string]element, n Network) (list []element) {
		if n.Bridge == "" {
			return nil
		}
		list = n.elements()
		for _, e := range list {
			m[e.set+string(e.Key)+string(e.Val)+fmt.Sprint(e.IntervalEnd)] = e
		}
		return list
	}
	var before []element
	if known {
		before = fill(had, old)
	}
	after := fill(has, now)
	key := func(e element) string { return e.set + string(e.Key) + string(e.Val) + fmt.Sprint(e.IntervalEnd) }
	before = slices.DeleteFunc(before, func(e element) bool { _, stays := has[key(e)]; return stays })
	after = slices.DeleteFunc(after, func(e element) bool { _, was := had[key(e)]; return was })
	c := &nftables.Conn{}
	if err := errors.Join(t.eachSet(before, c.SetDeleteElements), t.eachSet(after, c.SetAddElements)); err != nil {
		return fmt.Errorf("encode a network for nft: %w", err)
	}
	if err := c.Flush(); err != nil {
		if err2 := t.restoreLocked(); err2 != nil {
			return errors.Join(fmt.Errorf("change a network in the nft table %s: %w", t.name, err), err2)
		}
	}
	return nil
}

// eachSet hands the elements of each set to do, one after the other.
func (t *Table) eachSet(list []element, do func(*nftables.Set, []nftables.SetElement) error) error {
	by := map[string][]nftables.SetElement{}
	for _, e := range list {
		by[e.set] = append(by[e.set], e.SetElement)
	}
	for _, name := range t.order {
		for part := range slices.Chunk(by[name], most) {
			if err := do(t.sets[name], part); err != nil {
				return err
			}
		}
	}
	return nil
}

// SetDirect opens and closes ports at containers' own addresses.
func (t *Table) SetDirect(add, del []Direct) error {
	if len(add)+len(del) == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var in, out []element
	for _, d := range del {
		if t.direct[d] {
			delete(t.direct, d)
			out = append(out, d.element())
		}
	}
	for _, d := range add {
		if !t.direct[d] {
			t.direct[d] = true
			in = append(in, d.element())
		}
	}
	c, err := connect()
	if err == nil {
		err = errors.Join(t.eachSet(out, c.SetDeleteElements), t.eachSet(in, c.SetAddElements))
	}
	if err == nil {
		err = c.Flush()
	}
	if err != nil {
		if err := t.restoreLocked(); err != nil {
			return fmt.Errorf("open ports at containers' addresses: %w", err)
		}
	}
	return nil
}

const markerPrefix = "rules-"

// marker is the name of the set that tells which rules a table has.
func marker(t *Table) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d", rulesVersion))
	if t.judge != nil {
		sum = sha256.Sum256(fmt.Appendf(nil, "%d %+v", rulesVersion, *t.judge))
	}
	if hasInternal(t) {
		sum = sha256.Sum256(append(sum[:], "internal"...))
	}
	if len(t.kept) == 1 {
		sum = sha256.Sum256(fmt.Appendf(sum[:], "family %d", t.kept[0].family))
	}
	return markerPrefix + hex.EncodeToString(sum[:])[:12]
}

// Add publishes ports in one transaction.
func (t *Table) Add(fs []Forward) error { return Replace(t, nil, fs) }

// Delete takes ports away in one transaction.
func (t *Table) Delete(fs []Forward) error { return Replace(t, fs, nil) }

// Replace takes ports away and publishes others in one transaction. One that leads
// elsewhere so far is replaced; one to be deleted that does is not deleted.
func Replace(t *Table, del, add []Forward) error {
	if len(del)+len(add) == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []Forward
	for _, f := range t.elements(del) {
		if t.want[f.key()] == f.To {
			delete(t.want, f.key())
			out = append(out, f)
		}
	}
	in := make([]Forward, 0, len(add))
	for _, f := range t.elements(add) {
		old, ok := t.want[f.key()]
		if ok && old == f.To {
			continue
		}
		if ok {
			stale := f
			stale.To = old
			out = append(out, stale)
		}
		in = append(in, f)
		t.want[f.key()] = f.To
	}
	if len(out)+len(in) == 0 {
		return nil
	}
	if err := t.commit(out, in); err != nil {
		if err2 := t.restoreLocked(); err2 != nil {
			for _, f := range in {
				delete(t.want, f.key())
			}
			return errors.Join(err, err2)
		}
	}
	return nil
}

// Retain deletes every published port but these, and every open one.
func (t *Table) Retain(published []Forward, open []Direct) error {
	t.mu.Lock()
	keep := map[Forward]bool{}
	for _, f := range t.elements(published) {
		keep[f] = true
	}
	drop := slices.DeleteFunc(t.wantedLocked(), func(f Forward) bool { return keep[f] })
	var shut []Direct
	for d := range t.direct {
		if !slices.Contains(open, d) {
			shut = append(shut, d)
		}
	}
	t.mu.Unlock()
	return errors.Join(t.Delete(drop), t.SetDirect(nil, shut))
}

// Len is the number of elements of the maps.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.want)
}

func (t *Table) commit(del, add []Forward) error {
	c, err := connect()
	if err == nil {
		err = t.each(del, c.SetDeleteElements)
	}
	if err == nil {
		err = t.each(add, c.SetAddElements)
	}
	if err != nil {
		return fmt.Errorf("encode published ports: %w", err)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("change the published ports in the nft table %s: %w", t.name, err)
	}
	return nil
}

// most elements of a message: its attribute holds 64 KiB.
const most = 500

// each hands the elements of each map to do.
func (t *Table) each(fs []Forward, do func(*nftables.Set, []nftables.SetElement) error) error {
	waiting := map[*nftables.Set][]nftables.SetElement{}
	for _, f := range fs {
		s := t.setOf(f)
		waiting[s] = append(waiting[s], encode(f))
		if len(waiting[s]) == most {
			if err := do(s, waiting[s]); err != nil {
				return err
			}
			waiting[s] = waiting[s][:0]
		}
	}
	for s, rest := range waiting {
		if len(rest) == 0 {
			continue
		}
		if err := do(s, rest); err != nil {
			return err
		}
	}
	return nil
}

// connect makes a connection for a transaction of any size: the kernel takes
// one in a single message, and answers each part of it.
func connect() (*nftables.Conn, error) {
	return nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetWriteBuffer(64<<20), c.SetReadBuffer(4<<20))
	}))
}

// Restore writes the whole table in one transaction: no packet sees half of it.
func (t *Table) Restore() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.restoreLocked()
}

func (t *Table) restoreLocked() error {
	c, err := connect()
	if err != nil {
		return err
	}
	if err := t.clear(c); err != nil {
		return err
	}
	c.AddTable(t.table)
	mark := &nftables.Set{Table: t.table, Name: marker(t), KeyType: nftables.TypeInetService}
	all := append(t.published(), mark, droppedSet(t))
	for _, name := range t.order {
		all = append(all, t.sets[name])
	}
	for _, s := range all {
		s.ID = 0
		if err := c.AddSet(s, nil); err != nil {
			return fmt.Errorf("encode the nft set %s: %w", s.Name, err)
		}
	}
	if len(t.egress.guards) > 0 {
		if err := (Guards{t}).rewriteEgress(c); err != nil {
			return err
		}
	}
	addRules(c, t)
	resetJudge(c, t)
	want := t.wantedElements()
	for _, name := range t.order {
		for part := range slices.Chunk(want[name], most) {
			if err := c.SetAddElements(t.sets[name], part); err != nil {
				return fmt.Errorf("encode the networks for nft: %w", err)
			}
		}
	}
	if err := t.each(t.wantedLocked(), c.SetAddElements); err != nil {
		return fmt.Errorf("encode published ports: %w", err)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write the nft table %s: %w: if the kernel lacks nf_tables with nat: modprobe -a nf_tables nft_chain_nat nft_nat nft_masq nft_ct nft_fib_inet; or write \"iptables\": false and \"ip6tables\": false into daemon.json, with which no port can be published", t.name, err)
	}
	return nil
}

// clear takes our chains and sets out of the table in the transaction of c, and
// leaves what the administrator has in it.
func (t *Table) clear(c *nftables.Conn) error {
	ask := &nftables.Conn{}
	if _, err := ask.ListTableOfFamily(t.name, t.table.Family); err != nil {
		return nil // there is none
	}
	chains, err := ask.ListChainsOfTableFamily(t.table.Family)
	if err != nil {
		return fmt.Errorf("read the chains of the nft table %s: %w", t.name, err)
	}
	var own []*nftables.Chain
	for _, ch := range chains {
		if _, ours := t.rules[ch.Name]; (ours || ch.Name == judgedChain) && ch.Table.Name == t.name && ch.Table.Family == t.table.Family {
			own = append(own, &nftables.Chain{Name: ch.Name, Table: t.table})
			c.FlushChain(own[len(own)-1])
		}
	}
	for _, ch := range own {
		c.DelChain(ch)
	}
	sets, err := ask.GetSets(t.table)
	if err != nil {
		return fmt.Errorf("read the sets of the nft table %s: %w", t.name, err)
	}
	for _, s := range sets {
		_, network := t.sets[s.Name]
		published := slices.ContainsFunc(t.allMaps(), func(o *nftables.Set) bool { return o.Name == s.Name })
		if network || published || s.Name == setDropped || strings.HasPrefix(s.Name, markerPrefix) {
			c.DelSet(&nftables.Set{Table: t.table, Name: s.Name})
		}
	}
	return nil
}

// Destroy removes the table, and what PassDocker added. Rules of the administrator
// stay.
func (t *Table) Destroy() error {
	c := &nftables.Conn{}
	if err := t.leaveDocker(c); err != nil {
		return fmt.Errorf("take the rules of %s out of Docker's chain: %w", t.name, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if rules, err := c.GetRules(t.table, &nftables.Chain{Name: userChain, Table: t.table}); err == nil && len(rules) > 0 {
		if err := t.clear(c); err != nil {
			return err
		}
		if err := (Guards{t}).clearEgress(c); err != nil {
			return err
		}
	} else {
		Guards{t}.dropBridge(c)
		c.DelTable(t.table)
	}
	removeJudge(c, t)
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the nft table %s: %w", t.name, err)
	}
	return nil
}

// Remove takes the table of a name away, if there is one, as Destroy does: for an engine
// that keeps no rules, after one that did.
func Remove(name string) error {
	t := &Table{name: name, table: &nftables.Table{Name: name, Family: nftables.TableFamilyINet}, kept: keptFamilies(Config{})}
	if _, err := (&nftables.Conn{}).ListTableOfFamily(name, t.table.Family); err != nil {
		return nil // there is none, or no nf_tables
	}
	t.shape(true)
	return t.Destroy()
}

// Intact says whether the kernel has the table with all our rules.
func (t *Table) Intact() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.intactLocked(&nftables.Conn{})
}

func (t *Table) intactLocked(c *nftables.Conn) bool {
	if _, err := c.GetSetByName(t.table, marker(t)); err != nil {
		return false
	}
	if !judgeIntact(c, t) {
		return false
	}
	for name, n := range t.rules {
		rules, err := c.GetRules(t.table, &nftables.Chain{Name: name, Table: t.table})
		if err != nil || len(rules) != n {
			return false
		}
	}
	return Guards{t}.intactEgress(c)
}
