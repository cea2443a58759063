package network

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"hezi/internal/network/bindings"
	"hezi/internal/network/options"
	"hezi/internal/network/ports"
	"hezi/internal/relay"
)

// Relay has what comes to sockets at ::1 led elsewhere: a relay.Client.
type Relay interface {
	// Set says which ports an owner has. The sockets stay open until it is called without
	// them; ended: connections that are open end.
	Set(owner string, list []relay.Port, ended bool)
	Begin()
	Close()
}

// relayable says why a port cannot be published at ::1.
func (c *publisher) relayable(m *member, p network.Port) error {
	switch {
	case c.o.Relay == nil:
		return invalid("port %s cannot be published on ::1: the engine was started with userland-proxy false, and the kernel leads nothing from there to a container: publish on 127.0.0.1", p)
	case p.Proto() == network.SCTP:
		return invalid("port %s cannot be published on ::1: only tcp and udp can: publish on 127.0.0.1", p)
	case !m.relayTo(p.Num()).IsValid():
		return invalid("port %s cannot be published on ::1: the container's network has the gateway mode routed, in which it is reached at its own address", p)
	}
	return nil
}

// relayTo is where a container's port is reached from the host, of IPv6 first, as the
// client is; zero: nowhere by address translation.
func (m *member) relayTo(port uint16) netip.AddrPort {
	if k, _ := m.gatewayOf(true); k != nil && k.lan.bridged() && k.lan.o.Mode6 != options.Routed {
		return netip.AddrPortFrom(k.v6.Addr(), port)
	}
	if k, _ := m.gatewayOf(false); k != nil && k.lan.bridged() && k.lan.o.Mode4 != options.Routed {
		return netip.AddrPortFrom(k.v4.Addr(), port)
	}
	return netip.AddrPort{}
}

// atLoopback readies what holds has for the relay: it has the sockets listen at ::1, and
// takes places there beside those of 0.0.0.0 that were asked for without an address, where
// nobody has them. It answers places of the member that it needs no more.
func (c *publisher) atLoopback(m *member, holds []*held) (over []*held) {
	if c.o.Relay == nil || c.table == nil {
		return nil
	}
	var beside []*held
	for _, h := range holds {
		if h.hold.Port != h.hold.Last || h.hold.Proto == unix.IPPROTO_SCTP {
			continue
		}
		if fd, ok := h.hold.Socket(); ok && h.hold.Addr.Is6() && (h.hold.Addr.IsUnspecified() || h.hold.Addr.IsLoopback()) {
			logFailure("have a published port answer at ::1", relay.Listen(fd))
			continue
		}
		if h.hold.Addr != netip.IPv4Unspecified() || !h.all || slices.ContainsFunc(holds, func(o *held) bool {
			_, has := o.hold.Socket()
			return has && o.hold.Addr.Is6() && o.hold.Proto == h.hold.Proto && o.hold.Port == h.hold.Port
		}) {
			continue
		}
		if o := c.besideOf(m, h); o != nil {
			beside = append(beside, o)
		}
	}
	over = without(m.beside, beside)
	m.beside = beside
	return over
}

// besideOf finds or takes the place at ::1 beside a hold; nil: another has it.
func (c *publisher) besideOf(m *member, h *held) *held {
	at := ports.Place{Addr: netip.IPv6Loopback(), Proto: h.hold.Proto, Port: h.hold.Port}
	for _, o := range m.beside {
		if o.hold.Proto == at.Proto && o.hold.Port == at.Port && o.port == h.port {
			return o
		}
	}
	owner := ports.Owner{ID: m.id, Name: m.name}
	var hold *ports.Hold
	if fd, ok := m.kept[at]; ok {
		delete(m.kept, at)
		hold = c.ports.Keep(at.Addr, at.Proto, at.Port, at.Port, owner, fd)
	} else {
		var err error
		if hold, err = c.ports.TakeFree(at.Addr, at.Proto, at.Port, owner); err != nil {
			slog.Debug("a published port does not answer at ::1", "container", m.id, "port", at.Port, "reason", err)
			return nil
		}
	}
	if fd, ok := hold.Socket(); ok {
		logFailure("have a published port answer at ::1", relay.Listen(fd))
	}
	return &held{hold: hold, port: h.port}
}

// relay tells the relay what the member has for it.
func (c *publisher) relay(m *member) {
	if c.o.Relay == nil {
		return
	}
	var list []relay.Port
	for _, h := range slices.Concat(m.holds, m.beside) {
		fd, ok := h.hold.Socket()
		a, to := h.hold.Addr, m.relayTo(h.port)
		if !ok || !to.IsValid() || !a.Is6() || !a.IsUnspecified() && !a.IsLoopback() || h.hold.Port != h.hold.Last || h.hold.Proto == unix.IPPROTO_SCTP {
			continue
		}
		list = append(list, relay.Port{Key: fmt.Sprintf("%s/%s", ports.ProtoName(h.hold.Proto), netip.AddrPortFrom(a, h.hold.Port)), Socket: fd, To: to})
	}
	c.o.Relay.Set(m.id, list, false)
}

// unrelay ends what the relay has of a container that ends.
func (c *publisher) unrelay(m *member) {
	if c.o.Relay != nil {
		c.o.Relay.Set(m.id, nil, true)
	}
}

// keeps says whether a socket for a binding was kept, or one at ::1 in its place.
func (m *member) keeps(w bindings.Wish, b network.PortBinding) bool {
	addr, proto, r, err := bindings.Check(w.Port, b)
	if err != nil {
		return false
	}
	_, ok := m.kept[ports.Place{Addr: addr, Proto: proto, Port: r.Start()}]
	_, beside := m.kept[ports.Place{Addr: netip.IPv6Loopback(), Proto: proto, Port: r.Start()}]
	return ok || beside && addr == netip.IPv6Unspecified()
}

// hasBeside says whether the member has a place at ::1 for the port of a binding of ::.
func (m *member) hasBeside(w bindings.Wish, b network.PortBinding) bool {
	_, proto, r, err := bindings.Check(w.Port, b)
	return err == nil && slices.ContainsFunc(m.beside, func(o *held) bool {
		return o.hold.Proto == proto && o.hold.Port == r.Start() && o.port == w.Port.Num()
	})
}
