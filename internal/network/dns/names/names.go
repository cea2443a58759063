// Package names knows what containers are called in their networks. A container
// finds what is in its own networks, and nothing else:
//
//	NAME          in each of its networks, in their order
//	NAME.NETWORK  in the one of that name; names and networks may have dots
//	ALIAS         of a link, which is the container's own name for another
//
// Names are compared without regard to case (RFC 4343). What a look-up costs does
// not depend on how many containers there are.
package names

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// Place is a container's in one network.
type Place struct {
	Network string // its id
	Label   string // its name
	// Names by which others find the container there; the first is that of the
	// container, which reverse look-ups answer.
	Names     []string
	Addresses []netip.Addr
	// Links are names that the container alone has for others: alias to name.
	Links map[string]string
}

// Table is safe for concurrent use.
type Table struct {
	mu      sync.RWMutex
	zones   map[string]*zone   // by the network's id
	clients map[string][]place // by the container's id
}

type zone struct {
	label   string // in lower case
	shown   string
	hosts   map[string][]host
	reverse map[netip.Addr]host
	members int
}

type host struct {
	container string
	name      string
	addresses []netip.Addr
}

type place struct {
	zone *zone
	id   string
	as   Place
}

// New makes an empty table.
func New() *Table {
	return &Table{zones: map[string]*zone{}, clients: map[string][]place{}}
}

// Set says where a container is now; what it had before is forgotten. Without
// places it is gone.
func (t *Table) Set(container string, places ...Place) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.clients[container] {
		t.leaveLocked(container, p)
	}
	delete(t.clients, container)
	var list []place
	for _, as := range places {
		z := t.zones[as.Network]
		if z == nil {
			z = &zone{label: fold(as.Label), shown: as.Label, hosts: map[string][]host{}, reverse: map[netip.Addr]host{}}
			t.zones[as.Network] = z
		}
		links := make(map[string]string, len(as.Links))
		for alias, name := range as.Links {
			links[fold(alias)] = fold(name)
		}
		folded := make([]string, 0, len(as.Names))
		for _, n := range as.Names {
			if n = fold(n); n != "" && !slices.Contains(folded, n) {
				folded = append(folded, n)
			}
		}
		h := host{container: container, addresses: slices.Clone(as.Addresses)}
		if len(as.Names) > 0 {
			h.name = as.Names[0]
		}
		as.Names, as.Links, as.Addresses = folded, links, h.addresses
		for _, n := range folded {
			z.hosts[n] = append(z.hosts[n], h)
		}
		for _, a := range h.addresses {
			z.reverse[a] = h
		}
		z.members++
		list = append(list, place{zone: z, id: as.Network, as: as})
	}
	if len(list) > 0 {
		t.clients[container] = list
	}
}

func (t *Table) leaveLocked(container string, p place) {
	z := p.zone
	for _, n := range p.as.Names {
		left := slices.DeleteFunc(z.hosts[n], func(h host) bool { return h.container == container })
		if z.hosts[n] = left; len(left) == 0 {
			delete(z.hosts, n)
		}
	}
	for _, a := range p.as.Addresses {
		if z.reverse[a].container == container { // it may be another's by now
			delete(z.reverse, a)
		}
	}
	if z.members--; z.members == 0 {
		delete(t.zones, p.id)
	}
}

// Lookup answers a container's question for a name (in any case, without the last
// dot): whether there is one, and its addresses of a family.
func (t *Table) Lookup(container, name string, v6 bool) (list []netip.Addr, found bool) {
	name = fold(name)
	t.mu.RLock()
	defer t.mu.RUnlock()
	places := t.clients[container]
	ask := func(name, label string) bool {
		for _, p := range places {
			if label != "" && p.zone.label != label {
				continue
			}
			in := name
			if real, ok := p.as.Links[name]; ok {
				in = real
			}
			for _, h := range p.zone.hosts[in] {
				found = true
				for _, a := range h.addresses { // no other in the network has it
					if a.Is6() == v6 {
						list = append(list, a)
					}
				}
			}
			if len(list) > 0 {
				return true
			}
		}
		return false
	}
	if name == "" || ask(name, "") {
		return list, found
	}
	for at := strings.LastIndexByte(name, '.'); at > 0; at = strings.LastIndexByte(name[:at], '.') {
		if ask(name[:at], name[at+1:]) {
			break
		}
	}
	return list, found
}

// Reverse answers a container's question for an address: NAME.NETWORK.
func (t *Table) Reverse(container string, a netip.Addr) (name string, found bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, p := range t.clients[container] {
		if h, ok := p.zone.reverse[a]; ok && h.name != "" {
			return h.name + "." + p.zone.shown, true
		}
	}
	return "", false
}

// fold makes names comparable; only letters of ASCII have a case in DNS.
func fold(s string) string {
	s = strings.TrimSuffix(s, ".")
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if 'A' <= b[i] && b[i] <= 'Z' {
					b[i] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}
