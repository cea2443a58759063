package format

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// ExposedHeaders are the columns of `port --exposed`.
var ExposedHeaders = Headers{"Container": "CONTAINER", "Port": "PORT", "Address": "REACHED AT", "Why": "BECAUSE"}

// Exposure is a row of `port --exposed`: something that other machines can reach.
type Exposure struct {
	Container string
	Port      string // the container's
	Address   string // where it is reached
	Why       string
}

// MarshalJSON prints all fields.
func (e *Exposure) MarshalJSON() ([]byte, error) { return Fields(e) }

// Exposures are what other machines can reach of running containers, as far as the
// engine decides it.
func Exposures(list []container.Summary, nets []network.Summary) []*Exposure {
	modes := map[string]network.Summary{}
	for _, n := range nets {
		modes[n.ID] = n
	}
	var rows []*Exposure
	for _, c := range list {
		name := shownID(c.ID, true)
		if len(c.Names) > 0 {
			name = strings.TrimPrefix(c.Names[0], "/")
		}
		if c.HostConfig.NetworkMode == "host" {
			rows = append(rows, &Exposure{name, "all that it opens", "the host's addresses", "--network host"})
			continue
		}
		for _, p := range c.Ports {
			if p.PublicPort == 0 || p.IP.IsLoopback() || onlyRouted(c.NetworkSettings, modes, p.IP) {
				continue
			}
			why := "published"
			if p.IP == Lan() {
				why = "published to the networks that the host is in"
			}
			rows = append(rows, &Exposure{name, fmt.Sprintf("%d/%s", p.PrivatePort, p.Type), Place(p.IP, p.PublicPort), why})
		}
		if c.NetworkSettings == nil {
			continue
		}
		for lan, s := range c.NetworkSettings.Networks {
			rows = append(rows, direct(name, lan, s, modes, c.Ports)...)
		}
	}
	slices.SortFunc(rows, func(a, b *Exposure) int {
		return cmp.Or(strings.Compare(a.Container, b.Container), strings.Compare(a.Port, b.Port), strings.Compare(a.Address, b.Address))
	})
	return rows
}

// onlyRouted says whether no port of the container is led to it from the host's address:
// all its networks are routed for the family.
func onlyRouted(s *container.NetworkSettingsSummary, nets map[string]network.Summary, ip netip.Addr) bool {
	option := "com.docker.network.bridge.gateway_mode_ipv4"
	if ip.Is6() {
		option = "com.docker.network.bridge.gateway_mode_ipv6"
	}
	if s == nil || len(s.Networks) == 0 {
		return false
	}
	for _, e := range s.Networks {
		if e == nil || nets[e.NetworkID].Options[option] != "routed" {
			return false
		}
	}
	return true
}

// direct are the container's own addresses that a network lets others reach.
func direct(name, lan string, s *network.EndpointSettings, nets map[string]network.Summary, ports []container.PortSummary) (rows []*Exposure) {
	if s == nil {
		return nil
	}
	n := nets[s.NetworkID]
	trusted := n.Options["com.docker.network.bridge.trusted_host_interfaces"]
	for _, f := range []struct {
		mode    string
		address netip.Addr
	}{
		{n.Options["com.docker.network.bridge.gateway_mode_ipv4"], s.IPAddress},
		{n.Options["com.docker.network.bridge.gateway_mode_ipv6"], s.GlobalIPv6Address},
	} {
		all := func(why string) {
			rows = append(rows, &Exposure{name, "all that it opens", f.address.String(), "the network " + lan + why})
		}
		if !f.address.IsValid() {
			continue
		}
		if (n.Driver == "macvlan" || n.Driver == "ipvlan") && !n.Internal {
			all(" is on a device of the host's (" + n.Driver + ")")
		}
		if n.Driver != "bridge" {
			continue
		}
		if f.mode == "routed" && !n.Internal {
			seen := map[string]bool{}
			for _, p := range ports {
				port := fmt.Sprintf("%d/%s", p.PrivatePort, p.Type)
				if p.PublicPort != 0 && p.IP.Is4() == f.address.Is4() && !seen[port] {
					seen[port] = true
					rows = append(rows, &Exposure{name, port, Place(f.address, p.PrivatePort), "published, and the network " + lan + " has the gateway mode routed"})
				}
			}
		}
		if f.mode == "nat-unprotected" && !n.Internal {
			all(" has the gateway mode nat-unprotected")
		}
		if trusted != "" {
			all(" trusts what comes in by " + trusted)
		}
	}
	return rows
}
