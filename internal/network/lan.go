package network

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/network"

	"hezi/internal/network/egress"
	"hezi/internal/network/ipam"
	"hezi/internal/network/netns"
	"hezi/internal/network/nft"
	"hezi/internal/network/options"
)

// The drivers.
const (
	driverBridge  = "bridge"
	driverHost    = "host"
	driverNull    = "null"
	driverMacvlan = "macvlan"
	driverIpvlan  = "ipvlan"
)

// Docker's names of auxiliary addresses that are the default route of a bridge's
// containers.
const (
	gatewayAux4 = "DefaultGatewayIPv4"
	gatewayAux6 = "DefaultGatewayIPv6"
)

// Config is a network as it is stored.
type Config struct {
	ID, Name, Driver string
	Created          time.Time
	Labels, Options  map[string]string
	IPv4, IPv6       bool
	Internal         bool
	Attachable       bool
	IPAM             network.IPAM // with the subnets and gateways that were chosen
	// Made says that the device which the options name was not on the host before: it
	// goes with the network.
	Made bool `json:",omitempty"`
}

// lan is a network in work. Its Config never changes; the rest is guarded by the
// controller's lock.
type lan struct {
	Config
	o      options.Bridge
	v      options.Vlan
	policy *egress.Policy // of what all its containers may send to; nil: all
	bridge string         // the device's name
	index  int            // of the bridge, or of the parent device
	mtu    int
	direct bool // published ports are reached at containers' own addresses too

	ranges  []*ipam.Range
	gateway map[netip.Prefix]netip.Addr // by subnet: the bridge's, or of the parent's network
	leave   map[netip.Prefix]netip.Addr // by subnet, where containers' default route is another
	links   map[string]*link            // by container id
	pool    []*slot
	warm    int       // slots to keep ready
	wanted  time.Time // when one was asked for last
	dead    bool      // it is being removed
	shut    bool      // nobody joins any more: the network bridge, where there is to be none
}

// link is an interface of a container.
type link struct {
	lan      *lan
	inside   string
	outside  string // the host's end; "" of macvlan and ipvlan
	mac      net.HardwareAddr
	v4, v6   netip.Prefix
	priority int
	names    []string
	request  EndpointRequest
	sysctls  map[string]string
}

func newLan(c Config) (*lan, error) {
	l := &lan{Config: c, gateway: map[netip.Prefix]netip.Addr{}, leave: map[netip.Prefix]netip.Addr{}, links: map[string]*link{}}
	var err error
	switch c.Driver {
	case driverBridge:
		l.o, err = options.ParseBridge(c.Options)
		l.mtu = l.o.MTU
	case driverMacvlan:
		l.v, err = options.ParseMacvlan(c.Options)
		l.mtu = l.v.MTU
	case driverIpvlan:
		l.v, err = options.ParseIpvlan(c.Options)
		l.mtu = l.v.MTU
	}
	if err == nil {
		l.policy, err = policyOf(c)
	}
	if err != nil {
		return nil, err
	}
	for _, s := range c.IPAM.Config {
		reserved := []netip.Addr{s.Gateway}
		for name, a := range s.AuxAddress {
			reserved = append(reserved, a)
			if c.Driver == driverBridge && (name == gatewayAux4 || name == gatewayAux6) {
				l.leave[s.Subnet.Masked()] = a
			}
		}
		l.ranges = append(l.ranges, ipam.NewRange(s.Subnet, s.IPRange, reserved...))
		if s.Gateway.IsValid() {
			l.gateway[s.Subnet.Masked()] = s.Gateway
		}
	}
	return l, nil
}

// subnets of both families.
func (l *lan) subnets() (list []netip.Prefix) {
	for _, r := range l.ranges {
		list = append(list, r.Subnet)
	}
	return list
}

// bridged says whether it has a bridge of ours.
func (l *lan) bridged() bool { return l.Driver == driverBridge }

