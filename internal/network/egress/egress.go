// Package egress reads policies of what a container may send to. It is pure: the
// rules that hold a container to its policy are made by nft, and names get their
// addresses by the network's name service.
//
//	all
//	none
//	allow=ITEM,ITEM...
//
// An ITEM is an address, a network or a name, and may be followed by a port or ports
// and by a protocol: 10.0.0.0/8, 192.0.2.1:443, [2001:db8::/32]:53/udp, example.org:443,
// *.example.org, 10.0.0.0/8:8000-8010/tcp. A port without a protocol is one of TCP, UDP and
// SCTP; without both, all that is sent there is meant. A name that begins with *.
// stands for all below it, and not for itself; * alone for every name.
package egress

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Label is by which a container's or a network's policy is told: every client of
// Docker's API can set it, and inspect shows it.
const Label = "hezi.egress"

// MaxRules of one policy: a new connection is compared with one after the other.
const MaxRules = 256

// Policy is what may be sent to. Without rules nothing may; a nil one is none, and
// all may.
type Policy struct{ Rules []Rule }

// Rule allows a network, or the addresses that a name has.
type Rule struct {
	Prefix netip.Prefix
	Name   string // in lower case, without the last dot; "": Prefix
	Ports
}

// Ports of a protocol.
type Ports struct {
	Proto       uint8  // unix.IPPROTO_*; 0: any, with ports those that have ports
	First, Last uint16 // 0: every port
}

var protocols = map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP, "icmp": unix.IPPROTO_ICMP, "icmpv6": unix.IPPROTO_ICMPV6}

// Protocol is the name of one; its number if it has none here.
func Protocol(p uint8) string {
	for name, n := range protocols {
		if n == p {
			return name
		}
	}
	return strconv.Itoa(int(p))
}

// Parse reads a policy; nil is that of "" and of "all". Error: InvalidArgument.
func Parse(text string) (*Policy, error) {
	if text == "" || text == "all" {
		return nil, nil
	}
	if text == "none" {
		return &Policy{}, nil
	}
	list, ok := strings.CutPrefix(text, "allow=")
	if !ok {
		return nil, invalid(text, `write "none", "all", or "allow=" with addresses, networks and names, as in allow=10.0.0.0/8,example.org:443`)
	}
	p := &Policy{}
	for item := range strings.SplitSeq(list, ",") {
		r, err := parse(strings.TrimSpace(item))
		if err != nil {
			return nil, err
		}
		if !slices.Contains(p.Rules, r) {
			p.Rules = append(p.Rules, r)
		}
	}
	if len(p.Rules) > MaxRules {
		return nil, invalid(fmt.Sprintf("allow=(%d items)", len(p.Rules)), fmt.Sprintf("at most %d can be allowed: allow larger networks, or *.example.org for what is below a name", MaxRules))
	}
	return p, nil
}

func invalid(item, why string) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid egress policy: %q: %s", item, why))
}

func parse(item string) (r Rule, err error) {
	rest := item
	if i := strings.LastIndexByte(item, '/'); i >= 0 {
		word := item[i+1:]
		if n, ok := protocols[word]; ok {
			r.Proto, rest = n, item[:i]
		} else if strings.Trim(word, "0123456789:-]") != "" {
			return r, invalid(item, fmt.Sprintf("%q is no protocol: there are tcp, udp, sctp, icmp and icmpv6", word))
		}
	}
	place, port := rest, ""
	if inner, ok := strings.CutPrefix(rest, "["); ok {
		var found bool
		if place, port, found = strings.Cut(inner, "]"); !found {
			return r, invalid(item, "the ] is missing, as in [2001:db8::/32]:53")
		}
		if port != "" && !strings.HasPrefix(port, ":") || port == ":" {
			return r, invalid(item, "after ] comes a port, as in [2001:db8::/32]:53")
		}
		port = strings.TrimPrefix(port, ":")
	} else if strings.Count(rest, ":") == 1 {
		var found bool
		if place, port, found = strings.Cut(rest, ":"); found && port == "" {
			return r, invalid(item, "the port after : is missing")
		}
	}
	if port != "" {
		if r.First, r.Last, err = ports(port); err != nil {
			return r, invalid(item, err.Error())
		}
		if r.Proto == unix.IPPROTO_ICMP || r.Proto == unix.IPPROTO_ICMPV6 {
			return r, invalid(item, "ICMP has no ports")
		}
	}
	if a, err := netip.ParseAddr(place); err == nil {
		if a.Zone() != "" || a.Is4In6() {
			return r, invalid(item, "write the address without a zone, and one of IPv4 as such")
		}
		r.Prefix = netip.PrefixFrom(a, a.BitLen())
		return r, nil
	}
	if p, err := netip.ParsePrefix(place); err == nil {
		if p.Addr().Is4In6() {
			return r, invalid(item, "write a network of IPv4 as such")
		}
		if p != p.Masked() {
			return r, invalid(item, fmt.Sprintf("it has bits beyond its mask: write %s, or the address alone", p.Masked()))
		}
		r.Prefix = p
		return r, nil
	}
	if r.Name, err = name(place); err != nil {
		return r, invalid(item, err.Error())
	}
	return r, nil
}

