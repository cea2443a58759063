package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"hezi/internal/network/ipam"
	"hezi/internal/network/options"
)

// Network is what the configuration says of containers' networks.
type Network struct {
	Bridge     string // a bridge of the host's as the default network; "": Hezi's own
	BIP        string // the default bridge's address with prefix length
	BIP6       string
	FixedCIDR  string // the part of it that containers get
	FixedCIDR6 string
	Gateway    string // default route of containers on the default bridge; "": the bridge
	Gateway6   string
	IP         string // default address of published ports
	IPForward  bool
	IPMasq     bool
	IPTables   bool // keep firewall rules of IPv4
	IP6Tables  bool // the same of IPv6
	// DirectRouting: other machines reach published ports at containers' own addresses too.
	DirectRouting bool
	// UserlandProxy: published ports answer at ::1.
	UserlandProxy bool
	// PublishPolicy is "bypass" or "firewall": what comes for published ports passes the
	// host's input rules.
	PublishPolicy string
	// BridgeNetfilter is "host" or "off": whether what stays within a bridge passes the IP
	// firewall is as the host has it, or it does not.
	BridgeNetfilter string
	IPv6            bool // the default bridge has it
	ICC             bool // containers of the default bridge reach each other
	MTU             int  // 0: the default route's
	// Pools are what networks without --subnet get theirs of; nil: ipam.DefaultPools.
	Pools []ipam.Pool
	// NetworkOptions by driver are those of networks that do not say them.
	NetworkOptions map[string]map[string]string
	// HostGateways are what host-gateway means in --add-host, of IPv4 and IPv6; none:
	// the default bridge's addresses.
	HostGateways []string
}

// addressPools is default-address-pools: objects, as a flag base=CIDR,size=BITS.
type addressPools struct{ p *[]ipam.Pool }

func (v *addressPools) Type() string     { return "pool" }
func (v *addressPools) copyFrom(o value) { *v.p = slices.Clone(*o.(*addressPools).p) }
func (v *addressPools) String() string {
	var all []string
	for _, p := range *v.p {
		all = append(all, fmt.Sprintf("base=%s,size=%d", p.Base, p.Size))
	}
	return strings.Join(all, " ")
}

func (v *addressPools) Set(s string) error {
	var p ipam.Pool
	for field := range strings.SplitSeq(s, ",") {
		key, val, _ := strings.Cut(field, "=")
		var err error
		switch strings.ToLower(key) {
		case "base":
			p.Base, err = netip.ParsePrefix(val)
		case "size":
			p.Size, err = strconv.Atoi(val)
		default:
			err = fmt.Errorf("unknown key %q", key)
		}
		if err != nil {
			return fmt.Errorf("%w; base=NETWORK,size=BITS is needed, as in base=10.10.0.0/16,size=24", err)
		}
	}
	return v.add(p)
}

func (v *addressPools) add(p ipam.Pool) error {
	p.Base = p.Base.Masked() // as dockerd reads it
	if err := p.Check(); err != nil {
		return err
	}
	*v.p = append(*v.p, p)
	return nil
}

func (v *addressPools) setJSON(b json.RawMessage) error {
	var list []struct {
		Base netip.Prefix `json:"base"`
		Size int          `json:"size"`
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return fmt.Errorf(`a list of pools is needed, as in [{"base": "10.10.0.0/16", "size": 24}] (%w)`, err)
	}
	for _, p := range list {
		if err := v.add(ipam.Pool(p)); err != nil {
			return err
		}
	}
	return nil
}

// driverOptions is default-network-opts: an object of objects, as a flag
// DRIVER=OPTION=VALUE.
type driverOptions struct{ p *map[string]map[string]string }

