package network

import (
	"context"
	"net/netip"
	"slices"
	"strconv"

	"github.com/moby/moby/api/types/network"

	"hezi/internal/network/bindings"
)

// Republish changes the published ports of a container that has a namespace: it
// gives up those of remove, of which a port without bindings means all of its, and
// takes those of add: also a port of the host that it gives up. What is neither stays as it is, and so do its connections. When it
// fails nothing has changed. It answers what the container then has, with the sockets
// of what was added. Errors: Conflict for a port that is taken or a container without a
// namespace, NotFound for a binding that there is not.
func (c *publisher) Republish(ctx context.Context, containerID string, add, remove network.PortMap) (*Sandbox, error) {
	c.mu.Lock()
	m := c.members[containerID]
	c.mu.Unlock()
	if m == nil {
		return nil, conflict("container %s has no network namespace of its own: it does not run, or it is in the host's or another container's", containerID)
	}
	m.work.Lock()
	defer m.work.Unlock()
	left, err := bindings.Unpublish(m.box.Ports, remove)
	if err != nil {
		return nil, err
	}
	next := &member{id: m.id, name: m.name, path: m.path, links: m.links, ports: add, beside: m.beside}
	kept, gone := c.split(m, next, left)
	next.spare = gone
	got, err := c.take(ctx, next)
	var sockets []int
	var over []*held
	if err == nil {
		over = c.atLoopback(next, slices.Concat(kept, next.holds))
		for _, h := range m.beside {
			next.reused = append(next.reused, h.hold)
		}
		sockets = next.sockets()
		for p, list := range got {
			left[p] = append(slices.Clip(left[p]), list...)
		}
		next.holds = append(kept, next.holds...)
		next.forwards, next.direct = next.targets()
		err = followNear(&c.registry, next)
		if err == nil && c.table != nil {
			err = c.lead(m.forwards, next.forwards, m.direct, next.direct)
		}
	}
	if err != nil {
		for _, h := range slices.Concat(next.holds, next.beside) {
			if !slices.ContainsFunc(slices.Concat(m.holds, m.beside), func(o *held) bool { return o.hold == h.hold }) {
				logFailure("give a port back", h.hold.Close())
			}
		}
		return nil, err
	}
	c.mu.Lock()
	c.forgetLaterLocked(without(next.forwards, m.forwards))
	m.holds, m.beside, m.forwards, m.direct = next.holds, next.beside, next.forwards, next.direct
	m.box = m.boxOf(left, sockets)
	c.mu.Unlock()
	c.relay(m)
	gone = slices.DeleteFunc(gone, func(h *held) bool { return slices.Contains(next.reused, h.hold) })
	for _, h := range append(gone, over...) {
		logFailure("give a port back", h.hold.End())
	}
	return m.box, nil
}

// split says which of the member's holds stay for the ports that are left. What is
// left of a range is registered anew, among the holds of next.
func (c *publisher) split(m, next *member, left network.PortMap) (kept, gone []*held) {
	type place struct {
		proto      uint8
		addr       netip.Addr
		host, port uint16
	}
	stays := map[place]bool{}
	for p, list := range left {
		for _, b := range list {
			host, err := strconv.ParseUint(b.HostPort, 10, 16)
			_, proto, _, bad := bindings.Check(p, network.PortBinding{})
			if err == nil && bad == nil {
				stays[place{proto, b.HostIP, uint16(host), p.Num()}] = true
			}
		}
	}
	for _, h := range m.holds {
		n := int(h.hold.Last) - int(h.hold.Port) + 1
		var runs [][2]int
		for i := range n {
			switch {
			case !stays[place{h.hold.Proto, h.shown(), h.hold.Port + uint16(i), h.port + uint16(i)}]:
			case len(runs) > 0 && runs[len(runs)-1][1] == i-1:
				runs[len(runs)-1][1] = i
			default:
				runs = append(runs, [2]int{i, i})
			}
		}
		if len(runs) == 1 && runs[0] == [2]int{0, n - 1} {
			kept = append(kept, h)
			continue
		}
		gone = append(gone, h)
		for _, r := range runs {
			rest := c.ports.Claim(h.hold.Addr, h.hold.Proto, h.hold.Port+uint16(r[0]), h.hold.Port+uint16(r[1]), h.hold.Owner)
			next.holds = append(next.holds, &held{rest, h.port + uint16(r[0]), h.near, h.all})
		}
	}
	return kept, gone
}
