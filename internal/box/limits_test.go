package box

import (
	"strings"
	"testing"
)

// TestDeviceRules: the default rules hold in every box, spare or not; a
// privileged one and one with rules of its own are placed elsewhere.
func TestDeviceRules(t *testing.T) {
	root := image(t)
	const try = "mknod /tmp/sda b 8 0 && echo made; cat /tmp/sda 2>&1; cat /dev/null && echo null; cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; rm -f /tmp/sda"
	for name, c := range map[string]struct {
		cgroup Cgroup
		want   string
	}{
		"default":    {Cgroup{}, "Operation not permitted"},
		"privileged": {Cgroup{AllDevices: true}, "No such device"},
		"rule":       {Cgroup{DeviceRules: []DeviceRule{{Type: "b", Major: 8, Minor: -1, Access: "rwm"}}}, "No such device"},
		"limit":      {Cgroup{Resources: Resources{PidsLimit: 7, Memory: 20 << 20}}, "\n7\n"},
	} {
		for range 4 {
			spec := boxSpec(t, root, "sh", "-c", try)
			c.cgroup.Parent = spec.Cgroup.Parent
			spec.Cgroup = c.cgroup
			spec.Process.Capabilities.Bounding = append(spec.Process.Capabilities.Bounding, "CAP_MKNOD")
			spec.Process.Capabilities.Effective = append(spec.Process.Capabilities.Effective, "CAP_MKNOD")
			spec.Process.Capabilities.Permitted = append(spec.Process.Capabilities.Permitted, "CAP_MKNOD")
			if out, _ := run(t, spec); !strings.Contains(out, c.want) || !strings.Contains(out, "made\n") || !strings.Contains(out, "null\n") {
				t.Errorf("%s: %q is not in %q", name, c.want, out)
			}
		}
	}
}
