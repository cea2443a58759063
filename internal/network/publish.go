package network

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"hezi/internal/network/bindings"
	"hezi/internal/network/nft"
	"hezi/internal/network/options"
	"hezi/internal/network/ports"
)

// target is where a hold's ports lead: to the link that leads out for the family,
// by address translation or, in a routed network, at the container's own address.
func (m *member) target(h *held) (f []nft.Forward, d []nft.Direct) {
	v6 := h.hold.Addr.Is6()
	if v6 && h.hold.Addr.IsLoopback() {
		return nil, nil // the relay's
	}
	k, _ := m.gatewayOf(v6)
	if k == nil || !k.lan.bridged() {
		return nil, nil
	}
	to, mode := k.v4.Addr(), k.lan.o.Mode4
	if v6 {
		to, mode = k.v6.Addr(), k.lan.o.Mode6
	}
	if mode == options.Routed && h.near {
		return nil, nil // whoever routes there would reach it
	}
	if mode == options.Routed || k.lan.direct && !h.near && !h.hold.Addr.IsLoopback() {
		for p := int(h.port); p <= int(h.port)+int(h.hold.Last-h.hold.Port); p++ {
			d = append(d, nft.Direct{Proto: h.hold.Proto, To: netip.AddrPortFrom(to, uint16(p))})
		}
	}
	if mode == options.Routed {
		return nil, d
	}
	one := nft.Forward{Proto: h.hold.Proto, Port: h.hold.Port, Last: h.hold.Last, To: netip.AddrPortFrom(to, h.port)}
	if h.near || !h.hold.Addr.IsUnspecified() {
		one.Host = h.hold.Addr
	}
	return []nft.Forward{one}, d
}

// held is a hold with the container's port that it is for, the first of a range.
type held struct {
	hold *ports.Hold
	port uint16
	near bool // of the scope lan
	all  bool // it was asked for without an address, or with near
}

// shown is the address of its binding.
func (h *held) shown() netip.Addr {
	if h.near {
		return bindings.Near()
	}
	return h.hold.Addr
}

// families says for which families the member's ports can be published.
func (m *member) families() (v4, v6 bool) {
	k4, _ := m.gatewayOf(false)
	k6, _ := m.gatewayOf(true)
	return k4 != nil && k4.lan.bridged(), k6 != nil && k6.lan.bridged()
}

// hosts are the addresses that a binding is for; none if the container's networks
// publish nothing.
func (c *publisher) hosts(m *member, p network.Port, b network.PortBinding) ([]netip.Addr, error) {
	v4, v6 := m.families()
	a := b.HostIP.Unmap()
	if !a.IsValid() {
		a = c.o.DefaultBind
		if k, _ := m.gatewayOf(false); k != nil && k.lan.o.Binding.IsValid() && k.lan != c.bridge() {
			a = k.lan.o.Binding
		}
	}
	if k4, _ := m.gatewayOf(false); a == bindings.Near() && (v4 && k4.lan.o.Mode4 == options.Routed || v6 && m.routed6()) {
		return nil, invalid("port %s cannot be published with the scope lan: the container's network has the gateway mode routed, in which whoever routes to its address reaches the port: name the clients in the chain hezi-user", p)
	}
	switch {
	case !v4 && !v6:
		return nil, nil
	case !a.IsValid(), a == bindings.Near(), a == netip.IPv4Unspecified() && !b.HostIP.IsValid():
		var list []netip.Addr
		if v4 {
			list = append(list, netip.IPv4Unspecified())
		}
		if v6 && (c.o.IP6Tables || !v4) {
			list = append(list, netip.IPv6Unspecified())
		}
		return list, nil
	case a.Is6() && a.IsLoopback():
		return []netip.Addr{a}, c.relayable(m, p)
	case a.Is4() && !v4:
		return nil, invalid("port %s cannot be published on %s: the container has no IPv4 address that leads out", p, a)
	case a.Is6() && !v6:
		return nil, invalid("port %s cannot be published on %s: the container has no IPv6 address that leads out: connect it to a network made with --ipv6, or publish on an IPv4 address", p, a)
	}
	return []netip.Addr{a}, nil
}

