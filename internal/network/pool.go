package network

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/network/dns/sockets"
	"hezi/internal/network/netns"
)

// maxPorts is how many devices a Linux bridge holds (BR_MAX_PORTS less one).
const maxPorts = 1023

const (
	warmSlots = 2               // kept ready for a network that users made and use
	coolAfter = 5 * time.Minute // without a start, those are given up
)

// plain says whether a slot of the pool will do.
func (r EndpointRequest) plain() bool {
	return !r.IPv4.IsValid() && !r.IPv6.IsValid() && r.MAC == "" && len(r.LinkLocal)+len(r.DriverOpts) == 0
}

// slotFor takes a slot of the network's pool, or makes one if the pool is empty or
// the container wants something of its own.
func (c *pools) slotFor(l *lan, req EndpointRequest, namespace string) (*slot, error) {
	if req.plain() && namespace == "" {
		c.mu.Lock()
		l.wanted = time.Now()
		if l.bridged() && l != c.bridge() && !l.small() && l.warm == 0 && c.o.Pool > 0 {
			l.warm = warmSlots
		}
		if n := len(l.pool); n > 0 {
			s := l.pool[0]
			l.pool = l.pool[1:]
			s.link.request, s.link.priority, s.link.names = req, req.GwPriority, req.Names
			c.mu.Unlock()
			wake(c.refill)
			return s, nil
		}
		c.mu.Unlock()
		defer wake(c.refill)
	}
	return c.makeSlot(l, req, namespace)
}

// makeSlot makes a namespace with one link.
func (c *pools) makeSlot(l *lan, req EndpointRequest, namespace string) (*slot, error) {
	k, err := c.plan(l, req, nil)
	if err != nil {
		return nil, err
	}
	s := &slot{path: filepath.Join(c.handles(), k.mark()), link: k}
	if _, err := os.Lstat(s.path); k.outside == "" || err == nil {
		// Its addresses are of a network that is not ours alone, or were those of a
		// container that left the network and runs on.
		s.path = filepath.Join(c.handles(), "v"+newID()[:15])
	}
	err = netns.Make(s.path, namespace, k.endpoint(l, c.o.MTU, k.gateways(l)...), func() error {
		p, err := sockets.Open(false)
		if err == nil {
			s.pair = &p
		}
		return err
	})
	if err != nil {
		s.deaf()
		c.bury1(k)
		return nil, portError(l, err)
	}
	return s, nil
}

// deaf closes the slot's sockets.
func (s *slot) deaf() {
	if s.pair != nil {
		logFailure("close the sockets of a name service", s.pair.Close())
	}
}

// portError names the network whose bridge is full, and the limit of descriptors, of
// which the engine has some for each container.
func portError(l *lan, err error) error {
	if errors.Is(err, unix.EMFILE) {
		return unavailable("hezid has as many files open as its limit allows: stop containers, or start it with a higher one (LimitNOFILE, ulimit -n): %v", err)
	}
	if errors.Is(err, unix.EXFULL) || errors.Is(err, unix.EBUSY) {
		return unavailable("the network %s is full: a Linux bridge holds %d containers; remove some, or make another network: %v", l.Name, maxPorts, err)
	}
	return err
}

// plan reserves what an endpoint needs; taken are the names of the interfaces that
// the container has.
func (c *pools) plan(l *lan, req EndpointRequest, taken map[string]bool) (*link, error) {
	o, err := parseEndpoint(req)
	if err != nil {
		return nil, err
	}
	if err := c.ready(l); err != nil {
		return nil, err
	}
	k := &link{lan: l, priority: req.GwPriority, names: req.Names, request: req, inside: o.Name, sysctls: o.Sysctls}
	if req.MAC != "" {
		hw, err := net.ParseMAC(req.MAC)
		if err != nil || len(hw) != 6 || hw[0]&1 == 1 {
			return nil, invalid("invalid MAC address: %s: six bytes are needed, of which the first is even, as in 02:42:ac:11:00:09", req.MAC)
		}
		k.mac = hw
	}
	if k.inside == "" {
		prefix := "eth"
		if l.bridged() {
			prefix = l.o.IfacePrefix
		}
		for n := 0; k.inside == "" || taken[k.inside]; n++ {
			k.inside = fmt.Sprint(prefix, n)
		}
	} else if taken[k.inside] {
		return nil, conflict("the container has an interface %s already: choose another name", k.inside)
	}
	for until := time.Now().Add(vacateFor); ; {
		err := c.reserve(k, req)
		if !errdefs.IsPermissionDenied(err) && !errdefs.IsUnavailable(err) || req.idle || time.Now().After(until) {
			return k, err
		}
		if !c.vacate(l, req) {
			return k, c.reserve(k, req) // it may be free since
		}
	}
}

