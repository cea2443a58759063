package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"hezi/internal/network/netns"
	"hezi/internal/network/nft"
	"hezi/internal/network/ports"
)

// Join gives a container its place: when it answers the namespace is ready and
// the ports are published. Errors: NotFound for an unknown network, Conflict for
// a taken port or address or a container that has a place.
func (c *Controller) Join(ctx context.Context, req EndpointRequest) (*Sandbox, error) {
	name, err := c.resolve(req.Network)
	if err != nil {
		return nil, err
	}
	if name == network.NetworkHost {
		return nil, errdefs.ErrInvalidArgument.WithMessage("a container in the network host has no namespace of its own")
	}
	if err := c.begin(req.ContainerID); err != nil {
		return nil, err
	}
	defer c.end(req.ContainerID)
	m := &member{req: req, done: make(chan struct{})}
	if name == network.NetworkNone {
		m.req.Ports = nil
		m.slot = &slot{path: filepath.Join(c.handles(), fmt.Sprintf("none-%.12s-%x", req.ContainerID, time.Now().UnixNano()))}
		err = netns.Make(m.slot.path, req.Namespace, nil)
	} else {
		m.slot, err = c.slotFor(req)
	}
	if err != nil {
		return nil, err
	}
	return c.admit(ctx, m, name)
}

// Adopt takes back a container that ran on while the engine was away: s is what
// Join answered then (its Path and Ports are enough). Nothing is made anew but the
// holds of its ports.
func (c *Controller) Adopt(ctx context.Context, req EndpointRequest, s *Sandbox) (*Sandbox, error) {
	name, err := c.resolve(req.Network)
	if err != nil {
		return nil, err
	}
	if !netns.Mounted(s.Path) || filepath.Dir(s.Path) != c.handles() {
		return nil, errdefs.ErrNotFound.WithMessage("the network namespace " + s.Path + " of the container " + req.ContainerID + " is gone")
	}
	if err := c.begin(req.ContainerID); err != nil {
		return nil, err
	}
	defer c.end(req.ContainerID)
	sl := &slot{path: s.Path}
	if a, ok := addressOf(filepath.Base(s.Path)); ok {
		sl.address, sl.mac = a, hardware(a)
		if mac := s.Endpoint.MacAddress; len(mac) > 0 {
			sl.mac = net.HardwareAddr(mac)
		} else if req.MAC != "" {
			if sl.mac, err = net.ParseMAC(req.MAC); err != nil {
				return nil, errdefs.ErrInvalidArgument.WithMessage("invalid MAC address: " + req.MAC)
			}
		}
	}
	if s.Ports != nil {
		req.Ports = s.Ports // with the ports chosen then
	}
	c.mu.Lock()
	known := c.unclaimed[s.Path]
	delete(c.unclaimed, s.Path)
	c.mu.Unlock()
	if !known {
		return nil, errdefs.ErrConflict.WithMessage("the network namespace " + s.Path + " is not one that waits to be adopted")
	}
	m := &member{req: req, slot: sl, done: make(chan struct{}), adopted: true}
	box, err := c.publish(ctx, m, name)
	if err != nil { // the container runs: its place stays
		for _, h := range m.holds {
			err = errors.Join(err, h.Close())
		}
		return nil, err
	}
	return box, nil
}

func (c *Controller) begin(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errdefs.ErrUnavailable.WithMessage("the networks are closed")
	}
	if c.members[id] != nil || c.joining[id] {
		return errdefs.ErrConflict.WithMessage("the container " + id + " already has its place in a network")
	}
	c.joining[id] = true
	return nil
}

func (c *Controller) end(id string) {
	c.mu.Lock()
	delete(c.joining, id)
	c.mu.Unlock()
}

// admit publishes and registers, or gives everything back.
func (c *Controller) admit(ctx context.Context, m *member, name string) (*Sandbox, error) {
	box, err := c.publish(ctx, m, name)
	if err != nil {
		c.mu.Lock()
		c.releasing[m] = true
		c.mu.Unlock()
		wake(c.kick)
		return nil, err
	}
	c.announce("connect", name, m.req.ContainerID)
	return box, nil
}

