package network

import (
	"context"
	"slices"
	"strings"

	"hezi/internal/network/flows"
	"hezi/internal/network/netns"
	"hezi/internal/network/nft"
)

// Connect gives a container that has a namespace a place in one more network, and
// answers what it then has. Errors: NotFound, Conflict, PermissionDenied for a
// network that takes no more. It is for the caller to Announce, once it is stored.
func (c *Controller) Connect(_ context.Context, containerID string, req EndpointRequest) (*Sandbox, error) {
	m, l, err := c.both(containerID, req.Network)
	if err != nil {
		return nil, err
	}
	m.work.Lock()
	defer m.work.Unlock()
	switch {
	case l.shut:
		return nil, ErrNoBridge
	case slices.ContainsFunc(m.links, func(k *link) bool { return k.lan == l }):
		return nil, forbidden("endpoint with name %s already exists in network %s", strings.TrimPrefix(m.name, "/"), l.Name)
	case l.Driver == driverHost:
		return nil, forbidden("container cannot be connected to host network: its network mode is chosen with --network host when it is made")
	case l.Driver == driverNull || slices.ContainsFunc(m.links, func(k *link) bool { return k.lan.Driver == driverNull }):
		return nil, invalid("container cannot be connected to multiple networks with one of the networks in private (none) mode")
	}
	if err := c.attach(m, l, req); err != nil {
		return nil, err
	}
	k := m.links[len(m.links)-1]
	if err = (resolver{&c.registry}).begin(m); err == nil {
		err = c.moved(m)
	}
	c.mu.Lock()
	switch {
	case err != nil:
	case l.dead:
		err = notFound("network %s not found", l.Name)
	case c.members[m.id] != m:
		err = conflict("container %s has ended", m.id)
	default:
		l.links[m.id] = k
	}
	c.mu.Unlock()
	if err != nil {
		c.detach(m, k)
		logFailure("take a container's connection back", c.moved(m))
		return nil, err
	}
	return m.box, nil
}

// Disconnect takes a container's place in a network away. One that is gone already is no
// error: the engine may have had no time to store that. It is for the caller to Announce.
func (c *Controller) Disconnect(_ context.Context, containerID, ref string) (*Sandbox, error) {
	m, l, err := c.both(containerID, ref)
	if err != nil {
		return nil, err
	}
	m.work.Lock()
	defer m.work.Unlock()
	i := slices.IndexFunc(m.links, func(k *link) bool { return k.lan == l })
	if i >= 0 {
		c.detach(m, m.links[i])
	}
	if err := c.moved(m); err != nil {
		return nil, err
	}
	return m.box, nil
}

// detach removes a link from the member and from its namespace. Its policy of egress goes
// with the device (bury).
func (c *Controller) detach(m *member, k *link) {
	if k.lan.Driver != driverNull {
		logFailure("take an interface out of a container", netns.Detach(m.path, k.inside))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m.links = slices.DeleteFunc(slices.Clone(m.links), func(o *link) bool { return o == k })
	delete(k.lan.links, m.id)
	if k.lan.Driver != driverNull {
		c.buryLocked(k)
		wake(c.kick)
	}
}

// moved sets routes and published ports as the links now have them.
func (c *Controller) moved(m *member) error {
	if err := c.reroute(m); err != nil {
		return err
	}
	old, oldDirect := m.forwards, m.direct
	forwards, direct := m.targets()
	if c.table != nil {
		if err := c.lead(old, forwards, oldDirect, direct); err != nil {
			return err
		}
	}
	resolver{&c.registry}.moved(m)
	c.mu.Lock()
	m.forwards, m.direct = forwards, direct
	m.box = m.boxOf(m.box.Ports, nil)
	c.mu.Unlock()
	c.relay(m)
	return nil
}

// lead has the firewall send to the new places what it sent to the old ones.
func (c *registry) lead(old, now []nft.Forward, oldDirect, nowDirect []nft.Direct) error {
	if err := nft.Replace(c.table, without(old, now), without(now, old)); err != nil {
		return err
	}
	if err := c.table.SetDirect(without(nowDirect, oldDirect), without(oldDirect, nowDirect)); err != nil {
		return err
	}
	flows.ForgetPorts(without(old, now), nil)
	return nil
}

func without[T comparable](list, take []T) []T {
	return slices.DeleteFunc(slices.Clone(list), func(v T) bool { return slices.Contains(take, v) })
}

// targets are the forwards of what is held, to the links that now lead out.
func (m *member) targets() (forwards []nft.Forward, direct []nft.Direct) {
	for _, h := range m.holds {
		f, d := m.target(h)
		forwards = append(forwards, f...)
		direct = append(direct, d...)
	}
	return forwards, direct
}

func (c *registry) both(containerID, ref string) (*member, *lan, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, err := c.resolveLocked(ref)
	if err != nil {
		return nil, nil, err
	}
	m := c.members[containerID]
	if m == nil {
		return nil, nil, conflict("container %s has no network namespace of its own: it does not run, or it is in the host's or another container's", containerID)
	}
	return m, l, nil
}
