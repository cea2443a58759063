package netns

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Loop makes a pair of devices whose ends are both the host's: what is sent into out
// comes from in as if from elsewhere. A pair that is there already stays. It answers the
// index of out.
func Loop(in, out string) (index int, err error) {
	fail := func(what string, err error) (int, error) {
		return 0, errors.Join(fmt.Errorf("%s of the pair of devices %s and %s: %w", what, in, out, err), RemoveLink(in))
	}
	// Both have one address, as a device without ARP sends to its own.
	mac := net.HardwareAddr{0x02, 0x42, 0, 0, 0, 1}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = out, mac, 65535
	err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: in, PeerHardwareAddr: mac, PeerMTU: 65535})
	if err != nil && !errors.Is(err, os.ErrExist) {
		return 0, fmt.Errorf("make the pair of devices %s and %s: %w", in, out, err)
	}
	for _, name := range []string{in, out} {
		// A source is not looked for behind it; the strict mode of "all" does not undo this.
		if err := Sysctl("net/ipv4/conf/"+name+"/rp_filter", "2"); err != nil {
			return fail("set up an end", err)
		}
		if _, err := os.Stat("/proc/sys/net/ipv6/conf/" + name); err == nil {
			if err := Sysctl("net/ipv6/conf/"+name+"/disable_ipv6", "0"); err != nil {
				return fail("set up an end", err)
			}
		}
		l, err := netlink.LinkByName(name)
		if err != nil {
			return fail("find an end", err)
		}
		if name == in {
			// Without an address of its own the kernel drops what comes from elsewhere: the
			// dummy address of RFC 7600, which is routed nowhere.
			addr, err := netlink.ParseAddr("192.0.0.8/32")
			if err == nil {
				err = netlink.AddrReplace(l, addr)
			}
			if err != nil {
				return fail("give an address to an end", err)
			}
		} else {
			index = l.Attrs().Index
		}
		if err := errors.Join(netlink.LinkSetARPOff(l), netlink.LinkSetUp(l)); err != nil {
			return fail("set an end up", err)
		}
	}
	return index, nil
}

// KeepLoop makes a pair of Loop anew when somebody has deleted it, and hands its new index
// to remade, until stop is closed. wait runs what it does behind.
func KeepLoop(in, out string, index int, stop <-chan struct{}, wait func(func()), remade func(index int) error) error {
	updates, done := make(chan netlink.LinkUpdate, 64), make(chan struct{})
	if err := netlink.LinkSubscribe(updates, done); err != nil {
		return fmt.Errorf("watch the pair of devices %s and %s: %w", in, out, err)
	}
	wait(func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case u, more := <-updates:
				if !more {
					slog.Error("a pair of devices is not watched any more", "device", out)
					return
				}
				if u.Header.Type != unix.RTM_DELLINK || u.Attrs().Index != index { // no end goes alone
					continue
				}
				slog.Warn("a device was deleted, making it anew", "device", out)
				now, err := Loop(in, out)
				if err == nil {
					index = now
					err = remade(index)
				}
				if err != nil {
					slog.Error("make a device anew that was deleted", "device", out, "error", err)
				}
			}
		}
	})
	return nil
}
