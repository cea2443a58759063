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
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Inside is the name of the first interface inside a namespace.
const Inside = "eth0"

// Endpoint is an interface of a namespace.
type Endpoint struct {
	Kind   string // "bridge", "macvlan" or "ipvlan"
	Parent int    // interface index of the bridge, or of what a macvlan or ipvlan is on
	Mode   uint32 // of a macvlan or ipvlan, as netlink has it
	Flag   uint16 // of an ipvlan
	// Outside is the name of the host's end of a bridge's.
	Outside string
	Inside  string
	Alias   string           // IFLA_IFALIAS of the host's end; "": none
	MAC     net.HardwareAddr // nil: the kernel's choice
	MTU     int              // bytes
	// Addresses of both families, each with the bits of its network.
	Addresses []netip.Prefix
	// Gateways of default routes; at most one a family. One without an address is the
	// interface itself.
	Gateways []Gateway
	// Isolated: it reaches no other isolated port of the bridge.
	Isolated bool
	// Sysctls of the interface, by their path with IFNAME for its name.
	Sysctls map[string]string
}

// Gateway is where a default route leads.
type Gateway struct {
	V6      bool
	Address netip.Addr // zero: on the link
}

// Make creates a namespace with lo up, mounts its handle at path and, if ep is
// not nil, connects it: when Make returns, packets can flow. With from, a file of
// a namespace that is new and empty, that one is taken. Further, if it is not nil,
// is called in the namespace at last.
func Make(path, from string, ep *Endpoint, further func() error) (err error) {
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
	return within(from, func(in *netlink.Handle, out *nl.NetlinkSocket) error {
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount a network namespace at %s: %w", path, err)
		}
		if err := in.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo", Index: 1}}); err != nil {
			return fmt.Errorf("bring lo up in a new namespace: %w", err)
		}
		// Where a network has no IPv6 its interface would have a link-local address, a
		// second way to other containers that no rule looks at.
		if err := Sysctl("net/ipv6/conf/default/disable_ipv6", "1"); err != nil {
			return err
		}
		if ep != nil {
			if err := connect(in, out, ep); err != nil {
				return err
			}
		}
		if further == nil {
			return nil
		}
		return further()
	}, ep)
}

// Do calls f in the namespace at path.
func Do(path string, f func() error) error {
	return within(path, func(*netlink.Handle, *nl.NetlinkSocket) error { return f() }, nil)
}

// Attach adds an interface to the namespace at path.
func Attach(path string, ep *Endpoint) error {
	return within(path, func(in *netlink.Handle, out *nl.NetlinkSocket) error { return connect(in, out, ep) }, ep)
}

// Detach removes an interface from the namespace at path. One that is absent is no
// error.
func Detach(path, name string) error {
	return within(path, func(in *netlink.Handle, _ *nl.NetlinkSocket) error {
		link, err := in.LinkByName(name)
		var missing netlink.LinkNotFoundError
		if errors.As(err, &missing) {
			return nil
		}
		if err == nil {
			err = in.LinkDel(link)
		}
		if err != nil {
			return fmt.Errorf("remove the interface %s of a container: %w", name, err)
		}
		return nil
	}, nil)
}

// bridgePort sets what a port of a bridge cannot be made with. Hairpin mode lets the
// bridge send a packet back to where it came from: a container that asks for its
// own published port needs it when br_netfilter is loaded, because the address is
// then rewritten inside the bridge.
func bridgePort(ep *Endpoint) error {
	link, err := settled(func() (netlink.Link, error) { return netlink.LinkByName(ep.Outside) })
	if err == nil {
		err = netlink.LinkSetHairpin(link, true)
	}
	if err == nil && ep.Isolated {
		err = netlink.LinkSetIsolated(link, true)
	}
	if err == nil && ep.Alias != "" { // the kernel takes none with a new device
		err = netlink.LinkSetAlias(link, ep.Alias)
	}
	if err != nil {
		return fmt.Errorf("set the bridge port %s: %w", ep.Outside, err)
	}
	if _, err := settled(func() (netlink.Link, error) { return netlink.LinkByIndex(ep.Parent) }); err != nil {
		return fmt.Errorf("find the bridge of the port %s: %w", ep.Outside, err)
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

// within does what needs a thread in a namespace on a thread of its own: in the one
// at path, or in a new one. in speaks to that namespace, out to the host's. The
// thread ends with the goroutine if it cannot return.
func within(path string, do func(in *netlink.Handle, out *nl.NetlinkSocket) error, ep *Endpoint) error {
	done := make(chan error, 1)
	var there *netlink.Handle
	go func() { done <- withinThread(path, do, &there) }()
	err := <-done
	if there != nil {
		defer there.Close()
	}
	if err != nil || ep == nil || ep.Kind != KindBridge {
		return err
	}
	if err := bridgePort(ep); err != nil {
		return err
	}
	return announce(there, ep)
}

// withinThread also answers the handle that do had, to be closed.
func withinThread(path string, do func(in *netlink.Handle, out *nl.NetlinkSocket) error, there **netlink.Handle) (err error) {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open the host's network namespace: %w", err)
	}
	defer home.Close()
	out, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open rtnetlink: %w", err)
	}
	defer out.Close()
	if err := enter(path, home); err != nil {
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
	in, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open rtnetlink in a container's namespace: %w", err)
	}
	*there = in
	return do(in, out)
}

