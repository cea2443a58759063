package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hezi/test/harness"
)

// TestDaemonsCgroupParent: cgroup-parent of the daemon is where containers are
// that name none.
func TestDaemonsCgroupParent(t *testing.T) {
	e := harness.Start(t, "--cgroup-parent", "/parent-test/all")
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e.Hezi("rm", "-f", "one", "own")
		for _, p := range []string{"*/parent-test/*", "*/parent-test", "parent-test/*", "parent-test"} {
			dirs, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", p))
			for _, d := range dirs {
				os.Remove(d) // files of the kernel stay, and go with their folder
			}
		}
	})
	for name, c := range map[string]struct{ args, want string }{
		"one": {"", "/parent-test/all/"}, "own": {"/parent-test/own", "/parent-test/own/"},
	} {
		args := []string{"run", "-d", "--name", name}
		if c.args != "" {
			args = append(args, "--cgroup-parent", c.args)
		}
		id := e.Must(t, append(args, "busybox", "sleep", "1000")...)
		groups, err := os.ReadFile(filepath.Join("/proc", e.Must(t, "inspect", "-f", "{{.State.Pid}}", name), "cgroup"))
		if err != nil || !strings.Contains(string(groups), ":"+c.want+id+"\n") {
			t.Errorf("%s is in %s, %v", name, groups, err)
		}
	}
	if got := e.Must(t, "inspect", "-f", "{{.HostConfig.CgroupParent}}", "one"); got != "" {
		t.Errorf("inspect shows %q, which nobody asked of the container", got)
	}
}
