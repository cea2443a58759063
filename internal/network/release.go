package network

import (
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

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
		c.releasing[m] = true
	}
	c.mu.Unlock()
	if m != nil {
		wake(c.kick)
		c.announce("disconnect", m.box.NetworkName, containerID)
	}
}

// Sweep drops what a former engine left and nobody adopted: call it once, after Adopt was
// called for every container that runs.
func (c *Controller) Sweep() error {
	c.mu.Lock()
	left := slices.Collect(maps.Keys(c.unclaimed))
	c.unclaimed = map[string]bool{}
	c.mu.Unlock()
	for _, path := range left {
		if err := netns.Remove(path); err != nil {
			return err
		}
		if a, ok := addressOf(filepath.Base(path)); ok {
			c.mu.Lock()
			c.dying[a] = true
			c.mu.Unlock()
		}
	}
	wake(c.kick)
	if c.table == nil {
		return nil
	}
	return c.table.Retain(func(f nft.Forward) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.used[f.To.Addr()] && !c.dying[f.To.Addr()]
	})
}

// release is the worker behind Release.
func (c *Controller) release() {
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
func (c *Controller) giveBack() {
	c.mu.Lock()
	leaving, fresh := slices.Collect(maps.Keys(c.releasing)), c.fresh
	c.fresh = nil
	c.mu.Unlock()
	var forwards []nft.Forward
	for _, m := range leaving {
		forwards = append(forwards, m.forwards...)
	}
	if c.table != nil && len(forwards) > 0 {
		logFailure("take published ports out of nft", c.table.Delete(forwards))
	}
	forgetFlows(forwards, fresh)
	for _, m := range leaving {
		for _, h := range m.holds {
			logFailure("close the hold of a port", h.Close())
		}
		logFailure("remove a network namespace", netns.Remove(m.slot.path))
		c.mu.Lock()
		delete(c.releasing, m)
		if m.slot.address.IsValid() {
			c.dying[m.slot.address] = true
		}
		c.mu.Unlock()
		close(m.done)
	}
}

// bury frees the addresses whose veths are gone.
func (c *Controller) bury() {
	c.mu.Lock()
	none := len(c.dying) == 0
	look := maps.Clone(c.dying)
	c.mu.Unlock()
	if none {
		return
	}
	on, err := netns.Ports(c.index)
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		return // devices come and go: look again
	}
	if err != nil {
		logFailure("look for dying veths", err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for a := range look {
		if !on[c.outside(hexOf(a))] {
			delete(c.dying, a)
			delete(c.used, a)
		}
	}
}
