package network

import (
	"net/netip"

	"github.com/moby/moby/api/types/network"
)

// EndpointRequest asks for a container's place in a network. Network "host"
// and "none" never come here except none: a sandbox with loopback alone.
type EndpointRequest struct {
	ContainerID   string
	ContainerName string
	Network       string     // name or id: "bridge" or "none"
	IPv4          netip.Addr // requested address; zero: any
	MAC           string     // requested; "": one made from the address
	// Namespace is a network namespace (a file such as /proc/PID/ns/net) that is
	// there already and empty: it is filled instead of one of the pool, which
	// belongs to the host's users.
	Namespace string
	// Ports are the published ports: host side may be zero (a free one is
	// chosen) or an address (a binding to it alone).
	Ports network.PortMap
	// Kept is for Adopt: how many of the Sockets that Join answered are still open
	// elsewhere and hold their ports.
	Kept int
}

// Sandbox is a ready network namespace with its endpoint.
type Sandbox struct {
	ContainerID string
	// Path is the bind-mounted namespace handle for box.Namespace.Path.
	Path string
	// Endpoint as inspect shows it.
	NetworkName string
	Endpoint    network.EndpointSettings
	// Ports with the host ports that were chosen.
	Ports network.PortMap
	// Sockets hold the ports, each its own, in an order that Adopt knows. They are
	// valid until Release.
	Sockets []int `json:"-"`
	// Interface is the name inside the box, "eth0"; "" for none.
	Interface string
}
