package request

import (
	"errors"
	"fmt"
	"strings"
)

// EgressLabel is the label by which an engine of Hezi knows --egress, of containers and of
// networks.
const EgressLabel = "hezi.egress"

// Egress is what several --egress say together: what they allow adds up.
func Egress(list []string) (string, error) {
	var items []string
	whole := ""
	for _, s := range list {
		if rest, ok := strings.CutPrefix(s, "allow="); ok && rest != "" {
			items = append(items, rest)
			continue
		}
		if s != "none" && s != "all" {
			return "", fmt.Errorf(`invalid --egress %q: write "none", "all", or "allow=" with addresses, networks and names, as in allow=10.0.0.0/8,example.org:443`, s)
		}
		if whole != "" && whole != s {
			return "", errors.New("conflicting options: --egress none and --egress all")
		}
		whole = s
	}
	if whole != "" && len(items) > 0 {
		return "", fmt.Errorf("conflicting options: --egress %s and --egress allow=%s", whole, items[0])
	}
	if len(items) > 0 {
		whole = "allow=" + strings.Join(items, ",")
	}
	return whole, nil
}