// bridgeConfig is how its bridge is to be.
func (l *lan) bridgeConfig(mtu int) netns.BridgeConfig {
	c := netns.BridgeConfig{Name: l.bridge, MTU: mtu}
	if l.mtu > 0 {
		c.MTU = l.mtu
	}
	for _, s := range l.subnets() {
		g := l.gateway[s]
		mode := l.o.Mode4
		if g.Is6() {
			mode = l.o.Mode6
		}
		if !g.IsValid() || g.Is4() && l.o.InhibitIPv4 || mode == options.Isolated && l.Internal {
			continue
		}
		c.Addresses = append(c.Addresses, netip.PrefixFrom(g, s.Bits()))
		if g.Is4() && c.MAC == nil {
			c.MAC = hardware(g)
		}
	}
	return c
}

// rules are what the firewall knows of it.
func (l *lan) rules(masquerade bool) nft.Network {
	family := func(mode options.GatewayMode, source netip.Addr) nft.Family {
		nat := mode == options.NAT || mode == options.NATUnprotected
		return nft.Family{Masquerade: nat && l.o.Masquerade && masquerade, Source: source, Open: mode == options.NATUnprotected, Routed: mode == options.Routed}
	}
	n := nft.Network{Bridge: l.bridge, Subnets: l.subnets(), Internal: l.Internal, ICC: l.o.ICC, Trusted: l.o.Trusted,
		V4: family(l.o.Mode4, l.o.HostIPv4), V6: family(l.o.Mode6, l.o.HostIPv6)}
	if !n.V4.Masquerade {
		n.V4.Source = netip.Addr{}
	}
	if !n.V6.Masquerade {
		n.V6.Source = netip.Addr{}
	}
	return n
}

// routes says whether the network leads out for a family, and by which gateway.
func (l *lan) routes(p netip.Prefix) (g netns.Gateway, ok bool) {
	if !p.IsValid() || l.Internal || l.Driver == driverNull {
		return g, false
	}
	g.V6 = p.Addr().Is6()
	if l.Driver == driverIpvlan && l.v.Mode != "l2" {
		return g, true // on the link
	}
	mode := l.o.Mode4
	if g.V6 {
		mode = l.o.Mode6
	}
	if l.bridged() && (mode == options.Isolated || !g.V6 && l.o.InhibitIPv4 && !l.gateway[p.Masked()].IsValid()) {
		return g, false
	}
	if g.Address = l.leave[p.Masked()]; !g.Address.IsValid() {
		g.Address = l.gateway[p.Masked()]
	}
	return g, g.Address.IsValid()
}

// takeLocked reserves addresses for an endpoint.
func (l *lan) takeLocked(req EndpointRequest) (v4, v6 netip.Prefix, err error) {
	for _, f := range []struct {
		v6, on bool
		want   netip.Addr
		to     *netip.Prefix
	}{{false, l.IPv4, req.IPv4, &v4}, {true, l.IPv6, req.IPv6, &v6}} {
		if !f.on {
			if f.want.IsValid() {
				err = invalid("network %s has no subnet of %s's family: no address %s can be given", l.Name, f.want, f.want)
			}
		} else {
			*f.to, err = l.oneLocked(f.v6, f.want)
		}
		if err != nil {
			l.freeLocked(v4, v6)
			return netip.Prefix{}, netip.Prefix{}, err
		}
	}
	return v4, v6, nil
}

func (l *lan) oneLocked(v6 bool, want netip.Addr) (netip.Prefix, error) {
	var full error
	for _, r := range l.ranges {
		if r.Subnet.Addr().Is6() != v6 || want.IsValid() && !r.Subnet.Contains(want) {
			continue
		}
		a, err := r.Take(want)
		if err == nil {
			return netip.PrefixFrom(a, r.Subnet.Bits()), nil
		}
		if want.IsValid() {
			return netip.Prefix{}, err
		}
		full = err
	}
	if full == nil {
		return netip.Prefix{}, invalid("invalid config for network %s: no configured subnet contains IP address %s: choose one of %s", l.Name, want, l.familyOf(want))
	}
	return netip.Prefix{}, unavailable("network %s has no address left: %v: remove containers, or make a network with a larger --subnet", l.Name, full)
}

// familyOf are the subnets of an address's family.
func (l *lan) familyOf(a netip.Addr) string {
	var list []string
	for _, s := range l.subnets() {
		if s.Addr().Is6() == a.Is6() {
			list = append(list, s.String())
		}
	}
	return strings.Join(list, " or ")
}

