package network

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"hezi/internal/network/egress"
	"hezi/internal/network/flows"
	"hezi/internal/network/netns"
	"hezi/internal/network/nft"
)

// How long the addresses of a name may be sent to, whatever its servers say: programs
// use an answer a while after it has ended, and one that is good for ever is asked for
// again.
const (
	leastGood = 30 * time.Second
	mostGood  = time.Hour
)

// Egress is what is said of a container that is held to a policy, or of a network's.
type Egress struct {
	// Policy of the container's own, or of the network.
	Policy string `json:",omitempty"`
	// Networks are the policies of its networks, by name, which hold beside its own.
	Networks map[string]string `json:",omitempty"`
	// Denied packets, and bytes of these, since it joined its networks or its policy
	// was changed.
	DeniedPackets, DeniedBytes uint64
	// DeniedNames is how many questions for names were refused.
	DeniedNames uint64
}

// restrainer holds containers to their policies.
type restrainer struct{ *registry }

// policyOf reads a network's policy.
func policyOf(c Config) (*egress.Policy, error) {
	p, err := egress.Parse(c.Labels[egress.Label])
	if err != nil || p == nil {
		return nil, err
	}
	if c.Driver != driverBridge {
		return nil, invalid("the egress policy of the network %s cannot be enforced: what containers send by the driver %s does not pass this host: use the driver bridge", c.Name, c.Driver)
	}
	return p, nil
}

// policies hold for what is sent by a link: its network's, and the container's own.
func (m *member) policies(k *link) (list []*egress.Policy) {
	for _, p := range []*egress.Policy{k.lan.policy, m.egress} {
		if p != nil {
			list = append(list, p)
		}
	}
	return list
}

// restrained says whether a policy holds for any of the member's links.
func (m *member) restrained() bool {
	return slices.ContainsFunc(m.links, func(k *link) bool { return k.lan.Driver != driverNull && len(m.policies(k)) > 0 })
}

// guardOf is how the firewall holds a link to its policies; false if it has none.
// Error: InvalidArgument where it cannot.
func (c restrainer) guardOf(m *member, k *link) (g nft.Guard, ok bool, err error) {
	l, list := k.lan, m.policies(k)
	if len(list) == 0 || l.Driver == driverNull {
		return g, false, nil
	}
	if !l.bridged() {
		return g, false, invalid("an egress policy cannot be enforced in the network %s: what containers send by the driver %s does not pass this host: use a network of the driver bridge", l.Name, l.Driver)
	}
	if c.table == nil {
		return g, false, c.MayRestrain("none")
	}
	g = nft.Guard{Bridge: l.bridge, Port: k.outside, MAC: k.mac, Policies: list}
	has := l.bridgeConfig(0).Addresses
	for _, p := range []netip.Prefix{k.v4, k.v6} {
		if !p.IsValid() {
			continue
		}
		if v6 := p.Addr().Is6(); v6 && !c.o.IP6Tables || !v6 && !c.o.IPTables {
			return g, false, invalid("an egress policy cannot be enforced in the network %s: hezid keeps no firewall rules of the family of %s (iptables or ip6tables is false in its configuration)", l.Name, p.Masked())
		}
		if !slices.ContainsFunc(has, func(a netip.Prefix) bool { return a.Masked() == p.Masked() }) {
			return g, false, invalid("an egress policy cannot be enforced in the network %s: this host has no address of %s, and what containers send each other would have to pass it: use the gateway mode nat or routed, and no inhibit_ipv4", l.Name, p.Masked())
		}
		g.Addresses, g.Subnets = append(g.Addresses, p.Addr()), append(g.Subnets, p.Masked())
	}
	g.Addresses = append(g.Addresses, k.request.LinkLocal...)
	g.BridgeMAC, err = netns.KeepMAC(l.bridge)
	return g, true, err
}

// MayRestrain says why no policy of egress can be enforced. Error: InvalidArgument.
func (c *registry) MayRestrain(policy string) error {
	if policy == "" || policy == "all" || c.table != nil {
		return nil
	}
	return invalid("an egress policy cannot be enforced: hezid keeps no firewall rules (iptables is false in its configuration)")
}

// guard has the firewall hold the links to their policies: before anything is sent.
func (c restrainer) guard(m *member, links ...*link) error {
	if m.adopted && m.box == nil { // Sweep does it for all
		return nil
	}
	var list []nft.Guard
	for _, k := range links {
		g, ok, err := c.guardOf(m, k)
		if err != nil {
			return err
		}
		if ok {
			list = append(list, g)
		}
	}
	if len(list) == 0 {
		return nil
	}
	if err := (nft.Guards{Table: c.table}).SetGuards(nil, list); err != nil {
		return err
	}
	c.denials.begin(c.registry)
	return nil
}

