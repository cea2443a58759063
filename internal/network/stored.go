package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"

	"hezi/internal/network/netns"
	"hezi/internal/network/options"
	"hezi/internal/network/taken"
)

var predefined = []string{network.NetworkBridge, network.NetworkHost, network.NetworkNone}

func isPredefined(name string) bool { return slices.Contains(predefined, name) }

// folder has a file of each network that users made.
func folder(dataRoot string) string { return filepath.Join(dataRoot, "network", "networks") }

func (c *registry) file(id string) string { return filepath.Join(folder(c.o.DataRoot), id+".json") }

// loadConfigs reads the networks that users made, oldest first.
func loadConfigs(dataRoot string) (list []Config, err error) {
	entries, err := os.ReadDir(folder(dataRoot))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the networks: %w", err)
	}
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue // half of a write that a crash ended
		}
		path := filepath.Join(folder(dataRoot), e.Name())
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read a network: %w", err)
		}
		var c Config
		err = json.Unmarshal(data, &c)
		if err == nil && c.ID != id {
			err = fmt.Errorf("its id is %q", c.ID)
		}
		if err != nil { // the other networks are not to suffer
			if err := setAside(path, err); err != nil {
				return nil, err
			}
			continue
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b Config) int { return a.Created.Compare(b.Created) })
	return list, nil
}

// aside is how the names of files end that are no network's any more.
const aside = ".broken"

// setAside keeps a file that cannot be read from being read again. Nothing of it is lost.
func setAside(path string, why error) error {
	to := path + aside
	for n := 2; ; n++ {
		if _, err := os.Lstat(to); errors.Is(err, os.ErrNotExist) {
			break
		}
		to = fmt.Sprintf("%s.%d%s", path, n, aside)
	}
	if err := os.Rename(path, to); err != nil {
		return fmt.Errorf("set the file of a network aside that cannot be read (%w): %w", why, err)
	}
	slog.Error("the file of a network cannot be read and is set aside", "file", to, "error", why)
	return nil
}

// setAsides are warnings for the files that were set aside.
func setAsides(dataRoot string) (w []string) {
	list, err := filepath.Glob(filepath.Join(folder(dataRoot), "*"+aside))
	if err != nil {
		return nil // of the pattern
	}
	for _, path := range list {
		w = append(w, fmt.Sprintf("the file of a network could not be read and was set aside as %s: its containers do not start; make the network again, or mend the file, name it as it was and restart hezid; remove it to end this warning", path))
	}
	return w
}

// predefined are bridge, host and none. The first, where it is to be there no more, is
// while its device is: containers may run on with it.
func (c *registry) predefined(bridge string) []Config {
	var list []Config
	for _, name := range predefined {
		if name == network.NetworkBridge && c.o.NoBridge {
			if _, err := netlink.LinkByName(bridge); err != nil || !c.st.Subnet.IsValid() {
				continue
			}
		}
		conf := Config{ID: c.st.IDs[name], Name: name, Driver: name, Created: c.st.Created, IPv4: true,
			Labels: map[string]string{}, Options: map[string]string{}, IPAM: network.IPAM{Driver: "default", Config: []network.IPAMConfig{}}}
		switch name {
		case network.NetworkNone:
			conf.Driver = driverNull
		case network.NetworkBridge:
			conf.IPAM.Config = append(conf.IPAM.Config, network.IPAMConfig{Subnet: c.st.Subnet, Gateway: c.st.Gateway, IPRange: c.o.FixedCIDR, AuxAddress: auxiliary(gatewayAux4, c.o.Way)})
			conf.Options = map[string]string{
				options.DefaultBridge:    "true",
				options.EnableICC:        strconv.FormatBool(c.o.ICC),
				options.EnableMasquerade: strconv.FormatBool(c.o.IPMasq),
				options.HostBindingIPv4:  "0.0.0.0",
				options.BridgeName:       bridge,
				options.MTU:              strconv.Itoa(c.o.MTU),
			}
			if c.o.DefaultBind.IsValid() {
				conf.Options[options.HostBindingIPv4] = c.o.DefaultBind.String()
			}
			if conf.IPv6 = c.o.IPv6; conf.IPv6 {
				conf.IPAM.Config = append(conf.IPAM.Config, network.IPAMConfig{Subnet: c.st.Subnet6, Gateway: c.st.Gateway6, IPRange: within(c.o.FixedCIDR6, c.st.Subnet6), AuxAddress: auxiliary(gatewayAux6, c.o.Way6)})
			}
		}
		list = append(list, conf)
	}
	return list
}

