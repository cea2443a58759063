package volume

import (
	"errors"
	"net"
	"testing"
)

func TestSource(t *testing.T) {
	lookUp := func(_, host string) (*net.IPAddr, error) {
		if host != "server" {
			return nil, errors.New("no such host")
		}
		return &net.IPAddr{IP: net.ParseIP("10.1.2.3")}, nil
	}
	for _, c := range []struct{ kind, device, o, wantDevice, wantOptions string }{
		{"nfs", ":/x", "rw,addr=server,vers=4", ":/x", "rw,addr=10.1.2.3,vers=4"},
		{"nfs4", ":/x", "addr=server", ":/x", "addr=10.1.2.3"},
		{"nfs", ":/x", "addr=fd00::1", ":/x", "addr=fd00::1"},
		{"nfs", ":/x", "addr=10.0.0.1", ":/x", "addr=10.0.0.1"},
		{"nfs", ":/x", "addr=gone", "", ""},
		{"none", "/x", "bind,addr=server", "/x", "bind,addr=server"},
		{"cifs", "//server/share", "username=u", "//10.1.2.3/share", "username=u"},
		{"cifs", "//server/share", "addr=server,username=u", "//server/share", "addr=10.1.2.3,username=u"},
		{"cifs", "//gone/share", "", "", ""},
		{"tmpfs", "", "", "", ""},
	} {
		device, options, err := source(map[string]string{"type": c.kind, "device": c.device, "o": c.o}, lookUp)
		if failed := c.wantDevice == ""; failed != (err != nil) || !failed && (device != c.wantDevice || options != c.wantOptions) {
			t.Errorf("%+v: %q %q %v", c, device, options, err)
		}
	}
}
