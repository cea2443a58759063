package compat

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hezi/test/harness"
)

// TestPodman has Debian's podman run containers by our OCI runtime.
func TestPodman(t *testing.T) {
	podman, err := exec.LookPath("podman")
	if err != nil {
		t.Fatal("install podman: make setup")
	}
	dir := t.TempDir()
	runtime := filepath.Join(dir, "hezi-oci")
	if err := os.Symlink(filepath.Join(harness.Bin(), "hezi-keeper"), runtime); err != nil {
		t.Fatal(err)
	}
	archive, err := harness.BusyboxArchive()
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(archive)
	run := func(args ...string) (string, int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // also when the test has ended
		defer cancel()
		all := []string{"--root", filepath.Join(dir, "data"), "--runroot", filepath.Join(dir, "run"), "--tmpdir", filepath.Join(dir, "tmp"), "--storage-driver", "vfs",
			"--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", runtime}
		cmd := exec.CommandContext(ctx, podman, append(all, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out)), cmd.ProcessState.ExitCode()
	}
	t.Cleanup(func() {
		if out, code := run("rm", "-af", "-t", "0"); code != 0 {
			t.Errorf("podman rm: %s", out)
		}
		for _, p := range []string{"libpod_parent"} {
			list, _ := filepath.Glob("/sys/fs/cgroup/*/" + p) // its pattern is sound
			for _, d := range list {
				_ = os.Remove(d) // another podman may use it
			}
		}
	})
	if out, code := run("load", "-q", "-i", archive); code != 0 {
		t.Fatalf("podman load: %s", out)
	}
	// A machine in a machine may not raise limits.
	limits := []string{"--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"}
	start := append(append([]string{"run", "-d", "--name", "box", "--pids-limit", "50", "--hostname", "inside"}, limits...), "busybox", "sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.1; done")
	if out, code := run(start...); code != 0 {
		t.Fatalf("podman run: %s", out)
	}
	for _, c := range []struct {
		args []string
		out  string
		code int
	}{
		{[]string{"exec", "box", "sh", "-c", "hostname; exit 9"}, "inside", 9},
		{[]string{"exec", "-u", "12:13", "-w", "/bin", "box", "sh", "-c", "id -u; pwd"}, "12\n/bin", 0},
		{[]string{"pause", "box"}, "", 0},
		{[]string{"inspect", "-f", "{{.State.Status}} {{.OCIRuntime}}", "box"}, "paused " + runtime, 0},
		{[]string{"unpause", "box"}, "", 0},
		{[]string{"stop", "box"}, "", 0},
		{[]string{"inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "box"}, "exited 5", 0},
	} {
		out, code := run(c.args...)
		if code != c.code || c.out != "" && out != c.out {
			t.Errorf("podman %v: exit %d, %q; not %d, %q", c.args, code, out, c.code, c.out)
		}
	}
	absent := append(append([]string{"run", "--rm"}, limits...), "busybox", "absent")
	if out, code := run(absent...); code != 127 || !strings.Contains(out, "executable file not found in $PATH") {
		t.Errorf("podman run of what is not there: exit %d, %q", code, out)
	}
}
