package network

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"hezi/internal/network/filters"
	"hezi/internal/network/netns"
	"hezi/internal/network/taken"
)

// resolveLocked finds a network by name, id or the beginning of an id.
func (c *registry) resolveLocked(ref string) (*lan, error) {
	if ref == "" || ref == network.NetworkDefault {
		if ref = network.NetworkBridge; c.o.NoBridge {
			ref = network.NetworkNone
		}
	}
	if l := c.lans[ref]; l != nil {
		return l, nil
	}
	var found []*lan
	for _, l := range c.lans {
		if l.Name == ref {
			return l, nil
		}
		if strings.HasPrefix(l.ID, ref) {
			found = append(found, l)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		if ref == network.NetworkBridge {
			return nil, notFound(noBridge)
		}
		return nil, notFound("network %s not found", ref)
	}
	return nil, invalid("network %s is ambiguous (%d matches found based on ID prefix)", ref, len(found))
}

// Resolve is the id and the name of a network given by name, id or the beginning
// of an id. Errors: NotFound, InvalidArgument for a beginning of several.
func (c *registry) Resolve(ref string) (id, name string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, err := c.resolveLocked(ref)
	if err != nil {
		return "", "", err
	}
	return l.ID, l.Name, nil
}

// NetworkID is the id of a network by its name; "" if there is none.
func (c *registry) NetworkID(name string) string {
	id, _, err := c.Resolve(name)
	if err != nil {
		return ""
	}
	return id
}

// Inspect tells about one network. Error: NotFound.
func (c *registry) Inspect(_ context.Context, ref string) (network.Inspect, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, err := c.resolveLocked(ref)
	if err != nil {
		return network.Inspect{}, err
	}
	return c.inspectLocked(l), nil
}

func (c *registry) inspectLocked(l *lan) network.Inspect {
	n := network.Inspect{Containers: map[string]network.EndpointResource{}}
	n.Name, n.ID, n.Created, n.Scope, n.Driver = l.Name, l.ID, l.Created, "local", l.Driver
	n.EnableIPv4, n.EnableIPv6, n.Internal, n.Attachable = l.IPv4, l.IPv6, l.Internal, l.Attachable
	n.Options, n.Labels, n.IPAM = maps.Clone(l.Options), maps.Clone(l.Labels), l.IPAM
	status := map[netip.Prefix]network.SubnetStatus{}
	for _, r := range l.ranges {
		status[r.Subnet] = r.Status()
	}
	if len(status) > 0 {
		n.Status = &network.Status{IPAM: network.IPAMStatus{Subnets: status}}
	}
	for id, k := range l.links {
		m := c.members[id]
		if m == nil {
			continue
		}
		n.Containers[id] = network.EndpointResource{Name: strings.TrimPrefix(m.name, "/"), EndpointID: endpointID(id, l.ID),
			MacAddress: network.HardwareAddr(k.mac), IPv4Address: k.v4, IPv6Address: k.v6}
	}
	return n
}

// List tells about the networks that pass the filters name, id, driver, scope, type, dangling and label.
func (c *registry) List(_ context.Context, f map[string]map[string]bool) ([]network.Inspect, error) {
	if err := filters.Check(f, "name", "id", "driver", "scope", "type", "dangling", "label"); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	out := []network.Inspect{}
	for _, l := range c.lans {
		if n := c.inspectLocked(l); filters.Match(n, isPredefined(n.Name), f) {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b network.Inspect) int {
		return cmp.Or(b.Created.Compare(a.Created), strings.Compare(a.Name, b.Name))
	})
	return out, nil
}

// Announce publishes that a running container was connected to a network, or
// disconnected. A network that is gone by then has said so itself.
func (c *Controller) Announce(action events.Action, networkID, containerID string) {
	c.mu.Lock()
	l := c.lans[networkID]
	c.mu.Unlock()
	if l != nil {
		c.announce(action, l, containerID)
	}
}

func (c *registry) announce(action events.Action, l *lan, container string) {
	if c.o.Publish == nil {
		return
	}
	attributes := map[string]string{"name": l.Name, "type": l.Driver}
	if container != "" {
		attributes["container"] = container
	}
	c.o.Publish(events.Message{Type: events.NetworkEventType, Action: action, Scope: "local", Actor: events.Actor{ID: l.ID, Attributes: attributes}})
}

// Warnings are sentences for info: what on this host keeps containers from the network.
func (c *registry) Warnings() []string {
	var w []string
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err == nil && strings.TrimSpace(string(b)) == "0" {
		w = append(w, "IPv4 forwarding is disabled: containers cannot reach other machines, nor these published ports; sysctl -w net.ipv4.ip_forward=1, or \"ip-forward\": true in daemon.json and restart hezid")
	}
	if c.o.BridgesOnly && netns.BridgesFiltered() {
		w = append(w, "net.bridge.bridge-nf-call-iptables was switched on again, against \"bridge-netfilter\": \"off\": what containers of one network send each other passes the host's IP firewall; restart hezid, or keep what does it (sysctl.d, Docker, Kubernetes) from it")
	}
	w = append(w, setAsides(c.o.DataRoot)...)
	if c.table == nil {
		return w
	}
	blockers, err := c.table.Blockers()
	if err != nil {
		return append(w, err.Error())
	}
	for _, b := range blockers {
		w = append(w, fmt.Sprintf("the firewall's chain %s %s drops what is forwarded and has no rule for our bridges (hezi0, hezi-...): containers do not reach other machines, nor these published ports; to let them: %s", b.Table, b.Chain, b.Remedy))
	}
	return append(w, c.overlaps()...)
}

// overlaps are networks whose addresses the host meanwhile has or routes elsewhere,
// as by a VPN that came up later.
func (c *registry) overlaps() (w []string) {
	c.mu.Lock()
	own, subnets := map[string]bool{}, map[netip.Prefix]string{}
	for _, l := range c.lans {
		if l.bridged() {
			own[l.bridge] = true
			for _, s := range l.subnets() {
				subnets[s] = l.Name
			}
		}
	}
	c.mu.Unlock()
	hosts, err := taken.Devices(own)
	if err != nil {
		return []string{err.Error()}
	}
	for s, name := range subnets {
		for p, device := range hosts {
			if s.Overlaps(p) && p.Bits() > 8 { // wider routes are what a network is cut out of
				w = append(w, fmt.Sprintf("the network %s has the subnet %s, and this host reaches %s by %s: one of them cannot be reached; make the network anew with another --subnet", name, s, p, device))
			}
		}
	}
	slices.Sort(w)
	return w
}