// vacateFor is how long an address is waited for that is about to be free.
const vacateFor = 5 * time.Second

// vacate has an address of the network be given back that a request may have: by a slot
// that nobody uses, or by a container on its way out. It is false if there is none.
func (c *pools) vacate(l *lan, req EndpointRequest) bool {
	first := !req.IPv4.IsValid() && !req.IPv6.IsValid()
	wants := func(on *lan, list ...netip.Prefix) bool {
		return on == l && slices.ContainsFunc(list, func(p netip.Prefix) bool {
			return p.IsValid() && (first || p.Addr() == req.IPv4 || p.Addr() == req.IPv6)
		})
	}
	c.filling.Lock() // no slot is half made
	c.mu.Lock()
	var idle *slot
	if i := slices.IndexFunc(l.pool, func(s *slot) bool { return wants(l, s.link.v4, s.link.v6) }); i >= 0 {
		idle, l.pool = l.pool[i], slices.Delete(slices.Clone(l.pool), i, i+1)
	}
	dying := ""
	for name, d := range c.dying {
		if wants(d.lan, d.v4, d.v6) {
			dying = name
		}
	}
	leaving := false
	for m := range c.releasing {
		leaving = leaving || slices.ContainsFunc(m.links, func(k *link) bool { return wants(k.lan, k.v4, k.v6) })
	}
	c.mu.Unlock()
	c.filling.Unlock()
	switch {
	case idle != nil:
		logFailure("remove a network namespace", c.discard(idle))
		return true
	case dying != "": // before its namespace does it
		logFailure("remove an interface of a container that is gone", netns.RemoveLink(dying))
		wake(c.kick)
	case !leaving:
		return false
	}
	time.Sleep(batchFor)
	return true
}

// reserve gives a link its addresses, and the names that follow from them.
func (c *pools) reserve(k *link, req EndpointRequest) (err error) {
	l := k.lan
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return unavailable("the networks are closed")
	case l.dead:
		return notFound("network %s not found", l.Name)
	}
	if k.mac != nil {
		for id, other := range l.links {
			if other.mac.String() == k.mac.String() {
				return conflict("MAC address %s is already in use on network %s by the container %s: choose another --mac-address", k.mac, l.Name, calledLocked(&c.registry, id))
			}
		}
	}
	if k.v4, k.v6, err = l.takeLocked(req); errdefs.IsPermissionDenied(err) {
		return c.takenByLocked(l, req, err)
	} else if err != nil {
		return err
	}
	switch {
	case k.mac != nil || l.Driver == driverIpvlan:
	case k.v4.IsValid():
		k.mac = hardware(k.v4.Addr())
	case k.v6.IsValid():
		k.mac = hardware(k.v6.Addr())
	default:
		k.mac = net.HardwareAddr{0x02, 0x42, 0, 0, 0, 0}
		rand.Read(k.mac[2:]) // never fails
	}
	if l.bridged() {
		mark := k.mark()
		if !k.v4.IsValid() && !k.v6.IsValid() {
			mark = hex.EncodeToString(k.mac[2:])
		}
		k.outside = c.outside(mark)
	}
	return nil
}

// takenByLocked says who has an address that was asked for.
func (c *pools) takenByLocked(l *lan, req EndpointRequest, err error) error {
	for id, k := range l.links {
		switch {
		case req.IPv4.IsValid() && k.v4.Addr() == req.IPv4:
			return forbidden("%v (by the container %s): choose another --ip", err, calledLocked(&c.registry, id))
		case req.IPv6.IsValid() && k.v6.Addr() == req.IPv6:
			return forbidden("%v (by the container %s): choose another --ip6", err, calledLocked(&c.registry, id))
		}
	}
	for _, g := range l.gateway {
		if g == req.IPv4 || g == req.IPv6 {
			return forbidden("%v (by the network's gateway): choose another --ip or --ip6", err)
		}
	}
	return forbidden("%v: choose another --ip or --ip6, or leave it out", err)
}

