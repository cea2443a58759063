package network

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"hezi/internal/network/ipam"
	"hezi/internal/network/netns"
	"hezi/internal/network/taken"
)

// state is DATAROOT/network/state.json.
type state struct {
	Subnet  netip.Prefix
	Gateway netip.Addr
	// Of the network bridge, when it has IPv6; the subnet stays when it has it no more.
	Subnet6  netip.Prefix
	Gateway6 netip.Addr
	Created  time.Time
	IDs      map[string]string // name of a predefined network to id
}

// loadState reads the state or makes and stores it. The bridge's subnet is
// chosen once; o.BIP overrides it. stored are the other networks.
func loadState(o Options, bridge string, stored []Config) (state, error) {
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
		for _, n := range predefined {
			s.IDs[n] = newID()
		}
	}
	if o.NoBridge {
		if data != nil {
			return s, nil
		}
		return s, writeState(path, s)
	}
	busy, err := taken.Prefixes(map[string]bool{bridge: true})
	if err != nil {
		return s, err
	}
	for _, c := range stored {
		for _, i := range c.IPAM.Config {
			busy = append(busy, i.Subnet)
		}
	}
	if err := s.choose4(o, busy); err != nil {
		return s, err
	}
	if err := s.choose6(o); err != nil {
		return s, err
	}
	if data != nil && before.Subnet == s.Subnet && before.Gateway == s.Gateway && before.Subnet6 == s.Subnet6 && before.Gateway6 == s.Gateway6 {
		return s, nil
	}
	return s, writeState(path, s)
}

func (s *state) choose4(o Options, busy []netip.Prefix) (err error) {
	if o.BIP.IsValid() {
		s.Subnet, s.Gateway = o.BIP.Masked(), o.BIP.Addr()
		return nil
	}
	if o.Bridge != "" {
		have, err := netns.AddressOf(o.Bridge)
		if err != nil {
			return err
		}
		if have.IsValid() {
			s.Subnet, s.Gateway = have.Masked(), have.Addr()
			return nil
		}
	}
	switch f := o.FixedCIDR.Masked(); {
	case f.IsValid() && !(s.Subnet.IsValid() && s.Subnet.Contains(f.Addr()) && s.Subnet.Bits() <= f.Bits()):
		if taken.Overlaps(f, busy) {
			return fmt.Errorf("fixed-cidr %s overlaps a network of this host: choose another", f)
		}
		s.Subnet, s.Gateway = f, f.Addr().Next()
	case !s.Subnet.IsValid() || taken.Overlaps(s.Subnet, busy) && !inhabited(o.ExecRoot):
		if s.Subnet, err = taken.Free(busy); err != nil {
			return err
		}
		s.Gateway = s.Subnet.Addr().Next()
	}
	return nil
}

// inhabited says whether a former engine left namespaces: their containers run on
// with the addresses that they have.
func inhabited(execRoot string) bool {
	entries, err := os.ReadDir(filepath.Join(execRoot, "netns"))
	return err == nil && len(entries) > 0
}

// choose6 gives the bridge a subnet of IPv6 where it is to have one: what was asked
// for, or a unique local one (RFC 4193) that is chosen once.
func (s *state) choose6(o Options) error {
	switch {
	case !o.IPv6:
		s.Gateway6 = netip.Addr{}
		return nil
	case o.BIP6.IsValid():
		s.Subnet6, s.Gateway6 = o.BIP6.Masked(), o.BIP6.Addr()
	case o.FixedCIDR6.IsValid():
		s.Subnet6 = o.FixedCIDR6.Masked()
		s.Gateway6 = s.Subnet6.Addr().Next()
	default:
		if !s.Subnet6.IsValid() {
			s.Subnet6 = netip.PrefixFrom(s.local6().Base.Addr(), 64)
		}
		s.Gateway6 = s.Subnet6.Addr().Next()
	}
	if s.Subnet6.Bits() > 126 {
		return fmt.Errorf("the IPv6 subnet %s of the network bridge has no place for containers: give one of at most /126", s.Subnet6)
	}
	return nil
}

// local6 is this engine's own range of unique local addresses, which it chose at
// random once, as RFC 4193 has it.
func (s *state) local6() ipam.Pool {
	id := sha256.Sum256([]byte(s.IDs["bridge"]))
	b := [16]byte{0xfd}
	copy(b[1:6], id[:5])
	return ipam.Pool{Base: netip.PrefixFrom(netip.AddrFrom16(b), 48), Size: 64}
}

func writeState(path string, s any) error {
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
	if err == nil {
		err = syncFolder(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("store the state of the networks: %w", err)
	}
	return nil
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func newID() string {
	id := make([]byte, 32)
	rand.Read(id) // never fails
	return hex.EncodeToString(id)
}
