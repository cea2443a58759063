// Package hostfiles writes what a container's /etc/hosts, /etc/hostname and
// /etc/resolv.conf hold. Its functions are pure: text in, text out.
package hostfiles

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"github.com/containerd/errdefs"
)

// HostGateway is the name that --add-host NAME:host-gateway resolves.
const HostGateway = "host-gateway"

// Hostname is the content of /etc/hostname.
func Hostname(name string) []byte { return []byte(name + "\n") }

// Hosts is the content of /etc/hosts: loopback, then extra (--add-host,
// "name:address" or "name=address"), then the container's own names at its
// addresses, of which there may be none. gateways are what host-gateway means.
func Hosts(own []netip.Addr, hostname, domain string, aliases, extra []string, gateways []netip.Addr) ([]byte, error) {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::\tip6-localnet\n" +
		"ff00::\tip6-mcastprefix\n" +
		"ff02::1\tip6-allnodes\n" +
		"ff02::2\tip6-allrouters\n")
	for _, e := range extra {
		i := strings.IndexAny(e, ":=")
		if i < 1 {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("bad format for add-host: %q: write NAME:ADDRESS", e))
		}
		name, ip := e[:i], strings.Trim(e[i+1:], "[]")
		if ip == HostGateway {
			if len(gateways) == 0 {
				return nil, errdefs.ErrInvalidArgument.WithMessage("unable to derive the IP value for host-gateway")
			}
			for _, g := range gateways {
				fmt.Fprintf(&b, "%s\t%s\n", g, name)
			}
			continue
		}
		if _, err := netip.ParseAddr(ip); err != nil {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid IP address in add-host: %q", e[i+1:]))
		}
		fmt.Fprintf(&b, "%s\t%s\n", ip, name)
	}
	b.WriteString(lines(own, hostname, domain, aliases))
	return []byte(b.String()), nil
}

func lines(own []netip.Addr, hostname, domain string, aliases []string) string {
	names := []string{hostname}
	if domain != "" {
		names = []string{hostname + "." + domain, hostname}
	}
	var b strings.Builder
	for _, a := range own {
		fmt.Fprintf(&b, "%s\t%s\n", a, strings.Join(append(names, aliases...), " "))
	}
	return b.String()
}

// Moved is the content of /etc/hosts after a container lost some addresses and got
// others. Lines that the container wrote itself stay.
func Moved(hosts []byte, lost, got []netip.Addr, hostname, domain string) []byte {
	var b strings.Builder
	gone := lines(lost, hostname, domain, nil)
	for line := range strings.Lines(string(hosts)) {
		if whole := strings.TrimSuffix(line, "\n") + "\n"; !strings.HasPrefix(gone, whole) && !strings.Contains(gone, "\n"+whole) {
			b.WriteString(whole)
		}
	}
	b.WriteString(lines(got, hostname, domain, nil))
	return []byte(b.String())
}

// Link is another container as it is known in this one.
type Link struct {
	Addresses []netip.Addr
	Names     []string
}

// linkMark ends the lines of links: whoever they lead to may move.
const linkMark = "\t# link"

// Linked is the content of /etc/hosts with these links and no others. Lines that the
// container wrote itself stay. A name that would be more than one there is left out.
func Linked(hosts []byte, links []Link) []byte {
	var b strings.Builder
	for line := range strings.Lines(string(hosts)) {
		if whole := strings.TrimSuffix(line, "\n"); !strings.HasSuffix(whole, linkMark) {
			b.WriteString(whole + "\n")
		}
	}
	for _, l := range links {
		names := slices.DeleteFunc(slices.Clone(l.Names), func(name string) bool {
			return name == "" || strings.ContainsFunc(name, func(r rune) bool { return r == '#' || unicode.IsSpace(r) || unicode.IsControl(r) })
		})
		for _, a := range l.Addresses {
			if len(names) > 0 {
				fmt.Fprintf(&b, "%s\t%s%s\n", a, strings.Join(names, " "), linkMark)
			}
		}
	}
	return []byte(b.String())
}

// ResolvConf is the content of /etc/resolv.conf in a container without a name service.
// host is the host's file; dns, search and options override its lines if they
// are not empty. Nameservers on the host's loopback do not work inside, unless the
// container is inHost, in the host's network, and are left out; if none is left, Google's
// public ones are used, as Docker does. Give the text of
// /run/systemd/resolve/resolv.conf if UsesStub says so of the host's.
func ResolvConf(host []byte, dns []netip.Addr, search, options []string, inHost bool) []byte {
	var servers, hostSearch, hostOptions, other []string
	for line := range strings.Lines(string(host)) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0][0] == '#' || f[0][0] == ';' {
			continue
		}
		switch f[0] {
		case "nameserver":
			if len(f) > 1 && (inHost || outside(f[1])) {
				servers = append(servers, f[1])
			}
		case "search", "domain":
			hostSearch = f[1:]
		case "options":
			hostOptions = append(hostOptions, f[1:]...)
		default:
			other = append(other, strings.Join(f, " "))
		}
	}
	from := "host"
	if len(dns) > 0 {
		servers, from = nil, "override"
		for _, a := range dns {
			servers = append(servers, a.String())
		}
	}
	if len(servers) == 0 && !inHost { // there, the resolver asks the loopback
		servers, from = []string{"8.8.8.8", "8.8.4.4"}, "default, the host's are on its loopback"
	}
	if len(search) > 0 {
		hostSearch = search
	}
	if len(options) > 0 {
		hostOptions = options
	}
	var b strings.Builder
	b.WriteString("# Generated by Hezi at each start of the container: set name servers with --dns.\n\n")
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(hostSearch) > 0 && !(len(hostSearch) == 1 && hostSearch[0] == ".") {
		fmt.Fprintf(&b, "search %s\n", strings.Join(hostSearch, " "))
	}
	if len(hostOptions) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(hostOptions, " "))
	}
	for _, o := range other {
		fmt.Fprintf(&b, "%s\n", o)
	}
	fmt.Fprintf(&b, "\n# Nameservers: %s\n", from)
	return []byte(b.String())
}

// Servers are the name servers that a resolv.conf lists. An address of a link
// keeps its zone.
func Servers(text []byte) (list []netip.Addr) {
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			if a, err := netip.ParseAddr(f[1]); err == nil {
				list = append(list, a)
			}
		}
	}
	return list
}

// UsesStub says whether the only nameserver is systemd-resolved's stub, whose
// real servers are in /run/systemd/resolve/resolv.conf.
func UsesStub(host []byte) bool {
	n, stub := 0, false
	for line := range strings.Lines(string(host)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			n++
			stub = f[1] == "127.0.0.53"
		}
	}
	return n == 1 && stub
}

// outside says whether a nameserver can be reached from a container: IPv6 ones cannot yet.
func outside(server string) bool {
	a, err := netip.ParseAddr(server)
	return err == nil && a.Is4() && !a.IsLoopback()
}
