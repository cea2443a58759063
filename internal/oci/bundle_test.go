package oci

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// own gives a bundle's root file system to other users.
func (b bench) own(uid int) {
	b.t.Helper()
	for _, dir := range []string{filepath.Dir(b.bundle), b.bundle} { // root inside goes through them
		if err := os.Chmod(dir, 0o755); err != nil {
			b.t.Fatal(err)
		}
	}
	err := filepath.WalkDir(filepath.Join(b.bundle, "rootfs"), func(p string, _ os.DirEntry, err error) error {
		if err == nil {
			err = os.Lchown(p, uid, uid)
		}
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

const aside = 100_000 // ids that nobody has

func mapped(c *specs.Spec) {
	c.Linux.Namespaces = append(c.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	c.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: aside, Size: 1000}}
	c.Linux.GIDMappings = c.Linux.UIDMappings
	c.Root.Readonly = false
}

// TestUserNamespace: the owners of a bundle's files are what they are on disk, exec
// and another container join the namespace.
func TestUserNamespace(t *testing.T) {
	b := bundleOf(t, ": > /made; sleep 1000", mapped)
	b.own(aside)
	b.must("create", "--bundle", b.bundle, "u")
	b.must("start", "u")
	made := filepath.Join(b.bundle, "rootfs", "made")
	var st unix.Stat_t
	eventually(t, func() bool { return unix.Stat(made, &st) == nil })
	if st.Uid != aside {
		t.Errorf("%s is %d's, not %d's", made, st.Uid, aside)
	}
	if out := b.must("exec", "u", "sh", "-c", "id -u; stat -c %u /bin; cat /proc/self/uid_map"); strings.Join(strings.Fields(out), " ") != "0 0 0 100000 1000" {
		t.Errorf("exec: %q", out)
	}
	pid := b.pid("u")
	for name, change := range map[string]func(*specs.Spec){
		"with its ids": func(*specs.Spec) {},
		"without":      func(c *specs.Spec) { c.Linux.UIDMappings, c.Linux.GIDMappings = nil, nil },
	} {
		second := bundleOf(t, "readlink /proc/self/ns/user; id -u", func(c *specs.Spec) {
			mapped(c)
			c.Linux.Namespaces[len(c.Linux.Namespaces)-1].Path = fmt.Sprintf("/proc/%d/ns/user", pid)
			change(c)
		})
		second.own(aside)
		want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", pid))
		if err != nil {
			t.Fatal(err)
		}
		if out := second.must("run", "--bundle", second.bundle, "v"); out != want+"\n0\n" {
			t.Errorf("%s: %q, want the namespace %s", name, out, want)
		}
	}
}

// TestMountNamespaces: a container in a mount namespace that is not its own has its
// root file system there, exec enters it, and delete takes it away.
func TestMountNamespaces(t *testing.T) {
	for _, c := range []struct {
		name           string
		caller, joined string
	}{
		{name: "missing", caller: aloof(t)},
		{name: "joined", joined: aloof(t)},
	} {
		t.Run(c.name, func(t *testing.T) {
			theirs := c.caller + c.joined
			b := bundleOf(t, "sleep 1000", func(s *specs.Spec) {
				for i := range s.Linux.Namespaces {
					if n := &s.Linux.Namespaces[i]; n.Type == specs.MountNamespace {
						if n.Path = c.joined; c.joined == "" {
							s.Linux.Namespaces = append(s.Linux.Namespaces[:i:i], s.Linux.Namespaces[i+1:]...)
						}
						break
					}
				}
			})
			b.mounts = c.caller
			there := func() int {
				text, err := os.ReadFile(strings.Replace(theirs, "ns/mnt", "mountinfo", 1))
				if err != nil {
					t.Fatal(err)
				}
				return strings.Count(string(text), b.bundle)
			}
			b.must("create", "--bundle", b.bundle, "m")
			b.must("start", "m")
			if got := link(t, fmt.Sprintf("/proc/%d/ns/mnt", b.pid("m"))); got != link(t, theirs) || there() == 0 {
				t.Errorf("its namespace is %s, not %s, with %d mounts", got, link(t, theirs), there())
			}
			if out := b.must("exec", "m", "sh", "-c", "test -e /etc/passwd || echo inside; hostname"); out != "inside\nhezi\n" {
				t.Errorf("exec: %q", out)
			}
			b.must("delete", "--force", "m")
			if n := there(); n != 0 {
				t.Errorf("%d mounts are left", n)
			}
			b.change(func(s *specs.Spec) { s.Process.Args = []string{"/no/such"} })
			if out, code := b.call("create", "--bundle", b.bundle, "m"); code == 0 || there() != 0 {
				t.Errorf("a create that failed: %d %q, %d mounts are left", code, out, there())
			}
		})
	}
}

// aloof gives a mount namespace like ours that nobody cares for: what goes wrong in
// it does not reach this machine's own mounts.
func aloof(t *testing.T) string {
	t.Helper()
	p := exec.Command("unshare", "--mount", "--propagation", "private", "sleep", "1000")
	p.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Process.Kill()
		_ = p.Wait() // killed
	})
	theirs := fmt.Sprintf("/proc/%d/ns/mnt", p.Process.Pid)
	eventually(t, func() bool { return link(t, theirs) != link(t, "/proc/self/ns/mnt") })
	return theirs
}