// The kinds of endpoints.
const (
	KindBridge  = "bridge"
	KindMacvlan = "macvlan"
	KindIpvlan  = "ipvlan"
)

// connect makes an interface in the namespace that the thread is in.
func connect(in *netlink.Handle, out *nl.NetlinkSocket, ep *Endpoint) error {
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("open a container's network namespace: %w", err)
	}
	defer ns.Close()
	if ep.Kind == KindBridge {
		err = addVeth(out, ep, int(ns.Fd()))
	} else {
		err = addOnParent(out, ep, int(ns.Fd()))
	}
	if err != nil {
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
	req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(ep.Parent))))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC) // not up: the kernel refuses an end that has no other yet
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(ep.Inside))
	peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(ep.MTU)))
	if ep.MAC != nil {
		peer.AddRtAttr(unix.IFLA_ADDRESS, ep.MAC)
	}
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

// addOnParent makes a macvlan or an ipvlan with one message, in the namespace ns.
func addOnParent(s *nl.NetlinkSocket, ep *Endpoint, ns int) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(ep.Inside)))
	req.AddData(nl.NewRtAttr(unix.IFLA_LINK, nl.Uint32Attr(uint32(ep.Parent))))
	req.AddData(nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(ns))))
	if ep.MTU > 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(ep.MTU))))
	}
	if ep.MAC != nil && ep.Kind == KindMacvlan {
		req.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, ep.MAC))
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(ep.Kind))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	if ep.Kind == KindMacvlan {
		data.AddRtAttr(nl.IFLA_MACVLAN_MODE, nl.Uint32Attr(ep.Mode))
	} else {
		data.AddRtAttr(nl.IFLA_IPVLAN_MODE, nl.Uint16Attr(uint16(ep.Mode)))
		data.AddRtAttr(nl.IFLA_IPVLAN_FLAG, nl.Uint16Attr(ep.Flag))
	}
	req.AddData(info)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			return NoKindError(ep.Kind)
		}
		return fmt.Errorf("make the %s %s: %w", ep.Kind, ep.Inside, err)
	}
	return nil
}

// HasKind says whether the kernel can make macvlans or ipvlans: one that leads nowhere is
// refused by those who know it.
func HasKind(kind string) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kind))
	req.AddData(info)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); errors.Is(err, unix.EOPNOTSUPP) {
		return NoKindError(kind)
	}
	return nil
}

// NoKindError says that the kernel lacks a kind of device.
type NoKindError string

func (k NoKindError) Error() string {
	module := string(k)
	if k == "vlan" {
		module = "8021q"
	}
	return fmt.Sprintf("this kernel has no %s devices: load the module (modprobe %s), or use another driver", string(k), module)
}

// address gives an interface its addresses and default routes, from inside.
func address(in *netlink.Handle, ep *Endpoint) error {
	link, err := in.LinkByName(ep.Inside)
	if err != nil {
		return fmt.Errorf("find %s in a container: %w", ep.Inside, err)
	}
	if err := errors.Join(announced(ep), sysctls(ep)); err != nil {
		return err
	}
	for _, a := range ep.Addresses {
		if err := in.AddrAdd(link, addrOf(a)); err != nil {
			return fmt.Errorf("give %s the address %s: %w", ep.Inside, a, err)
		}
	}
	if err := in.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring %s up: %w", ep.Inside, err)
	}
	if _, err := settled(func() (netlink.Link, error) { return in.LinkByIndex(link.Attrs().Index) }); err != nil {
		return fmt.Errorf("find %s when it is up: %w", ep.Inside, err)
	}
	for _, g := range ep.Gateways {
		if err := in.RouteAdd(route(link, g)); err != nil {
			return fmt.Errorf("route by %s: %w", g.Address, err)
		}
	}
	for _, a := range ep.Addresses {
		if a.Addr().Is6() {
			owned(in, a.Addr())
		}
	}
	return nil
}

