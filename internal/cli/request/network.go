package request

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/opts"
	"github.com/docker/go-connections/nat"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"hezi/internal/cli/format"
)

// Published reads values of -p: the containers' ports, and where they are published.
func Published(specs []string) (network.PortSet, network.PortMap, error) {
	exposed, published := network.PortSet{}, network.PortMap{}
	var lan, others []string
	for _, spec := range specs {
		if rest, ok := strings.CutPrefix(spec, "lan:"); ok {
			if !strings.Contains(rest, ":") { // lan:80 is 80 of the container's
				rest = ":" + rest
			}
			if strings.Count(rest, ":") > 1 {
				return nil, nil, fmt.Errorf("-p %s: the scope lan stands in place of an address: -p lan:8080:80", spec)
			}
			lan = append(lan, "0.0.0.0:"+rest)
			continue
		}
		others = append(others, spec)
	}
	short, err := shortPorts(others)
	if err != nil {
		return nil, nil, err
	}
	if err := publish(short, netip.Addr{}, exposed, published); err != nil {
		return nil, nil, err
	}
	return exposed, published, publish(lan, format.Lan(), exposed, published)
}

// publish reads specs of the short form; scope, if it is valid, is where they are
// published in place of what they say.
func publish(specs []string, scope netip.Addr, exposed network.PortSet, published network.PortMap) error {
	parsed, bindings, err := nat.ParsePortSpecs(specs)
	if err != nil {
		return err
	}
	for port := range parsed {
		p, err := network.ParsePort(string(port))
		if err != nil {
			return err
		}
		exposed[p] = struct{}{}
	}
	for port, list := range bindings {
		p, err := network.ParsePort(string(port))
		if err != nil {
			return err
		}
		if published[p] == nil {
			published[p] = []network.PortBinding{}
		}
		for _, b := range list {
			binding := network.PortBinding{HostIP: scope, HostPort: b.HostPort}
			if b.HostIP != "" && !scope.IsValid() {
				if binding.HostIP, err = netip.ParseAddr(b.HostIP); err != nil {
					return fmt.Errorf("-p %s: %w", b.HostIP, err)
				}
			}
			published[p] = append(published[p], binding)
		}
	}
	return nil
}

// ports sets what -p and --expose give.
func (n *networking) ports(config *container.Config, host *container.HostConfig) error {
	exposed, published, err := Published(n.publish.GetSlice())
	if err != nil {
		return err
	}
	config.ExposedPorts, host.PortBindings = exposed, published
	for _, e := range n.expose.GetSlice() {
		span, err := network.ParsePortRange(e)
		if err != nil {
			return fmt.Errorf("invalid range format for --expose: %w", err)
		}
		for p := range span.All() {
			config.ExposedPorts[p] = struct{}{}
		}
	}
	return nil
}

// shortPorts turns published=80,target=8080,protocol=tcp into the short form.
func shortPorts(specs []string) ([]string, error) {
	short := make([]string, 0, len(specs))
	for _, spec := range specs {
		if rest, ok := strings.CutPrefix(spec, "local:"); ok { // a scope of Hezi's own
			spec = "127.0.0.1:" + rest
			if !strings.Contains(rest, ":") { // local:80 is 80 of the container's
				spec = "127.0.0.1::" + rest
			}
		}
		if !strings.Contains(spec, "=") {
			short = append(short, spec)
			continue
		}
		param := map[string]string{"protocol": "tcp"}
		for field := range strings.SplitSeq(spec, ",") {
			k, v, ok := strings.Cut(field, "=")
			if !ok || k == "" {
				return nil, fmt.Errorf("invalid publish opts format (should be name=value but got '%s')", field)
			}
			switch k {
			case "published", "target", "protocol":
				param[k] = v
			case "mode":
				if v != "host" && v != "ingress" {
					return nil, fmt.Errorf("invalid publish mode '%s' (must be host)", v)
				}
			default:
				return nil, fmt.Errorf("unknown publish option '%s' in '%s' (known: published, target, protocol)", k, spec)
			}
		}
		short = append(short, param["published"]+":"+param["target"]+"/"+param["protocol"])
	}
	return short, nil
}