// TestMountOptions: what a bundle asks of a mount is what the kernel has.
func TestMountOptions(t *testing.T) {
	source := t.TempDir()
	if err := unix.Mount("tmpfs", source, "tmpfs", unix.MS_NOATIME|unix.MS_NODIRATIME|unix.MS_NOEXEC, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(source, unix.MNT_DETACH) })
	if err := os.Mkdir(source+"/below", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", source+"/below", "tmpfs", unix.MS_NOATIME, ""); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		kind, options, want, below string
	}{
		{"bind", "bind", "rw,noexec,noatime,nodiratime", ""},
		{"bind", "rbind,defaults,async,loud", "rw,noexec,noatime,nodiratime", "rw,noatime"},
		{"bind", "bind,relatime,exec,diratime", "rw,relatime", ""},
		{"bind", "bind,norelatime", "rw,noexec,nodiratime", ""},
		{"bind", "bind,atime,ro", "ro,noexec,nodiratime,relatime", ""},
		{"bind", "bind,strictatime,noatime", "rw,noexec,noatime,nodiratime", ""},
		{"bind", "rbind,ro", "ro,noexec,noatime,nodiratime", "rw,noatime"},
		{"bind", "rbind,rro,rnosuid,rrelatime", "ro,nosuid,noexec,nodiratime,relatime", "ro,nosuid,relatime"},
		{"bind", "rbind,ro,rrw,nosymfollow", "rw,noexec,noatime,nodiratime,nosymfollow", "rw,noatime"},
		{"tmpfs", "noatime,nodev,size=64k", "rw,nodev,noatime", ""},
		{"tmpfs", "strictatime,ro,rw", "rw", ""},
		{"tmpfs", "norelatime,nosuid", "rw,nosuid", ""},
	}
	b := bundleOf(t, "cat /proc/self/mountinfo", func(c *specs.Spec) {
		for i, m := range cases {
			c.Mounts = append(c.Mounts, specs.Mount{Destination: fmt.Sprintf("/m%d", i), Type: m.kind, Source: source, Options: strings.Split(m.options, ",")})
		}
		c.Root.Readonly = false
	})
	have := map[string]string{}
	for line := range strings.Lines(b.must("run", "--bundle", b.bundle, "o")) {
		if f := strings.Fields(line); len(f) > 5 {
			have[f[4]] = f[5]
		}
	}
	for i, m := range cases {
		at := fmt.Sprintf("/m%d", i)
		if have[at] != m.want || have[at+"/below"] != m.below {
			t.Errorf("%s %s: %q and below %q; want %q and %q", m.kind, m.options, have[at], have[at+"/below"], m.want, m.below)
		}
	}
}

