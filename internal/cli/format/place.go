package format

import (
	"net"
	"net/netip"
	"strconv"
)

// Lan is how the engine's API writes the scope lan of a published port, in place of an
// address: every address of the host, for clients in the host's own networks.
func Lan() netip.Addr { return netip.IPv6Unspecified().WithZone("lan") }

// Place is where a port is published, as -p takes it.
func Place[T string | uint16](a netip.Addr, port T) string {
	var number string
	switch p := any(port).(type) {
	case string:
		number = p
	case uint16:
		number = strconv.Itoa(int(p))
	}
	return net.JoinHostPort(Address(a), number)
}

// Address is that of a binding.
func Address(a netip.Addr) string {
	if a == Lan() {
		return "lan"
	}
	return a.String()
}
