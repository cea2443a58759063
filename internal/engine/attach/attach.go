// Package attach says where a container is attached: which networks it asks for,
// with which addresses and names, and what inspect shows of that.
package attach

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	apinet "github.com/moby/moby/api/types/network"

	"hezi/internal/network"
)

// Wanted is what a container asks of its networks, by their names or ids.
type Wanted map[string]*apinet.EndpointSettings

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// Check reads a request's networks: those that it names, and that of the mode.
// Errors: InvalidArgument, NotImplemented.
func Check(n *apinet.NetworkingConfig, h *container.HostConfig) (Wanted, error) {
	mode := cmp.Or(string(h.NetworkMode), apinet.NetworkBridge)
	if mode == apinet.NetworkDefault {
		mode = apinet.NetworkBridge
	}
	w := Wanted{}
	if n != nil {
		for name, s := range n.EndpointsConfig {
			if name == apinet.NetworkDefault {
				name = apinet.NetworkBridge
			}
			if s == nil {
				s = &apinet.EndpointSettings{}
			}
			if err := checkOne(name, mode, s); err != nil {
				return nil, err
			}
			w[name] = kept(s)
		}
	}
	if container.NetworkMode(mode).IsContainer() {
		if len(w) > 0 {
			return nil, invalid("conflicting options: a container that uses another's network (--network %s) cannot be connected to networks", mode)
		}
		return nil, nil
	}
	if len(w) == 0 { // else the mode adds none, as in Docker
		w[mode] = &apinet.EndpointSettings{}
	}
	if (len(w) > 1 || w[mode] == nil) && (mode == apinet.NetworkHost || mode == apinet.NetworkNone) {
		return nil, invalid("container cannot be connected to multiple networks with one of the networks in private (none) mode, or in the host's: --network %s stands alone", mode)
	}
	return w, nil
}

// Named has the networks that are there by their names, whatever they were asked for by:
// an id or its beginning may be another network's name later. Error: InvalidArgument.
func (w Wanted) Named(resolve func(ref string) (id, name string, err error)) (Wanted, error) {
	if w == nil {
		return nil, nil
	}
	out := make(Wanted, len(w))
	for ref, s := range w {
		if _, name, err := resolve(ref); err == nil {
			ref = name
		}
		if out[ref] != nil {
			return nil, invalid("network %q is specified multiple times", ref)
		}
		out[ref] = s
	}
	return out, nil
}

// Connect reads the settings of a connection. Errors as of Check.
func Connect(name string, s *apinet.EndpointSettings) (*apinet.EndpointSettings, error) {
	if s == nil {
		s = &apinet.EndpointSettings{}
	}
	if err := checkOne(name, "", s); err != nil {
		return nil, err
	}
	return kept(s), nil
}

// kept is what of the settings is the client's to say.
func kept(s *apinet.EndpointSettings) *apinet.EndpointSettings {
	return &apinet.EndpointSettings{IPAMConfig: s.IPAMConfig, Links: s.Links, Aliases: s.Aliases, MacAddress: s.MacAddress, DriverOpts: s.DriverOpts, GwPriority: s.GwPriority}
}

func checkOne(name, mode string, s *apinet.EndpointSettings) error {
	if _, err := links(s.Links); err != nil {
		return err
	}
	if alone := name == apinet.NetworkHost || name == apinet.NetworkNone || container.NetworkMode(name).IsContainer(); alone {
		if len(s.Aliases) > 0 {
			return invalid("network-scoped aliases are only supported for user-defined networks, not with --network %s", name)
		}
		if len(s.Links) > 0 {
			return invalid("links are only supported for user-defined networks, not with --network %s", name)
		}
		if len(s.MacAddress) > 0 {
			return invalid("conflicting options: mac-address and the network mode: --network %s has no interface of the container's own", name)
		}
		if s.IPAMConfig != nil && (s.IPAMConfig.IPv4Address.IsValid() || s.IPAMConfig.IPv6Address.IsValid()) {
			return invalid("conflicting options: --ip and the network mode: --network %s has no address of the container's own", name)
		}
	}
	if a := s.IPAMConfig; a != nil {
		switch {
		case a.IPv4Address.IsValid() && !a.IPv4Address.Unmap().Is4():
			return invalid("invalid IPv4 address: %s", a.IPv4Address)
		case a.IPv6Address.IsValid() && !a.IPv6Address.Is6():
			return invalid("invalid IPv6 address: %s", a.IPv6Address)
		}
		for _, l := range a.LinkLocalIPs {
			if !l.IsLinkLocalUnicast() {
				return invalid("invalid link-local IP address: %s", l)
			}
		}
	}
	return nil
}

