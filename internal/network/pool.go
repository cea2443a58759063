package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"hezi/internal/network/netns"
)

// maxPorts is how many devices a Linux bridge holds (BR_MAX_PORTS less one).
const maxPorts = 1023

// slotFor takes a slot of the pool, or makes one if the pool is empty or the
// container wants an address or a MAC of its own.
func (c *Controller) slotFor(req EndpointRequest) (*slot, error) {
	if req.IPv4.IsValid() || req.MAC != "" || req.Namespace != "" {
		return c.make(req.IPv4, req.MAC, req.Namespace)
	}
	c.mu.Lock()
	defer wake(c.refill)
	if n := len(c.pool); n > 0 {
		s := c.pool[0]
		c.pool = c.pool[1:]
		c.mu.Unlock()
		return s, nil
	}
	c.mu.Unlock()
	return c.make(netip.Addr{}, "", "")
}

func (c *Controller) make(want netip.Addr, mac, namespace string) (*slot, error) {
	var hw net.HardwareAddr
	if mac != "" {
		var err error
		if hw, err = net.ParseMAC(mac); err != nil || len(hw) != 6 || hw[0]&1 == 1 {
			return nil, errdefs.ErrInvalidArgument.WithMessage("invalid MAC address: " + mac)
		}
	}
	a, err := c.take(want)
	if err != nil {
		return nil, err
	}
	s := &slot{path: filepath.Join(c.handles(), hexOf(a)), address: a, mac: hw}
	if hw == nil {
		s.mac = hardware(a)
	}
	err = netns.Make(s.path, namespace, &netns.Endpoint{Bridge: c.index, Outside: c.outside(hexOf(a)), MAC: s.mac, MTU: c.o.MTU,
		Address: netip.PrefixFrom(a, c.st.Subnet.Bits()), Gateway: c.st.Gateway})
	if err != nil {
		c.mu.Lock()
		c.dying[a] = true
		c.mu.Unlock()
		wake(c.kick)
		return nil, err
	}
	return s, nil
}

// take reserves an address: want, or the next after the one given last, so that
// an address rests as long as it can.
func (c *Controller) take(want netip.Addr) (netip.Addr, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.used) >= maxPorts {
		return want, errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("the network bridge is full: a Linux bridge holds %d containers; remove some or use --network host or container:NAME", maxPorts))
	}
	if want.IsValid() {
		if !c.st.Subnet.Contains(want) || c.reserved(want) {
			return want, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the address %s is not one of the network bridge (%s) that a container can have", want, c.st.Subnet))
		}
		if c.used[want] {
			return want, errdefs.ErrConflict.WithMessage(fmt.Sprintf("Address already in use: %s", want))
		}
		c.used[want] = true
		return want, nil
	}
	r := c.st.Subnet
	if c.o.FixedCIDR.IsValid() {
		r = c.o.FixedCIDR.Masked()
	}
	a := c.last
	for range maxPorts + 4 { // more than are used or reserved
		if a = a.Next(); !a.IsValid() || !r.Contains(a) {
			a = r.Addr()
		}
		if !c.reserved(a) && !c.used[a] {
			c.used[a], c.last = true, a
			return a, nil
		}
	}
	return a, errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("no available IPv4 addresses on this network's address pool: bridge (%s)", r))
}

// reserved are the network's own address, its broadcast and the bridge's.
func (c *Controller) reserved(a netip.Addr) bool {
	return a == c.st.Gateway || a == c.st.Subnet.Addr() || !c.st.Subnet.Contains(a.Next())
}

// refillLull is how long no slot must be taken before the pool is refilled: a
// new namespace takes the kernel's one lock of links, which a start needs too.
const refillLull = 30 * time.Millisecond

// lull waits for a moment without starts, unless the pool is empty; false is
// the controller's end.
func (c *Controller) lull() bool {
	for {
		c.mu.Lock()
		empty := len(c.pool) == 0
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

// fill keeps the pool full.
func (c *Controller) fill() {
	defer c.wg.Done()
	for {
		select {
		case <-c.stop:
			return
		case <-c.refill:
		}
		if !c.lull() {
			return
		}
		for {
			c.mu.Lock()
			full := len(c.pool) >= c.o.Pool || c.closed
			c.mu.Unlock()
			if full {
				break
			}
			s, err := c.make(netip.Addr{}, "", "")
			if err != nil {
				if !errors.Is(err, errdefs.ErrResourceExhausted) {
					logFailure("make a network namespace ahead of time", err)
				}
				break
			}
			c.mu.Lock()
			c.pool = append(c.pool, s)
			c.mu.Unlock()
		}
	}
}