func (l *lan) freeLocked(list ...netip.Prefix) {
	for _, p := range list {
		for _, r := range l.ranges {
			if p.IsValid() && r.Subnet.Contains(p.Addr()) {
				r.Free(p.Addr())
			}
		}
	}
}

// useLocked marks addresses that somebody has.
func (l *lan) useLocked(list ...netip.Addr) {
	for _, a := range list {
		for _, r := range l.ranges {
			r.Use(a)
		}
	}
}

// small says whether its addresses are too few to keep some ready.
func (l *lan) small() bool {
	return slices.ContainsFunc(l.ranges, (*ipam.Range).Small)
}

// alias tells the next engine the addresses behind a host's end; one of IPv4 alone is told
// by the end's name.
func (k *link) alias() string {
	if !k.v6.IsValid() {
		return ""
	}
	var words []string
	for _, p := range []netip.Prefix{k.v4, k.v6} {
		if p.IsValid() {
			words = append(words, p.Addr().String())
		}
	}
	return strings.Join(words, " ")
}

// addressesOf reads an alias.
func addressesOf(alias string) (list []netip.Addr) {
	for _, w := range strings.Fields(alias) {
		if a, err := netip.ParseAddr(w); err == nil {
			list = append(list, a)
		}
	}
	return list
}

// mark is eight letters that name the link's device and the handle: of no two
// links with addresses of ours they are the same.
func (k *link) mark() string {
	if k.v4.IsValid() {
		b := k.v4.Addr().As4()
		return fmt.Sprintf("%08x", binary.BigEndian.Uint32(b[:]))
	}
	h := fnv.New32a()
	h.Write(k.v6.Addr().AsSlice())
	return fmt.Sprintf("%08x", h.Sum32())
}

// hardware makes a MAC from an address: the same address has the same MAC, so
// that neighbours' caches never go stale.
func hardware(a netip.Addr) net.HardwareAddr {
	b := a.AsSlice()
	if a.Is6() {
		h := fnv.New32a()
		h.Write(b)
		b = h.Sum(nil)
	}
	return append(net.HardwareAddr{0x02, 0x42}, b[len(b)-4:]...)
}

// endpoint is the link as the kernel is to make it; out says which default routes
// it has.
func (k *link) endpoint(l *lan, mtu int, out ...netns.Gateway) *netns.Endpoint {
	e := &netns.Endpoint{Kind: l.Driver, Parent: l.index, Outside: k.outside, Inside: k.inside, MAC: k.mac, MTU: mtu, Gateways: out, Alias: k.alias()}
	if l.mtu > 0 {
		e.MTU = l.mtu
	}
	for _, p := range []netip.Prefix{k.v4, k.v6} {
		if p.IsValid() {
			e.Addresses = append(e.Addresses, p)
		}
	}
	for _, a := range k.request.LinkLocal {
		bits := 16
		if a.Is6() {
			bits = 64
		}
		e.Addresses = append(e.Addresses, netip.PrefixFrom(a, bits))
	}
	e.Isolated, e.Sysctls = l.bridged() && !l.o.ICC, k.sysctls
	if l.Driver == driverMacvlan {
		e.Mode = macvlanModes[l.v.Mode]
	}
	if l.Driver == driverIpvlan {
		e.Mode, e.Flag = ipvlanModes[l.v.Mode], ipvlanFlags[l.v.Flag]
	}
	return e
}

// The kernel's numbers (linux/if_link.h).
var (
	macvlanModes = map[string]uint32{"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
	ipvlanModes  = map[string]uint32{"l2": 0, "l3": 1, "l3s": 2}
	ipvlanFlags  = map[string]uint16{"bridge": 0, "private": 1, "vepa": 2}
)

// gateways are the default routes that a link gives when it is the only one.
func (k *link) gateways(l *lan) (list []netns.Gateway) {
	for _, p := range []netip.Prefix{k.v4, k.v6} {
		if g, ok := l.routes(p); ok {
			list = append(list, g)
		}
	}
	return list
}