func (v *driverOptions) Type() string     { return "option" }
func (v *driverOptions) copyFrom(o value) { *v.p = maps.Clone(*o.(*driverOptions).p) }
func (v *driverOptions) String() string {
	var all []string
	for driver, opts := range *v.p {
		for k, val := range opts {
			all = append(all, driver+"="+k+"="+val)
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func (v *driverOptions) Set(s string) error {
	driver, rest, _ := strings.Cut(s, "=")
	key, val, ok := strings.Cut(rest, "=")
	if driver == "" || key == "" || !ok {
		return fmt.Errorf("DRIVER=OPTION=VALUE is needed, as in bridge=com.docker.network.driver.mtu=1450")
	}
	if *v.p == nil {
		*v.p = map[string]map[string]string{}
	}
	if (*v.p)[driver] == nil {
		(*v.p)[driver] = map[string]string{}
	}
	(*v.p)[driver][key] = val
	return nil
}

func (v *driverOptions) setJSON(b json.RawMessage) error {
	if json.Unmarshal(b, v.p) != nil {
		return fmt.Errorf(`an object of drivers is needed, as in {"bridge": {"com.docker.network.driver.mtu": "1450"}}`)
	}
	return nil
}

// oneOrMore is a list that the file may also write as a single text.
type oneOrMore struct{ list }

func (v *oneOrMore) copyFrom(o value) { v.list.copyFrom(&o.(*oneOrMore).list) }
func (v *oneOrMore) setJSON(b json.RawMessage) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		return v.Set(one)
	}
	return v.list.setJSON(b)
}

func (c *Config) checkNetwork() error {
	var bip netip.Prefix
	if c.BIP != "" {
		p, err := netip.ParsePrefix(c.BIP)
		switch {
		case err != nil || !p.Addr().Is4():
			return fmt.Errorf("bip %q: an IPv4 address with a prefix length is needed, as in 10.88.0.1/16", c.BIP)
		case p.Addr().IsLoopback() || p.Addr().IsMulticast() || p.Addr().IsLinkLocalUnicast():
			return fmt.Errorf("bip %q: containers cannot have addresses of that kind (loopback, multicast or of the link)", c.BIP)
		case p.Bits() < 8 || p.Bits() > 29:
			return fmt.Errorf("bip %q: a prefix length from 8 to 29 is needed", c.BIP)
		case p.Addr() == p.Masked().Addr():
			return fmt.Errorf("bip %q is the network's own address: the bridge needs one of those in it, as in %s/%d", c.BIP, p.Addr().Next(), p.Bits())
		case !p.Contains(p.Addr().Next()):
			return fmt.Errorf("bip %q is the network's broadcast address: the bridge needs one of those in it, as in %s/%d", c.BIP, p.Masked().Addr().Next(), p.Bits())
		}
		bip = p
	}
	if c.BIP6 != "" {
		if p, err := netip.ParsePrefix(c.BIP6); err != nil || !p.Addr().Is6() || p.Bits() > 125 || p.Addr() == p.Masked().Addr() {
			return fmt.Errorf("bip6 %q: an IPv6 address with a prefix length is needed, as in fd00:88::1/64", c.BIP6)
		}
	}
	if c.FixedCIDR6 != "" {
		if p, err := netip.ParsePrefix(c.FixedCIDR6); err != nil || !p.Addr().Is6() || p.Bits() > 125 {
			return fmt.Errorf("fixed-cidr-v6 %q: an IPv6 network is needed, as in fd00:88::/64", c.FixedCIDR6)
		} else if bip6, err := netip.ParsePrefix(c.BIP6); err == nil && (!bip6.Contains(p.Addr()) || p.Bits() < bip6.Bits()) {
			return fmt.Errorf("fixed-cidr-v6 %s is not a part of the bridge's network %s (bip6)", p, bip6.Masked())
		}
	}
	for _, g := range []struct {
		key, value string
		six        bool
	}{{"default-gateway", c.Gateway, false}, {"default-gateway-v6", c.Gateway6, true}} {
		if g.value == "" {
			continue
		}
		if a, err := netip.ParseAddr(g.value); err != nil || a.Is6() != g.six {
			return fmt.Errorf("%s %q: an address of that family is needed", g.key, g.value)
		}
	}
	switch {
	case c.Bridge != "" && (c.BIP != "" || c.BIP6 != ""):
		return fmt.Errorf("bridge and bip cannot be set together: the bridge %s of the host's has its address already", c.Bridge)
	case c.BridgeNetfilter != "host" && c.BridgeNetfilter != "off":
		return fmt.Errorf(`bridge-netfilter %q: "host" (the host's sysctls net.bridge.bridge-nf-call-* stay as they are) or "off" (they are set to 0, for all bridges of this host) is needed`, c.BridgeNetfilter)
	case c.PublishPolicy != "bypass" && c.PublishPolicy != "firewall":
		return fmt.Errorf(`publish-policy %q: "bypass" (published ports are open whatever the host's firewall says of its own ports, as Docker's are) or "firewall" (the host's input rules decide) is needed`, c.PublishPolicy)
	}
	for _, a := range c.HostGateways {
		if _, err := netip.ParseAddr(a); err != nil {
			return fmt.Errorf("host-gateway-ips %q: an IP address is needed", a)
		}
	}
	if err := c.checkNetworkOptions(); err != nil {
		return err
	}
	if c.FixedCIDR != "" {
		p, err := netip.ParsePrefix(c.FixedCIDR)
		switch {
		case err != nil || !p.Addr().Is4() || p.Bits() < 8 || p.Bits() > 30:
			return fmt.Errorf("fixed-cidr %q: an IPv4 network is needed, as in 10.88.1.0/24", c.FixedCIDR)
		case bip.IsValid() && (!bip.Contains(p.Addr()) || p.Bits() < bip.Bits()):
			return fmt.Errorf("fixed-cidr %s is not a part of the bridge's network %s (bip)", p, bip.Masked())
		}
	}
	if c.IP != "" {
		if a, err := netip.ParseAddr(c.IP); err != nil || !a.Is4() {
			return fmt.Errorf("ip %q: an IPv4 address is needed", c.IP)
		}
	}
	for _, l := range []struct {
		key  string
		list []string
	}{{"dns-search", c.DNSSearch}, {"dns-opts", c.DNSOpts}} {
		for _, v := range l.list {
			if v == "" || strings.ContainsAny(v, " \t\n#;") {
				return fmt.Errorf("%s %q: one word is needed", l.key, v)
			}
		}
	}
	for _, d := range c.DNS {
		if _, err := netip.ParseAddr(d); err != nil {
			return fmt.Errorf("dns %q: an IP address is needed", d)
		}
	}
	return nil
}

// checkNetworkOptions refuses options that no network of the driver could have.
func (c *Config) checkNetworkOptions() error {
	for driver, opts := range c.NetworkOptions {
		var err error
		switch driver {
		case "bridge":
			_, err = options.ParseBridge(opts)
		case "macvlan":
			_, err = options.ParseMacvlan(opts)
		case "ipvlan":
			_, err = options.ParseIpvlan(opts)
		default:
			err = fmt.Errorf("there are the drivers bridge, macvlan and ipvlan")
		}
		if err != nil {
			return fmt.Errorf("default-network-opts %s: %w", driver, err)
		}
	}
	return nil
}