// sysctls switches IPv6 on where the interface has addresses of it, and sets what
// was asked for.
func sysctls(ep *Endpoint) error {
	conf := "net/ipv6/conf/" + ep.Inside + "/"
	for _, a := range ep.Addresses {
		if a.Addr().Is6() {
			if _, err := os.Stat("/proc/sys/" + conf); err != nil {
				return errors.New("this kernel has no IPv6: use a network without it")
			}
			if err := errors.Join(Sysctl(conf+"disable_ipv6", "0"), Sysctl(conf+"accept_ra", "0")); err != nil {
				return err
			}
			break
		}
	}
	for key, value := range ep.Sysctls {
		key = strings.ReplaceAll(strings.ReplaceAll(key, ".", "/"), "IFNAME", ep.Inside)
		path := "/proc/sys/" + key
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
			return errdefs.ErrInvalidArgument.WithMessage(path + " is not a sysctl file of this kernel")
		}
		if err := Sysctl(key, value); err != nil {
			return err
		}
	}
	return nil
}

// addrOf is an address as the kernel gets it. No other has one of IPv6 either: that
// need not be found out for a second first.
func addrOf(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	} else {
		a.Broadcast = broadcast(p)
	}
	return a
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

// BridgeConfig says how a bridge is to be.
type BridgeConfig struct {
	Name string
	// Addresses of the bridge itself; those that it has beside are removed.
	Addresses []netip.Prefix
	MAC       net.HardwareAddr // of one that is made; nil: the kernel's choice
	MTU       int              // bytes
	// Keep: one that is there is the host's: its addresses and settings stay.
	Keep bool
	// Foreign: it is not made where it is not there.
	Foreign bool
}

// linkLocal is the gateway's address on a link, which routes may name.
var linkLocal = netip.MustParsePrefix("fe80::1/64")

// Bridge finds or makes a bridge, up. It returns the index, and whether it was made.
func Bridge(c BridgeConfig) (index int, made bool, err error) {
	link, err := netlink.LinkByName(c.Name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) && !c.Foreign {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = c.Name, c.MTU, c.MAC
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); errors.Is(err, unix.EOPNOTSUPP) {
			return 0, false, fmt.Errorf("make the bridge %s: the kernel has no bridges: load the module (modprobe bridge, and write bridge into /etc/modules-load.d/hezi.conf)", c.Name)
		} else if err != nil {
			return 0, false, fmt.Errorf("make the bridge %s: %w", c.Name, err)
		}
		made = true
		link, err = netlink.LinkByName(c.Name)
	}
	if err != nil {
		return 0, made, fmt.Errorf("find the bridge %s: %w", c.Name, err)
	}
	if link.Type() != "bridge" {
		return 0, made, fmt.Errorf("%s is a %s, not a bridge: rename or remove it", c.Name, link.Type())
	}
	addresses, off := c.Addresses, "1"
	for _, a := range c.Addresses {
		if a.Addr().Is6() {
			addresses, off = append(slices.Clone(c.Addresses), linkLocal), "0"
			break
		}
	}
	keep := c.Keep && !made
	// A container can send router advertisements: the host must not take its
	// addresses and routes from them (CVE-2020-13401).
	for _, s := range []struct{ key, value string }{{"accept_ra", "0"}, {"disable_ipv6", off}} {
		if keep && (s.key == "accept_ra" || off == "1") {
			continue
		}
		if err := Sysctl("net/ipv6/conf/"+c.Name+"/"+s.key, s.value); err != nil {
			return 0, made, err
		}
	}
	if link.Attrs().MTU != c.MTU && c.MTU > 0 && !keep {
		if err := netlink.LinkSetMTU(link, c.MTU); err != nil {
			return 0, made, fmt.Errorf("set the MTU of %s to %d: %w", c.Name, c.MTU, err)
		}
	}
	if err := bridgeAddresses(link, addresses, keep); err != nil {
		return 0, made, err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return 0, made, fmt.Errorf("bring the bridge %s up: %w", c.Name, err)
	}
	return link.Attrs().Index, made, nil
}