// ParseLink reads NAME:ALIAS, NAME alone, and what inspect shows of both
// (/NAME:/CONTAINER/ALIAS).
func ParseLink(l string) (name, alias string, err error) {
	name, alias, ok := strings.Cut(l, ":")
	if !ok {
		alias = name
	}
	name = strings.TrimPrefix(name, "/")
	alias = alias[strings.LastIndexByte(alias, '/')+1:]
	if name == "" || alias == "" || strings.Contains(alias, ":") {
		return "", "", invalid("bad format for links: %s: write NAME:ALIAS", l)
	}
	return name, alias, nil
}

// links by their aliases.
func links(list []string) (map[string]string, error) {
	m := make(map[string]string, len(list))
	for _, l := range list {
		name, alias, err := ParseLink(l)
		if err != nil {
			return nil, err
		}
		if _, has := m[alias]; !has { // the first counts, as in Docker
			m[alias] = name
		}
	}
	return m, nil
}

// Container is what others know of one that is attached.
type Container struct {
	ID, Name         string
	Hostname, Domain string
	Mode             container.NetworkMode
	Wanted           Wanted
	BridgeLinks      []string // --link on the default bridge
	MAC              string   // of records of versions with one network
}

// names by which others find the container in a network.
func (c Container) names(s *apinet.EndpointSettings) []string {
	list := append([]string{strings.TrimPrefix(c.Name, "/"), c.ID[:min(12, len(c.ID))]}, s.Aliases...)
	if list = append(list, c.Hostname); c.Domain != "" {
		list = append(list, c.Hostname+"."+c.Domain)
	}
	var out []string
	for _, n := range list {
		if n != "" && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// Requests are the places that the container asks for: in the network of its mode
// first, then by priority and name.
func (c Container) Requests() []network.EndpointRequest {
	first := cmp.Or(string(c.Mode), apinet.NetworkBridge)
	if first == apinet.NetworkDefault {
		first = apinet.NetworkBridge
	}
	wanted := c.Wanted
	if wanted == nil { // of a version with one network
		wanted = Wanted{first: &apinet.EndpointSettings{}}
	}
	var list []network.EndpointRequest
	for _, name := range slices.SortedFunc(maps.Keys(wanted), func(a, b string) int {
		return cmp.Or(-compare(a == first, b == first), -cmp.Compare(wanted[a].GwPriority, wanted[b].GwPriority), strings.Compare(a, b))
	}) {
		list = append(list, c.Request(name, wanted[name]))
	}
	if c.MAC != "" && len(list) > 0 && list[0].MAC == "" {
		list[0].MAC = c.MAC
	}
	return list
}

func compare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// Request is the place in one network.
func (c Container) Request(name string, s *apinet.EndpointSettings) network.EndpointRequest {
	q := network.EndpointRequest{Network: name, GwPriority: s.GwPriority, DriverOpts: s.DriverOpts, Names: c.names(s)}
	list := s.Links
	if name == apinet.NetworkBridge {
		list = slices.Concat(c.BridgeLinks, list)
	}
	q.Links, _ = links(list) // checked when they were asked for
	if len(s.MacAddress) > 0 {
		q.MAC = s.MacAddress.String()
	}
	if a := s.IPAMConfig; a != nil {
		q.IPv4, q.IPv6 = a.IPv4Address.Unmap(), a.IPv6Address
		q.LinkLocal = slices.Clone(a.LinkLocalIPs)
	}
	if !q.IPv4.IsValid() {
		q.IPv4 = netip.Addr{}
	}
	return q
}

// Shown are the endpoints as inspect has them: what was asked for, and while the
// container runs what it has. id tells a network's id by its name.
func (c Container) Shown(box *network.Sandbox, id func(name string) string) map[string]*apinet.EndpointSettings {
	out := map[string]*apinet.EndpointSettings{}
	if c.Mode.IsContainer() {
		return out
	}
	for _, q := range c.Requests() {
		s := &apinet.EndpointSettings{}
		if w := c.Wanted[q.Network]; w != nil {
			s = w.Copy()
		}
		s.NetworkID = id(q.Network)
		if e := box.In(s.NetworkID); e != nil {
			has := e.Settings
			s.EndpointID, s.Gateway, s.IPAddress, s.IPPrefixLen, s.MacAddress = has.EndpointID, has.Gateway, has.IPAddress, has.IPPrefixLen, has.MacAddress
			s.IPv6Gateway, s.GlobalIPv6Address, s.GlobalIPv6PrefixLen, s.DNSNames = has.IPv6Gateway, has.GlobalIPv6Address, has.GlobalIPv6PrefixLen, q.Names
		}
		out[q.Network] = s
	}
	return out
}