func ports(s string) (first, last uint16, err error) {
	a, b, many := strings.Cut(s, "-")
	if !many {
		b = a
	}
	x, err1 := strconv.ParseUint(a, 10, 16)
	y, err2 := strconv.ParseUint(b, 10, 16)
	if err1 != nil || err2 != nil || x == 0 || y < x {
		return 0, 0, fmt.Errorf("%q is no port and no range of ports between 1 and 65535", s)
	}
	return uint16(x), uint16(y), nil
}

// name checks one, which is returned in lower case (RFC 1035, 2.3.4; underscores are
// used by services).
func name(s string) (string, error) {
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	labels := strings.Split(s, ".")
	if labels[0] == "*" {
		if labels = labels[1:]; len(labels) == 0 {
			return s, nil
		}
	}
	bad := len(s) > 253
	digits := true
	for _, l := range labels {
		bad = bad || l == "" || len(l) > 63 || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-_") != ""
		digits = digits && strings.Trim(l, "0123456789") == ""
	}
	if bad || digits {
		return "", fmt.Errorf("%q is no address, network (10.0.0.0/8) or name (example.org, *.example.org)", s)
	}
	return s, nil
}

// String is the policy as Parse reads it.
func (p *Policy) String() string {
	if p == nil {
		return ""
	}
	if len(p.Rules) == 0 {
		return "none"
	}
	var items []string
	for _, r := range p.Rules {
		items = append(items, r.String())
	}
	return "allow=" + strings.Join(items, ",")
}

func (r Rule) String() string {
	s := r.Name
	if s == "" {
		s = r.Prefix.String()
		if r.Prefix.IsSingleIP() {
			s = r.Prefix.Addr().String()
		}
		if r.First != 0 && r.Prefix.Addr().Is6() {
			s = "[" + s + "]"
		}
	}
	if r.First != 0 {
		s += ":" + strconv.Itoa(int(r.First))
	}
	if r.Last > r.First {
		s += "-" + strconv.Itoa(int(r.Last))
	}
	if r.Proto != 0 {
		s += "/" + Protocol(r.Proto)
	}
	return s
}

// Means says whether the rule is for the name, which is in lower case and without the
// last dot.
func (r Rule) Means(name string) bool {
	switch {
	case r.Name == "" || name == "":
		return false
	case r.Name == "*":
		return true
	case strings.HasPrefix(r.Name, "*."):
		return strings.HasSuffix(name, r.Name[1:]) && len(name) > len(r.Name)-1
	}
	return r.Name == name
}

// Resolves says whether a name may be asked for.
func (p *Policy) Resolves(name string) bool {
	return p == nil || slices.ContainsFunc(p.Rules, func(r Rule) bool { return r.Means(name) })
}

// Named are the ports by which the names of the policy are reached, each once: the
// addresses of the names that have the same are one set.
func (p *Policy) Named() (list []Ports) {
	for _, r := range p.Rules {
		if r.Name != "" && !slices.Contains(list, r.Ports) {
			list = append(list, r.Ports)
		}
	}
	return list
}

// Sets says to which of Named the addresses of a name belong.
func (p *Policy) Sets(name string) (list []int) {
	for i, ports := range p.Named() {
		if slices.ContainsFunc(p.Rules, func(r Rule) bool { return r.Ports == ports && r.Means(name) }) {
			list = append(list, i)
		}
	}
	return list
}
