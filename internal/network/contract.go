package network

import (
	"encoding/json"
	"net/netip"

	"github.com/moby/moby/api/types/network"
)

// SandboxRequest asks for a container's network namespace with its places in
// networks.
type SandboxRequest struct {
	ContainerID   string
	ContainerName string
	// Endpoints, the container's own network first; none: loopback alone.
	Endpoints []EndpointRequest
	// Namespace is a network namespace (a file such as /proc/PID/ns/net) that is
	// there already and empty: it is filled instead of one of a pool, which
	// belongs to the host's users.
	Namespace string
	// Ports are the published ports: host side may be zero (a free one is
	// chosen) or an address (a binding to it alone).
	Ports network.PortMap
	// PortSockets is for Adopt: what was kept elsewhere of Sandbox.Sockets. They are the
	// network's from then on.
	PortSockets []int
	// NameSockets is for Adopt: what was kept elsewhere of Sandbox.Names. They are the
	// network's from then on.
	NameSockets []int
	Resolving   Resolving
	// Egress is the container's policy of what it may send to (package egress); "": all.
	Egress string
}

// EndpointRequest asks for a place in one network. Networks host and none have
// no places.
type EndpointRequest struct {
	Network    string     // name or id
	IPv4, IPv6 netip.Addr // requested addresses; zero: any
	LinkLocal  []netip.Addr
	MAC        string // requested; "": one made from the address
	// GwPriority: the endpoint with the highest has the default route.
	GwPriority int
	DriverOpts map[string]string
	// Names by which others in the network find the container; the first is its own.
	Names []string
	// Links are names in the network by which the container alone finds others: alias
	// to name.
	Links map[string]string
	idle  bool // for a slot that waits: nobody makes place for it
}

// Sandbox is a ready network namespace with its endpoints.
type Sandbox struct {
	ContainerID string
	// Path is the bind-mounted namespace handle for box.Namespace.Path.
	Path string
	// Endpoints in the order of their interfaces.
	Endpoints []Endpoint
	// Ports with the host ports that were chosen.
	Ports network.PortMap
	// Unpublished are ports that were published until the engine was started without
	// rules of their family. Adopt publishes them when there are such again.
	Unpublished network.PortMap `json:",omitempty"`
	// Sockets hold the ports that were taken by the call that answered this, each its
	// own. They are valid until Release.
	Sockets []int `json:"-"`
	// Names are the sockets by which the container asks for names, valid until
	// Release; Asks says that it has such.
	Names []int `json:"-"`
	Asks  bool  `json:",omitempty"`
}

// Endpoint is a place in a network.
type Endpoint struct {
	Network string // its name when the endpoint was made
	// Settings as inspect shows them.
	Settings network.EndpointSettings
	// Interface is its name inside the box, such as "eth0"; "" in the network none.
	Interface string
	// Outside is the host's end; "" where there is none.
	Outside string `json:",omitempty"`
}

// Addresses that the container has, in the order of its interfaces.
func (s *Sandbox) Addresses() (list []netip.Addr) {
	if s == nil {
		return nil
	}
	for _, e := range s.Endpoints {
		for _, a := range []netip.Addr{e.Settings.IPAddress, e.Settings.GlobalIPv6Address} {
			if a.IsValid() {
				list = append(list, a)
			}
		}
	}
	return list
}

// In is the endpoint in a network, by its id; nil if there is none.
func (s *Sandbox) In(networkID string) *Endpoint {
	if s == nil {
		return nil
	}
	for i := range s.Endpoints {
		if s.Endpoints[i].Settings.NetworkID == networkID {
			return &s.Endpoints[i]
		}
	}
	return nil
}

// UnmarshalJSON also reads what versions with one network a container stored.
func (s *Sandbox) UnmarshalJSON(b []byte) error {
	type plain Sandbox
	var old struct {
		plain
		NetworkName string
		Endpoint    network.EndpointSettings
		Interface   string
	}
	if err := json.Unmarshal(b, &old); err != nil {
		return err
	}
	*s = Sandbox(old.plain)
	if old.NetworkName != "" && len(s.Endpoints) == 0 {
		s.Endpoints = []Endpoint{{Network: old.NetworkName, Settings: old.Endpoint, Interface: old.Interface}}
	}
	return nil
}