// TestRootPropagation: a slave sees what the host mounts later; nothing that is
// mounted inside reaches the host.
func TestRootPropagation(t *testing.T) {
	shared := t.TempDir()
	if err := unix.Mount(shared, shared, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(shared, unix.MNT_DETACH) })
	if err := unix.Mount("", shared, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	for how, want := range map[string]string{"": "-", "private": "-", "rprivate": "-", "slave": "master", "rslave": "master", "shared": "shared", "rshared": "shared", "unbindable": "unbindable"} {
		b := bundleOf(t, "", func(c *specs.Spec) {
			c.Linux.RootfsPropagation, c.Root.Readonly = how, false
			c.Process.Args = []string{"sh", "-c", "cat /proc/self/mountinfo"}
		})
		root := filepath.Join(shared, "root-"+how)
		if err := os.Rename(filepath.Join(b.bundle, "rootfs"), root); err != nil {
			if out, err := exec.Command("cp", "-a", filepath.Join(b.bundle, "rootfs"), root).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		b.change(func(c *specs.Spec) { c.Root.Path = root })
		out := b.must("run", "--bundle", b.bundle, "p")
		f := strings.Fields(strings.Split(out, "\n")[0])
		if len(f) < 7 || f[4] != "/" || !strings.HasPrefix(f[6], want) {
			t.Errorf("%q: %v, want %s", how, f, want)
		}
		host, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || strings.Contains(string(host), root+"/") {
			t.Errorf("%q: the host has mounts of the container's (%v)", how, err)
		}
	}
}

// TestExecFile: what --process says is not changed by other flags in silence.
func TestExecFile(t *testing.T) {
	b := bundleOf(t, "sleep 1000", nil)
	b.must("run", "-d", "--bundle", b.bundle, "e")
	file := filepath.Join(b.bundle, "process.json")
	if err := os.WriteFile(file, []byte(`{"args":["sh","-c","exit 4"],"cwd":"/","user":{"uid":0,"gid":0}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, code := b.call("exec", "-p", file, "e"); code != 4 {
		t.Errorf("%d %q", code, out)
	}
	for flag, value := range map[string]string{"--env": "A=b", "--user": "7", "--cwd": "/bin", "--cap": "CAP_KILL", "--additional-gids": "4"} {
		if out, code := b.call("exec", "-p", file, flag, value, "e"); code != 255 || !strings.Contains(out, "leave out "+flag) {
			t.Errorf("%s: %d %q", flag, code, out)
		}
	}
	if out, code := b.call("exec", "-p", file, "-t", "e"); code != 255 || !strings.Contains(out, "has no terminal") {
		t.Errorf("--tty: %d %q", code, out)
	}
	if out, code := b.call("exec", "-p", file, "e", "id"); code != 255 || !strings.Contains(out, "leave out the command") {
		t.Errorf("a command: %d %q", code, out)
	}
}

// TestLog: --debug writes down what is done, and the log's format is known.
func TestLog(t *testing.T) {
	b := bundleOf(t, "exit 0", func(c *specs.Spec) {
		c.Mounts = append(c.Mounts, specs.Mount{Destination: "/b", Type: "bind", Source: "/tmp", Options: []string{"bind", "size=1k"}})
		c.Root.Readonly = false
	})
	log := filepath.Join(b.bundle, "log")
	out := b.must("--log", log, "--log-format", "json", "--debug", "run", "--bundle", b.bundle, "l")
	text, err := os.ReadFile(log)
	if err != nil || !strings.Contains(string(text), `"level":"debug","msg":"create l: bundle `) || !strings.Contains(string(text), `"level":"warning","msg":"the mount at /b is a bind`) {
		t.Errorf("%s (%v)", text, err)
	}
	if !strings.Contains(out, "does nothing") {
		t.Errorf("%q", out)
	}
	if out, code := b.call("--log-format", "xml", "list"); code == 0 || !strings.Contains(out, `unknown log-format "xml"`) {
		t.Errorf("%d %q", code, out)
	}
}

func link(t *testing.T, name string) string {
	t.Helper()
	to, err := os.Readlink(name)
	if err != nil {
		t.Fatal(err)
	}
	return to
}

func eventually(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come")
		}
	}
}

func (b bench) pid(id string) int {
	b.t.Helper()
	var r report
	if err := json.Unmarshal([]byte(b.must("state", id)), &r); err != nil {
		b.t.Fatal(err)
	}
	return r.Pid
}

// change rewrites the bundle's configuration.
func (b bench) change(change func(*specs.Spec)) {
	b.t.Helper()
	c, err := load(b.bundle)
	if err != nil {
		b.t.Fatal(err)
	}
	change(c)
	text, err := json.Marshal(c)
	if err == nil {
		err = os.WriteFile(filepath.Join(b.bundle, "config.json"), text, 0o644)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// TestRacingTarget: in a mount namespace where the host's files are in sight, a
// directory of a volume is swapped for a link to them while mounts are made below
// it (CVE-2021-30465, CVE-2024-45310): nothing is made or mounted there.
func TestRacingTarget(t *testing.T) {
	volume, outside, source := t.TempDir(), t.TempDir(), t.TempDir()
	if err := os.Mkdir(volume+"/a", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(outside+"/there", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{outside, strings.Repeat("../", 20) + outside[1:], "/proc/self/root" + outside} {
		if err := os.Symlink(to, volume+"/b"); err != nil {
			t.Fatal(err)
		}
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
					_ = unix.Renameat2(unix.AT_FDCWD, volume+"/a", unix.AT_FDCWD, volume+"/b", unix.RENAME_EXCHANGE)
				}
			}
		}()
		b := bundleOf(t, "exit 0", func(c *specs.Spec) {
			c.Hostname, c.Linux.Namespaces, c.Root.Readonly = "", nil, false
			bind := []string{"bind", "ro"}
			c.Mounts = append(c.Mounts, specs.Mount{Destination: "/vol", Type: "bind", Source: volume, Options: []string{"bind"}},
				specs.Mount{Destination: "/vol/a/there", Type: "bind", Source: source, Options: bind},
				specs.Mount{Destination: "/vol/a/new/deep", Type: "bind", Source: source, Options: bind},
				specs.Mount{Destination: "/vol/a/tmp", Type: "tmpfs", Source: "tmpfs"})
		})
		b.mounts = aloof(t)
		won := 0
		for range 12 {
			_, code := b.call("create", "--bundle", b.bundle, "r")
			mounts, err := os.ReadFile(strings.Replace(b.mounts, "ns/mnt", "mountinfo", 1))
			if err != nil || strings.Contains(string(mounts), " "+outside) {
				t.Fatalf("%s: mounted outside of the root (%v)", to, err)
			}
			if code == 0 {
				won++
				b.must("delete", "--force", "r")
			}
		}
		if won == 0 {
			t.Errorf("%s: nothing was created at all", to)
		}
		close(stop)
		<-stopped
		if list, err := os.ReadDir(outside); err != nil || len(list) != 1 {
			t.Fatalf("%s: made outside of the root: %v (%v)", to, list, err)
		}
		for _, name := range []string{"a", "b"} { // whichever is the link
			if st, err := os.Lstat(volume + "/" + name); err == nil && st.Mode()&os.ModeSymlink != 0 {
				if err := os.Remove(volume + "/" + name); err == nil && name == "a" {
					if err := os.Rename(volume+"/b", volume+"/a"); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
}
