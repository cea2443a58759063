// Package netns makes network namespaces, the bridge and what joins them. A
// handle is a file on which a namespace is bind-mounted: it keeps the
// namespace alive until Remove and is what a container's init joins.
//
// No device is moved between namespaces or deleted on anyone's path: both cost
// a grace period. The peer of a veth is born in its namespace with its final
// name, and dies with it.
package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Inside is the interface's name inside a namespace.
const Inside = "eth0"

// Endpoint says how a namespace is connected.
type Endpoint struct {
	Bridge  int    // the bridge's interface index
	Outside string // the name of the host's end
	MAC     net.HardwareAddr
	MTU     int // bytes
	Address netip.Prefix
	Gateway netip.Addr
}

// Make creates a namespace with lo up, mounts its handle at path and, if ep is
// not nil, connects it to the bridge: when Make returns, packets can flow. With
// from, a file of a namespace that is new and empty, that one is taken.
func Make(path, from string, ep *Endpoint) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make the handle of a network namespace: %w", err)
	}
	_ = f.Close() // read-only and empty
	defer func() {
		if err != nil {
			err = errors.Join(err, Remove(path))
		}
	}()

	done := make(chan error, 1)
	go func() { done <- build(path, from, ep) }()
	if err := <-done; err != nil || ep == nil {
		return err
	}
	return hairpin(ep.Outside)
}

// hairpin lets the bridge send a packet back to where it came from. A container
// that asks for its own published port needs it when br_netfilter is loaded: the
// address is then rewritten inside the bridge.
func hairpin(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetHairpin(link, true)
	}
	if err != nil {
		return fmt.Errorf("switch the hairpin mode of %s on: %w", name, err)
	}
	return nil
}

// Dump repeats a listing until no change came in between: the kernel says that
// what it listed may lack something.
func Dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range 20 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return all, err
}

// build does Make's work on a thread of its own while that thread is in the
// new namespace. The thread ends with the goroutine if it cannot return.
func build(path, from string, ep *Endpoint) (err error) {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open the host's network namespace: %w", err)
	}
	defer home.Close()
	var out *nl.NetlinkSocket
	if ep != nil {
		if out, err = nl.Subscribe(unix.NETLINK_ROUTE); err != nil {
			runtime.UnlockOSThread()
			return fmt.Errorf("open rtnetlink: %w", err)
		}
		defer out.Close()
	}
	if err := enter(from, home); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() {
		if e := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); e != nil {
			err = errors.Join(err, fmt.Errorf("return to the host's network namespace: %w", e))
			return
		}
		runtime.UnlockOSThread()
	}()
	if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount a network namespace at %s: %w", path, err)
	}
	in, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open rtnetlink in a new namespace: %w", err)
	}
	defer in.Close()
	if err := in.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo", Index: 1}}); err != nil {
		return fmt.Errorf("bring lo up in a new namespace: %w", err)
	}
	if ep == nil {
		return nil
	}
	// The bridge has no IPv6: without this eth0 would have a link-local address,
	// a second way to other containers that no rule looks at.
	if err := Sysctl("net/ipv6/conf/default/disable_ipv6", "1"); err != nil {
		return err
	}
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("open a new network namespace: %w", err)
	}
	defer ns.Close()
	if err := addVeth(out, ep, int(ns.Fd())); err != nil {
		return err
	}
	return address(in, ep)
}

// enter takes the thread into a new namespace, or into the one at from.
func enter(from string, home *os.File) error {
	if from == "" {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		return nil
	}
	f, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("open the container's network namespace: %w", err)
	}
	defer f.Close()
	a, err := f.Stat()
	b, err2 := home.Stat()
	if err = errors.Join(err, err2); err != nil {
		return fmt.Errorf("open the container's network namespace: %w", err)
	}
	if os.SameFile(a, b) {
		return fmt.Errorf("%s is the host's network namespace, not a container's", from)
	}
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the container's network namespace: %w", err)
	}
	return nil
}

// addVeth makes the pair with one message: this end on the bridge and up, the
// other in the namespace ns with its final name, MAC and MTU.
func addVeth(s *nl.NetlinkSocket, ep *Endpoint, ns int) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Flags, msg.Change = unix.IFF_UP, unix.IFF_UP
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(ep.Outside)))
	req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(ep.MTU))))
	req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(ep.Bridge))))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC) // not up: the kernel refuses an end that has no other yet
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(Inside))
	peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(ep.MTU)))
	peer.AddRtAttr(unix.IFLA_ADDRESS, ep.MAC)
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(ns)))
	req.AddData(info)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		if errors.Is(err, unix.EXFULL) || errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("the bridge has no free port (a Linux bridge holds 1023): %w", err)
		}
		return fmt.Errorf("make the veth pair %s: %w", ep.Outside, err)
	}
	return nil
}

