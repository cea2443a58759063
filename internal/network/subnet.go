package network

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hezi/internal/network/netns"
)

// state is DATAROOT/network/state.json.
type state struct {
	Subnet  netip.Prefix
	Gateway netip.Addr
	Created time.Time
	IDs     map[string]string // name of a predefined network to id
}

// loadState reads the state or makes and stores it. The bridge's subnet is
// chosen once; o.BIP overrides it.
func loadState(o Options, bridge string) (state, error) {
	path := filepath.Join(o.DataRoot, "network", "state.json")
	var s state
	data, err := os.ReadFile(path)
	if err == nil {
		if err := json.Unmarshal(data, &s); err != nil {
			return s, fmt.Errorf("read %s (remove it to begin anew): %w", path, err)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return s, fmt.Errorf("read the state of the networks: %w", err)
	}
	before := s
	if s.IDs == nil {
		s.Created, s.IDs = time.Now().UTC(), map[string]string{}
		for _, n := range []string{"bridge", "host", "none"} {
			id := make([]byte, 32)
			rand.Read(id) // never fails
			s.IDs[n] = hex.EncodeToString(id)
		}
	}
	switch {
	case o.BIP.IsValid():
		s.Subnet, s.Gateway = o.BIP.Masked(), o.BIP.Addr()
	default:
		busy, err := inUse(bridge)
		if err != nil {
			return s, err
		}
		switch f := o.FixedCIDR.Masked(); {
		case f.IsValid() && !(s.Subnet.IsValid() && s.Subnet.Contains(f.Addr()) && s.Subnet.Bits() <= f.Bits()):
			if overlapsAny(f, busy) {
				return s, fmt.Errorf("fixed-cidr %s overlaps a network of this host: choose another", f)
			}
			s.Subnet, s.Gateway = f, f.Addr().Next()
		case !s.Subnet.IsValid() || overlapsAny(s.Subnet, busy):
			if s.Subnet, err = freeSubnet(busy); err != nil {
				return s, err
			}
			s.Gateway = s.Subnet.Addr().Next()
		}
	}
	if data != nil && before.Subnet == s.Subnet && before.Gateway == s.Gateway {
		return s, nil
	}
	return s, writeState(path, s)
}

func writeState(path string, s state) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the state of the networks: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make the folder of the networks: %w", err)
	}
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("store the state of the networks: %w", err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("store the state of the networks: %w", err)
	}
	return nil
}

// lockSubnets keeps two engines that start at once from choosing one subnet.
func lockSubnets() (unlock func(), err error) {
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

// inUse are the IPv4 networks that the host routes to or has addresses in,
// those of the bridge itself left out.
func inUse(bridge string) ([]netip.Prefix, error) {
	own := -1
	if l, err := netlink.LinkByName(bridge); err == nil {
		own = l.Attrs().Index
	}
	routes, err := netns.Dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("read the host's routes: %w", err)
	}
	addrs, err := netns.Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("read the host's addresses: %w", err)
	}
	var busy []netip.Prefix
	for _, r := range routes {
		if r.Dst == nil || r.LinkIndex == own {
			continue
		}
		if p, err := netip.ParsePrefix(r.Dst.String()); err == nil && p.Bits() > 0 {
			busy = append(busy, p)
		}
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.IPNet.String()); err == nil && a.LinkIndex != own {
			busy = append(busy, p.Masked())
		}
	}
	return busy, nil
}

func overlapsAny(p netip.Prefix, busy []netip.Prefix) bool {
	for _, b := range busy {
		if p.Overlaps(b) {
			return true
		}
	}
	return false
}

// freeSubnet is the first /16 of 172.17-31 and 10.x, or /20 of 192.168, that nothing on the host overlaps.
func freeSubnet(busy []netip.Prefix) (netip.Prefix, error) {
	for i := range 15 {
		if p := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(17 + i)}), 16); !overlapsAny(p, busy) {
			return p, nil
		}
	}
	for i := range 256 {
		if p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(255 - i)}), 16); !overlapsAny(p, busy) {
			return p, nil
		}
	}
	for i := range 16 {
		if p := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(16 * i)}), 20); !overlapsAny(p, busy) {
			return p, nil
		}
	}
	return netip.Prefix{}, errors.New("the host's routes and addresses leave no private range for containers: choose one with --bip")
}
