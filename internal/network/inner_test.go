package network

import (
	"net/netip"
	"testing"
)

// TestInner: which addresses no name of the outside opens.
func TestInner(t *testing.T) {
	c := restrainer{&registry{}}
	for a, want := range map[string]bool{
		"10.1.2.3": true, "169.254.169.254": true, "100.100.100.200": true, "192.0.0.192": true, "168.63.129.16": true, "127.0.0.1": true, "0.1.2.3": true,
		"fe80::1": true, "fd00:ec2::254": true, "::127.0.0.1": true, "64:ff9b::169.254.169.254": true, "64:ff9b:1::1": true, "2002:a9fe:a9fe::1": true, "fec0::1": true,
		"1.1.1.1": false, "168.63.129.17": false, "2606:4700::1": false, "64:ff9b::1.1.1.1": false,
	} {
		if got := c.inner(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: %v", a, got)
		}
	}
}
