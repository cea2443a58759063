package netns

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What the kernel does behind while an interface comes up, and what is lost meanwhile: the
// first packet asks for a neighbour's address, and is sent again only after a second.

// settled waits until a device whose other end is up is in use (the link watch): until
// then it drops all packets. From Linux 6.8 on that is done before the answer of find.
func settled(find func() (netlink.Link, error)) (link netlink.Link, err error) {
	for range 500 {
		link, err = find()
		if err != nil || link.Attrs().RawFlags&unix.IFF_LOWER_UP == 0 || link.Attrs().OperState == netlink.OperUp {
			break
		}
		time.Sleep(200 * time.Microsecond)
	}
	return link, err
}

// owned waits until an address of IPv6 is one of the namespace's own, as its answers are:
// until then the kernel would send them on.
func owned(in *netlink.Handle, a netip.Addr) {
	for range 500 {
		if r, err := in.RouteGet(a.AsSlice()); err == nil && len(r) > 0 && r[0].Type == unix.RTN_LOCAL {
			return
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// announced has the kernel announce the addresses of an interface when it comes up or gets
// a MAC: neighbours may know them by that of a container of before.
func announced(ep *Endpoint) error {
	for _, a := range ep.Addresses {
		key := "net/ipv4/conf/" + ep.Inside + "/arp_notify"
		if a.Addr().Is6() {
			key = "net/ipv6/conf/" + ep.Inside + "/ndisc_notify"
		}
		if err := Sysctl(key, "1"); err != nil {
			return err
		}
	}
	return nil
}

// announce gives the interface the MAC that it has: again once the port of the bridge
// forwards, as it loses what is sent before.
func announce(in *netlink.Handle, ep *Endpoint) error {
	link, err := in.LinkByName(ep.Inside)
	if err == nil {
		err = in.LinkSetHardwareAddr(link, link.Attrs().HardwareAddr)
	}
	if err != nil {
		return fmt.Errorf("announce the addresses of %s: %w", ep.Inside, err)
	}
	return nil
}
