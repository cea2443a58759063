// Package options reads what is asked of a network's driver: the options of
// network create and of default-network-opts, by Docker's names. Options of other
// names are kept with the network and mean nothing, as for Docker.
package options

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// The names of options.
const (
	EnableIPv4            = "com.docker.network.enable_ipv4"
	EnableIPv6            = "com.docker.network.enable_ipv6"
	MTU                   = "com.docker.network.driver.mtu"
	IfacePrefix           = "com.docker.network.container_iface_prefix"
	HostIPv4              = "com.docker.network.host_ipv4"
	HostIPv6              = "com.docker.network.host_ipv6"
	BridgeName            = "com.docker.network.bridge.name"
	EnableICC             = "com.docker.network.bridge.enable_icc"
	EnableMasquerade      = "com.docker.network.bridge.enable_ip_masquerade"
	HostBindingIPv4       = "com.docker.network.bridge.host_binding_ipv4"
	GatewayModeIPv4       = "com.docker.network.bridge.gateway_mode_ipv4"
	GatewayModeIPv6       = "com.docker.network.bridge.gateway_mode_ipv6"
	TrustedHostInterfaces = "com.docker.network.bridge.trusted_host_interfaces"
	InhibitIPv4           = "com.docker.network.bridge.inhibit_ipv4"
	DefaultBridge         = "com.docker.network.bridge.default_bridge"

	parent      = "parent"
	macvlanMode = "macvlan_mode"
	ipvlanMode  = "ipvlan_mode"
	ipvlanFlag  = "ipvlan_flag"

	// Of one endpoint.
	IfName  = "com.docker.network.endpoint.ifname"
	Sysctls = "com.docker.network.endpoint.sysctls"
)

// GatewayMode is how a network's containers are reached from outside of it.
type GatewayMode string

// The modes. The zero value is NAT.
const (
	NAT            GatewayMode = "nat"
	NATUnprotected GatewayMode = "nat-unprotected"
	Routed         GatewayMode = "routed"
	Isolated       GatewayMode = "isolated"
)

// Bridge are the options of the driver bridge.
type Bridge struct {
	Name         string // of the device
	MTU          int    // bytes; 0: the uplink's
	ICC          bool
	Masquerade   bool
	Binding      netip.Addr // where ports are published without an address
	Mode4, Mode6 GatewayMode
	Trusted      []string // the host's interfaces that reach containers directly
	InhibitIPv4  bool     // the device gets no IPv4 address
	HostIPv4     netip.Addr
	HostIPv6     netip.Addr
	IfacePrefix  string
}

// ParseBridge reads them. Error: InvalidArgument.
func ParseBridge(o map[string]string) (Bridge, error) {
	b := Bridge{ICC: true, Masquerade: true, Mode4: NAT, Mode6: NAT, IfacePrefix: "eth"}
	p := parser{o: o}
	p.text(BridgeName, &b.Name)
	p.number(MTU, &b.MTU)
	p.flag(EnableICC, &b.ICC)
	p.flag(EnableMasquerade, &b.Masquerade)
	p.address(HostBindingIPv4, &b.Binding)
	p.mode(GatewayModeIPv4, &b.Mode4)
	p.mode(GatewayModeIPv6, &b.Mode6)
	p.flag(InhibitIPv4, &b.InhibitIPv4)
	p.address(HostIPv4, &b.HostIPv4)
	p.address(HostIPv6, &b.HostIPv6)
	p.text(IfacePrefix, &b.IfacePrefix)
	var discard bool
	p.flag(DefaultBridge, &discard)
	if v := o[TrustedHostInterfaces]; v != "" {
		b.Trusted = strings.FieldsFunc(v, func(r rune) bool { return r == ':' })
	}
	if p.err != nil {
		return b, p.err
	}
	for _, name := range append(slices.Clone(b.Trusted), b.Name, b.IfacePrefix) {
		if name != "" && !deviceName(name) {
			return b, invalid("%q is no name of a network device: at most 15 letters, without '/', ':' and spaces", name)
		}
	}
	if len(b.IfacePrefix) > 12 {
		return b, invalid("failed to parse %s value: %s (at most 12 letters, as a number follows)", IfacePrefix, b.IfacePrefix)
	}
	return b, nil
}

// Vlan are the options of the drivers macvlan and ipvlan.
type Vlan struct {
	Parent string // device of the host; "": none, the network is internal
	Mode   string
	Flag   string // of ipvlan
	MTU    int
}

