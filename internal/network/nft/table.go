// Package nft keeps the one nftables table of the engine.
//
//	table ip hezi {
//	  map published    { proto . port : address . port }            bound to every host address
//	  map published_at { hostaddress . proto . port : address . port }  bound to one
//	  set rules-HASH   { the version of the rules below }
//	  chain raw         prerouting: drop what is for 127/8, or of it, and does not come from lo
//	  chain prerouting  nat: packets for the host's addresses by the maps
//	  chain output      the same for the host's own programs
//	  chain postrouting nat: masquerade out of the bridge; hairpin; the host's loopback
//	  chain forward     established, out of the bridge, or published; nothing else goes in
//	}
//
// The number of rules never grows: containers are elements of the maps. Adds are
// cheap, a transaction that deletes costs a grace period, so deletes are batched
// by the caller. What the table must hold is remembered: after somebody's
// `nft flush ruleset` Restore writes it again in one transaction.
package nft

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Forward is one published port. Host is zero for every address of the host.
type Forward struct {
	Host  netip.Addr
	Proto uint8 // unix.IPPROTO_TCP or IPPROTO_UDP
	Port  uint16
	To    netip.AddrPort
}

type key struct {
	host  netip.Addr
	proto uint8
	port  uint16
}

func (f Forward) key() key { return key{f.Host, f.Proto, f.Port} }

// Config is what the rules depend on.
type Config struct {
	Table      string
	Bridge     string
	Subnet     netip.Prefix
	Masquerade bool
}

// Table is the engine's table. Its methods are safe for concurrent use.
type Table struct {
	cfg   Config
	table *nftables.Table
	any   *nftables.Set // published
	at    *nftables.Set // published_at

	mu    sync.Mutex // also held over a transaction: they are ordered
	want  map[key]netip.AddrPort
	rules map[string]int // how many each chain has
}

// Open finds or makes the table. What a former engine left in the maps stays
// until Retain.
func Open(cfg Config) (*Table, error) {
	t := &Table{cfg: cfg, table: &nftables.Table{Name: cfg.Table, Family: nftables.TableFamilyIPv4}, want: map[key]netip.AddrPort{}}
	t.any, t.at = sets(t.table)
	t.rules = addRules(&nftables.Conn{}, t) // never sent
	c := &nftables.Conn{}
	if t.intactLocked(c) {
		return t, t.load(c)
	}
	if _, err := c.ListTableOfFamily(cfg.Table, nftables.TableFamilyIPv4); err == nil {
		if err := t.load(c); err != nil {
			t.want = map[key]netip.AddrPort{} // maps of another shape
		}
	}
	return t, t.Restore()
}

// load remembers what the maps hold.
func (t *Table) load(c *nftables.Conn) error {
	for _, s := range []*nftables.Set{t.any, t.at} {
		elems, err := c.GetSetElements(s)
		if err != nil {
			return fmt.Errorf("read the published ports of the nft table %s: %w", t.cfg.Table, err)
		}
		for _, e := range elems {
			if f, ok := decode(e, s == t.at); ok {
				t.want[f.key()] = f.To
			}
		}
	}
	return nil
}

// marker is the name of the set that tells which rules a table has.
func (t *Table) marker() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %+v", rulesVersion, t.cfg))
	return "rules-" + hex.EncodeToString(sum[:])[:12]
}

// Add publishes ports in one transaction.
func (t *Table) Add(fs []Forward) error {
	if len(fs) == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var add []Forward
	var del []Forward
	for _, f := range fs {
		old, ok := t.want[f.key()]
		if ok && old == f.To {
			continue
		}
		if ok {
			stale := f
			stale.To = old
			del = append(del, stale)
		}
		add = append(add, f)
		t.want[f.key()] = f.To
	}
	if err := t.commit(del, add); err != nil {
		if err2 := t.restoreLocked(); err2 != nil {
			for _, f := range add {
				delete(t.want, f.key())
			}
			return errors.Join(err, err2)
		}
	}
	return nil
}

