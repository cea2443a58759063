package box

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// bundleOf writes an OCI bundle that asks runc or crun for the same box; the
// root is a directory instead of an overlay.
func bundleOf(t testing.TB, spec *Spec, root string, hostNet bool) string {
	t.Helper()
	type m = map[string]any
	var mounts []m
	for _, x := range spec.Mounts {
		options := []string{}
		for _, o := range []struct {
			on   bool
			name string
		}{{x.NoSuid, "nosuid"}, {x.NoDev, "nodev"}, {x.NoExec, "noexec"}, {x.ReadOnly, "ro"}} {
			if o.on {
				options = append(options, o.name)
			}
		}
		if x.Data != "" {
			options = append(options, strings.Split(x.Data, ",")...)
		}
		mounts = append(mounts, m{"destination": x.Target, "type": x.Type, "source": x.Type, "options": options})
	}
	namespaces := []m{{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}}
	if !hostNet {
		namespaces = append(namespaces, m{"type": "network"})
	}
	c := spec.Process.Capabilities
	config := m{
		"ociVersion": "1.0.2",
		"process": m{"args": spec.Process.Args, "env": append([]string{"HOME=/root"}, spec.Process.Env...), "cwd": "/", "user": m{"uid": 0, "gid": 0, "additionalGids": []int{10}},
			"capabilities": m{"bounding": c.Bounding, "effective": c.Effective, "permitted": c.Permitted}},
		"root":     m{"path": root},
		"hostname": spec.Hostname, "mounts": mounts,
		"linux": m{"namespaces": namespaces, "maskedPaths": spec.MaskedPaths, "readonlyPaths": spec.ReadonlyPaths,
			"cgroupsPath": spec.Cgroup.Parent + "/" + spec.ID},
	}
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}
