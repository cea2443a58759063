package netns

import (
	"errors"
	"os"
	"strings"
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
