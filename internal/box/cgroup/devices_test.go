package cgroup

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDevices tries null (allowed), mem (refused) and sda (refused; making the
// node is allowed) from inside.
func TestDevices(t *testing.T) {
	each(t, false, func(t *testing.T, d *Driver) {
		for name, c := range map[string]struct {
			devices Devices
			want    string
			sub     string
		}{
			"default":    {Devices{}, "open refused refused", subDefault},
			"rule":       {Devices{Rules: []DeviceRule{{"b", 8, -1, "r"}}}, "open refused open", subDevices},
			"write only": {Devices{Rules: []DeviceRule{{"b", 8, 0, "w"}, {"c", 1, 1, "mwr"}}}, "open open refused", subDevices},
			"both types": {Devices{Rules: []DeviceRule{{"a", 8, 0, "rw"}}}, "open refused open", subDevices},
			"privileged": {Devices{All: true}, "open open open", subDevices},
			"all":        {Devices{Rules: []DeviceRule{{"a", -1, -1, "rwm"}}}, "open open open", subDevices},
		} {
			t.Run(name, func(t *testing.T) {
				g := create(t, d, Resources{}, c.devices)
				if sub := filepath.Base(filepath.Dir(g.tracker())); sub != c.sub {
					t.Errorf("it is below %s", sub)
				}
				if got := inside(t, g, "device").start(t); got != c.want {
					t.Errorf("%s, not %s", got, c.want)
				}
			})
		}
		// Another engine process with the same parent (after a restart) finds
		// the rules in place, with a container below them.
		g := create(t, d, Resources{}, Devices{})
		again := &Driver{Version: d.Version, identity: d.identity, hierarchies: d.hierarchies, ready: map[string]struct{}{}}
		h := create(t, again, Resources{}, Devices{})
		for _, g := range []*Group{g, h} {
			if got := inside(t, g, "device").start(t); got != "open refused refused" {
				t.Errorf("after a restart: %s", got)
			}
		}
	})
}

// TestDeviceRulesReplaced: rules of an older version give way to the new ones
// on v2, and a second attachment changes nothing.
func TestDeviceRulesReplaced(t *testing.T) {
	each(t, false, func(t *testing.T, d *Driver) {
		if d.Version != 2 {
			t.Skip("cgroup v1 has lists")
		}
		g := create(t, d, Resources{}, Devices{})
		dir := g.v2()
		count := func() (names []string) {
			fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			list, err := attached(fd)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range list {
				names = append(names, p.name)
				unix.Close(p.fd)
			}
			return names
		}
		for range 2 {
			if err := attachDevices(dir, []DeviceRule{{"c", 1, 3, "rwm"}}); err != nil {
				t.Fatal(err)
			}
		}
		old := count()
		if len(old) != 1 || !strings.HasPrefix(old[0], "hezi_") {
			t.Fatalf("programs %q", old)
		}
		if err := attachDevices(dir, DefaultRules()); err != nil {
			t.Fatal(err)
		}
		if now := count(); len(now) != 1 || slices.Equal(old, now) {
			t.Errorf("programs %q, before %q", now, old)
		}
	})
}

func TestBadRules(t *testing.T) {
	for _, r := range []DeviceRule{{"x", 1, 1, "r"}, {"c", -2, 1, "r"}, {"c", 1, 1 << 33, "r"}, {"c", 1, 1, ""}, {"c", 1, 1, "rx"}, {"c", 1, 1, "r\n"}} {
		if _, _, err := expand(Devices{Rules: []DeviceRule{r}}); err == nil {
			t.Errorf("%v was taken", r)
		}
	}
}