func auxiliary(name string, a netip.Addr) map[string]netip.Addr {
	if !a.IsValid() {
		return nil
	}
	return map[string]netip.Addr{name: a}
}

// within is a range that is less than its subnet.
func within(p, subnet netip.Prefix) netip.Prefix {
	if p == subnet {
		return netip.Prefix{}
	}
	return p
}

// raise finds or makes a network's device. It is not called under the lock.
func (c *registry) raise(l *lan) (err error) {
	switch l.Driver {
	case driverBridge:
		l.bridge = l.o.Name
		if l.bridge == "" {
			l.bridge = "hezi-" + l.ID[:10]
		}
		conf := l.bridgeConfig(c.o.MTU)
		conf.Foreign = l.Name == network.NetworkBridge && c.o.Bridge != ""
		conf.Keep = !c.ours(l)
		index, made, err := netns.Bridge(conf)
		if err != nil && made {
			err = errors.Join(err, netns.RemoveLink(l.bridge))
		}
		if err == nil {
			l.index = index
		}
		return err
	case driverMacvlan, driverIpvlan:
		return c.raiseParent(l)
	}
	return nil
}

// ours says whether the network's bridge is its own, and not one that was on the host.
func (c *registry) ours(l *lan) bool {
	if l.Name == network.NetworkBridge {
		return c.o.Bridge == ""
	}
	return l.o.Name == "" || l.Made
}

// absent says whether the device that a network's options name is not on the host: it is
// then made, and goes with the network. One that is there is used and stays.
func (c *registry) absent(conf Config) (bool, error) {
	name, bridge := conf.Options["parent"], conf.Driver == driverBridge
	if bridge {
		name = conf.Options[options.BridgeName]
	}
	if name == "" {
		return false, nil
	}
	link, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("look for the device %s: %w", name, err)
	case bridge && link.Type() != "bridge":
		return false, invalid("%s is a %s of this host, not a bridge: choose another %s", name, link.Type(), options.BridgeName)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.lans { // it goes with the last of those that share it
		if !bridge && l.v.Parent == name && l.Made {
			return true, nil
		}
	}
	return false, nil
}

// retire removes the network bridge, where there is to be none, if nobody is in it.
func (c *registry) retire() {
	c.mu.Lock()
	l := c.bridge()
	if l == nil || !l.shut || len(l.links) > 0 {
		c.mu.Unlock()
		return
	}
	delete(c.lans, l.ID)
	c.mu.Unlock()
	err := c.lower(l)
	if c.table != nil {
		err = errors.Join(err, c.table.RemoveNetwork(l.bridge))
	}
	logFailure("remove the network bridge", err)
}

// raiseParent finds the device that a macvlan or ipvlan is on, or makes it: of a
// VLAN (eth0.10), or one that leads nowhere for an internal network.
func (c *registry) raiseParent(l *lan) error {
	if err := netns.HasKind(l.Driver); err != nil {
		return fmt.Errorf("the network %s: %w", l.Name, err)
	}
	name := l.v.Parent
	if name == "" {
		name = "hz-" + l.ID[:10]
	}
	link, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		link, err = netns.MakeParent(name, l.v.Parent == "", c.o.MTU)
	}
	if err != nil {
		return fmt.Errorf("the parent device %s of the network %s: %w", name, l.Name, err)
	}
	l.index = link.Attrs().Index
	if l.mtu == 0 {
		l.mtu = link.Attrs().MTU
	}
	return nil
}

// lower removes a network's device, if it is ours and we found or made it.
func (c *registry) lower(l *lan) error {
	switch {
	case l.index == 0:
		return nil
	case l.bridged() && c.ours(l):
		return netns.RemoveLink(l.bridge)
	case l.bridged() || l.v.Parent != "" && (!l.Made || c.shared(l)):
		return nil
	case l.v.Parent != "":
		return netns.RemoveLink(l.v.Parent)
	}
	return netns.RemoveLink("hz-" + l.ID[:10])
}

// shared says whether another network is on the same parent device.
func (c *registry) shared(l *lan) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range c.lans {
		if o.ID != l.ID && o.v.Parent == l.v.Parent {
			return true
		}
	}
	return false
}

// busy is what no new network may overlap: the host's routes and addresses, and
// the networks that there are.
func (c *registry) busy() ([]netip.Prefix, error) {
	c.mu.Lock()
	own := map[string]bool{}
	var ours []netip.Prefix
	for _, l := range c.lans {
		if l.bridge != "" {
			own[l.bridge] = true
		}
		ours = append(ours, l.subnets()...)
	}
	c.mu.Unlock()
	hosts, err := taken.Prefixes(own)
	return append(ours, hosts...), err
}
