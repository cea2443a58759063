package engine

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
)

// TestResolvConfInHost: in the host's network its servers are right, and what the
// configuration says instead holds as elsewhere.
func TestResolvConfInHost(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	const host = "nameserver 127.0.0.53\nsearch corp\n"
	if err := os.WriteFile(file, []byte(host), 0o644); err != nil {
		t.Fatal(err)
	}
	e := launcher{newEngine(Options{Defaults: Defaults{ResolvConf: file}}).records}
	r := &record{HostConfig: &container.HostConfig{NetworkMode: "host"}}
	if text, err := e.resolvConf(r, nil); err != nil || string(text) != host {
		t.Errorf("%q, %v", text, err)
	}
	r.HostConfig.DNSSearch = []string{"own"}
	if text, err := e.resolvConf(r, nil); err != nil || !strings.Contains(string(text), "nameserver 127.0.0.53\nsearch own\n") {
		t.Errorf("with --dns-search: %q, %v", text, err)
	}
	r.HostConfig.DNSSearch = nil
	e.o.Defaults.DNS = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	if text, err := e.resolvConf(r, nil); err != nil || !strings.Contains(string(text), "nameserver 192.0.2.1\nsearch corp\n") {
		t.Errorf("with dns in the configuration: %q, %v", text, err)
	}
}
