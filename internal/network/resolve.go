package network

import (
	"cmp"
	"errors"
	"log/slog"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"hezi/internal/network/dns"
	"hezi/internal/network/dns/names"
	"hezi/internal/network/dns/sockets"
	"hezi/internal/network/dns/upstream"
	"hezi/internal/network/netns"
)

// Resolving is what is done with the names that a container asks for and that are
// no container's.
type Resolving struct {
	// Own are the name servers that were asked for (--dns), which are asked from the
	// container's network; nil: the host's.
	Own []netip.Addr
	// Dotted: names without a dot are not asked for outside.
	Dotted bool
}

// resolver says what containers are called, and answers them.
type resolver struct{ *registry }

// open starts the name service.
func (c resolver) open() (err error) {
	c.names = names.New()
	up := upstream.New(&upstream.Host{File: cmp.Or(c.o.ResolvConf, upstream.HostFile), Resolved: upstream.ResolvedFile}, 0)
	c.dns, err = dns.New(dns.Options{Names: c.names, Upstream: up, Admit: restrainer(c).admitted})
	return err
}

// asks says whether a container has a name service: not without a network.
func (m *member) asks() bool { return m.pair != nil }

// serve begins to answer a container, whose sockets are the service's from now on.
func (c resolver) serve(m *member) error {
	if !m.asks() {
		return nil
	}
	if err := c.dns.Add(dns.Box{Container: m.id, Sockets: *m.pair, Policy: c.policy(m)}); err != nil {
		return err
	}
	m.served = true
	c.names.Set(m.id, m.places()...)
	return nil
}

// moved tells what a container is called now, and whether it reaches the outside.
func (c resolver) moved(m *member) {
	if m.served {
		c.names.Set(m.id, m.places()...)
		c.dns.SetPolicy(m.id, c.policy(m))
	}
}

// leave ends the service of a container, before another of its runs can begin.
func (c resolver) leave(m *member) {
	m.work.Lock()
	defer m.work.Unlock()
	switch {
	case m.served:
		m.served = false
		c.names.Set(m.id)
		logFailure("close the sockets of a container's name service", c.dns.Remove(m.id))
	case m.asks():
		logFailure("close the sockets of a container's name service", m.pair.Close())
	}
	m.pair = nil
}

// regain takes the sockets of a container that ran on: those that were kept, or new
// ones in their place.
func (c resolver) regain(m *member, kept []int, had bool) {
	if len(kept) == 2 && had {
		p := sockets.Pair{UDP: kept[0], TCP: kept[1]}
		if sockets.Valid(p) {
			m.pair = &p
			return
		}
	}
	drop(kept)
	if !had {
		return
	}
	if err := equip(m); err != nil {
		slog.Error("a running container's name service could not be made again: it resolves no names until it is started again", "container", m.id, "error", err)
	}
}

// equip gives a running container the sockets to ask for names by.
func equip(m *member) error {
	return netns.Do(m.path, func() error {
		p, err := sockets.Open(true)
		if err == nil {
			m.pair = &p
		}
		return err
	})
}

// begin gives a running container that was in no network its name service.
func (c resolver) begin(m *member) error {
	if m.asks() {
		return nil
	}
	if err := equip(m); err != nil {
		return err
	}
	err := c.serve(m)
	if err != nil {
		err = errors.Join(err, m.pair.Close())
		m.pair = nil
	}
	return err
}

// drop closes sockets that were kept for a container and are not taken.
func drop(kept []int) {
	for _, fd := range kept {
		logFailure("close a socket that was kept", unix.Close(fd))
	}
}

func (m *member) places() (list []names.Place) {
	for _, k := range m.links {
		p := names.Place{Network: k.lan.ID, Label: k.lan.Name, Names: k.names, Links: k.request.Links}
		for _, a := range []netip.Prefix{k.v4, k.v6} {
			if a.IsValid() {
				p.Addresses = append(p.Addresses, a.Addr())
			}
		}
		list = append(list, p)
	}
	return list
}

func (c resolver) policy(m *member) dns.Policy {
	out := slices.ContainsFunc(m.links, func(k *link) bool { return len(k.gateways(k.lan)) > 0 })
	p := dns.Policy{Own: m.resolving.Own, Namespace: m.path, Forward: out, Dotted: m.resolving.Dotted, Allow: restrainer(c).mayAsk(m)}
	if p.Allow != nil && out {
		p.Namespace = "" // its own servers need not be open to the container itself
	}
	return p
}

// NameSockets are copies, for the caller to close, of the sockets by which a running
// container asks for names; none if it has none.
func (c *Controller) NameSockets(containerID string) (fds []int) {
	c.mu.Lock()
	m := c.members[containerID]
	c.mu.Unlock()
	if m == nil {
		return nil
	}
	m.work.Lock()
	defer m.work.Unlock()
	if !m.asks() {
		return nil
	}
	for _, fd := range []int{m.pair.UDP, m.pair.TCP} {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			logFailure("copy a socket of a name service", err)
			continue
		}
		fds = append(fds, n)
	}
	return fds
}

// Renamed tells a running container's new names and links, by network.
func (c *Controller) Renamed(containerID string, list []EndpointRequest) {
	c.mu.Lock()
	m := c.members[containerID]
	c.mu.Unlock()
	if m == nil {
		return
	}
	m.work.Lock()
	defer m.work.Unlock()
	c.mu.Lock()
	for _, q := range list {
		l, err := c.resolveLocked(q.Network)
		for _, k := range m.links {
			if err == nil && k.lan == l && len(q.Names) > 0 {
				k.names, m.name = q.Names, q.Names[0]
				k.request.Links = q.Links
			}
		}
	}
	c.mu.Unlock()
	resolver{&c.registry}.moved(m)
}