// take holds the ports that the member asks for, and says which were chosen.
func (c *publisher) take(ctx context.Context, m *member) (chosen network.PortMap, err error) {
	chosen = make(network.PortMap, len(m.ports))
	for p, list := range m.ports {
		if len(list) == 0 {
			chosen[p] = nil
		}
	}
	asked := bindings.Wishes(m.ports)
	all := make([]network.PortBinding, 0, len(asked))
	first := 0 // of the bindings of one port
	for i, w := range asked {
		if !w.Many() || w.Port == w.Span.First {
			if w.Span.Holds, err = c.grant(ctx, m, w); err != nil {
				return nil, err
			}
		}
		c.lose(m, w)
		for _, h := range w.Span.Holds {
			number := w.Binding.HostPort // of a range: shared with the request
			if !w.Many() {
				number = strconv.Itoa(int(h.Port))
			}
			if w.Binding.HostIP == bindings.Near() { // one for both families
				all = append(all, network.PortBinding{HostIP: bindings.Near(), HostPort: number})
				break
			}
			all = append(all, network.PortBinding{HostIP: h.Addr, HostPort: number})
		}
		if n := i + 1; n == len(asked) || asked[n].Port != w.Port {
			chosen[w.Port], first = all[first:len(all):len(all)], len(all)
		}
	}
	return chosen, nil
}

// sockets of the holds, those that matter most first.
func (m *member) sockets() (list []int) {
	for _, h := range slices.Concat(m.holds, m.beside) {
		if fd, ok := h.hold.Socket(); ok && !slices.Contains(m.reused, h.hold) {
			list = append(list, fd)
		}
	}
	return list
}

// publish holds the ports, writes them into nft and registers the member.
func (c *publisher) publish(ctx context.Context, m *member) (*Sandbox, error) {
	chosen, err := c.take(ctx, m)
	if err != nil {
		return nil, err
	}
	if err := (restrainer{&c.registry}).guard(m, m.links...); err != nil {
		return nil, err
	}
	c.atLoopback(m, m.holds)
	m.forwards, m.direct = m.targets()
	if err := followNear(&c.registry, m); err != nil {
		return nil, err
	}
	if c.table != nil {
		if len(m.forwards) > 0 {
			if err := c.table.Add(m.forwards); err != nil {
				return nil, err
			}
		}
		if err := c.table.SetDirect(m.direct, nil); err != nil {
			return nil, err
		}
	}
	if err := (resolver{&c.registry}).serve(m); err != nil {
		return nil, err
	}
	m.ports = nil // chosen tells more, and thousands of them take memory
	m.box = m.boxOf(chosen, m.sockets())
	c.relay(m)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, unavailable("the networks are closed")
	}
	for _, k := range m.links {
		if k.lan.dead {
			return nil, notFound("network %s not found", k.lan.Name)
		}
	}
	c.members[m.id] = m
	for _, k := range m.links {
		k.lan.links[m.id] = k
	}
	if !m.adopted {
		c.forgetLaterLocked(m.forwards)
	}
	return m.box, nil
}

// forgetLaterLocked has the flows forgotten that came for UDP ports before they
// were published: they would go to the host until they end.
func (c *publisher) forgetLaterLocked(list []nft.Forward) {
	for _, f := range list {
		if f.Proto == unix.IPPROTO_UDP {
			c.fresh = append(c.fresh, f)
			defer wake(c.kick)
		}
	}
}

// grant holds what one wish asks of the host, on each of its addresses.
func (c *publisher) grant(ctx context.Context, m *member, w bindings.Wish) (holds []*ports.Hold, err error) {
	addrs, err := c.hosts(m, w.Port, w.Binding)
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		if err := c.mayPublish(a); err != nil {
			if !m.adopted {
				return nil, err
			}
			slog.Warn("a port of a running container is not published any more", "container", m.id, "port", w.Port, "address", a, "reason", err)
			continue
		}
		b := w.Binding
		b.HostIP = a
		if n := len(holds); n > 0 && !w.Many() { // the same number on each
			b.HostPort = strconv.Itoa(int(holds[n-1].Port))
		}
		h := m.reuse(w, b)
		switch {
		case h != nil:
		case m.adopted && !w.Many() && m.keeps(w, b):
			h, err = c.claim(m, w, b)
		case w.Many() && a.Is6() && a.IsLoopback():
			err = invalid("ports %s and those after it cannot be published on ::1: at most %d that follow each other can", w.Port, bindings.RangeFrom-1)
		case a == netip.IPv6Unspecified() && m.hasBeside(w, b):
			h, err = c.claim(m, w, b) // its place at ::1 keeps the port
		default:
			h, err = c.hold(ctx, m, w, b)
		}
		if err != nil && m.adopted {
			// Another program took the port meanwhile, or the address is gone.
			slog.Warn("a published port is not held while its container runs: what arrives there still goes to the container", "container", m.id, "port", w.Port, "error", err)
			h, err = c.claim(m, w, b)
		}
		if err != nil {
			return nil, err
		}
		holds, m.holds = append(holds, h), append(m.holds, &held{h, w.Port.Num(), w.Binding.HostIP == bindings.Near(), bindings.Anywhere(m.asked[w.Port], w.Binding)})
	}
	return holds, nil
}