// bridgeAddresses gives a bridge its addresses; others go, but for the kernel's
// own of the link.
func bridgeAddresses(link netlink.Link, want []netip.Prefix, keep bool) error {
	name := link.Attrs().Name
	have, err := Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("read the addresses of %s: %w", name, err)
	}
	left := slices.Clone(want)
	for i := range have {
		ones, _ := have[i].Mask.Size()
		a, _ := netip.AddrFromSlice(have[i].IP)
		p := netip.PrefixFrom(a.Unmap(), ones)
		if at := slices.Index(left, p); at >= 0 {
			left = slices.Delete(left, at, at+1)
			continue
		}
		if keep || p.Addr().IsLinkLocalUnicast() && p.Addr().Is6() {
			continue
		}
		if err := netlink.AddrDel(link, &have[i]); err != nil {
			return fmt.Errorf("remove the old address %s of %s: %w", p, name, err)
		}
	}
	for _, p := range left {
		if err := netlink.AddrAdd(link, addrOf(p)); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("give the bridge %s the address %s: %w", name, p, err)
		}
	}
	return nil
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

// KeepAdvertisements has devices that got their routes by router advertisements go
// on to do so: a host that forwards takes them only where accept_ra is 2.
func KeepAdvertisements() error {
	files, err := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra")
	if err != nil {
		return err
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err != nil || strings.TrimSpace(string(b)) != "1" {
			continue
		}
		if err := Sysctl(strings.TrimPrefix(f, "/proc/sys/"), "2"); err != nil {
			return err
		}
	}
	return nil
}

// MakeParent makes a device for macvlans and ipvlans: the VLAN that its name says
// (eth0.10 is VLAN 10 of eth0), or one that leads nowhere.
func MakeParent(name string, nowhere bool, mtu int) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	var link netlink.Link
	if nowhere {
		attrs.MTU = mtu
		link = &netlink.Dummy{LinkAttrs: attrs}
	} else {
		at := strings.LastIndexByte(name, '.')
		if at < 1 {
			return nil, errors.New("this host has no such device: list them with ip link")
		}
		id, err := strconv.Atoi(name[at+1:])
		if err != nil || id < 1 || id > 4094 {
			return nil, errors.New("this host has no such device; one of a VLAN is named DEVICE.NUMBER, from 1 to 4094")
		}
		under, err := netlink.LinkByName(name[:at])
		var missing netlink.LinkNotFoundError
		if errors.As(err, &missing) {
			return nil, fmt.Errorf("this host has no such device, and no %s to make that VLAN of: list them with ip link", name[:at])
		}
		if err != nil {
			return nil, fmt.Errorf("the device %s under the VLAN: %w", name[:at], err)
		}
		attrs.ParentIndex = under.Attrs().Index
		link = &netlink.Vlan{LinkAttrs: attrs, VlanId: id}
	}
	err := netlink.LinkAdd(link)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, NoKindError(link.Type())
	}
	if err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, errors.Join(err, netlink.LinkDel(link))
	}
	return netlink.LinkByName(name)
}

// RemoveLink deletes a device; one that is absent is no error.
func RemoveLink(name string) error {
	link, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("remove the device %s: %w", name, err)
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

// AddressOf is the first IPv4 address that a device of the host has; zero: none.
func AddressOf(name string) (netip.Prefix, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("find the bridge %s: %w", name, err)
	}
	list, err := Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
	if err != nil || len(list) == 0 {
		return netip.Prefix{}, err
	}
	a, ok := netip.AddrFromSlice(list[0].IP.To4())
	if !ok {
		return netip.Prefix{}, nil
	}
	ones, _ := list[0].Mask.Size()
	return netip.PrefixFrom(a, ones), nil
}

// Names are the names of all network devices of the host, each with its alias.
func Names() (map[string]string, error) {
	links, err := Dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list the network devices: %w", err)
	}
	names := map[string]string{}
	for _, l := range links {
		names[l.Attrs().Name] = l.Attrs().Alias
	}
	return names, nil
}

// few is how many devices are asked for one by one: a list of all of them costs as
// much as there are containers, and keeps others from changing any meanwhile.
const few = 64

// Gone are those of some devices that are not on the host any more.
func Gone(names []string) (gone []string, err error) {
	if len(names) > few {
		on, err := Names()
		if err != nil {
			return nil, err
		}
		return slices.DeleteFunc(slices.Clone(names), func(name string) bool { _, there := on[name]; return there }), nil
	}
	for _, name := range names {
		_, err := netlink.LinkByName(name)
		if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
			gone = append(gone, name)
		} else if err != nil {
			return nil, fmt.Errorf("look for the network device %s: %w", name, err)
		}
	}
	return gone, nil
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