// publish holds the ports, writes them into nft and registers the member.
func (c *Controller) publish(ctx context.Context, m *member, name string) (*Sandbox, error) {
	chosen := make(network.PortMap, len(m.req.Ports))
	for p, list := range m.req.Ports {
		if len(list) == 0 {
			chosen[p] = nil
		}
	}
	asked := wishes(m.req.Ports)
	all := make([]network.PortBinding, 0, len(asked))
	first := 0 // of the bindings of one port
	kept := m.req.Kept
	var sockets []int
	for i, w := range asked {
		if !w.many() || w.port == w.span.first {
			var h *ports.Hold
			var err error
			if kept > 0 && !w.many() {
				kept--
				h, err = c.claim(m, w)
			} else {
				h, err = c.hold(ctx, m, w)
			}
			if err != nil && m.adopted {
				// Another program took the port meanwhile, or the address is gone.
				slog.Warn("a published port is not held while its container runs: what arrives there still goes to the container", "container", m.req.ContainerID, "port", w.port, "error", err)
				h, err = c.claim(m, w)
			}
			if err != nil {
				return nil, err
			}
			m.holds, w.span.hold = append(m.holds, h), h
			if fd, ok := h.Socket(); ok {
				sockets = append(sockets, fd)
			}
			f := nft.Forward{Proto: h.Proto, Port: h.Port, Last: h.Last, To: netip.AddrPortFrom(m.slot.address, w.port.Num())}
			if !h.Addr.IsUnspecified() {
				f.Host = h.Addr
			}
			m.forwards = append(m.forwards, f)
		}
		number := w.binding.HostPort // of a range: shared with the request
		if !w.many() {
			number = strconv.Itoa(int(w.span.hold.Port))
		}
		all = append(all, network.PortBinding{HostIP: w.span.hold.Addr, HostPort: number})
		if n := i + 1; n == len(asked) || asked[n].port != w.port {
			chosen[w.port], first = all[first:n:n], n
		}
	}
	if c.table != nil && len(m.forwards) > 0 {
		if err := c.table.Add(m.forwards); err != nil {
			return nil, err
		}
	}
	m.req.Ports = nil // chosen tells more, and thousands of them take memory
	m.box = &Sandbox{ContainerID: m.req.ContainerID, Path: m.slot.path, NetworkName: name, Ports: chosen, Sockets: sockets}
	m.box.Endpoint = network.EndpointSettings{NetworkID: c.st.IDs[name], EndpointID: endpointID(m.req.ContainerID, c.st.IDs[name])}
	if a := m.slot.address; a.IsValid() {
		m.box.Interface = netns.Inside
		m.box.Endpoint.Gateway, m.box.Endpoint.IPAddress = c.st.Gateway, a
		m.box.Endpoint.IPPrefixLen, m.box.Endpoint.MacAddress = c.st.Subnet.Bits(), network.HardwareAddr(m.slot.mac)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errdefs.ErrUnavailable.WithMessage("the networks are closed")
	}
	c.members[m.req.ContainerID] = m
	for _, f := range m.forwards {
		if f.Proto == unix.IPPROTO_UDP && !m.adopted {
			c.fresh = append(c.fresh, f)
			defer wake(c.kick)
		}
	}
	return m.box, nil
}

// claim registers what a running container has, without a socket.
func (c *Controller) claim(m *member, w wish) (*ports.Hold, error) {
	addr, proto, r, err := CheckBinding(w.port, w.binding)
	if err != nil {
		return nil, err
	}
	return c.ports.Claim(addr, proto, r.Start(), r.Start()+w.further(), ports.Owner{ID: m.req.ContainerID, Name: m.req.ContainerName}), nil
}

// hold takes what one wish asks of the host. A port that a container on its way out still has is waited for.
func (c *Controller) hold(ctx context.Context, m *member, w wish) (*ports.Hold, error) {
	if c.table == nil {
		return nil, errdefs.ErrFailedPrecondition.WithMessage("ports cannot be published: the engine was started with --iptables=false")
	}
	b := w.binding
	if !b.HostIP.IsValid() {
		b.HostIP = c.o.DefaultBind
	}
	addr, proto, r, err := CheckBinding(w.port, b)
	if err != nil {
		return nil, err
	}
	owner := ports.Owner{ID: m.req.ContainerID, Name: m.req.ContainerName}
	for {
		var h *ports.Hold
		if w.many() {
			h, err = c.ports.TakeRange(addr, proto, r.Start(), r.Start()+w.further(), owner)
		} else {
			h, err = c.ports.TakeOneOf(addr, proto, r.Start(), r.End(), owner)
		}
		if !errdefs.IsConflict(err) || !c.waitReleases(ctx) {
			return h, err
		}
	}
}

// CheckBinding reads what is asked of the host for a container's port, and
// refuses what cannot be. A range of 0 is any port.
func CheckBinding(p network.Port, b network.PortBinding) (addr netip.Addr, proto uint8, r network.PortRange, err error) {
	switch p.Proto() {
	case network.TCP:
		proto = unix.IPPROTO_TCP
	case network.UDP:
		proto = unix.IPPROTO_UDP
	default:
		return addr, 0, r, errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("port %s: only tcp and udp can be published", p))
	}
	if addr = b.HostIP.Unmap(); !addr.IsValid() {
		addr = netip.IPv4Unspecified()
	}
	if !addr.Is4() {
		return addr, 0, r, errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("port %s: publishing on the IPv6 address %s is not possible yet: publish on an IPv4 address", p, addr))
	}
	if b.HostPort != "" && b.HostPort != "0" {
		if r, err = network.ParsePortRange(b.HostPort); err != nil {
			return addr, 0, r, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid host port %q for %s: %v", b.HostPort, p, err))
		}
	}
	return addr, proto, r, nil
}

// waitReleases waits until the containers on their way out have given their
// ports back; false if there are none.
func (c *Controller) waitReleases(ctx context.Context) bool {
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

// endpointID is the same after a restart.
func endpointID(container, network string) string {
	sum := sha256.Sum256([]byte(container + "/" + network))
	return hex.EncodeToString(sum[:])
}
