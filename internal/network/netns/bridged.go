package netns

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
)

// The sysctls of br_netfilter (Documentation/networking/ip-sysctl.rst). They are of the
// network namespace, and 1 as soon as the module is loaded; a bridge can ask for the
// firewall where they are 0, but none can be left out where they are 1.
const bridgedKey = "net/bridge/bridge-nf-call-"

// BridgesOnly has what stays within a bridge pass no IP firewall and no connection tracking.
func BridgesOnly() error {
	if _, err := os.Stat("/proc/sys/" + bridgedKey + "iptables"); errors.Is(err, os.ErrNotExist) {
		return nil // br_netfilter is not loaded
	}
	return errors.Join(Sysctl(bridgedKey+"iptables", "0"), Sysctl(bridgedKey+"ip6tables", "0"), Sysctl(bridgedKey+"arptables", "0"))
}

// BridgesFiltered says whether it passes them.
func BridgesFiltered() bool {
	for _, family := range []string{"iptables", "ip6tables"} {
		if b, err := os.ReadFile("/proc/sys/" + bridgedKey + family); err == nil && strings.TrimSpace(string(b)) == "1" {
			return true
		}
	}
	return false
}

// Localnet says whether the kernel leads 127/8 over a device. One that is absent does not.
func Localnet(device string, on bool) error {
	key := "net/ipv4/conf/" + device + "/route_localnet"
	if on {
		return Sysctl(key, "1")
	}
	if err := Sysctl(key, "0"); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// KeepMAC is a bridge's MAC, which is its own from now on: without that it
// changes with the ports.
func KeepMAC(name string) (net.HardwareAddr, error) {
	dev, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("the bridge %s: %w", name, err)
	}
	mac := dev.Attrs().HardwareAddr
	if err := netlink.LinkSetHardwareAddr(dev, mac); err != nil {
		return nil, fmt.Errorf("keep the bridge %s at its address: %w", name, err)
	}
	return mac, nil
}
