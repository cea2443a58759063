// Package taken says which address ranges the host has already, and keeps those
// of containers out of them.
package taken

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hezi/internal/network/netns"
)

// Lock keeps two engines that start at once from choosing one subnet.
func Lock() (unlock func(), err error) {
	f, err := os.OpenFile("/run/hezi-network.lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the choice of subnets: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock the choice of subnets: %w", err)
	}
	return func() { _ = f.Close() }, nil
}

// Prefixes are the networks that the host routes to or has addresses in, those of the
// bridges named own left out.
func Prefixes(own map[string]bool) ([]netip.Prefix, error) {
	list, err := Devices(own)
	busy := make([]netip.Prefix, 0, len(list))
	for p := range list {
		busy = append(busy, p)
	}
	return busy, err
}

// narrowest is how many bits a route has that says where a network is. What is wider
// leads out, as 0.0.0.0/1 and 128.0.0.0/1 do, by which VPNs replace the default route.
const narrowest = 8

// Devices are the same with the devices that they lead to.
func Devices(own map[string]bool) (map[netip.Prefix]string, error) {
	links, err := netns.Dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list the network devices: %w", err)
	}
	routes, err := netns.Dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("read the host's routes: %w", err)
	}
	addrs, err := netns.Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("read the host's addresses: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	list := map[netip.Prefix]string{}
	add := func(n *net.IPNet, device int) {
		if n == nil || own[names[device]] {
			return
		}
		p, err := netip.ParsePrefix(n.String())
		if err != nil || p.Bits() < narrowest || p.Addr().IsLinkLocalUnicast() || p.Addr().IsMulticast() {
			return
		}
		list[p.Masked()] = names[device]
	}
	for _, r := range routes {
		add(r.Dst, r.LinkIndex)
	}
	for _, a := range addrs {
		add(a.IPNet, a.LinkIndex)
	}
	return list, nil
}

// Overlaps says whether a prefix overlaps any of others.
func Overlaps(p netip.Prefix, busy []netip.Prefix) bool {
	for _, b := range busy {
		if p.Overlaps(b) {
			return true
		}
	}
	return false
}

// Free is the first /16 of 172.17-31 and 10.x, or /20 of 192.168, that nothing on the host overlaps.
func Free(busy []netip.Prefix) (netip.Prefix, error) {
	for i := range 15 {
		if p := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(17 + i)}), 16); !Overlaps(p, busy) {
			return p, nil
		}
	}
	for i := range 256 {
		if p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(255 - i)}), 16); !Overlaps(p, busy) {
			return p, nil
		}
	}
	for i := range 16 {
		if p := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(16 * i)}), 20); !Overlaps(p, busy) {
			return p, nil
		}
	}
	return netip.Prefix{}, errors.New("the host's routes and addresses leave no private range for containers: choose one with --bip")
}
