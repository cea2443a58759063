package box

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// unified makes groups in the cgroup v2 hierarchy, wherever it is mounted.
type unified struct{ root string }

func (u unified) create(_ context.Context, c *Cgroup, leaf string) (group, error) {
	dir := filepath.Join(u.root, c.Parent, leaf)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return &directoryGroup{paths: map[string]string{"": dir}, fd: fd}, err
}

// TestUnified: on cgroup v2 starts and execs are born in their cgroup.
func TestUnified(t *testing.T) {
	u := unified{cgroupMount}
	if _, err := os.Stat(cgroupMount + "/unified/cgroup.procs"); err == nil {
		u.root = cgroupMount + "/unified"
	} else if _, err := os.Stat(cgroupMount + "/cgroup.procs"); err != nil {
		t.Skip("this kernel has no cgroup v2 mounted")
	}
	r, err := NewRuntime(Options{Identity: "boxtest", Pool: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	r.cgroups = u
	spec := boxSpec(t, image(t), "sleep", "100")
	box, err := r.Start(t.Context(), spec, Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = unix.PidfdSendSignal(rawFD(box.PidFD), unix.SIGKILL, nil, 0)
		await(t, box)
		removeGroup(t, box)
	}()
	p := spec.Process
	p.Args = []string{"sh", "-c", "grep '^0:' /proc/1/cgroup /proc/self/cgroup; grep -c 'cgroup2' /proc/self/mountinfo"}
	out, code := execIn(t, box, &p)
	if code != 0 || out != "/proc/1/cgroup:0::/\n/proc/self/cgroup:0::/\n1\n" {
		t.Errorf("exit code %d, %q", code, out)
	}
	text, err := os.ReadFile(filepath.Join("/proc", "self", "cgroup"))
	if err != nil || strings.Contains(string(text), spec.ID) {
		t.Errorf("the runtime itself moved: %s", text)
	}
}