// endpoints are the networks of the container. What the flags beside --network
// say belongs to the first of them.
func (n *networking) endpoints() (map[string]*network.EndpointSettings, error) {
	if n.mac != "" {
		if _, err := hardwareAddress(n.mac); err != nil {
			return nil, err
		}
	}
	attachments := n.mode.Value()
	named := len(attachments) > 0
	if !named {
		attachments = []opts.NetworkAttachmentOpts{{Target: "default"}}
	}
	all := make(map[string]*network.EndpointSettings, len(attachments))
	own, others := false, false
	for i, a := range attachments {
		if named && container.NetworkMode(a.Target).IsUserDefined() {
			own = true
		} else {
			others = true
		}
		if i == 0 {
			if err := n.complete(&a); err != nil {
				return nil, errdefs.ErrInvalidArgument.WithMessage(err.Error())
			}
		}
		ep, err := endpoint(a)
		if err != nil {
			return nil, err
		}
		if _, ok := all[a.Target]; ok {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("network %q is specified multiple times", a.Target))
		}
		if named && len(attachments) == 1 && reflect.ValueOf(*ep).IsZero() {
			continue // the engine makes it
		}
		all[a.Target] = ep
	}
	if own && others {
		return nil, errdefs.ErrInvalidArgument.WithMessage("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
	}
	return all, nil
}

// complete merges --network-alias, --link, --ip, --ip6, --mac-address and
// --link-local-ip into an attachment.
func (n *networking) complete(a *opts.NetworkAttachmentOpts) error {
	switch {
	case len(a.Aliases) > 0 && n.aliases.Len() > 0:
		return errors.New("conflicting options: cannot specify both --network-alias and per-network alias")
	case len(a.Links) > 0 && n.links.Len() > 0:
		return errors.New("conflicting options: cannot specify both --link and per-network links")
	case a.IPv4Address.IsValid() && n.ip != nil:
		return errors.New("conflicting options: cannot specify both --ip and per-network IPv4 address")
	case a.IPv6Address.IsValid() && n.ip6 != nil:
		return errors.New("conflicting options: cannot specify both --ip6 and per-network IPv6 address")
	case a.MacAddress != "" && n.mac != "":
		return errors.New("conflicting options: cannot specify both --mac-address and per-network MAC address")
	case len(a.LinkLocalIPs) > 0 && n.linkLocal.Len() > 0:
		return errors.New("conflicting options: cannot specify both --link-local-ip and per-network link-local IP addresses")
	}
	if n.aliases.Len() > 0 {
		a.Aliases = append([]string{}, n.aliases.GetSlice()...)
	}
	// On a network of one's own a link is an alias; on the default bridge it
	// is in the host's configuration.
	if container.NetworkMode(a.Target).IsUserDefined() && n.links.Len() > 0 {
		a.Links = append([]string{}, n.links.GetSlice()...)
	}
	if n.ip != nil {
		ip, ok := netip.AddrFromSlice(n.ip.To4())
		if !ok {
			return fmt.Errorf("--ip %s is not an IPv4 address; write it with --ip6", n.ip)
		}
		a.IPv4Address = ip
	}
	if n.ip6 != nil {
		ip, ok := netip.AddrFromSlice(n.ip6.To16())
		if !ok || n.ip6.To4() != nil {
			return fmt.Errorf("--ip6 %s is not an IPv6 address; write it with --ip", n.ip6)
		}
		a.IPv6Address = ip
	}
	if n.mac != "" {
		a.MacAddress = n.mac
	}
	if n.linkLocal.Len() > 0 {
		a.LinkLocalIPs = addresses(n.linkLocal.GetSlice())
	}
	return nil
}

func endpoint(a opts.NetworkAttachmentOpts) (*network.EndpointSettings, error) {
	if strings.TrimSpace(a.Target) == "" {
		return nil, errors.New("no name set for network")
	}
	if !container.NetworkMode(a.Target).IsUserDefined() {
		if len(a.Aliases) > 0 {
			return nil, errors.New("network-scoped aliases are only supported for user-defined networks")
		}
		if len(a.Links) > 0 {
			return nil, errors.New("links are only supported for user-defined networks")
		}
	}
	ep := &network.EndpointSettings{GwPriority: a.GwPriority, Aliases: a.Aliases, Links: a.Links}
	if len(a.DriverOpts) > 0 {
		ep.DriverOpts = a.DriverOpts
	}
	if a.IPv4Address.IsValid() || a.IPv6Address.IsValid() || len(a.LinkLocalIPs) > 0 {
		ep.IPAMConfig = &network.EndpointIPAMConfig{IPv4Address: a.IPv4Address, IPv6Address: a.IPv6Address, LinkLocalIPs: a.LinkLocalIPs}
	}
	if a.MacAddress != "" {
		mac, err := hardwareAddress(a.MacAddress)
		if err != nil {
			return nil, err
		}
		ep.MacAddress = mac
	}
	return ep, nil
}

// addresses were validated when the flags were read.
func addresses(list []string) []netip.Addr {
	var ips []netip.Addr
	for _, s := range list {
		if ip, err := netip.ParseAddr(s); err == nil {
			ips = append(ips, ip)
		}
	}
	return ips
}
