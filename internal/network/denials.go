package network

import (
	"log/slog"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"hezi/internal/network/egress"
	"hezi/internal/network/nft"
)

// How events of what was denied are bounded: a container that scans makes no more than
// eventsOf in each look, and one about the same destination each quiet. What is to be said
// later is at most maxPending; the counters of the firewall miss nothing.
const (
	denialsEvery = time.Second
	countEvery   = 10 // looks
	quiet        = 10 * time.Second
	eventsOf     = 10
	maxPending   = 8192
	maxNamesOf   = 256 // of one container
)

// Denied is something that a container was denied, for events.
type Denied struct {
	Destination string // an address, or a name that was asked for
	Protocol    string // "dns" for a name
	Port        uint16 // 0: none
	Count       uint64 // since the last event about it
}

// attempt is what events are about.
type attempt struct{ container, destination, protocol, port string }

type pending struct {
	count uint64
	port  uint16
	said  time.Time // zero: never
	seen  time.Time
}

// denials tell of what was denied. The zero value is ready.
type denials struct {
	mu      sync.Mutex
	running bool
	last    map[nft.Denial]uint64 // packets; of keys without them
	wait    map[attempt]*pending
	waiting map[string]int // names of a container that wait
	asked   map[string]uint64
}

// begin looks for what is denied, until no container has a policy any more.
func (d *denials) begin(c *registry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.running {
		return
	}
	select {
	case <-c.stop:
		return
	default:
	}
	d.running = true
	if d.last == nil {
		d.makeLocked()
	}
	c.wg.Go(func() {
		t := time.NewTicker(denialsEvery)
		defer t.Stop()
		for n := 1; ; n++ {
			select {
			case <-c.stop:
				return
			case <-t.C:
				if n%countEvery == 0 {
					nft.Guards{Table: c.table}.Remember()
				}
				if !d.look(c) {
					return
				}
			}
		}
	})
}

// prime takes what the firewall remembers for told: an engine before this one told it.
func (d *denials) prime(t *nft.Table) error {
	list, err := nft.Guards{Table: t}.Denials()
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.running || d.last != nil {
		return nil
	}
	d.makeLocked()
	for _, one := range list {
		packets := one.Packets
		one.Packets = 0
		d.last[one] = packets
	}
	return nil
}

func (d *denials) makeLocked() {
	d.last, d.wait, d.waiting, d.asked = map[nft.Denial]uint64{}, map[attempt]*pending{}, map[string]int{}, map[string]uint64{}
}

// look reads the firewall once and says what there is to say; false if nobody has a
// policy.
func (d *denials) look(c *registry) bool {
	list, err := nft.Guards{Table: c.table}.Denials()
	if err != nil {
		slog.Debug("read what was denied", "error", err) // others are changing the table
	}
	owner, left := restrainer{c}.restrainedByAddress()
	d.mu.Lock()
	seen := map[nft.Denial]uint64{}
	for _, one := range list {
		key := one
		key.Packets = 0
		before := d.last[key]
		if one.Packets < before { // it was forgotten and came again
			before = 0
		}
		seen[key] = one.Packets
		if id := owner[one.Source]; id != "" && one.Packets > before {
			d.addLocked(attempt{id, one.Dest.String(), egress.Protocol(one.Proto), portText(one.Port)}, one.Packets-before, one.Port)
		}
	}
	if err == nil {
		d.last = seen
	}
	type event struct {
		id string
		Denied
	}
	var say []event
	of := map[string]int{}
	now := time.Now()
	for a, p := range d.wait {
		switch {
		case p.count > 0 && now.Sub(p.said) >= quiet && of[a.container] < eventsOf:
			of[a.container]++
			say = append(say, event{a.container, Denied{a.destination, a.protocol, p.port, p.count}})
			p.count, p.said = 0, now
		case p.count == 0 && now.Sub(p.said) >= quiet, now.Sub(p.seen) >= 6*quiet:
			d.dropLocked(a)
		}
	}
	for id := range d.asked {
		if !left[id] {
			delete(d.asked, id)
		}
	}
	d.running = len(left) > 0 || len(d.wait) > 0
	more := d.running
	d.mu.Unlock()
	if c.o.Denied != nil {
		for _, e := range say {
			c.o.Denied(e.id, e.Denied)
		}
	}
	return more
}

func portText(p uint16) string {
	if p == 0 {
		return ""
	}
	return strconv.Itoa(int(p))
}

func (d *denials) addLocked(a attempt, n uint64, port uint16) {
	p := d.wait[a]
	if p == nil {
		if len(d.wait) >= maxPending || a.protocol == "dns" && d.waiting[a.container] >= maxNamesOf {
			return
		}
		p = &pending{port: port}
		d.wait[a] = p
		if a.protocol == "dns" {
			d.waiting[a.container]++
		}
	}
	p.count, p.seen = p.count+n, time.Now()
}

func (d *denials) dropLocked(a attempt) {
	delete(d.wait, a)
	if a.protocol == "dns" {
		if d.waiting[a.container]--; d.waiting[a.container] <= 0 {
			delete(d.waiting, a.container)
		}
	}
}

// name notes that a container was refused a name.
func (d *denials) name(c *registry, container, name string) {
	d.begin(c)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.wait == nil {
		return // the engine ends
	}
	d.asked[container]++
	d.addLocked(attempt{container, name, "dns", ""}, 1, 0)
}

// names is how many a container was refused.
func (d *denials) names(container string) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asked[container]
}

// restrainedByAddress are the containers that a policy holds for: by their addresses, and
// which they are.
func (c restrainer) restrainedByAddress() (owner map[netip.Addr]string, all map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	owner, all = map[netip.Addr]string{}, map[string]bool{}
	for id, m := range c.members {
		for _, k := range m.links {
			if len(m.policies(k)) == 0 || k.lan.Driver == driverNull {
				continue
			}
			all[id] = true
			for _, p := range []netip.Prefix{k.v4, k.v6} {
				if p.IsValid() {
					owner[p.Addr()] = id
				}
			}
			for _, a := range k.request.LinkLocal {
				owner[a] = id
			}
		}
	}
	return owner, all
}
