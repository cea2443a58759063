package network

import (
	"errors"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"hezi/internal/network/flows"
	"hezi/internal/network/netns"
	"hezi/internal/network/nft"
)

const (
	batchFor  = 5 * time.Millisecond   // releases that come within it share one nft transaction
	lookEvery = 100 * time.Millisecond // whether dying veths are gone
)

// Release gives a container's place back. It answers at once; the slow work is
// done behind. A container without a place is none of its business.
func (c *Controller) Release(containerID string) {
	c.mu.Lock()
	m := c.members[containerID]
	if m != nil {
		delete(c.members, containerID)
		for _, k := range m.links {
			delete(k.lan.links, containerID)
		}
		c.releasing[m] = true
	}
	c.mu.Unlock()
	if m != nil {
		c.unrelay(m)
		resolver{&c.registry}.leave(m)
		wake(c.kick)
		for _, k := range m.links {
			c.announce("disconnect", k.lan, containerID)
		}
	}
}

// Sweep drops what a former engine left and nobody adopted, and has the containers'
// questions for names answered: call it once, after Adopt was
// called for every container that runs.
func (c *Controller) Sweep() error {
	c.mu.Lock()
	left, strays := slices.Collect(maps.Keys(c.unclaimed)), c.strays
	c.unclaimed, c.strays = map[string]bool{}, map[string]string{}
	c.mu.Unlock()
	unknown := false
	for _, path := range left {
		if err := netns.Remove(path); err != nil {
			return err
		}
	}
	for name, alias := range strays {
		mark := strings.TrimPrefix(name, c.outside(""))
		unknown = unknown || !slices.ContainsFunc(left, func(path string) bool { return filepath.Base(path) == mark })
		// Of a namespace that was removed it goes by itself; of a container that runs on,
		// which never heard of it, it does not.
		logFailure("remove an interface that nobody knows", netns.RemoveLink(name))
		c.mu.Lock()
		c.strayLocked(name, alias)
		c.mu.Unlock()
	}
	wake(c.kick)
	if err := errors.Join(restrainer{&c.registry}.guardAdopted(), c.dns.Begin()); err != nil {
		return err
	}
	c.retire()
	if c.o.Relay != nil {
		c.o.Relay.Begin()
	}
	if unknown {
		c.rerouteAll()
	}
	if c.table == nil {
		return nil
	}
	var published []nft.Forward
	var open []nft.Direct
	c.mu.Lock()
	for _, m := range c.members {
		published, open = append(published, m.forwards...), append(open, m.direct...)
	}
	c.mu.Unlock()
	return c.table.Retain(published, open)
}

// rerouteAll sets every container's default routes: they may have led through an
// interface that a former engine had no time to store.
func (c *Controller) rerouteAll() {
	c.mu.Lock()
	all := slices.Collect(maps.Values(c.members))
	c.mu.Unlock()
	for _, m := range all {
		m.work.Lock()
		if len(m.links) > 0 && m.links[0].lan.Driver != driverNull {
			logFailure("set a container's default routes", c.reroute(m))
		}
		m.work.Unlock()
	}
}

// strayLocked has the addresses of a former engine's interface freed when it is
// gone.
func (c *Controller) strayLocked(name, alias string) {
	for _, l := range c.lans {
		d := dead{lan: l}
		for _, a := range addressesOf(alias) {
			for _, r := range l.ranges {
				if !r.Subnet.Contains(a) {
					continue
				}
				if a.Is6() {
					d.v6 = netip.PrefixFrom(a, r.Subnet.Bits())
				} else {
					d.v4 = netip.PrefixFrom(a, r.Subnet.Bits())
				}
			}
		}
		if d.v4.IsValid() || d.v6.IsValid() {
			c.dying[name] = d
		}
	}
}

// release is the worker behind Release.
func (c *publisher) release() {
	defer c.wg.Done()
	for {
		c.mu.Lock()
		waiting := len(c.dying) > 0
		c.mu.Unlock()
		var look <-chan time.Time
		if waiting {
			look = time.After(lookEvery)
		}
		select {
		case <-c.stop:
			c.giveBack()
			c.bury()
			return
		case <-look:
		case <-c.kick:
			time.Sleep(batchFor)
			c.giveBack()
		}
		c.bury()
	}
}

// giveBack frees the ports and handles of all that leave.
func (c *publisher) giveBack() {
	c.mu.Lock()
	leaving, fresh := slices.Collect(maps.Keys(c.releasing)), c.fresh
	c.fresh = nil
	c.mu.Unlock()
	var forwards []nft.Forward
	var direct []nft.Direct
	for _, m := range leaving {
		m.work.Lock() // no connection is half made
		forwards, direct = append(forwards, m.forwards...), append(direct, m.direct...)
		m.work.Unlock()
	}
	if c.table != nil && len(forwards) > 0 {
		logFailure("take published ports out of nft", c.table.Delete(forwards))
	}
	if c.table != nil {
		logFailure("close the ports at containers' addresses", c.table.SetDirect(nil, direct))
	}
	flows.ForgetPorts(forwards, fresh)
	for _, m := range leaving {
		m.work.Lock()
		for _, h := range slices.Concat(m.holds, m.beside) {
			logFailure("close the hold of a port", h.hold.End())
		}
		for _, k := range m.links {
			if k.outside == "" && k.lan.Driver != driverNull { // its address is free at once
				logFailure("take an interface out of a container that has ended", netns.Detach(m.path, k.inside))
			}
		}
		logFailure("remove a network namespace", netns.Remove(m.path))
		c.mu.Lock()
		delete(c.releasing, m)
		for _, k := range m.links {
			if k.lan.Driver != driverNull {
				c.buryLocked(k)
			}
		}
		c.mu.Unlock()
		m.work.Unlock()
		close(m.done)
	}
}

// bury frees the addresses whose devices are gone. Until then a policy of egress holds:
// another container that is in the namespace may run on.
func (c *publisher) bury() {
	c.mu.Lock()
	look := slices.Collect(maps.Keys(c.dying))
	c.mu.Unlock()
	if len(look) == 0 {
		return
	}
	names, err := netns.Gone(look)
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		return // devices come and go: look again
	}
	if err != nil {
		logFailure("look for dying veths", err)
		return
	}
	gone := map[string]dead{}
	c.mu.Lock()
	for _, name := range names {
		if d, ok := c.dying[name]; ok {
			gone[name] = d
		}
	}
	c.mu.Unlock()
	restrainer{&c.registry}.unguard(slices.Collect(maps.Keys(gone))...)
	for _, d := range gone {
		for _, p := range []netip.Prefix{d.v4, d.v6} {
			if p.IsValid() {
				flows.ForgetAddress(p.Addr())
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, d := range gone {
		delete(c.dying, name)
		d.lan.freeLocked(d.v4, d.v6)
	}
}