// calledLocked is a container's name, or its id if it is on its way.
func calledLocked(c *registry, id string) string {
	if m := c.members[id]; m != nil {
		return strings.TrimPrefix(m.name, "/")
	}
	return id
}

// bury1 gives back what a link had that could not be made, once nothing is seen of it.
func (c *registry) bury1(k *link) {
	c.mu.Lock()
	c.buryLocked(k)
	c.mu.Unlock()
	wake(c.kick)
}

// buryLocked: the addresses are free when the host's end is gone.
func (c *registry) buryLocked(k *link) {
	if k.outside == "" {
		k.lan.freeLocked(k.v4, k.v6)
		return
	}
	c.dying[k.outside] = dead{lan: k.lan, v4: k.v4, v6: k.v6}
}

// refillLull is how long no slot must be taken before a pool is refilled: a
// new namespace takes the kernel's one lock of links, which a start needs too.
const refillLull = 30 * time.Millisecond

// lull waits for a moment without starts, unless the pool of the network bridge is
// empty; false is the controller's end.
func (c *pools) lull() bool {
	for {
		c.mu.Lock()
		b := c.bridge()
		empty := b != nil && !b.shut && len(b.pool) == 0
		c.mu.Unlock()
		if empty {
			return true
		}
		select {
		case <-c.stop:
			return false
		case <-c.refill:
		case <-time.After(refillLull):
			return true
		}
	}
}

// fill keeps the pools full, and gives up those of networks that are not used.
func (c *pools) fill() {
	defer c.wg.Done()
	cool := time.NewTicker(time.Minute)
	defer cool.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-cool.C:
			c.cool()
			continue
		case <-c.refill:
		}
		if !c.lull() {
			return
		}
		for l := c.hungry(); l != nil; l = c.hungry() {
			if err := c.addSlot(l); err != nil {
				if !errdefs.IsUnavailable(err) {
					logFailure("make a network namespace ahead of time", err)
				}
				c.mu.Lock()
				l.warm = 0
				if l == c.bridge() { // it may have addresses again
					time.AfterFunc(time.Second, func() {
						c.mu.Lock()
						l.warm = max(c.o.Pool, 0)
						c.mu.Unlock()
						wake(c.refill)
					})
				}
				c.mu.Unlock()
			}
		}
	}
}

// addSlot puts a new slot into a network's pool.
func (c *pools) addSlot(l *lan) error {
	c.filling.Lock()
	defer c.filling.Unlock()
	s, err := c.makeSlot(l, EndpointRequest{Network: l.ID, idle: true}, "")
	if err != nil {
		return err
	}
	c.mu.Lock()
	gone := l.dead || c.closed
	if !gone {
		l.pool = append(l.pool, s)
	}
	c.mu.Unlock()
	if gone {
		logFailure("remove a network namespace", c.discard(s))
	}
	return nil
}

// hungry is a network whose pool lacks slots.
func (c *pools) hungry() *lan {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	if b := c.bridge(); b != nil && len(b.pool) < b.warm {
		return b
	}
	for _, l := range c.lans {
		if len(l.pool) < l.warm && !l.dead {
			return l
		}
	}
	return nil
}

// cool gives up the pools of networks that nobody has used lately.
func (c *pools) cool() {
	c.mu.Lock()
	var drop []*slot
	for _, l := range c.lans {
		if l != c.bridge() && l.warm > 0 && time.Since(l.wanted) > coolAfter {
			drop = append(drop, l.drainLocked()...)
		}
	}
	c.mu.Unlock()
	for _, s := range drop {
		logFailure("remove a network namespace", c.discard(s))
	}
}

// drainLocked empties the pool.
func (l *lan) drainLocked() []*slot {
	pool := l.pool
	l.pool, l.warm = nil, 0
	return pool
}

// discard removes a slot that nobody uses.
func (c *registry) discard(s *slot) error {
	s.deaf()
	err := netns.Remove(s.path)
	if s.link != nil {
		c.bury1(s.link)
	}
	return err
}

// nonePath is the handle of a namespace with loopback alone.
func (c *pools) nonePath(id string) string {
	return filepath.Join(c.handles(), fmt.Sprintf("none-%.12s-%x", strings.TrimSpace(id), time.Now().UnixNano()))
}