// Delete takes ports away in one transaction.
func (t *Table) Delete(fs []Forward) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var del []Forward
	for _, f := range fs {
		if t.want[f.key()] == f.To {
			delete(t.want, f.key())
			del = append(del, f)
		}
	}
	if len(del) == 0 {
		return nil
	}
	if err := t.commit(del, nil); err != nil {
		return t.restoreLocked()
	}
	return nil
}

// Retain deletes every published port whose target keep does not claim.
func (t *Table) Retain(keep func(Forward) bool) error {
	t.mu.Lock()
	var drop []Forward
	for k, to := range t.want {
		f := Forward{Host: k.host, Proto: k.proto, Port: k.port, To: to}
		if !keep(f) {
			drop = append(drop, f)
		}
	}
	t.mu.Unlock()
	return t.Delete(drop)
}

// Len is the number of published ports.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.want)
}

func (t *Table) commit(del, add []Forward) error {
	c := &nftables.Conn{}
	for _, op := range []struct {
		fs  []Forward
		run func(*nftables.Set, []nftables.SetElement) error
	}{{del, c.SetDeleteElements}, {add, c.SetAddElements}} {
		for _, s := range []*nftables.Set{t.any, t.at} {
			var elems []nftables.SetElement
			for _, f := range op.fs {
				if f.Host.IsValid() == (s == t.at) {
					elems = append(elems, encode(f))
				}
			}
			for part := range slices.Chunk(elems, 500) { // a message's attribute holds 64 KiB
				if err := op.run(s, part); err != nil {
					return fmt.Errorf("encode published ports: %w", err)
				}
			}
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("change the published ports in the nft table %s: %w", t.cfg.Table, err)
	}
	return nil
}

// Restore writes the whole table in one transaction: no packet sees half of it.
func (t *Table) Restore() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.restoreLocked()
}

func (t *Table) restoreLocked() error {
	c := &nftables.Conn{}
	c.AddTable(t.table) // so that the deletion finds one
	c.DelTable(t.table)
	c.AddTable(t.table)
	mark := &nftables.Set{Table: t.table, Name: t.marker(), KeyType: nftables.TypeInetService}
	for _, s := range []*nftables.Set{t.any, t.at, mark} {
		s.ID = 0
		if err := c.AddSet(s, nil); err != nil {
			return fmt.Errorf("encode the nft set %s: %w", s.Name, err)
		}
	}
	addRules(c, t)
	for k, to := range maps.All(t.want) {
		s := t.any
		if k.host.IsValid() {
			s = t.at
		}
		if err := c.SetAddElements(s, []nftables.SetElement{encode(Forward{k.host, k.proto, k.port, to})}); err != nil {
			return fmt.Errorf("encode published ports: %w", err)
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write the nft table %s (does the kernel have nf_tables with nat?): %w", t.cfg.Table, err)
	}
	return nil
}

// Destroy removes the table, and what PassDocker added.
func (t *Table) Destroy() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := &nftables.Conn{}
	if err := t.leaveDocker(c); err != nil {
		return fmt.Errorf("take the rules of %s out of Docker's chain: %w", t.cfg.Bridge, err)
	}
	c.DelTable(t.table)
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the nft table %s: %w", t.cfg.Table, err)
	}
	return nil
}

// Intact says whether the kernel has the table with all our rules.
func (t *Table) Intact() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.intactLocked(&nftables.Conn{})
}

func (t *Table) intactLocked(c *nftables.Conn) bool {
	if _, err := c.GetSetByName(t.table, t.marker()); err != nil {
		return false
	}
	for name, n := range t.rules {
		rules, err := c.GetRules(t.table, &nftables.Chain{Name: name, Table: t.table})
		if err != nil || len(rules) != n {
			return false
		}
	}
	return true
}
