package box

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

type object = map[string]any

// bundleOf writes an OCI bundle that asks runc or crun for the same box; the
// root is a directory instead of an overlay.
func bundleOf(t testing.TB, spec *Spec, root string, hostNet bool) string {
	t.Helper()
	var mounts []object
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
		mounts = append(mounts, object{"destination": x.Target, "type": x.Type, "source": x.Type, "options": options})
	}
	namespaces := []object{{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}}
	if !hostNet {
		namespaces = append(namespaces, object{"type": "network"})
	}
	linux := object{}
	if u := spec.Users; u != nil {
		namespaces = append(namespaces, object{"type": "user"})
		for key, list := range map[string][]IDMap{"uidMappings": u.UIDs, "gidMappings": u.GIDs} {
			var lines []object
			for _, m := range list {
				lines = append(lines, object{"containerID": m.Container, "hostID": m.Host, "size": m.Size})
			}
			linux[key] = lines
		}
		root = shifted(t, root, int(u.UIDs[0].Host))
	}
	maps.Copy(linux, object{"namespaces": namespaces, "maskedPaths": spec.MaskedPaths, "readonlyPaths": spec.ReadonlyPaths,
		"cgroupsPath": spec.Cgroup.Parent + "/" + spec.ID, "resources": resourcesOf(&spec.Cgroup)})
	if len(spec.Process.Seccomp) > 0 { // the same number of filters: what they say is another test's
		linux["seccomp"] = object{"defaultAction": "SCMP_ACT_ALLOW",
			"syscalls": []object{{"names": []string{"kexec_load"}, "action": "SCMP_ACT_ERRNO"}}}
	}
	var devices []object
	for _, d := range spec.Devices {
		devices = append(devices, object{"path": d.Path, "type": d.Type, "major": d.Major, "minor": d.Minor, "fileMode": d.Mode, "uid": d.UID, "gid": d.GID})
	}
	linux["devices"] = devices
	dir := t.TempDir()
	writeJSON(t, filepath.Join(dir, "config.json"), object{
		"ociVersion": "1.0.2", "process": processOf(&spec.Process), "hostname": spec.Hostname, "mounts": mounts,
		"root": object{"path": root, "readonly": spec.Root.ReadOnly}, "linux": linux,
	})
	return dir
}

// shifted is a copy of a tree whose owners are moved: runc maps no owners of a root.
func shifted(t testing.TB, root string, by int) string {
	t.Helper()
	to := t.TempDir()
	if err := os.Chmod(filepath.Dir(to), 0o755); err != nil { // root inside goes through it
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", root+"/.", to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	err := filepath.WalkDir(to, func(p string, _ os.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(p, &st)
		}
		if err == nil {
			err = os.Lchown(p, int(st.Uid)+by, int(st.Gid)+by)
		}
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFLNK {
			err = unix.Chmod(p, st.Mode&0o7777)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

func resourcesOf(c *Cgroup) object {
	out := object{"devices": []object{{"allow": c.AllDevices, "access": "rwm"}}}
	r := &c.Resources
	if r.Memory > 0 {
		out["memory"] = object{"limit": r.Memory}
	}
	if r.PidsLimit > 0 {
		out["pids"] = object{"limit": r.PidsLimit}
	}
	if r.CPUQuota > 0 {
		out["cpu"] = object{"quota": r.CPUQuota, "period": r.CPUPeriod}
	}
	return out
}

// processOf has the names of the image's users resolved, as Docker does it.
func processOf(p *Process) object {
	user, home := object{"uid": 0, "gid": 0, "additionalGids": []int{0, 10}}, "/root"
	if p.User == "ann" {
		user, home = object{"uid": 1000, "gid": 1000, "additionalGids": []int{1000, 10}}, "/home/ann"
	}
	c := p.Capabilities
	caps := object{"bounding": c.Bounding, "effective": c.Effective, "permitted": c.Permitted}
	out := object{"args": p.Args, "env": slices.Concat([]string{"HOME=" + home}, p.Env), "cwd": p.Cwd, "user": user,
		"capabilities": caps, "terminal": p.Terminal, "noNewPrivileges": p.NoNewPrivileges}
	if p.OOMScoreAdj != nil {
		out["oomScoreAdj"] = *p.OOMScoreAdj
	}
	var limits []object
	for _, l := range p.Rlimits {
		limits = append(limits, object{"type": l.Type, "soft": l.Soft, "hard": l.Hard})
	}
	out["rlimits"] = limits
	return out
}

// processFile is what runc exec takes.
func processFile(t testing.TB, p *Process) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "process.json")
	writeJSON(t, file, processOf(p))
	return file
}

func writeJSON(t testing.TB, path string, v any) {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
}
