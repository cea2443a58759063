// Package nft keeps the one nftables table of the engine.
//
//	table ip hezi {
//	  map published    { proto . port : address . port }            bound to every host address
//	  map published_at { hostaddress . proto . port : address . port }  bound to one
//	  map ranges       { proto . ports : address }                  many ports, the same inside
//	  map ranges_at    { hostaddress . proto . ports : address }
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
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

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

	ranges, rangesAt *nftables.Set // nil: the kernel has no concatenations with intervals

	mu    sync.Mutex // also held over a transaction: they are ordered
	want  map[key]netip.AddrPort
	rules map[string]int // how many each chain has
}

// Open finds or makes the table. What a former engine left in the maps stays
// until Retain.
func Open(cfg Config) (*Table, error) {
	t := &Table{cfg: cfg, table: &nftables.Table{Name: cfg.Table, Family: nftables.TableFamilyIPv4}, want: map[key]netip.AddrPort{}}
	c := &nftables.Conn{}
	for _, intervals := range []bool{true, false} {
		t.shape(intervals)
		if t.intactLocked(c) {
			return t, t.load(c)
		}
	}
	t.shape(true)
	if _, err := c.ListTableOfFamily(cfg.Table, nftables.TableFamilyIPv4); err == nil {
		if err := t.load(c); err != nil {
			slog.Info("the nft table is of another version and is written anew", "table", cfg.Table, "reason", err)
		}
	}
	err := t.Restore()
	if err != nil {
		t.shape(false)
		err = t.Restore()
	}
	return t, err
}

// shape makes the maps and counts the rules, with maps of intervals or without.
func (t *Table) shape(intervals bool) {
	t.makeSets(intervals)
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
	for _, s := range t.sets() {
		elems, err := c.GetSetElements(s)
		if err != nil {
			return fmt.Errorf("read the published ports of the nft table %s: %w", t.cfg.Table, err)
		}
		for _, e := range elems {
			if f, ok := decode(e); ok {
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
	fs = t.elements(fs)
	add, del := make([]Forward, 0, len(fs)), []Forward(nil)
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
	for _, f := range t.elements(fs) {
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
	drop := slices.DeleteFunc(t.wantedLocked(), keep)
	t.mu.Unlock()
	return t.Delete(drop)
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
		return fmt.Errorf("change the published ports in the nft table %s: %w", t.cfg.Table, err)
	}
	return nil
}

// each hands the elements of each map to do.
func (t *Table) each(fs []Forward, do func(*nftables.Set, []nftables.SetElement) error) error {
	const most = 500 // a message's attribute holds 64 KiB
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
	c.AddTable(t.table) // so that the deletion finds one
	c.DelTable(t.table)
	c.AddTable(t.table)
	mark := &nftables.Set{Table: t.table, Name: t.marker(), KeyType: nftables.TypeInetService}
	for _, s := range append(t.sets(), mark) {
		s.ID = 0
		if err := c.AddSet(s, nil); err != nil {
			return fmt.Errorf("encode the nft set %s: %w", s.Name, err)
		}
	}
	addRules(c, t)
	if err := t.each(t.wantedLocked(), c.SetAddElements); err != nil {
		return fmt.Errorf("encode published ports: %w", err)
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
