package network

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"hezi/internal/network/bindings"
	"hezi/internal/network/egress"
	"hezi/internal/network/netns"
	"hezi/internal/network/ports"
)

// Join gives a container its place: when it answers the namespace is ready and
// the ports are published. Errors: NotFound for an unknown network, Conflict for
// a taken port or a container that has a place, PermissionDenied for a taken address.
func (c *Controller) Join(ctx context.Context, req SandboxRequest) (*Sandbox, error) {
	lans, err := c.resolveAll(req.Endpoints)
	if err != nil {
		return nil, err
	}
	policy, err := egress.Parse(req.Egress)
	if err != nil {
		return nil, err
	}
	if err := c.begin(req.ContainerID); err != nil {
		return nil, err
	}
	defer c.end(req.ContainerID)
	m := &member{id: req.ContainerID, name: req.ContainerName, ports: req.Ports, resolving: req.Resolving, egress: policy, done: make(chan struct{})}
	if len(lans) == 0 || lans[0].Driver == driverNull {
		m.path = c.nonePath(req.ContainerID)
		if err := netns.Make(m.path, req.Namespace, nil, nil); err != nil {
			return nil, err
		}
		if len(lans) > 0 {
			m.links = []*link{{lan: lans[0], request: req.Endpoints[0]}}
		}
		return c.admit(ctx, m)
	}
	s, err := c.slotFor(lans[0], req.Endpoints[0], req.Namespace)
	if err != nil {
		return nil, err
	}
	m.path, m.links, m.pair = s.path, []*link{s.link}, s.pair
	for i, l := range lans[1:] {
		if err := c.attach(m, l, req.Endpoints[i+1]); err != nil {
			c.abandon(m)
			return nil, err
		}
	}
	if len(lans) > 1 {
		if err := c.reroute(m); err != nil {
			c.abandon(m)
			return nil, err
		}
	}
	return c.admit(ctx, m)
}

// attach adds a link to a namespace.
func (c *Controller) attach(m *member, l *lan, req EndpointRequest) error {
	taken := map[string]bool{"lo": true}
	for _, k := range m.links {
		taken[k.inside] = true
	}
	k, err := c.plan(l, req, taken)
	if err != nil {
		return err
	}
	if m.box != nil { // it runs
		err = restrainer{&c.registry}.guard(m, k)
	}
	if err == nil {
		err = netns.Attach(m.path, k.endpoint(l, c.o.MTU))
	}
	if err != nil {
		c.bury1(k)
		return portError(l, err)
	}
	c.mu.Lock()
	m.links = append(m.links, k)
	c.mu.Unlock()
	return nil
}

// gatewayOf is the link that leads out for a family: of those that can, the one
// with the highest priority, and of these the first by the network's name.
func (m *member) gatewayOf(v6 bool) (*link, netns.Gateway) {
	type way struct {
		k *link
		g netns.Gateway
	}
	var ways []way
	for _, k := range m.links {
		for _, g := range k.gateways(k.lan) {
			if g.V6 == v6 {
				ways = append(ways, way{k, g})
			}
		}
	}
	if len(ways) == 0 {
		return nil, netns.Gateway{V6: v6}
	}
	best := slices.MinFunc(ways, func(a, b way) int {
		return cmp.Or(cmp.Compare(b.k.priority, a.k.priority), strings.Compare(a.k.lan.Name, b.k.lan.Name))
	})
	return best.k, best.g
}

// reroute sets the default routes as the links now have them.
func (c *Controller) reroute(m *member) error {
	for _, v6 := range []bool{false, true} {
		if v6 && !slices.ContainsFunc(m.links, func(k *link) bool { return k.v6.IsValid() }) {
			continue
		}
		k, g := m.gatewayOf(v6)
		name := ""
		if k != nil {
			name = k.inside
		}
		if err := netns.Route(m.path, name, g); err != nil {
			return err
		}
	}
	return nil
}

// Adopt takes back a container that ran on while the engine was away: s is what
// Join answered then. Nothing is made anew but the holds of its ports.
func (c *Controller) Adopt(ctx context.Context, req SandboxRequest, s *Sandbox) (*Sandbox, error) {
	kept, held := req.NameSockets, ports.PlacesOf(req.PortSockets)
	defer func() { drop(slices.Concat(kept, slices.Collect(maps.Values(held)))) }()
	if !netns.Mounted(s.Path) || filepath.Dir(s.Path) != c.handles() {
		return nil, notFound("the network namespace %s of the container %s is gone", s.Path, req.ContainerID)
	}
	policy, err := egress.Parse(req.Egress)
	if err != nil {
		return nil, err
	}
	if err := c.begin(req.ContainerID); err != nil {
		return nil, err
	}
	defer c.end(req.ContainerID)
	m := &member{id: req.ContainerID, name: req.ContainerName, path: s.Path, egress: policy, ports: req.Ports, asked: req.Ports, resolving: req.Resolving, done: make(chan struct{}), adopted: true}
	if s.Ports != nil {
		m.ports = bindings.Again(s.Ports, s.Unpublished, req.Ports) // with the ports chosen then
	}
	c.mu.Lock()
	known := c.unclaimed[s.Path]
	delete(c.unclaimed, s.Path)
	for i := range s.Endpoints {
		if k := c.takenLocked(&s.Endpoints[i], req); k != nil && (k.outside == "" || c.isStrayLocked(k.outside)) {
			m.links = append(m.links, k)
			k.lan.useLocked(k.v4.Addr(), k.v6.Addr())
			delete(c.strays, k.outside)
		}
	}
	c.mu.Unlock()
	if !known {
		return nil, conflict("the network namespace %s is not one that waits to be adopted", s.Path)
	}
	names := resolver{&c.registry}
	names.regain(m, kept, s.Asks)
	kept = nil
	m.kept = held
	box, err := c.publish(ctx, m)
	if err != nil { // the container runs: its place stays
		names.leave(m)
		for _, h := range slices.Concat(m.holds, m.beside) {
			err = errors.Join(err, h.hold.Close())
		}
		return nil, err
	}
	m.asked = nil
	return box, nil
}

