package network

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
)

var predefined = []string{network.NetworkBridge, network.NetworkHost, network.NetworkNone}

// resolve is the name of a network given by name, id or the beginning of an id.
func (c *Controller) resolve(ref string) (string, error) {
	if ref == "" || ref == network.NetworkDefault {
		return network.NetworkBridge, nil
	}
	var found []string
	for _, n := range predefined {
		if ref == n || ref == c.st.IDs[n] {
			return n, nil
		}
		if strings.HasPrefix(c.st.IDs[n], ref) {
			found = append(found, n)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", errdefs.ErrNotFound.WithMessage("network " + ref + " not found")
	}
	return "", errdefs.ErrInvalidArgument.WithMessage("network " + ref + " is ambiguous: more than one id begins with it")
}

// NetworkID is the id of a predefined network; "" for another name.
func (c *Controller) NetworkID(name string) string { return c.st.IDs[name] }

// Inspect tells about one network. Error: NotFound.
func (c *Controller) Inspect(_ context.Context, ref string) (network.Inspect, error) {
	name, err := c.resolve(ref)
	if err != nil {
		return network.Inspect{}, err
	}
	n := network.Inspect{Containers: map[string]network.EndpointResource{}}
	n.Name, n.ID, n.Created, n.Scope, n.Driver = name, c.st.IDs[name], c.st.Created, "local", name
	n.EnableIPv4, n.Options, n.Labels = true, map[string]string{}, map[string]string{}
	n.IPAM = network.IPAM{Driver: "default", Config: []network.IPAMConfig{}}
	if name == network.NetworkNone {
		n.Driver = "null"
	}
	if name == network.NetworkBridge {
		n.IPAM.Config = append(n.IPAM.Config, network.IPAMConfig{Subnet: c.st.Subnet, Gateway: c.st.Gateway, IPRange: c.o.FixedCIDR})
		bind := "0.0.0.0"
		if c.o.DefaultBind.IsValid() {
			bind = c.o.DefaultBind.String()
		}
		n.Options = map[string]string{
			"com.docker.network.bridge.default_bridge":       "true",
			"com.docker.network.bridge.enable_icc":           "true",
			"com.docker.network.bridge.enable_ip_masquerade": strconv.FormatBool(c.o.IPMasq),
			"com.docker.network.bridge.host_binding_ipv4":    bind,
			"com.docker.network.bridge.name":                 c.bridge,
			"com.docker.network.driver.mtu":                  strconv.Itoa(c.o.MTU),
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, m := range c.members {
		if m.box.NetworkName != name {
			continue
		}
		r := network.EndpointResource{Name: strings.TrimPrefix(m.req.ContainerName, "/"), EndpointID: m.box.Endpoint.EndpointID, MacAddress: m.box.Endpoint.MacAddress}
		if m.slot.address.IsValid() {
			r.IPv4Address = netip.PrefixFrom(m.slot.address, c.st.Subnet.Bits())
		}
		n.Containers[id] = r
	}
	return n, nil
}

// List tells about the networks that pass the filters name, id, driver, scope, type, dangling and label.
func (c *Controller) List(ctx context.Context, f map[string]map[string]bool) ([]network.Inspect, error) {
	out := []network.Inspect{}
	for _, name := range predefined {
		n, err := c.Inspect(ctx, name)
		if err != nil {
			return nil, err
		}
		pass := true
		for key, values := range f {
			match, err := matches(n, key, values)
			if err != nil {
				return nil, err
			}
			pass = pass && match
		}
		if pass {
			out = append(out, n)
		}
	}
	return out, nil
}

func matches(n network.Inspect, key string, values map[string]bool) (bool, error) {
	test := map[string]func(v string) bool{
		"name":     func(v string) bool { return strings.Contains(n.Name, v) },
		"id":       func(v string) bool { return strings.HasPrefix(n.ID, v) },
		"driver":   func(v string) bool { return n.Driver == v },
		"scope":    func(v string) bool { return n.Scope == v },
		"type":     func(v string) bool { return v == "builtin" },
		"dangling": func(v string) bool { return v == "false" || v == "0" }, // predefined ones never dangle
		"label":    func(string) bool { return false },
	}[key]
	if test == nil {
		return false, errdefs.ErrInvalidArgument.WithMessage("invalid filter '" + key + "'")
	}
	for v := range values {
		if test(v) {
			return true, nil
		}
	}
	return len(values) == 0, nil
}

func (c *Controller) announce(action events.Action, name, container string) {
	if c.o.Publish == nil {
		return
	}
	typ := name
	if name == network.NetworkNone {
		typ = "null"
	}
	c.o.Publish(events.Message{Type: events.NetworkEventType, Action: action, Scope: "local",
		Actor: events.Actor{ID: c.st.IDs[name], Attributes: map[string]string{"container": container, "name": name, "type": typ}}})
}

// Warnings are sentences for info: what on this host keeps containers from the network.
func (c *Controller) Warnings() []string {
	var w []string
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err == nil && strings.TrimSpace(string(b)) == "0" {
		w = append(w, "IPv4 forwarding is disabled: containers cannot reach other machines, nor these published ports; sysctl -w net.ipv4.ip_forward=1, or start hezid with ip-forward")
	}
	if c.table == nil {
		return w
	}
	blockers, err := c.table.Blockers()
	if err != nil {
		return append(w, err.Error())
	}
	for _, b := range blockers {
		w = append(w, fmt.Sprintf("the firewall's chain %s %s drops what is forwarded and has no rule for %s: containers do not reach other machines, nor these published ports; to let them: %s", b.Table, b.Chain, c.bridge, b.Remedy))
	}
	return w
}
