package spec

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"hezi/internal/box"
)

func TestDeviceRules(t *testing.T) {
	for text, want := range map[string]box.DeviceRule{
		"c 1:3 rwm": {Type: "c", Major: 1, Minor: 3, Access: "rwm"}, "b 8:* r": {Type: "b", Major: 8, Minor: -1, Access: "r"},
		"a *:* rwm": {Type: "a", Major: -1, Minor: -1, Access: "rwm"},
	} {
		if got, err := deviceRule(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "c", "c 1:3", "d 1:3 r", "c 1 r", "c 1:3 x", "c 1:3 rrww", "c -1:3 r", "c 1:3 r\n", "c  1:3 r", "c 4294967295:1 r", "c 1:99999999999 r", "abc 1:3 r"} {
		if r, err := deviceRule(bad); err == nil || !strings.Contains(err.Error(), "invalid device cgroup rule format") {
			t.Errorf("%q: %+v, %v", bad, r, err)
		}
	}
}

func TestDevices(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mknod(filepath.Join(dir, "d"), unix.S_IFCHR|0o604, int(unix.Mkdev(300, 70000))); err != nil {
		t.Skip("no device can be made:", err)
	}
	if err := os.Symlink("d", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	ask := func(h container.HostConfig, host, inside, access string) ([]box.Device, []box.DeviceRule) {
		t.Helper()
		h.Devices = []container.DeviceMapping{{PathOnHost: host, PathInContainer: inside, CgroupPermissions: access}}
		nodes, rules, err := devices(&h)
		if err != nil {
			t.Fatal(err)
		}
		return nodes, rules
	}
	node := func(p string) []box.Device {
		return []box.Device{{Path: p, Type: "c", Major: 300, Minor: 70000, Mode: 0o604}}
	}
	rule := []box.DeviceRule{{Type: "c", Major: 300, Minor: 70000, Access: "rm"}}
	for _, c := range []struct{ host, inside, node string }{
		{dir + "/d", "/dev/x", "/dev/x"}, {dir + "/link", "/dev/x", "/dev/x"}, {dir, "/dev/y", "/dev/y/d"}, {dir + "/", "/dev/y/", "/dev/y/d"},
	} {
		nodes, rules := ask(container.HostConfig{}, c.host, c.inside, "rm")
		if diff := cmp.Diff(node(c.node), nodes); diff != "" {
			t.Error(c, diff)
		}
		if diff := cmp.Diff(rule, rules); diff != "" {
			t.Error(c, diff)
		}
	}
	if nodes, rules := ask(container.HostConfig{Privileged: true}, dir+"/d", "/dev/x", "r"); len(rules) > 0 || !cmp.Equal(nodes[len(nodes)-1:], node("/dev/x")) {
		t.Error(nodes, rules)
	}
	if _, rules := ask(container.HostConfig{}, dir+"/d", "/dev/x", ""); len(rules) > 0 {
		t.Error(rules)
	}
	for _, bad := range []container.DeviceMapping{{PathOnHost: "/dev/null", PathInContainer: "x"}, {PathInContainer: "/x"}, {PathOnHost: "/a", PathInContainer: "/b", CgroupPermissions: "rx"}} {
		if checkDevices(&container.HostConfig{Resources: container.Resources{Devices: []container.DeviceMapping{bad}}}) == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}
