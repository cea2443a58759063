package oci

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hezi/internal/box/cgroup"
	"hezi/test/harness"
)

// helper has this test's own program be the runtime: it makes processes that
// outlive it, as the real one does.
const helper = "HEZI_OCI_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(helper) != "" {
		os.Unsetenv(helper)
		os.Exit(Run("test", os.Args[1:]))
	}
	os.Exit(m.Run())
}

type bench struct {
	t            *testing.T
	root, bundle string
	mounts       string // the mount namespace that the command is called in; "": the test's own
}

// bundleOf is a bundle of busybox whose program is a shell's script.
func bundleOf(t *testing.T, script string, change func(*specs.Spec)) bench {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("boxes are made as root: run the tests as root")
	}
	dir := t.TempDir()
	b := bench{t: t, root: filepath.Join(dir, "state"), bundle: dir}
	bin := filepath.Join(dir, "rootfs", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("install busybox-static: %v", err)
	}
	if err := os.WriteFile(filepath.Join(bin, "busybox"), text, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "sleep", "cat", "id", "hostname", "stat", "mount", "grep", "kill", "tty"} {
		if err := os.Symlink("busybox", filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	c := example()
	c.Process.Terminal, c.Process.Args = false, []string{"sh", "-c", script}
	c.Linux.CgroupsPath = "/hezi-ocitest/" + filepath.Base(filepath.Dir(dir))
	if change != nil {
		change(c)
	}
	out, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), out, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, id := range strings.Fields(b.must("list", "-q")) {
			b.must("delete", "--force", id)
		}
		parents, _ := filepath.Glob("/sys/fs/cgroup/*/hezi-ocitest") // its pattern is sound
		for _, p := range parents {
			_ = os.Remove(p) // another test may be in it
		}
	})
	return b
}

