package engine

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"hezi/internal/keeper"
	hostnet "hezi/internal/network"
	"hezi/internal/network/bindings"
)

// Publish changes the published ports of a container, at once while it runs, and for
// good. A port of remove without bindings loses all of its. It answers what is
// published, with the ports that were chosen. Errors: NotFound, InvalidArgument, Conflict.
func (e Attachments) Publish(ctx context.Context, ref string, add, remove network.PortMap) (network.PortMap, error) {
	add = maps.Clone(add)
	for p, list := range add {
		if len(list) == 0 {
			add[p] = []network.PortBinding{{}}
		}
		for _, b := range list {
			if _, _, _, err := bindings.Check(p, b); err != nil {
				return nil, err
			}
		}
	}
	remove = anywhere(remove)
	c, unlock, err := e.lock(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer unlock()
	r := c.latest.Load()
	if m := r.HostConfig.NetworkMode; m.IsHost() || m.IsNone() || m.IsContainer() {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("ports of a container with --network %s are not published: it has no network of its own", m))
	}
	config, host := *r.Config, *r.HostConfig
	if host.PortBindings, err = republished(r, add, remove); err != nil {
		return nil, err
	}
	host.PublishAllPorts = host.PublishAllPorts && len(remove) == 0
	config.ExposedPorts = maps.Clone(config.ExposedPorts)
	for p := range add {
		if config.ExposedPorts == nil {
			config.ExposedPorts = network.PortSet{}
		}
		config.ExposedPorts[p] = struct{}{}
	}
	box := r.Net
	if r.running() {
		if box, err = e.republish(ctx, r.ID, add, running(r, remove)); err != nil {
			return nil, err
		}
	}
	after, err := e.change(c, func(r *record) { r.Config, r.HostConfig, r.Net = &config, &host, box })
	if err != nil {
		if r.running() {
			had, has := r.Net.Ports, box.Ports
			if _, back := e.republish(context.WithoutCancel(ctx), r.ID, bindings.Beside(had, has), bindings.Beside(has, had)); back != nil {
				e.o.Log.Error("take a change of published ports back that could not be stored", "container", r.ID, "error", back)
			}
		}
		return nil, err
	}
	e.publish(after, "update")
	if after.running() {
		return after.portMap(), nil
	}
	return host.PortBindings, nil
}

// anywhere has 0.0.0.0 and :: mean every address that a port is published on.
func anywhere(m network.PortMap) network.PortMap {
	out := maps.Clone(m)
	for p, list := range m {
		out[p] = slices.Clone(list)
		for i := range list {
			if list[i].HostIP.IsUnspecified() {
				out[p][i].HostIP = netip.Addr{}
			}
		}
	}
	return out
}

// publishLate publishes the ports of a container that was in no network so far which lets
// ports be published, or in none with IPv6.
func (e Attachments) publishLate(ctx context.Context, r *record, box *hostnet.Sandbox) (*hostnet.Sandbox, error) {
	for _, list := range box.Ports {
		if len(list) > 0 {
			return e.publishIPv6(ctx, r, box)
		}
	}
	if len(r.published()) == 0 {
		return box, nil
	}
	return e.republish(ctx, r.ID, r.published(), nil)
}

// publishIPv6 gives bindings without an address their IPv6 part, where one of the
// container's networks now lets it.
func (e Attachments) publishIPv6(ctx context.Context, r *record, box *hostnet.Sandbox) (*hostnet.Sandbox, error) {
	if !slices.ContainsFunc(box.Endpoints, func(n hostnet.Endpoint) bool { return n.Settings.IPv6Gateway.IsValid() }) {
		return box, nil
	}
	add, again := bindings.Widened(r.published(), box.Ports)
	if len(add) == 0 {
		return box, nil
	}
	wider, err := e.republish(ctx, r.ID, add, again)
	if errdefs.IsInvalidArgument(err) { // its networks publish nothing of IPv6
		return box, nil
	}
	return wider, err
}

