package network

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"

	"hezi/internal/network/egress"
	"hezi/internal/network/nft"
)

// Counters of a network. Nothing is written for them when a container starts: the kernel
// counts at the bridge, and where it drops.
type Counters struct {
	// What passed the bridge: in to the containers, and out of them. What they send each
	// other within the network does not.
	InPackets, InBytes, OutPackets, OutBytes uint64
	// What the rules dropped that keep networks apart, since they were written.
	DroppedPackets, DroppedBytes uint64
}

// Detail is what is told of a network beside what Docker tells.
type Detail struct {
	network.Inspect
	Counters *Counters `json:",omitempty"` // nil: it has no bridge
	Egress   *Egress   `json:",omitempty"` // nil: it has no policy
}

// Detail tells about one network, with its counters. Error: NotFound.
func (c *Controller) Detail(ctx context.Context, ref string) (d Detail, err error) {
	if d.Inspect, err = c.Inspect(ctx, ref); err != nil {
		return d, err
	}
	c.mu.Lock()
	l := c.lans[d.ID]
	if l == nil {
		c.mu.Unlock()
		return d, notFound("network %s not found", ref)
	}
	bridge, there, policy := l.bridge, l.bridged() && l.index != 0, l.policy
	var ports []string
	for id, k := range l.links {
		if m := c.members[id]; m != nil {
			ports = append(ports, m.guarded(k)...)
		}
	}
	c.mu.Unlock()
	if there {
		if d.Counters, err = (restrainer{&c.registry}).counters(bridge); err != nil { // somebody removed the bridge: the network is told nevertheless
			slog.Warn("read the counters of a network", "network", d.Name, "error", err)
		}
	}
	if policy != nil || len(ports) > 0 {
		d.Egress = &Egress{Policy: policy.String()}
		d.Egress.count(c.table, ports)
	}
	return d, nil
}

func (c restrainer) counters(bridge string) (*Counters, error) {
	dev, err := netlink.LinkByName(bridge)
	if err != nil {
		return nil, fmt.Errorf("the bridge %s: %w", bridge, err)
	}
	n := &Counters{}
	if s := dev.Attrs().Statistics; s != nil {
		n.InPackets, n.InBytes, n.OutPackets, n.OutBytes = s.TxPackets, s.TxBytes, s.RxPackets, s.RxBytes
	}
	if c.table != nil {
		n.DroppedPackets, n.DroppedBytes, err = nft.Dropped(c.table, bridge)
	}
	return n, err
}

// EgressOf is what is said of a container: it may have a policy of its own by its labels and
// not run. nil: none holds for it.
func (c *Controller) EgressOf(containerID string, labels map[string]string) *Egress {
	if e := c.Egress(containerID); e != nil {
		return e
	}
	if p := labels[egress.Label]; p != "" && c.table != nil {
		return &Egress{Policy: p}
	}
	return nil
}