// guarded are the ports of the links, of all if none is named, that policies hold for.
func (m *member) guarded(links ...*link) (ports []string) {
	if links == nil {
		links = m.links
	}
	for _, k := range links {
		if k.outside != "" && len(m.policies(k)) > 0 {
			ports = append(ports, k.outside)
		}
	}
	return ports
}

// unguard takes the rules of ports away, before others have their addresses.
func (c restrainer) unguard(ports ...string) {
	if c.table != nil && len(ports) > 0 {
		logFailure("take policies of egress out of nft", nft.Guards{Table: c.table}.SetGuards(ports, nil))
	}
}

// guardAdopted has the firewall hold all members that there are to their policies, and
// nobody else.
func (c restrainer) guardAdopted() error {
	c.mu.Lock()
	all := make([]*member, 0, len(c.members))
	for _, m := range c.members {
		all = append(all, m)
	}
	c.mu.Unlock()
	if c.table == nil {
		for _, m := range all {
			if m.restrained() {
				m.cut(errors.New("hezid keeps no firewall rules now (iptables is false)"), m.links...)
			}
		}
		return nil
	}
	var list []nft.Guard
	held := map[*member][]*link{}
	for _, m := range all {
		m.work.Lock()
		for _, k := range m.links {
			g, ok, err := c.guardOf(m, k)
			if err != nil {
				m.cut(err, k)
			}
			if ok && err == nil {
				list, held[m] = append(list, g), append(held[m], k)
			}
		}
		m.work.Unlock()
	}
	err := nft.Guards{Table: c.table}.AdoptGuards(list)
	for m, links := range held {
		if err != nil {
			m.cut(err, links...)
			continue
		}
		for _, k := range links { // a former engine may have cut it off
			logFailure("set a container's interface up", netns.Cut(m.path, k.outside, k.inside, false))
		}
	}
	if err != nil {
		return err
	}
	if len(list) > 0 {
		if err := c.denials.prime(c.table); err != nil {
			slog.Warn("what containers were denied before is told again", "error", err)
		}
		c.denials.begin(c.registry)
	}
	return nil
}

// cut takes the links of a container down that cannot be held to its policy.
func (m *member) cut(why error, links ...*link) {
	slog.Error("a running container cannot be held to its egress policy any more and is cut off from its network: restart hezid when that is mended, or the container", "container", m.id, "error", why)
	for _, k := range links {
		if k.lan.Driver != driverNull {
			logFailure("cut a container off", netns.Cut(m.path, k.outside, k.inside, true))
		}
	}
}

// mayAsk says which names a container may ask others for; nil: all.
func (c restrainer) mayAsk(m *member) func(name string) bool {
	if !m.restrained() {
		return nil
	}
	var lans []*egress.Policy
	for _, k := range m.links {
		lans = append(lans, k.lan.policy)
	}
	own, id := m.egress, m.id
	return func(name string) bool {
		if own.Resolves(name) && slices.ContainsFunc(lans, func(p *egress.Policy) bool { return p.Resolves(name) }) {
			return true
		}
		c.denials.name(c.registry, id, name)
		return false
	}
}

// admitted lets a container send to the addresses of a name that its policy has, before
// it hears of them.
func (c restrainer) admitted(ctx context.Context, container, name string, list []netip.Addr, ttl time.Duration) error {
	c.mu.Lock()
	m := c.members[container]
	var learned []nft.Learned
	if m != nil {
		for _, k := range m.links {
			for i, p := range m.policies(k) {
				for _, set := range p.Sets(name) {
					learned = append(learned, nft.Learned{Port: k.outside, Names: nft.Names{Policy: i, Ports: set}, Of: p})
				}
			}
		}
	}
	c.mu.Unlock()
	if len(learned) > 0 && c.table != nil {
		var addresses []netip.Addr
		for _, a := range list {
			a = a.Unmap()
			if _, ours := c.names.Lookup(container, name, a.Is6()); ours || !c.inner(a) {
				addresses = append(addresses, a)
			}
		}
		for i := range learned {
			learned[i].Addresses = addresses
		}
		if err := (nft.Guards{Table: c.table}).Learn(learned, min(max(ttl, leastGood), mostGood)); err != nil {
			return err
		}
	}
	if c.o.Admit != nil {
		return c.o.Admit(ctx, container, name, list, ttl)
	}
	return nil
}

