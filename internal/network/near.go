package network

import (
	"slices"

	"hezi/internal/network/options"
)

// routed6 says whether its ports are reached at its own IPv6 address.
func (m *member) routed6() bool {
	k, _ := m.gatewayOf(true)
	return k != nil && k.lan.o.Mode6 == options.Routed
}

// followNear has the host's networks followed if a port of the member asks for it.
func followNear(c *registry, m *member) error {
	if c.table == nil || !slices.ContainsFunc(m.holds, func(h *held) bool { return h.near }) {
		return nil
	}
	return c.around.Need(c.table)
}