// republish changes them in the kernel, and which sockets the keeper has.
func (e Attachments) republish(ctx context.Context, id string, add, remove network.PortMap) (*hostnet.Sandbox, error) {
	box, err := e.o.Networks.Republish(ctx, id, add, remove)
	if err != nil {
		return nil, err
	}
	keepPorts(ctx, &e.o, id, box)
	return box, nil
}

// keepPorts has the keeper hold the sockets of what is published, and no others.
func keepPorts(ctx context.Context, o *Options, id string, box *hostnet.Sandbox) {
	q := keeper.PortsRequest{ContainerID: id, Ports: box.Sockets[:min(len(box.Sockets), keeper.MaxPorts)]}
	for p, list := range box.Ports {
		for _, b := range list {
			for _, a := range bindings.Places(b.HostIP) {
				q.Keep = append(q.Keep, net.JoinHostPort(a.String(), b.HostPort)+"/"+string(p.Proto()))
				if a == netip.IPv4Unspecified() { // beside it
					q.Keep = append(q.Keep, net.JoinHostPort(netip.IPv6Loopback().String(), b.HostPort)+"/"+string(p.Proto()))
				}
			}
		}
	}
	if err := o.Keeper.Ports(ctx, q); err != nil {
		// hezid has the sockets; another program could take the ports only while it is away.
		o.Log.Warn("the keeper does not hold a container's published ports", "container", id, "error", err)
	}
}

// running is remove as the running container knows it: a port that was asked for as a
// free one has a number there.
func running(r *record, remove network.PortMap) network.PortMap {
	out := network.PortMap{}
	for p, list := range remove {
		if len(r.Net.Ports[p]) > 0 {
			out[p] = list
		}
	}
	return out
}

// republished is what is asked for after a change.
func republished(r *record, add, remove network.PortMap) (network.PortMap, error) {
	wished := r.published()
	if len(remove) == 0 {
		wished = maps.Clone(r.HostConfig.PortBindings) // -P stays what it is
	}
	if wished == nil {
		wished = network.PortMap{}
	}
	for p, list := range remove {
		if _, ok := wished[p]; !ok {
			return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("port %s of the container is not published", p))
		}
		rest := wished[p]
		for _, gone := range list {
			had := len(rest)
			rest = slices.DeleteFunc(slices.Clone(rest), func(b network.PortBinding) bool { return covers(r, p, gone, b) })
			if len(rest) == had {
				return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("port %s of the container is not published on %s", p, bindingText(gone)))
			}
		}
		if wished[p] = rest; len(list) == 0 || len(rest) == 0 {
			delete(wished, p)
		}
	}
	for p, list := range add {
		for _, b := range list {
			if b.HostPort != "" && b.HostPort != "0" && slices.Contains(wished[p], b) {
				return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("port %s of the container is published on %s already", p, bindingText(b)))
			}
		}
		wished[p] = append(slices.Clip(wished[p]), list...)
	}
	return wished, nil
}

// covers says whether a binding that is to go is the one that was asked for. Of one
// with any port, the number that the running container got is meant.
func covers(r *record, p network.Port, gone, asked network.PortBinding) bool {
	if gone.HostIP.IsValid() && gone.HostIP != asked.HostIP {
		return false
	}
	if gone.HostPort == "" || gone.HostPort == asked.HostPort {
		return true
	}
	return r.Net != nil && (asked.HostPort == "" || asked.HostPort == "0") &&
		slices.ContainsFunc(r.Net.Ports[p], func(b network.PortBinding) bool { return b.HostPort == gone.HostPort })
}

func bindingText(b network.PortBinding) string {
	address := "any address"
	if b.HostIP.IsValid() {
		address = b.HostIP.String()
	}
	if b.HostPort == "" {
		return address
	}
	return address + " port " + b.HostPort
}