// address gives eth0 its address and the default route, from inside.
func address(in *netlink.Handle, ep *Endpoint) error {
	link, err := in.LinkByName(Inside)
	if err != nil {
		return fmt.Errorf("find eth0 in a new namespace: %w", err)
	}
	if err := in.AddrAdd(link, &netlink.Addr{IPNet: ipNet(ep.Address), Broadcast: broadcast(ep.Address)}); err != nil {
		return fmt.Errorf("give eth0 the address %s: %w", ep.Address, err)
	}
	if err := in.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring eth0 up: %w", err)
	}
	if err := in.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: ep.Gateway.AsSlice()}); err != nil {
		return fmt.Errorf("route by %s: %w", ep.Gateway, err)
	}
	return nil
}

// Remove unmounts and unlinks a handle. The namespace itself dies, in the
// background, when its last process has ended.
func Remove(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH)
		if err == nil {
			continue // mounted twice by a restart in the middle
		}
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		return fmt.Errorf("unmount the network namespace %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the handle of a network namespace: %w", err)
	}
	return nil
}

// Mounted says whether a namespace is mounted at path.
func Mounted(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// Bridge finds or makes the bridge with its address, up. It returns the index.
func Bridge(name string, gateway netip.Prefix, mac net.HardwareAddr, mtu int) (int, error) {
	link, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = name, mtu, mac
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return 0, fmt.Errorf("make the bridge %s: %w", name, err)
		}
		link, err = netlink.LinkByName(name)
	}
	if err != nil {
		return 0, fmt.Errorf("find the bridge %s: %w", name, err)
	}
	if link.Type() != "bridge" {
		return 0, fmt.Errorf("%s is a %s, not a bridge: rename or remove it", name, link.Type())
	}
	// A container can send router advertisements: the host must not take its
	// addresses and routes from them (CVE-2020-13401).
	for _, s := range []struct{ key, value string }{{"accept_ra", "0"}, {"disable_ipv6", "1"}} {
		if err := Sysctl("net/ipv6/conf/"+name+"/"+s.key, s.value); err != nil {
			return 0, err
		}
	}
	if link.Attrs().MTU != mtu {
		if err := netlink.LinkSetMTU(link, mtu); err != nil {
			return 0, fmt.Errorf("set the MTU of %s to %d: %w", name, mtu, err)
		}
	}
	have, err := Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return 0, fmt.Errorf("read the addresses of %s: %w", name, err)
	}
	found := false
	for i := range have {
		if have[i].IPNet.String() == gateway.String() {
			found = true
			continue
		}
		if err := netlink.AddrDel(link, &have[i]); err != nil {
			return 0, fmt.Errorf("remove the old address %s of %s: %w", have[i].IPNet, name, err)
		}
	}
	if !found {
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(gateway), Broadcast: broadcast(gateway)}); err != nil {
			return 0, fmt.Errorf("give the bridge %s the address %s: %w", name, gateway, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return 0, fmt.Errorf("bring the bridge %s up: %w", name, err)
	}
	return link.Attrs().Index, nil
}

// Sysctl writes /proc/sys/key in the thread's network namespace, unless it has
// the value. A key of IPv6 that a kernel without IPv6 lacks is none to set.
func Sysctl(key, value string) error {
	path := "/proc/sys/" + key
	have, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(have)) == value || errors.Is(err, os.ErrNotExist) && strings.HasPrefix(key, "net/ipv6/") {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("set the sysctl %s to %s: %w", strings.ReplaceAll(key, "/", "."), value, err)
	}
	return nil
}

// RemoveBridge deletes a bridge; one that is absent is no error.
func RemoveBridge(name string) error {
	link, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("remove the bridge %s: %w", name, err)
	}
	return nil
}

// DefaultMTU is that of the device which the host's default route leaves by; 1500
// without one.
func DefaultMTU() int {
	routes, err := Dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return 1500
	}
	mtu, metric := 1500, -1
	for _, r := range routes {
		if r.Dst != nil && r.Dst.String() != "0.0.0.0/0" || metric >= 0 && r.Priority >= metric {
			continue
		}
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			mtu, metric = link.Attrs().MTU, r.Priority
		}
	}
	return mtu
}

// Ports are the names of the devices on the bridge.
func Ports(bridge int) (map[string]bool, error) {
	links, err := Dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list the network devices: %w", err)
	}
	names := map[string]bool{}
	for _, l := range links {
		if l.Attrs().MasterIndex == bridge {
			names[l.Attrs().Name] = true
		}
	}
	return names, nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// broadcast is the last address of a network.
func broadcast(p netip.Prefix) net.IP {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return b[:]
}