// call runs the command. Output goes to a file: a container would keep a pipe.
func (b bench) call(args ...string) (out string, code int) {
	b.t.Helper()
	f, err := os.CreateTemp(b.t.TempDir(), "")
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	self, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	line := append([]string{self, "--root", b.root}, args...)
	if b.mounts != "" {
		line = append([]string{"nsenter", "--mount=" + b.mounts, "--"}, line...)
	}
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), helper+"=1"), f, f
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		b.t.Fatal(err)
	}
	text, err := os.ReadFile(f.Name())
	if err != nil {
		b.t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

func (b bench) must(args ...string) string {
	b.t.Helper()
	out, code := b.call(args...)
	if code != 0 {
		b.t.Fatalf("%v: exit %d: %s", args, code, out)
	}
	return out
}

func (b bench) status(id string) string {
	b.t.Helper()
	var r report
	if err := json.Unmarshal([]byte(b.must("state", id)), &r); err != nil {
		b.t.Fatal(err)
	}
	return string(r.Status)
}

func TestRun(t *testing.T) {
	b := bundleOf(t, "id -u; hostname; cat /proc/self/cgroup | grep pids; exit 3", nil)
	out, code := b.call("run", "--bundle", b.bundle, "one")
	if code != 3 || !strings.HasPrefix(out, "0\nhezi\n") || !strings.Contains(out, "pids:/\n") {
		t.Errorf("exit %d: %q", code, out)
	}
	if left := b.must("list", "-q"); left != "" {
		t.Errorf("left: %q", left)
	}
	b = bundleOf(t, "", func(c *specs.Spec) { c.Process.Args = []string{"absent"} })
	out, code = b.call("run", "--bundle", b.bundle, "two")
	if code != 1 || !strings.Contains(out, `exec: "absent": executable file not found in $PATH`) {
		t.Errorf("exit %d: %q", code, out)
	}
	if entries, _ := os.ReadDir(b.root); len(entries) > 0 {
		t.Errorf("left: %v", entries)
	}
}

func TestLifeCycle(t *testing.T) {
	b := bundleOf(t, "echo began > /mark; exec sleep 1000", func(c *specs.Spec) { c.Root.Readonly = false })
	mark := filepath.Join(b.bundle, "rootfs", "mark")
	pidFile := filepath.Join(b.bundle, "pid")
	b.must("create", "--bundle", b.bundle, "--pid-file", pidFile, "c")
	if got := b.status("c"); got != "created" {
		t.Fatal(got)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("the program ran before start")
	}
	if out, code := b.call("create", "--bundle", b.bundle, "c"); code == 0 || !strings.Contains(out, "already exists") {
		t.Errorf("a second create: %d %q", code, out)
	}
	if out, code := b.call("exec", "c", "id"); code != 255 || !strings.Contains(out, "created") {
		t.Errorf("exec before start: %d %q", code, out)
	}
	b.must("start", "c")
	if out, code := b.call("start", "c"); code == 0 || !strings.Contains(out, "already running") {
		t.Errorf("a second start: %d %q", code, out)
	}
	out, code := b.call("exec", "-e", "A=b", "-u", "7:8", "--cwd", "/bin", "c", "sh", "-c", "id -u; id -g; echo $A; stat -c %n .; exit 9")
	if code != 9 || out != "7\n8\nb\n.\n" {
		t.Errorf("exec: %d %q", code, out)
	}
	if text, err := os.ReadFile(mark); err != nil || string(text) != "began\n" {
		t.Errorf("%q %v", text, err)
	}
	b.must("pause", "c")
	if got := b.status("c"); got != "paused" {
		t.Error(got)
	}
	if out, code := b.call("exec", "c", "id"); code == 0 || !strings.Contains(out, "paused") {
		t.Errorf("exec while paused: %d %q", code, out)
	}
	b.must("resume", "c")
	limits := filepath.Join(b.bundle, "limits.json")
	if err := os.WriteFile(limits, []byte(`{"pids":{"limit":17}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	b.must("update", "--resources", limits, "c")
	if out := b.must("exec", "c", "sh", "-c", "cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null; :"); out != "17\n" {
		t.Errorf("the limit: %q", out)
	}
	var pids []int
	if err := json.Unmarshal([]byte(b.must("ps", "--format", "json", "c")), &pids); err != nil || len(pids) != 1 {
		t.Errorf("%v %v", pids, err)
	}
	if text, err := os.ReadFile(pidFile); err != nil || string(text) != fmt.Sprint(pids[0]) {
		t.Errorf("the pid's file has %q, not %v", text, pids)
	}
	if out, code := b.call("delete", "c"); code == 0 || !strings.Contains(out, "is not stopped") {
		t.Errorf("delete while it runs: %d %q", code, out)
	}
	b.must("delete", "--force", "c")
	if out, code := b.call("state", "c"); code == 0 || !strings.Contains(out, "does not exist") {
		t.Errorf("state after delete: %d %q", code, out)
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/*/hezi-ocitest/" + filepath.Base(filepath.Dir(b.bundle))); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestHooks: each kind runs once, in its order, in its namespaces, with the state
// on standard input and no environment but its own.
func TestHooks(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	hook := func(name, more string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Env: []string{"OWN=" + name}, Args: []string{"sh", "-c", "(echo $OWN $HOME; cat; echo; " + more + ") >> " + log}}}
	}
	const where = "readlink /proc/self/ns/mnt; ls /proc/self/fd | wc -l"
	b := bundleOf(t, "", func(c *specs.Spec) {
		c.Hooks = &specs.Hooks{CreateRuntime: hook("createRuntime", where), Poststart: hook("poststart", ""), Poststop: hook("poststop", "")}
		//lint:ignore SA1019 dockerd still has them
		c.Hooks.Prestart = hook("prestart", where)
		c.Mounts = append(c.Mounts, specs.Mount{Destination: "/run", Type: "tmpfs", Source: "tmpfs"})
	})
	rootfs := filepath.Join(b.bundle, "rootfs")
	b.change(func(c *specs.Spec) {
		c.Hooks.CreateContainer = hook("createContainer", where+"; echo made > "+rootfs+"/created")
		c.Hooks.StartContainer = []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat > /run/started; test ! -e " + log + " && echo out of sight >> /run/started"}}}
		c.Process.Args = []string{"sh", "-c", "cat /created /run/started; test -e " + log + " || echo gone; grep -c . /proc/self/mountinfo"}
	})
	out := b.must("run", "--bundle", b.bundle, "h")
	if !strings.HasPrefix(out, "made\n{") || !strings.Contains(out, `"status":"created","pid":1}`) || !strings.Contains(out, "out of sight\ngone\n") {
		t.Errorf("inside: %q", out)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	host := link(t, "/proc/self/ns/mnt")
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	for i, want := range []struct {
		name   string
		status specs.ContainerState
		inside bool
		more   int
	}{{"prestart", specs.StateCreating, false, 2}, {"createRuntime", specs.StateCreating, false, 2}, {"createContainer", specs.StateCreating, true, 2}, {"poststart", specs.StateRunning, false, 0}, {"poststop", specs.StateStopped, false, 0}} {
		if len(lines) < 2+want.more {
			t.Fatalf("%d, %s: %q", i, want.name, text)
		}
		var s specs.State
		if err := json.Unmarshal([]byte(lines[1]), &s); err != nil || s.ID != "h" || s.Bundle != b.bundle || s.Status != want.status || (want.status == specs.StateStopped) != (s.Pid == 0) || want.inside && s.Pid != 1 {
			t.Errorf("%s: %v, not %s", lines[1], err, want.status)
		}
		if strings.TrimSpace(lines[0]) != want.name {
			t.Errorf("%q, want %s and no variables of ours", lines[0], want.name)
		}
		if want.more > 0 && ((lines[2] != host) != want.inside || strings.TrimSpace(lines[3]) != "4") { // 0, 1, 2 and that of ls
			t.Errorf("%s: in %s (the host is %s), with the descriptors %s", want.name, lines[2], host, lines[3])
		}
		lines = lines[2+want.more:]
	}
}

// TestHooksFail: a hook that fails, or does not end, ends the start with its words
// and leaves nothing.
func TestHooksFail(t *testing.T) {
	fails := []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo no way; exit 1"}}}
	hangs := []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo asleep; sleep 100"}, Timeout: new(1)}}
	for want, h := range map[string]*specs.Hooks{
		"the createRuntime hook /bin/sh failed: exit status 1: no way":                  {CreateRuntime: fails},
		"the createContainer hook /bin/sh failed: exit status 1: no way":                {CreateContainer: fails},
		"the createContainer hook /bin/sh failed: it did not end within 1 s: asleep":    {CreateContainer: hangs},
		"the createRuntime hook /bin/sh failed: it did not end within 1 s: asleep":      {CreateRuntime: hangs},
		"the createContainer hook /nosuch failed":                                       {CreateContainer: []specs.Hook{{Path: "/nosuch"}}},
		`the startContainer hook "x" has no absolute path`:                              {StartContainer: []specs.Hook{{Path: "x"}}},
		`the createContainer hook "/x" has a timeout of 0 s`:                            {CreateContainer: []specs.Hook{{Path: "/x", Timeout: new(0)}}},
		"the createContainer hook /bin/sh failed: it was ended by signal 9: last words": {CreateContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo last words; kill -9 $$"}}}},
	} {
		b := bundleOf(t, "exit 0", func(c *specs.Spec) { c.Hooks = h })
		if out, code := b.call("run", "--bundle", b.bundle, "h"); code == 0 || !strings.Contains(out, want) {
			t.Errorf("%s: exit %d %q", want, code, out)
		}
		if out := b.must("list", "-q"); out != "" {
			t.Errorf("%s: left %q", want, out)
		}
	}
	// After start has let init go, a failure is the container's exit.
	b := bundleOf(t, "exit 0", func(c *specs.Spec) { c.Hooks = &specs.Hooks{StartContainer: fails} })
	if out, code := b.call("run", "--bundle", b.bundle, "h"); code != 1 {
		t.Errorf("exit %d %q", code, out)
	}
}

// What a bundle asks for and the box does not have is refused by its name.
func TestLimitsOfHugePages(t *testing.T) {
	got, err := resources(&specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}, {Pagesize: "1GB", Limit: math.MaxUint64}}})
	want := &cgroup.HugePages{Limits: []cgroup.HugePage{{Size: "2MB", Bytes: 4 << 20}, {Size: "1GB", Bytes: -1}}}
	if err != nil || !reflect.DeepEqual(got.HugePages, want) {
		t.Errorf("%+v, %v", got.HugePages, err)
	}
}

func TestRefuses(t *testing.T) {
	for want, change := range map[string]func(*specs.Spec){
		"no user namespace that they are": func(c *specs.Spec) { c.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}} },
		"no uid or gid mappings found": func(c *specs.Spec) {
			c.Linux.Namespaces = append(c.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		},
		"the ids of the user namespace /run/x are not known": func(c *specs.Spec) {
			c.Linux.Namespaces = append(c.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: "/run/x"})
		},
		"needs a mount namespace of its own": func(c *specs.Spec) {
			c.Hostname, c.Linux.Namespaces = "", []specs.LinuxNamespace{{Type: specs.UserNamespace}}
			c.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 7, Size: 1}}
			c.Linux.GIDMappings = c.Linux.UIDMappings
		},
		`"private" and "rslave" together`: func(c *specs.Spec) { c.Mounts[1].Options = []string{"private", "rslave"} },
		"linux.rootfsPropagation odd":     func(c *specs.Spec) { c.Linux.RootfsPropagation = "odd" },
		`a file system of type "ext4"`:    func(c *specs.Spec) { c.Mounts = append(c.Mounts, specs.Mount{Destination: "/x", Type: "ext4"}) },
		`the option "sync" of a bind`:     func(c *specs.Spec) { c.Mounts[0].Options = []string{"bind", "sync"} },
		"is for systemd":                  func(c *specs.Spec) { c.Linux.CgroupsPath = "a.slice:b:c" },
		"duplicated ns":                   func(c *specs.Spec) { c.Linux.Namespaces = append(c.Linux.Namespaces, c.Linux.Namespaces[0]) },
		`of version "2.0.0"`:              func(c *specs.Spec) { c.Version = "2.0.0" },
		"cwd must be an absolute path":    func(c *specs.Spec) { c.Process.Cwd = "x" },
		"denies the device c 1:3 alone": func(c *specs.Spec) {
			c.Linux.Resources.Devices = append(c.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Type: "c", Major: new(int64(1)), Minor: new(int64(3))})
		},
		"private UTS namespace": func(c *specs.Spec) { c.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}} },
		"linux.seccomp.listenerPath": func(c *specs.Spec) {
			c.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/x"}
		},
		"without setting console socket":    func(c *specs.Spec) { c.Process.Terminal = true },
		"process property must not be empt": func(c *specs.Spec) { c.Process = nil },
	} {
		b := bundleOf(t, "exit 0", change)
		if out, code := b.call("create", "--bundle", b.bundle, "r"); code != 1 || !strings.Contains(out, want) {
			t.Errorf("%s: exit %d: %q", want, code, out)
		}
	}
	b := bundleOf(t, "exit 0", nil)
	for _, id := range []string{"../x", "a/b", "", ".."} {
		if out, code := b.call("create", "--bundle", b.bundle, id); code != 1 || !strings.Contains(out, "invalid container ID format") {
			t.Errorf("%q: exit %d: %q", id, code, out)
		}
	}
	if out, code := b.call("create", "--bundle", b.bundle, "--preserve-fds", "1", "r"); code != 1 || !strings.Contains(out, "--preserve-fds is not supported") {
		t.Errorf("exit %d: %q", code, out)
	}
}

// TestHalfEnded: a container has not stopped, nor let go of its cgroup, while a
// thread of its first process is left.
func TestHalfEnded(t *testing.T) {
	pid := harness.HalfDead(t)
	since := started(pid)
	c := &container{dir: t.TempDir(), record: record{State: specs.State{Pid: pid}, Started: since}}
	if s := c.status(); since == 0 || s != specs.StateRunning {
		t.Errorf("%s, since %d", s, since)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); c.status() != specs.StateStopped; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a zombie has not stopped")
		}
	}
}