// ParseMacvlan reads those of macvlan. Error: InvalidArgument.
func ParseMacvlan(o map[string]string) (Vlan, error) {
	v := Vlan{Mode: "bridge"}
	p := parser{o: o}
	p.text(parent, &v.Parent)
	p.number(MTU, &v.MTU)
	p.oneOf(macvlanMode, &v.Mode, "bridge", "private", "vepa", "passthru")
	return v, p.err
}

// ParseIpvlan reads those of ipvlan. Error: InvalidArgument.
func ParseIpvlan(o map[string]string) (Vlan, error) {
	v := Vlan{Mode: "l2", Flag: "bridge"}
	p := parser{o: o}
	p.text(parent, &v.Parent)
	p.number(MTU, &v.MTU)
	p.oneOf(ipvlanMode, &v.Mode, "l2", "l3", "l3s")
	p.oneOf(ipvlanFlag, &v.Flag, "bridge", "private", "vepa")
	return v, p.err
}

// Endpoint are the options of one endpoint.
type Endpoint struct {
	Name    string            // of the interface inside; "": the next of the network's prefix
	Sysctls map[string]string // IFNAME stands for the interface's name
}

// ParseEndpoint reads them. Error: InvalidArgument.
func ParseEndpoint(o map[string]string) (Endpoint, error) {
	e := Endpoint{Name: o[IfName]}
	if e.Name != "" && (!deviceName(e.Name) || e.Name == "lo") {
		return e, invalid("invalid %s %q: at most 15 letters, without '/', ':' and spaces, and not lo", IfName, e.Name)
	}
	for _, s := range strings.Split(o[Sysctls], ",") {
		if s == "" {
			continue
		}
		key, value, ok := strings.Cut(s, "=")
		parts := strings.Split(key, ".")
		// net.FAMILY.conf|neigh|mpls.IFNAME.NAME: nothing but the interface's own settings.
		if !ok || len(parts) != 5 || parts[0] != "net" || parts[3] != "IFNAME" || strings.ContainsAny(key, "/") ||
			slices.Contains(parts, "") || slices.Contains(parts, "..") {
			return e, invalid("invalid sysctl %q in %s: write it as net.ipv4.conf.IFNAME.log_martians=1", s, Sysctls)
		}
		if e.Sysctls == nil {
			e.Sysctls = map[string]string{}
		}
		e.Sysctls["net/"+strings.Join(parts[1:], "/")] = value
	}
	return e, nil
}

// Bool reads one option; ok is false if it is not there.
func Bool(o map[string]string, name string) (value, ok bool, err error) {
	v, ok := o[name]
	if !ok {
		return false, false, nil
	}
	if value, err = strconv.ParseBool(v); err != nil {
		return false, true, invalid("driver-opt %q is not a valid bool", name)
	}
	return value, true, nil
}

// deviceName says whether the kernel takes a name for a device (dev_valid_name).
func deviceName(s string) bool {
	return s != "" && len(s) <= 15 && s != "." && s != ".." && !strings.ContainsAny(s, "/: \t\n\v\f\r%\x00")
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// parser reads options until one is wrong.
type parser struct {
	o   map[string]string
	err error
}

func (p *parser) fail(name, why string) {
	if p.err == nil {
		p.err = invalid("failed to parse %s value: %s (%s)", name, p.o[name], why)
	}
}

func (p *parser) text(name string, to *string) {
	if v := p.o[name]; v != "" {
		*to = v
	}
}

func (p *parser) number(name string, to *int) {
	v, ok := p.o[name]
	if !ok {
		return
	}
	n, err := strconv.Atoi(v)
	switch {
	case err != nil:
		p.fail(name, "not a number")
	case n < 0 || n > 65535 || n > 0 && n < 68:
		p.fail(name, "from 68 to 65535 bytes")
	default:
		*to = n
	}
}

func (p *parser) flag(name string, to *bool) {
	v, ok := p.o[name]
	if !ok {
		return
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		p.fail(name, "true or false")
		return
	}
	*to = b
}

func (p *parser) address(name string, to *netip.Addr) {
	v, ok := p.o[name]
	if !ok || v == "" {
		return
	}
	a, err := netip.ParseAddr(v)
	if err != nil {
		p.fail(name, "no address")
		return
	}
	*to = a.Unmap()
}

func (p *parser) mode(name string, to *GatewayMode) {
	s := string(*to)
	p.oneOf(name, &s, string(NAT), string(NATUnprotected), string(Routed), string(Isolated))
	*to = GatewayMode(s)
}

func (p *parser) oneOf(name string, to *string, values ...string) {
	v, ok := p.o[name]
	if !ok || v == "" {
		return
	}
	if !slices.Contains(values, v) {
		p.fail(name, "one of "+strings.Join(values, ", "))
		return
	}
	*to = v
}