// takenLocked is the link of an endpoint that is there; nil if its network is gone.
func (c *Controller) takenLocked(e *Endpoint, req SandboxRequest) *link {
	l := c.lans[e.Settings.NetworkID]
	if l == nil {
		return nil
	}
	k := &link{lan: l, inside: e.Interface, outside: e.Outside, mac: net.HardwareAddr(e.Settings.MacAddress), priority: e.Settings.GwPriority}
	for _, r := range req.Endpoints {
		if o, err := c.resolveLocked(r.Network); err == nil && o == l {
			k.request, k.names, k.priority = r, r.Names, r.GwPriority
		}
	}
	if a := e.Settings.IPAddress; a.IsValid() {
		k.v4 = netip.PrefixFrom(a, e.Settings.IPPrefixLen)
	}
	if a := e.Settings.GlobalIPv6Address; a.IsValid() {
		k.v6 = netip.PrefixFrom(a, e.Settings.GlobalIPv6PrefixLen)
	}
	if k.outside == "" && l.bridged() && k.v4.IsValid() { // of a version with one network
		k.outside = c.outside(k.mark())
	}
	return k
}

// isStrayLocked says whether a host's end is there and nobody's yet: that of a container
// that left the network is not, if the engine had no time to store that.
func (c *registry) isStrayLocked(name string) bool {
	_, there := c.strays[name]
	return there
}

func (c *Controller) begin(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return unavailable("the networks are closed")
	}
	if c.members[id] != nil || c.joining[id] {
		return conflict("the container %s already has its place in a network", id)
	}
	c.joining[id] = true
	return nil
}

func (c *Controller) end(id string) {
	c.mu.Lock()
	delete(c.joining, id)
	c.mu.Unlock()
}

// abandon gives back all that a member has.
func (c *Controller) abandon(m *member) {
	c.unrelay(m)
	resolver{&c.registry}.leave(m)
	c.mu.Lock()
	c.releasing[m] = true
	c.mu.Unlock()
	wake(c.kick)
}

// admit publishes and registers, or gives everything back.
func (c *Controller) admit(ctx context.Context, m *member) (*Sandbox, error) {
	box, err := c.publish(ctx, m)
	if err != nil {
		c.abandon(m)
		return nil, err
	}
	for _, k := range m.links {
		c.announce("connect", k.lan, m.id)
	}
	return box, nil
}

// settings are the endpoint as inspect shows it.
func (k *link) settings(container string) network.EndpointSettings {
	s := network.EndpointSettings{NetworkID: k.lan.ID, EndpointID: endpointID(container, k.lan.ID), GwPriority: k.priority, DNSNames: k.names,
		MacAddress: network.HardwareAddr(k.mac)}
	if k.v4.IsValid() {
		s.IPAddress, s.IPPrefixLen = k.v4.Addr(), k.v4.Bits()
		if !k.lan.Internal {
			s.Gateway = k.lan.gateway[k.v4.Masked()]
		}
	}
	if k.v6.IsValid() {
		s.GlobalIPv6Address, s.GlobalIPv6PrefixLen = k.v6.Addr(), k.v6.Bits()
		if !k.lan.Internal {
			s.IPv6Gateway = k.lan.gateway[k.v6.Masked()]
		}
	}
	return s
}

// boxOf is the member's sandbox as it is now.
func (m *member) boxOf(ports network.PortMap, sockets []int) *Sandbox {
	b := &Sandbox{ContainerID: m.id, Path: m.path, Ports: ports, Unpublished: m.lost, Sockets: sockets, Asks: m.asks()}
	if m.asks() {
		b.Names = []int{m.pair.UDP, m.pair.TCP}
	}
	for _, k := range m.links {
		b.Endpoints = append(b.Endpoints, Endpoint{Network: k.lan.Name, Settings: k.settings(m.id), Interface: k.inside, Outside: k.outside})
	}
	return b
}

// resolveAll finds the networks of the endpoints.
func (c *registry) resolveAll(list []EndpointRequest) ([]*lan, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	lans := make([]*lan, len(list))
	for i, e := range list {
		l, err := c.resolveLocked(e.Network)
		if err != nil {
			return nil, err
		}
		switch {
		case l.shut:
			return nil, ErrNoBridge
		case l.Driver == driverHost:
			return nil, errdefs.ErrInvalidArgument.WithMessage("a container in the network host has no namespace of its own")
		case l.Driver == driverNull && len(list) > 1:
			return nil, invalid("container cannot be connected to multiple networks with one of the networks in private (none) mode")
		case slices.Contains(lans[:i], l):
			return nil, forbidden("endpoint with name %s already exists in network %s", strings.TrimPrefix(c.nameLocked(list, i), "/"), l.Name)
		}
		lans[i] = l
	}
	return lans, nil
}

func (c *registry) nameLocked(list []EndpointRequest, i int) string {
	if len(list[i].Names) > 0 {
		return list[i].Names[0]
	}
	return "of the container"
}

// endpointID is the same after a restart.
func endpointID(container, network string) string {
	sum := sha256.Sum256([]byte(container + "/" + network))
	return hex.EncodeToString(sum[:])
}