// inner says whether an address is of this host or its surroundings. Whoever rules a name
// of the outside could lead there with it (DNS rebinding), also to the metadata of clouds
// (169.254.169.254): such an address is reached only if a policy has it as an address.
func (c restrainer) inner(a netip.Addr) bool {
	a, special := egress.Special(a)
	if special {
		return true
	}
	c.mu.Lock()
	for _, l := range c.lans {
		for _, s := range l.subnets() {
			if s.Contains(a) {
				c.mu.Unlock()
				return true
			}
		}
	}
	c.mu.Unlock()
	return flows.Local(a)
}

// SetEgress changes a running container's own policy; connections that it does not allow
// end. Errors: InvalidArgument, Conflict for a container without a namespace.
func (c *Controller) SetEgress(containerID, policy string) error {
	p, err := egress.Parse(policy)
	if err := cmp.Or(err, c.MayRestrain(policy)); err != nil {
		return err
	}
	c.mu.Lock()
	m := c.members[containerID]
	c.mu.Unlock()
	if m == nil {
		return conflict("container %s has no network namespace of its own: it does not run, or it is in the host's or another container's", containerID)
	}
	m.work.Lock()
	defer m.work.Unlock()
	c.mu.Lock()
	left := c.members[containerID] != m
	c.mu.Unlock()
	if left {
		return conflict("container %s has ended", containerID)
	}
	before, next := &member{links: m.links, egress: m.egress}, &member{id: m.id, links: m.links, egress: p}
	var del []string
	var add []nft.Guard
	for _, k := range m.links {
		g, ok, err := restrainer{&c.registry}.guardOf(next, k)
		switch {
		case err != nil:
			return err
		case ok:
			add = append(add, g)
		case len(m.policies(k)) > 0:
			del = append(del, k.outside)
		}
	}
	if c.table != nil {
		restrainer{&c.registry}.track(m, add)
		if err := (nft.Guards{Table: c.table}).SetGuards(del, add); err != nil {
			return err
		}
	}
	c.mu.Lock()
	m.egress = p
	c.mu.Unlock()
	if len(add) > 0 {
		c.denials.begin(&c.registry)
	}
	for _, k := range m.links { // it may have been cut off, and is held to a policy again or to none
		if k.lan.Driver != driverNull && len(before.policies(k)) > 0 {
			logFailure("set a container's interface up", netns.Cut(m.path, k.outside, k.inside, false))
		}
	}
	resolver{&c.registry}.moved(m)
	restrainer{&c.registry}.judgeMade(m, add)
	return nil
}

// track tells the kernel who made the connections that guards are to tell apart.
func (c restrainer) track(m *member, guards []nft.Guard) {
	for _, g := range guards {
		seen, err := flows.Look(m.path, g.Addresses, c.neighbours(m, g.Port))
		logFailure("keep the connections that others made to a container", errors.Join(err, seen.Track()))
	}
}

// neighbours finds the namespace of who has an address on the network of a port.
func (c restrainer) neighbours(m *member, port string) func(netip.Addr) string {
	return func(a netip.Addr) string {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, k := range m.links {
			for id, o := range k.lan.links {
				if n := c.members[id]; n != nil && k.outside == port && (o.v4.Addr() == a || o.v6.Addr() == a) {
					return n.path
				}
			}
		}
		return ""
	}
}

// judgeMade has the connections judged by guards that a container made before these.
func (c restrainer) judgeMade(m *member, guards []nft.Guard) {
	for _, g := range guards {
		seen, err := flows.Look(m.path, g.Addresses, c.neighbours(m, g.Port))
		err = errors.Join(err, nft.Guards{Table: c.table}.Judge(g.Port, seen.Made()), seen.Forget())
		logFailure("end connections that an egress policy does not allow any more", err)
		if err != nil { // what is not known ends, rather than go on where it may not
			for _, a := range g.Addresses {
				flows.ForgetOwn(a)
			}
		}
	}
}

// Egress is what is said of a running container; nil if no policy holds for it.
func (c *Controller) Egress(containerID string) *Egress {
	c.mu.Lock()
	m := c.members[containerID]
	if m == nil || !m.restrained() {
		c.mu.Unlock()
		return nil
	}
	e := &Egress{Policy: m.egress.String(), DeniedNames: c.denials.names(containerID)}
	ports := m.guarded()
	for _, k := range m.links {
		if k.lan.policy != nil {
			if e.Networks == nil {
				e.Networks = map[string]string{}
			}
			e.Networks[k.lan.Name] = k.lan.policy.String()
		}
	}
	c.mu.Unlock()
	e.count(c.table, ports)
	return e
}

func (e *Egress) count(t *nft.Table, ports []string) {
	if t == nil {
		return
	}
	for _, p := range ports {
		packets, bytes := nft.Guards{Table: t}.Denied(p)
		e.DeniedPackets, e.DeniedBytes = e.DeniedPackets+packets, e.DeniedBytes+bytes
	}
}