// lose notes what a running container has published no more of a wish.
func (c *publisher) lose(m *member, w bindings.Wish) {
	if !m.adopted {
		return
	}
	addrs, err := c.hosts(m, w.Port, w.Binding)
	if err != nil || w.Binding.HostIP == bindings.Near() && len(w.Span.Holds) > 0 {
		return
	}
	for _, a := range addrs {
		if c.mayPublish(a) == nil {
			continue
		}
		b := w.Binding
		if b.HostIP != bindings.Near() {
			b.HostIP = a
		}
		if m.lost == nil {
			m.lost = network.PortMap{}
		}
		if !slices.Contains(m.lost[w.Port], b) {
			m.lost[w.Port] = append(m.lost[w.Port], b)
		}
	}
}

// reuse takes the hold of spare that a binding asks for; nil: none.
func (m *member) reuse(w bindings.Wish, b network.PortBinding) *ports.Hold {
	addr, proto, r, err := bindings.Check(w.Port, b)
	last := r.End()
	if w.Many() {
		last = r.Start() + w.Further()
	}
	i := slices.IndexFunc(m.spare, func(h *held) bool {
		return err == nil && h.hold.Addr == addr && h.hold.Proto == proto && h.hold.Port == r.Start() && h.hold.Last == last
	})
	if i < 0 {
		return nil
	}
	h := m.spare[i].hold
	m.spare, m.reused = slices.Delete(slices.Clone(m.spare), i, i+1), append(m.reused, h)
	return h
}

// claim registers what a running container has, with the socket that was kept, if any.
func (c *publisher) claim(m *member, w bindings.Wish, b network.PortBinding) (*ports.Hold, error) {
	addr, proto, r, err := bindings.Check(w.Port, b)
	if err != nil {
		return nil, err
	}
	fd, at := -1, ports.Place{Addr: addr, Proto: proto, Port: r.Start()}
	if had, ok := m.kept[at]; ok && !w.Many() {
		fd = had
		delete(m.kept, at)
	}
	return c.ports.Keep(addr, proto, r.Start(), r.Start()+w.Further(), ports.Owner{ID: m.id, Name: m.name}, fd), nil
}

// hold takes what one binding asks of the host. A port that a container on its way out still has is waited for.
func (c *publisher) hold(ctx context.Context, m *member, w bindings.Wish, b network.PortBinding) (*ports.Hold, error) {
	addr, proto, r, err := bindings.Check(w.Port, b)
	if err != nil {
		return nil, err
	}
	owner := ports.Owner{ID: m.id, Name: m.name}
	for {
		var h *ports.Hold
		if w.Many() {
			h, err = c.ports.TakeRange(addr, proto, r.Start(), r.Start()+w.Further(), owner)
		} else {
			h, err = c.ports.TakeOneOf(addr, proto, r.Start(), r.End(), owner)
		}
		if !errdefs.IsConflict(err) || !c.waitReleases(ctx) {
			return h, err
		}
	}
}

// mayPublish says why nothing can be published at an address: there are no rules of its
// family.
func (c *publisher) mayPublish(a netip.Addr) error {
	switch {
	case c.table == nil:
		return errdefs.ErrFailedPrecondition.WithMessage("ports cannot be published: the engine was started with --iptables=false")
	case a.Is4() && !c.o.IPTables:
		return errdefs.ErrFailedPrecondition.WithMessage("ports cannot be published over IPv4: the engine was started with --iptables=false: publish on an IPv6 address (-p [::]:8080:80) of a container with IPv6")
	case a.Is6() && !a.IsLoopback() && !c.o.IP6Tables:
		return errdefs.ErrFailedPrecondition.WithMessage("ports cannot be published over IPv6: the engine was started with --ip6tables=false: publish on an IPv4 address")
	}
	return nil
}

// waitReleases waits until the containers on their way out have given their
// ports back; false if there are none.
func (c *publisher) waitReleases(ctx context.Context) bool {
	c.mu.Lock()
	leaving := slices.Collect(maps.Keys(c.releasing))
	c.mu.Unlock()
	for _, m := range leaving {
		select {
		case <-m.done:
		case <-c.stop:
			return false
		case <-ctx.Done():
			return false
		}
	}
	return len(leaving) > 0
}
